"""What a training step of a searched network costs beside MONAI's DiNTS on the same topology; prints Markdown tables.

    python -m benchmarks.networks --codes dints_codes.json --sampled 20
    python -m benchmarks.networks --space small --sampled 20

Both get the same image, edges, operations, resolutions and channels: in the paper's space DiNTS needs half its width
(`channel_mul`), since its stem keeps the first of its `filter_nums` for full resolution. A step is forward and backward
of the mean square of the full-resolution logits, without deep supervision or optimiser. All networks run in turn.
benchmarks/dints.py says how the forms differ.
"""

from __future__ import annotations

import argparse
import json
import statistics
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor, nn

from benchmarks.dints import IMAGE_CHANNELS, MONAI, OURS, SAME, networks_of
from benchmarks.spaces import SPACES
from benchmarks.step_costs import PRECISIONS, Step, add_timing_arguments, saved_bytes, seconds_in_turn
from benchmarks.tables import median_of, ratios, section, table
from nnunet_hypersegnas.space import Architecture, SearchSpace, architecture_from_dints, rng_for, sample

LAYOUTS = {"default": torch.contiguous_format, "channels_last_3d": torch.channels_last_3d}
BEST = "best of each"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--space", choices=SPACES, default="paper", help="[%(default)s]")
    parser.add_argument("--codes", type=Path, help="JSON of published DiNTS codes, for the paper's space")
    parser.add_argument("--sampled", type=int, default=20, help="architectures drawn from the space [%(default)s]")
    parser.add_argument("--patch", type=int, nargs=3, help="[64 64 64, or 24 40 24 in the small space]")
    parser.add_argument("--batch", type=int, default=2, help="[%(default)s]")
    add_timing_arguments(parser)
    args = parser.parse_args()
    if args.codes and args.space != "paper":
        parser.error("published codes are of the paper's space")
    torch.set_num_threads(1)
    torch.backends.cudnn.benchmark = True  # as nnU-Net trains
    space, patch = SPACES[args.space]
    patch = tuple(args.patch or patch)
    image = torch.randn(args.batch, IMAGE_CHANNELS, *patch, generator=torch.Generator().manual_seed(0))
    image = image.to(args.device)
    bench = Bench(space, image, PRECISIONS.get(args.autocast), args.repeats)
    rng = rng_for(0, "benchmark", "networks", args.space)
    groups = {
        **(published(args.codes) if args.codes else {}),
        f"sampled ({args.sampled})": [sample(space, rng) for _ in range(args.sampled)],
    }
    device = torch.cuda.get_device_name(image.device) if image.device.type == "cuda" else args.device
    shape = f"{'x'.join(map(str, patch))}, batch {args.batch}"
    title = f"{args.space} space, {shape}, {args.autocast or 'fp32'} on {device}, {args.repeats} repeats"
    with section(f"Beside MONAI's DiNTS ({title})"):
        peers(bench, {name: group for name, group in groups.items() if group})


def published(path: Path) -> dict[str, list[Architecture]]:
    codes = json.loads(path.read_text())
    return {name: [architecture_from_dints(c["arch_code_a"], c["arch_code_c"])] for name, c in codes.items()}


# Measurements


class Cost(NamedTuple):
    """What one network's training step takes in one layout."""

    seconds: float
    saved_bytes: int


@dataclass(frozen=True)
class Bench:
    """Measures training steps on one image, which has shape (B, C, spatial axes)."""

    space: SearchSpace
    image: Tensor
    autocast: torch.dtype | None
    repeats: int

    def measure(self, networks: Mapping[str, nn.Module]) -> dict[tuple[str, str], Cost]:
        """Return the costs by layout and network; the networks take turns, step by step."""
        for network in networks.values():
            network.to(self.image.device).train()
        turns = {
            (layout, name): self._turn(network, memory_format)
            for layout, memory_format in LAYOUTS.items()
            for name, network in networks.items()
        }
        saved = {}
        for (layout, name), turn in turns.items():
            network, image = networks[name], self.image.contiguous(memory_format=LAYOUTS[layout])
            turn()
            own = (image, *network.parameters(), *network.buffers())
            saved[layout, name] = saved_bytes(lambda n=network, i=image: self._loss(n, i), own)
        seconds = seconds_in_turn(turns, self.repeats, self.image.device)
        return {key: Cost(statistics.median(seconds[key]), saved[key]) for key in turns}

    def _turn(self, network: nn.Module, memory_format: torch.memory_format) -> Callable[[], Step]:
        image = self.image.contiguous(memory_format=memory_format)

        def prepare() -> Step:
            network.to(memory_format=memory_format).zero_grad()
            return lambda: self._loss(network, image).backward()

        return prepare

    def _loss(self, network: nn.Module, image: Tensor) -> Tensor:
        with torch.autocast(image.device.type, self.autocast, enabled=self.autocast is not None):
            logits = network(image)
        return logits.float().square().mean()


# Tables


def peers(bench: Bench, groups: Mapping[str, Sequence[Architecture]]) -> None:
    rows, worst = [], 0.0
    for name, architectures in groups.items():
        costs = []
        for architecture in architectures:
            networks, difference = networks_of(bench.space, architecture)
            worst = max(worst, difference)
            costs.append(with_best_layout(bench.measure(networks)))
        rows += [row_of(name, layout, form, costs) for form in (OURS, SAME) for layout in (*LAYOUTS, BEST)]
    table(rows)
    print(
        "\nTimes and bytes of several architectures are medians, ratios those of each one: median (lowest to highest). "
        f"Logits of the same function are MONAI's to {worst:.1e} in double precision. `{BEST}`: each network in its "
        "faster layout."
    )


def with_best_layout(costs: Mapping[tuple[str, str], Cost]) -> dict[tuple[str, str], Cost]:
    best = {(BEST, name): min(costs[layout, name] for layout in LAYOUTS) for name in (OURS, SAME, MONAI)}
    return {**costs, **best}


def row_of(group: str, layout: str, form: str, costs: Sequence[Mapping[tuple[str, str], Cost]]) -> dict[str, str]:
    ours, monai = ([cost[layout, name] for cost in costs] for name in (form, MONAI))
    return {
        "architecture": group,
        "layout": layout,
        "form": form,
        "ours (ms)": median_of([cost.seconds * 1e3 for cost in ours]),
        "MONAI (ms)": median_of([cost.seconds * 1e3 for cost in monai]),
        "time ratio": ratios([a.seconds / b.seconds for a, b in zip(ours, monai, strict=True)]),
        "ours saved (MB)": median_of([cost.saved_bytes / 1e6 for cost in ours]),
        "MONAI saved (MB)": median_of([cost.saved_bytes / 1e6 for cost in monai]),
        "bytes ratio": ratios([a.saved_bytes / b.saved_bytes for a, b in zip(ours, monai, strict=True)]),
    }


if __name__ == "__main__":
    main()
