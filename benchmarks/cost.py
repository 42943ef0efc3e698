"""How well costs are predicted, how fast, and how others do on the same networks. Prints Markdown tables.

    pip install --no-deps "monai==1.6.*"      # for the comparison only
    python benchmarks/cost.py -n 200 > costs.md

The reference is a training step that is traced on fake tensors (`trace_training_step`): SGD with momentum, nnU-Net's
loss, deep supervision. A network takes it a second or two.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import os
import platform
import time
from collections.abc import Callable, Sequence

import numpy as np
import torch
from nnunetv2.training.loss.compound_losses import DC_and_CE_loss
from nnunetv2.training.loss.deep_supervision import DeepSupervisionWrapper
from nnunetv2.training.loss.dice import MemoryEfficientSoftDiceLoss
from scipy.stats import kendalltau
from torch import nn
from torch._subclasses.fake_tensor import FakeTensorMode

from nnunet_hypersegnas.architectures import SearchedNet, searched_net_kwargs
from nnunet_hypersegnas.cost import CostModel, Fit, Quantity, TrainingSetup
from nnunet_hypersegnas.cost.tracing import TracedStep, trace_training_step
from nnunet_hypersegnas.search import BudgetSampler, Interval, Limits
from nnunet_hypersegnas.space import (
    Architecture,
    Operation,
    SearchSpace,
    rng_for,
    sample,
    sample_codes,
    to_architectures,
)

ANISOTROPIC = SearchSpace.from_stages(
    [[1, 1, 1], [1, 2, 2], [2, 2, 2], [2, 2, 2], [2, 2, 2], [1, 2, 2]], [[1, 3, 3]] + [[3, 3, 3]] * 5
)
PLANE = SearchSpace.from_stages([[1, 1]] + [[2, 2]] * 6, [[3, 3]] * 7)
TINY = SearchSpace.from_stages([[1, 1, 1], [2, 2, 2]], [[3, 3, 3]] * 2, layers=2, channels=(8, 12))
SPACES = {
    "paper, 96x96x96, batch 2": (SearchSpace.paper(), (96, 96, 96), 2),
    "anisotropic, 32x128x128, batch 2": (ANISOTROPIC, (32, 128, 128), 2),
    "2D, 256x256, batch 6": (PLANE, (256, 256), 6),
    "tiny, 16x16x16, batch 2": (TINY, (16, 16, 16), 2),
}


def setup_of(patch: tuple[int, ...], batch_size: int, autocast: bool) -> TrainingSetup:
    return TrainingSetup(patch_size=patch, batch_size=batch_size, input_channels=1, num_classes=3, autocast=autocast)


def network_of(space: SearchSpace, architecture: Architecture, setup: TrainingSetup) -> SearchedNet:
    return SearchedNet(setup.input_channels, setup.num_classes, True, **searched_net_kwargs(space, architecture))


def traced(space: SearchSpace, architecture: Architecture, setup: TrainingSetup) -> TracedStep:
    """Trace a step with nnU-Net's loss and its weights of deep supervision."""
    strides = searched_net_kwargs(space, architecture)["strides"]
    scales = (1 / np.cumprod(np.vstack(strides), axis=0))[:-1]
    weights = np.array([0.5**i for i in range(len(scales) - 1)] + [0])
    dice = {"batch_dice": False, "smooth": 1e-5, "do_bg": False, "ddp": False}
    loss = DC_and_CE_loss(dice, {}, dice_class=MemoryEfficientSoftDiceLoss)
    return trace_training_step(
        lambda: network_of(space, architecture, setup),
        DeepSupervisionWrapper(loss, weights / weights.sum()),
        (setup.batch_size, setup.input_channels, *setup.patch_size),
        [(setup.batch_size, 1, *np.round(np.array(setup.patch_size) * scale).astype(int)) for scale in scales],
        cuda_autocast=setup.autocast,
    )


def errors(count: int) -> None:
    print("| search space | precision | saved bytes: median, worst | peak: median, worst |\n| --- | --- | --- | --- |")
    for name, (space, patch, batch_size) in SPACES.items():
        drawn = [sample(space, rng_for(0, "benchmark", i)) for i in range(count)]
        for autocast in (False, True):
            setup = setup_of(patch, batch_size, autocast)
            predicted = CostModel(space, setup).predict_all(drawn)
            truth = [traced(space, architecture, setup) for architecture in drawn]
            saved = np.abs(predicted.activation_bytes / np.array([t.saved_bytes for t in truth]) - 1)
            peak = np.abs(predicted.memory_bytes / np.array([t.peak_bytes for t in truth]) - 1)
            cells = [f"{np.median(e):.4%}, {e.max():.4%}" for e in (saved, peak)]
            print(f"| {name} | {'fp16 autocast' if autocast else 'fp32'} | {' | '.join(cells)} |", flush=True)


