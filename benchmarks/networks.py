"""What a training step of a searched network costs beside MONAI's DiNTS on the same topology; prints Markdown tables.

    python -m benchmarks.networks peers --codes dints_codes.json --sampled 20
    python -m benchmarks.networks peers --space small --sampled 20

Both get the same image, edges, operations, resolutions and channels: in the paper's space DiNTS needs half its width
(`channel_mul`), since its stem keeps the first of its `filter_nums` for full resolution. A step is forward and backward
of the mean square of the full-resolution logits, without deep supervision or optimiser. All networks run in turn.

"our form" is `SearchedNet` as it is. It is another function than DiNTS:

- Going up, we convolve first and upsample then, with one convolution an edge; DiNTS upsamples, changes the channels by
  a 1x1x1 convolution and norm, and then has the 3x3x3 one at the high resolution. Going down, our convolution carries
  the stride, where DiNTS has a strided 1x1x1 convolution and norm before it. Our skips down pool instead.
- A stem of ours is one convolution of the pooled image. In the paper's space DiNTS's has two, the first of them at
  twice the scale's resolution and half its width; it computes the stems of all scales, used or not.
- In the output we go to the finer scale by 1x1x1 convolutions, DiNTS by 3x3x3 ones. Where the search starts at full
  resolution, DiNTS has two more 3x3x3 ones before its head, and we have the head alone.
- LeakyReLU for ReLU (which keeps for backward what the next convolution keeps anyway), sums divided by sqrt(n),
  `align_corners` off. Before the head DiNTS has a norm without activation.

"same function" is DiNTS's own arithmetic, order and weights, arranged as our networks are and with our norm and 1x1x1
convolution. That it returns what DiNTS returns is checked for each architecture. What it wins comes from the
arrangement, the rest of "our form" from the form.
"""

from __future__ import annotations

import argparse
import io
import json
import statistics
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import redirect_stdout
from copy import deepcopy
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple
from weakref import WeakSet

import numpy as np
import torch
import torch.nn.functional as F
from monai.networks.nets.dints import DiNTS, TopologyInstance
from torch import Tensor, nn

from benchmarks.cost import section, table
from nnunet_hypersegnas.architectures import SearchedNet, searched_net_kwargs
from nnunet_hypersegnas.architectures.operations import PointwiseConv3d, ScaledInstanceNorm
from nnunet_hypersegnas.space import (
    OFF,
    Architecture,
    Operation,
    SearchSpace,
    architecture_from_dints,
    rng_for,
    sample,
)

SMALL = SearchSpace(
    layers=6,
    channels=(8, 16, 32, 64),
    strides=((1, 1, 1), (2, 2, 2), (2, 2, 2), (2, 2, 2)),
    kernel_sizes=((3, 3, 3),) * 4,
)
SPACES = {"paper": (SearchSpace.paper(), (64, 64, 64)), "small": (SMALL, (24, 40, 24))}
LAYOUTS = {"default": torch.contiguous_format, "channels_last_3d": torch.channels_last_3d}
BEST = "best of each"
PRECISIONS = {"fp16": torch.float16, "bf16": torch.bfloat16}
OURS, SAME, MONAI = "our form", "same function", "MONAI"
IMAGE_CHANNELS, CLASSES = 1, 3
TOLERANCE = 1e-9  # of the largest logit, in double precision, where a sum's order changes the last digits only


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("part", choices=["peers"])
    parser.add_argument("--space", choices=SPACES, default="paper", help="[%(default)s]")
    parser.add_argument("--codes", type=Path, help="JSON of published DiNTS codes, for the paper's space")
    parser.add_argument("--sampled", type=int, default=20, help="architectures drawn from the space [%(default)s]")
    parser.add_argument("--patch", type=int, nargs=3, help="[64 64 64, or 24 40 24 in the small space]")
    parser.add_argument("--batch", type=int, default=2, help="[%(default)s]")
    parser.add_argument("--repeats", type=int, default=5, help="timed steps of each network [%(default)s]")
    parser.add_argument("--device", default="cpu", help="[%(default)s]")
    parser.add_argument("--autocast", choices=PRECISIONS, help="[off: fp32]")
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


# Networks


