"""How well and how fast training memory is predicted, beside what DiNTS and nnU-Net predict it with.

Prints Markdown tables; see benchmarks/README.md. The truth is the trace of a training step: every byte of tensors that
is alive at any time, told by PyTorch itself while the step runs on fake tensors.
"""

from __future__ import annotations

import argparse
import io
import os
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor
from contextlib import redirect_stdout
from dataclasses import replace
from itertools import repeat

import numpy as np
import torch
from monai.networks.nets.dints import TopologySearch
from scipy.stats import kendalltau
from torch import nn
from torch._subclasses.fake_tensor import FakeTensorMode

from benchmarks.tables import section, table
from nnunet_hypersegnas.cost import CostModel, Quantity, TrainingSetup, format_bytes
from nnunet_hypersegnas.cost.tracing import TracedStep
from nnunet_hypersegnas.search import BudgetSampler, Interval, Limits
from nnunet_hypersegnas.space import Operation, SearchSpace, rng_for, sample_codes, to_architectures
from tests.cost.truth import TRUTH, network_of, setup_for, traced

SPACES = ("paper", "anisotropic", "2d", "tiny")
ONE_HOT = 200.0  # an architecture weight whose sigmoid and softmax are 1, and of whose opposite they are 0
CANDIDATES = 2000  # the paper's
WINDOW = 0.1
SPEED_CODES = 10_000


def main() -> None:
    parser = argparse.ArgumentParser(description="Benchmark predicted costs; prints Markdown tables.")
    parser.add_argument("-n", type=int, default=200, help="architectures of each space [%(default)s]")
    parser.add_argument("--compared", type=int, default=100, help="architectures compared with others [%(default)s]")
    parser.add_argument("--processes", type=int, default=os.cpu_count(), help="that trace [%(default)s]")
    args = parser.parse_args()
    torch.set_num_threads(1)
    with ProcessPoolExecutor(args.processes, initializer=torch.set_num_threads, initargs=(1,)) as pool:
        with section("Speed (paper's space, 96x96x96, batch 2, fp16 autocast, one core)"):
            speed()
        with section("Beside other predictors of memory (paper's space, 96x96x96, batch 2, fp16 autocast)"):
            compare(args.compared, pool)
        with section(f"Error against a traced training step, {args.n} random architectures each"):
            errors(args.n, pool)


# Errors


def errors(count: int, pool: ProcessPoolExecutor) -> None:
    rows = []
    for name in SPACES:
        space, patch, batch = TRUTH[name]
        codes = sample_codes(space, count, rng_for(0, "benchmark", name))
        for autocast in (False, True):
            setup = setup_for(patch, batch, autocast=autocast)
            truth = trace_all(space, codes, setup, pool)
            predicted = CostModel(space, setup).predict(codes)
            of_saved = relative_error(predicted.activation_bytes, [step.saved_bytes for step in truth])
            of_peak = relative_error(predicted.memory_bytes, [step.peak_bytes for step in truth])
            rows.append(
                {
                    "space": name,
                    "patch, batch": f"{'x'.join(map(str, patch))}, {batch}",
                    "precision": "CUDA autocast" if autocast else "fp32",
                    "saved bytes: median error": f"{np.median(of_saved):.3%}",
                    "saved bytes: worst": f"{of_saved.max():.3%}",
                    "peak: median error": f"{np.median(of_peak):.3%}",
                    "peak: worst": f"{of_peak.max():.3%}",
                }
            )
    table(rows)


def trace_all(
    space: SearchSpace, codes: np.ndarray, setup: TrainingSetup, pool: ProcessPoolExecutor
) -> list[TracedStep]:
    return list(pool.map(traced, repeat(space), to_architectures(codes), repeat(setup)))


def relative_error(predicted: np.ndarray, truth: Sequence[int] | np.ndarray) -> np.ndarray:
    return np.abs(np.asarray(predicted) / np.asarray(truth) - 1)


# Speed


def speed() -> None:
    space, patch, batch = TRUTH["paper"]
    setup = setup_for(patch, batch, autocast=True)
    building, model = timed(lambda: CostModel(space, setup))
    codes = sample_codes(space, SPEED_CODES, rng_for(0, "benchmark", "speed"))
    predicting = min(timed(lambda: model.predict(codes))[0] for _ in range(5))
    rows = [
        {"what": "building a `CostModel`", "result": f"{building:.2f} s"},
        {
            "what": f"`CostModel.predict`, {SPEED_CODES:,} architectures in one call, best of 5",
            "result": f"{SPEED_CODES / predicting:,.0f} architectures/s ({predicting / SPEED_CODES * 1e6:.1f} us each)",
        },
    ]
    memory = model.predict(codes).memory_bytes
    for name, high in {"ordinary": np.median(memory), "rare": np.quantile(memory, 0.0005)}.items():
        window = Interval(0.95 * high, high)
        limits = Limits({Quantity.MEMORY: window})
        seconds, found = timed(
            lambda limits=limits: BudgetSampler(space, model.predict, limits, seed=0).take(CANDIDATES)
        )
        hits = np.mean(window.distance(memory) == 0)
        rows.append(
            {
                "what": f"`BudgetSampler`, {CANDIDATES:,} candidates from {format_bytes(round(window.low))} to "
                f"{format_bytes(round(high))} ({name}: {hits:.2%} of uniform draws land there)",
                "result": f"{seconds:.1f} s for {len(found):,}",
            }
        )
    table(rows)


