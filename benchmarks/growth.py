"""How a training step grows with layers, channels, patch and batch; prints Markdown tables and draws them.

    python -m benchmarks.growth --figure growth.png

A sub-net's step must not grow with the super-net around it. Steps are those of benchmarks/steps.py, in turn.
"""

from __future__ import annotations

import argparse
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import torch

from benchmarks.spaces import SMALL
from benchmarks.step_costs import PRECISIONS, add_timing_arguments
from benchmarks.steps import ALONE, SUPER_NET, Bench, alone, of_sub_net, one_shot
from benchmarks.tables import section, table
from nnunet_hypersegnas.space import largest, smallest

PATCH, BATCH = (24, 24, 24), 2
GROWTH: dict[str, Sequence[int]] = {
    "layers": (6, 12, 24),
    "first channels": (8, 16, 32),
    "patch side": (16, 32, 64),
    "batch": (1, 2, 4, 8),
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add_timing_arguments(parser)
    parser.add_argument("--figure", type=Path, help="PNG to write")
    args = parser.parse_args()
    torch.set_num_threads(1)
    torch.backends.cudnn.benchmark = True  # as nnU-Net trains
    bench = Bench(torch.device(args.device), PRECISIONS.get(args.autocast), args.repeats)
    curves = []
    with section(f"Growth of a step ({args.autocast or 'fp32'} on {args.device}, {args.repeats} repeats)"):
        for axis, values in GROWTH.items():
            rows = [grown(bench, axis, value) for value in values]
            table([row.shown(rows[0]) for row in rows])
            print()
            curves.append((axis, rows))
        print(
            f"6 layers, channels 8, 16, 32, 64, patch {'x'.join(map(str, PATCH))}, batch {BATCH}, but for what varies. "
            "Largest: every edge a convolution. Small: a chain of skips at the coarsest scale, which costs the same "
            "whatever the depth."
        )
    if args.figure:
        draw(curves, args.figure)


@dataclass(frozen=True)
class Grown:
    """Times and bytes at one value of what varies; by sub-net, alone and in the super-net."""

    axis: str
    value: int
    alone_ms: Mapping[str, float]
    super_net_ms: Mapping[str, float]
    saved_mb: Mapping[str, float]

    def shown(self, first: Grown) -> dict[str, str]:
        row = {self.axis: str(self.value)}
        for name in self.alone_ms:
            row[f"{name}: alone (ms)"] = f"{self.alone_ms[name]:,.1f}"
            row[f"{name}: in the super-net (ms)"] = f"{self.super_net_ms[name]:,.1f}"
            row[f"{name}: times the first row's"] = f"{self.super_net_ms[name] / first.super_net_ms[name]:.2f}"
            row[f"{name}: saved (MB)"] = f"{self.saved_mb[name]:,.1f}"
        return row


def grown(bench: Bench, axis: str, value: int) -> Grown:
    space, patch, batch = SMALL, PATCH, BATCH
    match axis:
        case "layers":
            space = replace(space, layers=value)
        case "first channels":
            space = replace(space, channels=tuple(value * 2**scale for scale in range(space.n_scales)))
        case "patch side":
            patch = (value,) * 3
        case "batch":
            batch = value
    image, training = bench.image(batch, patch), one_shot(bench, space, patch)
    alone_ms, super_net_ms, saved_mb = {}, {}, {}
    for name, architecture in (("largest", largest(space)), ("small", smallest(space))):
        own = alone(bench, space, architecture)
        turns = {
            SUPER_NET: of_sub_net(training, architecture, 0.0, image),
            ALONE: lambda own=own: lambda: own.step(image),
        }
        times = bench.medians(turns)
        alone_ms[name], super_net_ms[name] = 1e3 * times[ALONE], 1e3 * times[SUPER_NET]
        saved_mb[name] = bench.saved(own.network, image) / 1e6
    return Grown(axis, value, alone_ms, super_net_ms, saved_mb)


def draw(curves: Sequence[tuple[str, Sequence[Grown]]], path: Path) -> None:
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(1, len(curves), figsize=(3.2 * len(curves), 3), layout="constrained")
    for axis, (name, rows) in zip(axes, curves, strict=True):
        values = [row.value for row in rows]
        for sub_net, colour in (("largest", "C0"), ("small", "C1")):
            axis.plot(
                values,
                [row.super_net_ms[sub_net] for row in rows],
                "o-",
                color=colour,
                label=f"{sub_net}, in super-net",
            )
            axis.plot(values, [row.alone_ms[sub_net] for row in rows], "x--", color=colour, label=f"{sub_net}, alone")
        axis.set(xlabel=name, xscale="log", yscale="log", xticks=values, xticklabels=values)
        axis.minorticks_off()
    axes[0].set_ylabel("step (ms)")
    axes[0].legend(fontsize=7)
    figure.savefig(path, dpi=120)


if __name__ == "__main__":
    main()