def dints(space: SearchSpace, architecture: Architecture) -> DiNTS:
    """Return MONAI's network of an architecture, which is pruned: both networks have the same edges."""
    codes = np.array(architecture.codes)
    stem_halves = not space.finest_is_full_resolution
    with redirect_stdout(io.StringIO()):
        topology = TopologyInstance(
            [(codes != OFF).astype(int), (codes == Operation.CONV).astype(int)],
            channel_mul=space.channels[0] / (64 if stem_halves else 32),
            num_blocks=space.layers,
            num_depths=space.n_scales,
            use_downsample=stem_halves,
        )
    assert [*zip(topology.arch_code2in, topology.arch_code2out, strict=True)] == [*space.edges]
    assert tuple(topology.filter_nums[stem_halves:][: space.n_scales]) == space.channels
    node_a = torch.zeros(space.layers + 1, space.n_scales)
    for layer, _, edge, _ in architecture.active():
        node_a[layer, edge.source] = node_a[layer + 1, edge.target] = 1
    return DiNTS(topology, IMAGE_CHANNELS, CLASSES, use_downsample=stem_halves, node_a=node_a)


class SameFunction(nn.Module):
    """A DiNTS network with its own blocks and weights, arranged as ours: only what is used, and nothing twice.

    Used stems only, one activation of a node for all edges that read it, sums without a leading zero, no resampling by
    a factor of 1, feature maps that are dropped as soon as nothing reads them, and our norm and 1x1x1 convolution.
    """

    def __init__(self, network: DiNTS, architecture: Architecture) -> None:
        super().__init__()
        blocks = deepcopy(network)
        finest = str(0)
        self.stems = nn.ModuleDict({str(scale): blocks.stem_down[str(scale)].mod for scale in architecture.stems})
        if finest in self.stems:
            self.stems[finest] = self.stems[finest][1:]  # resamples by 1
        self.layers = nn.ModuleList(nn.ModuleDict() for _ in range(architecture.n_layers))
        self.steps: list[list[tuple[int, int, bool]]] = [[] for _ in range(architecture.n_layers)]
        for layer, column, edge, operation in architecture.active():
            cell = blocks.dints_space.cell_tree[str((layer, column))]
            name = f"{edge.source}to{edge.target}"
            self.steps[layer].append((*edge, operation is Operation.CONV))
            if edge.source != edge.target:
                self.layers[layer][f"{name}_resampling"] = cell.preprocess
            if operation is Operation.CONV:
                self.layers[layer][f"{name}_conv"] = cell.op.ops[0]
        self.merges = nn.ModuleDict({str(s): blocks.stem_up[str(s)].mod for s in range(max(architecture.outputs) + 1)})
        if blocks.stem_up[finest].mod[-1].scale_factor == 1:
            self.merges[finest] = self.merges[finest][:-1]
        self.final = blocks.stem_finals
        _take_our_operations(self)

    def forward(self, image: Tensor) -> Tensor:
        nodes = {int(scale): stem(image) for scale, stem in self.stems.items()}
        for steps, blocks in zip(self.steps, self.layers, strict=True):
            nodes = self._run_layer(steps, blocks, nodes)
        merged: list[Tensor] = []
        for scale in range(max(nodes), -1, -1):
            terms = [nodes.pop(scale)] if scale in nodes else []
            merged = [self.merges[str(scale)](_sum(terms + merged))]
        return self.final(merged[0])

    def _run_layer(
        self, steps: Sequence[tuple[int, int, bool]], blocks: nn.ModuleDict, nodes: Mapping[int, Tensor]
    ) -> dict[int, Tensor]:
        activated: dict[int, Tensor] = {}
        arriving: dict[int, list[Tensor]] = {}
        for source, target, convolves in steps:
            name, term = f"{source}to{target}", nodes[source]
            if source not in activated and (target > source or (target == source and convolves)):
                activated[source] = F.relu(term)
            if target > source:
                term = _reduced(blocks[f"{name}_resampling"], activated[source])
            elif target < source:  # DiNTS's activation follows the upsampling: it belongs to the edge
                term = blocks[f"{name}_resampling"](term)
            if convolves:
                block = blocks[f"{name}_conv"]
                term = block.norm(block.conv(activated[source])) if target == source else block(term)
            arriving.setdefault(target, []).append(term)
        return {scale: _sum(arriving.pop(scale)) for scale in sorted(arriving)}


def _take_our_operations(module: nn.Module) -> None:
    for name, child in module.named_children():
        if isinstance(child, nn.InstanceNorm3d):
            norm = ScaledInstanceNorm(child.num_features, child.eps)
            norm.load_state_dict(child.state_dict())
            setattr(module, name, norm)
        elif type(child) is nn.Conv3d and child.kernel_size == child.stride == (1, 1, 1):
            conv = PointwiseConv3d(child.in_channels, child.out_channels, 1, bias=child.bias is not None)
            conv.load_state_dict(child.state_dict())
            setattr(module, name, conv)
        else:
            _take_our_operations(child)