def timed(work: Callable) -> tuple[float, object]:
    start = time.perf_counter()
    result = work()
    return time.perf_counter() - start, result


# Side by side


def compare(count: int, pool: ProcessPoolExecutor) -> None:
    space, patch, batch = TRUTH["paper"]
    setup = setup_for(patch, batch, autocast=True)
    model = CostModel(space, setup)
    random = sample_codes(space, count, rng_for(0, "benchmark", "compared"))
    high = np.median(model.predict(random).memory_bytes)
    limits = Limits({Quantity.MEMORY: Interval((1 - WINDOW) * high, high)})
    near = BudgetSampler(space, model.predict, limits, seed=0).take(count)
    truth, truth_near = (
        np.array([step.peak_bytes for step in trace_all(space, codes, setup, pool)]) for codes in (random, near)
    )
    predictors = {
        "`CostModel` (bytes, no fit)": lambda codes: model.predict(codes).memory_bytes,
        "MONAI's DiNTS, `get_ram_cost_usage`": DintsRamCost(space, (batch, 1, *patch)),
        "nnU-Net, `compute_conv_feature_map_size`": lambda codes: feature_map_sizes(space, codes, setup),
    }
    rows = []
    for name, predict in predictors.items():
        values, values_near = predict(random), predict(near)
        if "no fit" not in name:  # no byte unit: the best line through the random architectures gives it
            line = np.polynomial.Polynomial.fit(values, truth, 1)
            values, values_near = line(values), line(values_near)
        row = {"predictor": name}
        for where, found, true in (("random", values, truth), (f"{WINDOW:.0%} window", values_near, truth_near)):
            error = relative_error(found, true)
            row |= {
                f"{where}: Kendall tau": f"{kendalltau(found, true).statistic:.3f}",
                f"{where}: median error": f"{np.median(error):.2%}",
                f"{where}: worst error": f"{error.max():.2%}",
            }
        rows.append(row)
    table(rows)
    print(
        f"\n{count} architectures each; random ones have traced peaks of {format_bytes(int(truth.min()))} to "
        f"{format_bytes(int(truth.max()))}, those of the window {format_bytes(int(truth_near.min()))} to "
        f"{format_bytes(int(truth_near.max()))}."
    )


class DintsRamCost:
    """DiNTS's expected memory of a search state that holds one architecture with certainty.

    Edges are the same in the same order, skip and full convolution are operations 0 and 1 of its five, and with half
    the width its cells have the paper's channels. DiNTS puts a resampling block before every operation, whose memory
    is part of its cost, and counts neither stems, output and loss nor weights.
    """

    def __init__(self, space: SearchSpace, image_shape: Sequence[int]) -> None:
        with redirect_stdout(io.StringIO()):
            self.search = TopologySearch(channel_mul=0.5, num_blocks=space.layers, num_depths=space.n_scales)
        self.image_shape = image_shape
        assert [*zip(self.search.arch_code2in, self.search.arch_code2out, strict=True)] == [*space.edges]
        assert tuple(self.search.filter_nums[1:]) == space.channels

    @torch.no_grad()
    def __call__(self, codes: np.ndarray) -> np.ndarray:
        """Return MiB, as MONAI says, shape (n,)."""
        costs = []
        for one in torch.from_numpy(codes):
            self.search.log_alpha_a.copy_(torch.where(one > 0, ONE_HOT, -ONE_HOT))
            self.search.log_alpha_c.fill_(-ONE_HOT)
            self.search.log_alpha_c[..., 0] = 0.0
            self.search.log_alpha_c[..., 1] = torch.where(one == Operation.CONV, ONE_HOT, -ONE_HOT)
            costs.append(float(self.search.get_ram_cost_usage(self.image_shape)))
        return np.array(costs)


def feature_map_sizes(space: SearchSpace, codes: np.ndarray, setup: TrainingSetup) -> np.ndarray:
    """Count elements as nnU-Net's planner does: the outputs of all convolutions of one patch, heads included.

    `compute_conv_feature_map_size` is a method of nnU-Net's own networks and adds up, block by block, channels times
    voxels of each convolution's output; hooks on the convolutions of a searched network add up the same.
    """
    sizes: list[int] = []
    totals = []
    for architecture in to_architectures(codes):
        sizes.clear()
        with FakeTensorMode(), torch.no_grad():
            network = network_of(space, architecture, replace(setup, batch_size=1))
            for module in network.modules():
                if isinstance(module, nn.Conv2d | nn.Conv3d):
                    module.register_forward_hook(lambda _module, _inputs, output: sizes.append(output.numel()))
            network(torch.zeros(1, setup.input_channels, *setup.patch_size))
        totals.append(sum(sizes))
    return np.array(totals)


if __name__ == "__main__":
    main()
