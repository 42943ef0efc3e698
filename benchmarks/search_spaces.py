"""What budgets search spaces hold on typical plans, beside nnU-Net's own network: predicted, no GPU, no data.

`python -m benchmarks.search_spaces` prints the table of docs/how-to/budgets.md; with `--alternatives` the default space
beside others that were thought of, for docs/decisions; `--sampler` times the sampler; `--super-net` holds the predicted
memory of a super-net's steps against steps on fake tensors.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Iterator
from dataclasses import replace

import numpy as np
from nnunetv2.training.loss.compound_losses import DC_and_CE_loss
from nnunetv2.training.loss.deep_supervision import DeepSupervisionWrapper
from nnunetv2.training.loss.dice import MemoryEfficientSoftDiceLoss

from benchmarks.tables import table
from benchmarks.typical_plans import TYPICAL, TypicalPlans
from nnunet_hypersegnas.architectures import HeadsPresentLoss, OneShotNetwork, deep_supervision_strides
from nnunet_hypersegnas.cost import CostModel, PredictedCosts, Quantity, TrainingSetup, format_bytes, format_count
from nnunet_hypersegnas.cost.tracing import TracedStep, trace_training_step
from nnunet_hypersegnas.nnunet.cost_models import training_setup
from nnunet_hypersegnas.nnunet.memory_budgets import planned_costs
from nnunet_hypersegnas.nnunet.memory_counting import MemoryCounting
from nnunet_hypersegnas.nnunet.network_costs import NetworkCosts
from nnunet_hypersegnas.nnunet.settings import SuperNetSettings
from nnunet_hypersegnas.nnunet.stages import Stages
from nnunet_hypersegnas.nnunet.super_net_memory import SuperNetMemory, super_net_parameters
from nnunet_hypersegnas.search import OWN, BudgetSampler, Interval, Limits, drawn_costs, possible_range, quantile_of
from nnunet_hypersegnas.space import Architecture, SearchSpace, largest, rng_for, sample, to_codes, u_net

NEAR = 0.05  # of the memory of nnU-Net's own network
WINDOW_BYTES = 300_000_000


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--alternatives", action="store_true", help="the default space beside others")
    parser.add_argument("--sampler", action="store_true", help="time the sampler at own, half of it and far above")
    parser.add_argument("--super-net", action="store_true", help="predicted memory of its steps, and followed ones")
    args = parser.parse_args()
    if args.super_net:
        table(super_net_rows(TYPICAL[0]))
    elif args.sampler:
        table([row for plans in TYPICAL[:1] for row in sampler_rows(plans)])
    elif args.alternatives:
        table([row for i in (0, 4, 11) for row in alternative_rows(TYPICAL[i])])
    else:
        table([typical_row(plans) for plans in TYPICAL])


def typical_row(plans: TypicalPlans) -> dict[str, str]:
    """Describe the default space of some plans."""
    dataset = plans.dataset()
    configuration = dataset.configuration.configuration
    space = SuperNetSettings().space(configuration)
    own = planned_costs(dataset, OWN, "cuda")
    model = CostModel(space, training_setup(dataset, "cuda"))
    drawn = drawn_costs(space, model.predict)
    memory = possible_range(space, model.predict, Quantity.MEMORY)
    low, middle, high = (format_bytes(round(float(np.quantile(drawn.memory_bytes, q)))) for q in (0.05, 0.5, 0.95))
    return {
        "plans": plans.name,
        "patch, batch": f"{'x'.join(map(str, configuration['patch_size']))}, {configuration['batch_size']}",
        "scales": str(space.n_scales),
        "channels": f"{space.channels[0]} to {space.channels[-1]}",
        "nnU-Net's own": format_bytes(own.memory_bytes),
        "smallest to largest": f"{format_bytes(round(memory.low))} to {format_bytes(round(memory.high))}",
        "5 %, 50 %, 95 % of draws": f"{low}, {middle}, {high}",
        "quantile of own": f"{quantile_of(own.memory_bytes, drawn.memory_bytes):.2f}",
        "of half": f"{quantile_of(own.memory_bytes / 2, drawn.memory_bytes):.2f}",
    }


def alternatives(plans: TypicalPlans) -> Iterator[tuple[str, SearchSpace]]:
    """Yield the default space of some plans and others."""
    configuration = plans.dataset().configuration.configuration
    stages, default = Stages.of(configuration), SuperNetSettings()
    most = max(stages.features)
    yield "default", default.space(configuration)
    n = default.space(configuration).n_scales
    for width in (24, 40, 48):
        channels = tuple(min(most, width << scale) for scale in range(n))
        yield f"from {width} channels", replace(default, channels=channels, full_resolution=True).space(configuration)
    for layers in (10, 14, 16):
        yield f"{layers} layers", replace(default, layers=layers).space(configuration)
    four = replace(default, channels=tuple(min(320, 32 << scale) for scale in range(4)), full_resolution=True)
    yield "four scales from full resolution", four.space(configuration)
    yield (
        "the former default: four from half, 32 to 256",
        replace(default, channels=(32, 64, 128, 256)).space(configuration),
    )
    yield "four from half, 96 to 320", replace(default, channels=(96, 192, 320, 320)).space(configuration)


def alternative_rows(plans: TypicalPlans) -> list[dict[str, str]]:
    """Describe the spaces that come into question for some plans."""
    dataset = plans.dataset()
    own, setup = planned_costs(dataset, OWN, "cuda"), training_setup(dataset, "cuda")
    rows = []
    for name, space in alternatives(plans):
        drawn = drawn_costs(space, CostModel(space, setup).predict, 20_000)
        quantiles = (format_bytes(round(float(np.quantile(drawn.memory_bytes, q)))) for q in (0.05, 0.5, 0.95))
        rows.append({"plans": plans.name, "space": name, "5 %, 50 %, 95 %": ", ".join(quantiles), **_near(drawn, own)})
    return rows


def _near(drawn: PredictedCosts, own: NetworkCosts) -> dict[str, str]:
    columns = {}
    for title, wanted in (("own", own.memory_bytes), ("half", own.memory_bytes / 2)):
        near = np.abs(drawn.memory_bytes / wanted - 1) < NEAR
        window = (drawn.memory_bytes > wanted - WINDOW_BYTES) & (drawn.memory_bytes <= wanted)
        columns[f"quantile of {title}"] = f"{quantile_of(wanted, drawn.memory_bytes):.2f}"
        columns[f"draws of 10,000 in the window of {title}"] = f"{window.mean() * 10_000:.0f}"
        computed = format_count(float(np.median(drawn.multiply_adds[near]))) if near.sum() > 10 else "-"
        columns[f"multiply-adds at {title}"] = computed
    columns["nnU-Net's own"] = f"{format_bytes(own.memory_bytes)}, {format_count(own.multiply_adds)}"
    return columns


def sampler_rows(plans: TypicalPlans, count: int = 2000) -> list[dict[str, str]]:
    """Time the sampler in windows of 300 MB, and describe what it gives."""
    dataset = plans.dataset()
    space = SuperNetSettings().space(dataset.configuration.configuration)
    model = CostModel(space, training_setup(dataset, "cuda"))
    own = planned_costs(dataset, OWN, "cuda").memory_bytes
    targets = np.array([edge.target for edge in space.edges])
    sources = np.array([edge.source for edge in space.edges])
    rows = []
    for name, budget in (("own", own), ("half of it", own / 2), ("14 GB", 14e9)):
        limits = Limits({Quantity.MEMORY: Interval.below(budget, WINDOW_BYTES)})
        started, cpu = time.perf_counter(), time.process_time()
        codes = BudgetSampler(space, model.predict, limits, 0).take(count)
        on = codes != 0
        used = [float(on[:, :, (targets == s) | (sources == s)].any((1, 2)).mean()) for s in range(space.n_scales)]
        rows.append(
            {
                "budget": f"{name}, {format_bytes(round(budget))}",
                "candidates": str(len(codes)),
                "seconds": f"{time.perf_counter() - started:.1f}",
                "CPU seconds": f"{time.process_time() - cpu:.1f}",
                "scales used, fine to coarse": ", ".join(f"{share:.0%}" for share in used),
                "read the image at full resolution": f"{on[:, 0, sources == 0].any(1).mean():.0%}",
                "end at full resolution": f"{on[:, -1, targets == 0].any(1).mean():.0%}",
            }
        )
    return rows


def super_net_rows(plans: TypicalPlans) -> list[dict[str, str]]:
    """Hold the predicted memory of a super-net's steps against steps that are followed on fake tensors."""
    dataset, settings = plans.dataset(), SuperNetSettings()
    space, setup = settings.space(dataset.configuration.configuration), training_setup(dataset, "cuda")
    super_net, _ = super_net_parameters(dataset, space, settings)
    memory = SuperNetMemory(
        space=space, setup=setup, parameters=super_net, optimizer=settings.optimizer, counting=MemoryCounting()
    )
    sub_nets = {f"drawn {i}": sample(space, rng_for(0, "super-net's step", i)) for i in range(4)}
    sub_nets |= {"U-Net": u_net(space), "all edges (warm-up)": largest(space)}
    rows = []
    for name, sub_net in sub_nets.items():
        started = time.perf_counter()
        followed = trace_super_net_step(space, setup, sub_net).peak_bytes
        predicted = int(memory.tensor_bytes(to_codes([sub_net]))[0])
        rows.append(
            {
                "sub-net": name,
                "edges": str(sub_net.n_edges),
                "predicted": format_bytes(predicted),
                "followed": format_bytes(followed),
                "error": f"{predicted / followed - 1:+.1e}",
                "of them weights and AdamW's moments": format_bytes(memory.fixed_bytes),
                "seconds to follow": f"{time.perf_counter() - started:.1f}",
            }
        )
    return rows


