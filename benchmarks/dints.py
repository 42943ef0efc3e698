"""MONAI's DiNTS of an architecture, in its own form and arranged as our networks are.

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

import io
from collections.abc import Mapping, Sequence
from contextlib import redirect_stdout
from copy import deepcopy

import numpy as np
import torch
import torch.nn.functional as F
from monai.networks.nets.dints import DiNTS, TopologyInstance
from torch import Tensor, nn

from nnunet_hypersegnas.architectures import SearchedNet, searched_net_kwargs
from nnunet_hypersegnas.architectures.operations import PointwiseConv3d, ScaledInstanceNorm
from nnunet_hypersegnas.space import OFF, Architecture, Operation, SearchSpace

OURS, SAME, MONAI = "our form", "same function", "MONAI"
IMAGE_CHANNELS, CLASSES = 1, 3
TOLERANCE = 1e-9  # of the largest logit, in double precision, where a sum's order changes the last digits only


def dints(
    space: SearchSpace, architecture: Architecture, input_channels: int = IMAGE_CHANNELS, num_classes: int = CLASSES
) -> DiNTS:
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
    return DiNTS(topology, input_channels, num_classes, use_downsample=stem_halves, node_a=node_a)


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