def speed() -> None:
    space = SearchSpace.paper()
    setup = setup_of((96, 96, 96), 2, True)
    codes = sample_codes(space, 10_000, rng_for(0, "speed"))
    build_s, model = timed(lambda: CostModel(space, setup))
    batch_s, _ = timed(lambda: model.predict(codes))
    one_s, _ = timed(lambda: model.predict(codes[:1]))
    (architecture,) = to_architectures(codes[:1])
    trace_s, _ = timed(lambda: traced(space, architecture, setup), repeats=3)
    print("| what (paper's space, 96x96x96, batch 2) | time |\n| --- | --- |")
    print(f"| make the cost model | {build_s:.3f} s |")
    print(f"| 10,000 architectures in one call | {batch_s * 1e3:.1f} ms, {10_000 / batch_s:,.0f} a second |")
    print(f"| one architecture | {one_s * 1e6:.0f} us |")
    print(f"| one architecture, traced instead | {trace_s:.2f} s |")
    memory = model.predict(codes).memory_bytes
    for name, low in (("where uniform draws land", np.median(memory)), ("where none of 10,000 did", 1.32e9)):
        limits = Limits({Quantity.MEMORY: Interval(low - 25e6, low + 25e6)})
        inside = (limits.distance(model.predict(codes)) == 0).mean()
        take_s, taken = timed(
            lambda limits=limits: BudgetSampler(space, model.predict, limits, 0).take(2000), repeats=3
        )
        print(
            f"| {len(taken)} distinct candidates in 50 MB {name} ({inside:.1%} of them) | {take_s:.2f} s |", flush=True
        )


def timed(work: Callable[[], object], repeats: int = 9) -> tuple[float, object]:
    """Return the median time of some runs, and the last result."""
    times = []
    for _ in range(repeats):
        start = time.perf_counter()
        result = work()
        times.append(time.perf_counter() - start)
    return float(np.median(times)), result


def side_by_side(count: int) -> None:
    space, (patch, batch_size) = SearchSpace.paper(), ((96, 96, 96), 2)
    setup = setup_of(patch, batch_size, True)
    model = CostModel(space, setup)
    uniform = [sample(space, rng_for(0, "benchmark", i)) for i in range(count)]
    middle = float(np.median(model.predict_all(uniform).memory_bytes))
    window = Limits({Quantity.MEMORY: Interval(0.95 * middle, 1.05 * middle)})
    narrow = to_architectures(BudgetSampler(space, model.predict, window, 0).take(count))
    methods = {
        "CostModel": lambda drawn: model.predict_all(drawn).memory_bytes,
        "MONAI DiNTS, get_ram_cost_usage": lambda drawn: dints_ram_costs(drawn, (batch_size, 1, *patch)),
        "nnU-Net, compute_conv_feature_map_size": lambda drawn: [feature_map_size(space, a, setup) for a in drawn],
    }
    print(
        "| method | networks | Kendall tau | error: median, worst | after the best line: median, worst |\n"
        "| --- | --- | --- | --- | --- |"
    )
    for networks, drawn in (("uniform draws", uniform), ("in a window of 10 %", narrow)):
        truth = np.array([traced(space, architecture, setup).peak_bytes for architecture in drawn])
        for name, method in methods.items():
            told = np.array(method(drawn), dtype=float)
            fit = Fit.to(truth, told)
            plain = np.abs((told * 2**20 if "DiNTS" in name else told) / truth - 1)  # DiNTS tells MiB
            error = "no bytes" if "nnU-Net" in name else f"{np.median(plain):.2%}, {plain.max():.2%}"
            print(
                f"| {name} | {networks} | {kendalltau(told, truth).statistic:.3f} | {error} | {fit.median_error:.2%}, "
                f"{fit.worst_error:.2%} |",
                flush=True,
            )


def dints_ram_costs(drawn: Sequence[Architecture], image_shape: Sequence[int]) -> list[float]:
    """Return DiNTS's expected RAM usage, in MiB, of search states in which all probabilities are 0 or 1.

    Paths are our edges, in the same order; of its five cell operations, skips and 3x3x3 convolutions are used.
    """
    from monai.networks.nets.dints import TopologySearch

    with contextlib.redirect_stdout(io.StringIO()):
        search = TopologySearch(num_blocks=12, num_depths=4)
    costs = []
    for architecture in drawn:
        codes = torch.tensor(architecture.codes)
        search.log_alpha_a.data = torch.where(codes > 0, 50.0, -50.0)
        operations = nn.functional.one_hot((codes == Operation.CONV).long(), search.num_cell_ops)
        search.log_alpha_c.data = 50.0 * operations
        costs.append(search.get_ram_cost_usage(image_shape).item())
    return costs


def feature_map_size(space: SearchSpace, architecture: Architecture, setup: TrainingSetup) -> int:
    """Count as nnU-Net does for its own networks: the elements of all convolutions' outputs, batch left out."""
    elements = 0

    def count(module: nn.Module, args: object, output: torch.Tensor) -> None:
        nonlocal elements
        elements += output[0].numel()

    with FakeTensorMode(), torch.no_grad():
        network = network_of(space, architecture, setup)
        for module in network.modules():
            if isinstance(module, nn.Conv3d):
                module.register_forward_hook(count)
        network(torch.zeros(1, setup.input_channels, *setup.patch_size))
    return elements


def main() -> None:
    parser = argparse.ArgumentParser(description="Benchmark of predicted costs.")
    parser.add_argument("-n", type=int, default=200, help="architectures of each space [%(default)s]")
    parser.add_argument("--only", choices=("errors", "speed", "side-by-side"))
    args = parser.parse_args()
    torch.set_num_threads(1)
    parts = {
        "errors": ("Predicted against traced bytes", lambda: errors(args.n)),
        "speed": ("Speed on one core", speed),
        "side-by-side": ("Side by side (paper's space, fp16 autocast)", lambda: side_by_side(min(args.n, 100))),
    }
    print(
        f"{args.n} architectures a space; {os.cpu_count()} CPU cores ({platform.machine()}), torch {torch.__version__}"
    )
    for name, (title, part) in parts.items():
        if args.only in (None, name):
            print(f"\n### {title}\n")
            part()


if __name__ == "__main__":
    main()