def trace_super_net_step(space: SearchSpace, setup: TrainingSetup, sub_net: Architecture) -> TracedStep:
    """Follow a step of a super-net without MAN as it is trained: AdamW, and nnU-Net's loss on the heads there are."""

    def build() -> OneShotNetwork:
        network = OneShotNetwork(
            space, setup.input_channels, setup.num_classes, setup.patch_size, deep_supervision=True, man="none"
        )
        network.take(sub_net)
        return network

    scales = (1 / np.cumprod(np.vstack(deep_supervision_strides(space, largest(space))), axis=0))[:-1]
    weights = np.array([0.5**i for i in range(len(scales) - 1)] + [0])
    of_a_head = DC_and_CE_loss(
        {"batch_dice": False, "smooth": 1e-5, "do_bg": False, "ddp": False}, {}, dice_class=MemoryEfficientSoftDiceLoss
    )
    return trace_training_step(
        build,
        HeadsPresentLoss(DeepSupervisionWrapper(of_a_head, weights / weights.sum()).loss),
        (setup.batch_size, setup.input_channels, *setup.patch_size),
        [(setup.batch_size, 1, *np.round(np.array(setup.patch_size) * s).astype(int)) for s in scales],
        cuda_autocast=setup.autocast,
        adam=True,
    )


if __name__ == "__main__":
    main()