def _reduced(block: nn.Module, activated: Tensor) -> Tensor:
    """FactorizedReduceBlock without its activation."""
    return block.norm(torch.cat([block.conv_1(activated), block.conv_2(activated[:, :, 1:, 1:, 1:])], dim=1))


def _sum(terms: Sequence[Tensor]) -> Tensor:
    total = terms[0]
    for term in terms[1:]:
        total = total + term
    return total


def networks_of(space: SearchSpace, architecture: Architecture) -> tuple[dict[str, nn.Module], float]:
    """Return the three networks of an architecture, and how far the same function is from MONAI's at most."""
    torch.manual_seed(0)
    monai = dints(space, architecture)
    same = SameFunction(monai, architecture)
    image = torch.randn(2, IMAGE_CHANNELS, *(2 * s for s in space.cumulative_strides[-1]), dtype=torch.double)
    with torch.no_grad():
        expected = monai.double()(image)
        difference = float((same.double()(image) - expected).abs().max())
    assert difference <= TOLERANCE * float(expected.abs().max()), f"another function than MONAI's: {difference}"
    ours = SearchedNet(IMAGE_CHANNELS, CLASSES, **searched_net_kwargs(space, architecture))
    return {OURS: ours, SAME: same.float(), MONAI: monai.float()}, difference


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
        saved: dict[tuple[str, str], int] = {}
        seconds: dict[tuple[str, str], list[float]] = {}
        for repeat in range(1 + self.repeats):  # the first warms up
            for layout, name, network, image in self._turns(networks):
                if repeat == 0:
                    saved[layout, name] = self._saved_bytes(network, image)
                else:
                    seconds.setdefault((layout, name), []).append(self._seconds(network, image))
        return {key: Cost(statistics.median(seconds[key]), saved[key]) for key in saved}

    def _turns(self, networks: Mapping[str, nn.Module]) -> Iterator[tuple[str, str, nn.Module, Tensor]]:
        for layout, memory_format in LAYOUTS.items():
            image = self.image.contiguous(memory_format=memory_format)
            for name, network in networks.items():
                yield layout, name, network.to(memory_format=memory_format), image
                network.zero_grad()

    def _logits(self, network: nn.Module, image: Tensor) -> Tensor:
        with torch.autocast(image.device.type, self.autocast, enabled=self.autocast is not None):
            return network(image)

    def _seconds(self, network: nn.Module, image: Tensor) -> float:
        self._synchronise()
        start = time.perf_counter()
        self._logits(network, image).float().square().mean().backward()
        self._synchronise()
        return time.perf_counter() - start

    def _synchronise(self) -> None:
        if self.image.device.type == "cuda":
            torch.cuda.synchronize(self.image.device)

    def _saved_bytes(self, network: nn.Module, image: Tensor) -> int:
        """Take a step; return the bytes that its forward pass keeps for backward, each storage once.

        Neither parameters and buffers nor the image count; under autocast, the weights' copies in half precision do.
        """
        kept: WeakSet[_Saved] = WeakSet()

        def pack(tensor: Tensor) -> _Saved:
            saved = _Saved(tensor)
            kept.add(saved)
            return saved

        with torch.autograd.graph.saved_tensors_hooks(pack, lambda saved: saved.tensor):
            logits = self._logits(network, image)
        # Read when forward is over: what a branch that leads nowhere had saved is gone by then.
        sizes = {storage.data_ptr(): storage.nbytes() for storage in (s.tensor.untyped_storage() for s in kept)}
        for own in (image, *network.parameters(), *network.buffers()):
            sizes.pop(own.untyped_storage().data_ptr(), None)
        logits.float().square().mean().backward()
        return sum(sizes.values())


class _Saved:
    """A tensor saved for backward; the graph is all that holds it."""

    def __init__(self, tensor: Tensor) -> None:
        self.tensor = tensor.detach()  # a saved result would hold the graph that holds it


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


def median_of(values: Sequence[float]) -> str:
    return f"{statistics.median(values):,.1f}"


def ratios(values: Sequence[float]) -> str:
    median = f"{statistics.median(values):.2f}"
    return median if len(values) == 1 else f"{median} ({min(values):.2f} to {max(values):.2f})"


if __name__ == "__main__":
    main()
