"""What the super-net and the searched network share: modules by edge and operation, and running one architecture."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from nnunet_hypersegnas.architectures.operations import (
    ConvolutionEdge,
    FullResolution,
    Merge,
    ProjectionSkip,
    Scaled,
    Stem,
    activate,
    pointwise_convolution,
    relative_product,
    sum_normalised,
)
from nnunet_hypersegnas.errors import HyperSegNASError
from nnunet_hypersegnas.space import Architecture, Edge, Operation, SearchSpace

# MAN's channel-wise scalars by (layer, column): shape (B, C_out) for the operation that the edge holds, or (B, C_in).
# Edges without an entry are not scaled.
Modulation = Mapping[tuple[int, int], Tensor]

# Where they act: on what an edge gives, after its norm, or on what it takes. For a skip within a scale both are one.
SCALAR_POSITIONS = ("output", "input")


def is_identity(edge: Edge, operation: Operation) -> bool:
    """Return whether an operation is a skip within a scale, which computes nothing and has no weights."""
    return operation is Operation.SKIP and edge.source == edge.target


def scalar_channels(space: SearchSpace, edge: Edge, position: str) -> int:
    """Return how many scalars an edge has: one for each channel that they act on."""
    return space.channels[edge.source if position == "input" else edge.target]


class InputSizeError(HyperSegNASError):
    """The input cannot be downsampled to the network's coarsest scale."""


class Output(nn.Module):
    """The last layer's scales merged coarse to fine, with a segmentation head at each resolution (as in DiNTS).

    `seg_layers` holds the heads, full resolution first; nnU-Net knows heads by that name.
    """

    def __init__(self, space: SearchSpace, num_classes: int, coarsest: int) -> None:
        super().__init__()
        self.merges = nn.ModuleDict(
            {
                str(scale): Merge(space.channels[scale], space.channels[scale - 1], space.strides[scale])
                for scale in range(1, coarsest + 1)
            }
        )
        head_channels = list(space.channels[: coarsest + 1])
        self.full_resolution: FullResolution | None = None
        if not space.finest_is_full_resolution:
            head_channels.insert(0, max(space.channels[0] // 2, num_classes))
            self.full_resolution = FullResolution(
                space.channels[0], head_channels[0], space.kernel_sizes[0], space.strides[0]
            )
        self.seg_layers = nn.ModuleList(
            pointwise_convolution(channels, num_classes, space.dimension, bias=True) for channels in head_channels
        )

    def forward(self, nodes: dict[int, Scaled], all_heads: bool) -> list[Tensor]:
        """Return logits, full resolution first; only the first head runs unless `all_heads`.

        Nodes are taken out of `nodes`, so that they are gone as soon as nothing keeps them.
        """
        activated: list[Tensor] = []
        for scale in range(max(nodes), -1, -1):
            activated.append(activate(self._running_sum(scale, nodes, activated).product()))
        if self.full_resolution is not None:
            activated.append(activate(self.full_resolution(activated[-1])))
        activated.reverse()
        heads = self.seg_layers if all_heads else self.seg_layers[:1]
        return [head(features) for head, features in zip(heads, activated, strict=False)]

    def _running_sum(self, scale: int, nodes: dict[int, Scaled], activated: list[Tensor]) -> Scaled:
        terms = [nodes.pop(scale)] if scale in nodes else []
        if activated:
            terms.append(Scaled(self.merges[str(scale + 1)](activated[-1])))
        return sum_normalised(terms)


class Step(NamedTuple):
    """One active edge of a layer: where it leads, its module's name, and its column in the architecture's codes."""

    column: int
    source: int
    target: int
    name: str
    is_convolution: bool

    @property
    def is_identity(self) -> bool:
        return not self.is_convolution and self.source == self.target


@dataclass(frozen=True)
class Route:
    """An architecture as the forward pass goes through it, in plain values, which torch.compile can follow."""

    stems: tuple[int, ...]
    layers: tuple[tuple[Step, ...], ...]
    stride: tuple[int, ...]  # of the coarsest scale in use

    @classmethod
    def of(cls, space: SearchSpace, architecture: Architecture) -> Route:
        layers: list[list[Step]] = [[] for _ in range(architecture.n_layers)]
        for layer, column, edge, operation in architecture.active():
            name = _name(edge, operation)
            layers[layer].append(Step(column, edge.source, edge.target, name, operation is Operation.CONV))
        coarsest = max(max(step.source, step.target) for steps in layers for step in steps)
        return cls(tuple(architecture.stems), tuple(map(tuple, layers)), space.cumulative_strides[coarsest])


class TopologyNetwork(nn.Module):
    """Modules for some edges of a search space, and the forward pass of an architecture that uses only these.

    Attributes:
        scalar_position: where MAN's scalars act, one of `SCALAR_POSITIONS`; without MAN it makes no difference.
        fixed_scalar: what every edge is multiplied with besides, of MAN's scalars or without; the paper's is 0.5.
        recompute: keep the nodes between layers alone for the backward pass, which then runs each layer anew: less
            memory for more time (docs/performance.md). Gradients are the same.
    """

    def __init__(
        self,
        space: SearchSpace,
        input_channels: int,
        num_classes: int,
        *,
        stems: Iterable[int],
        operations: Iterable[tuple[int, Edge, Operation]],
        coarsest_output: int,
        recompute: bool = False,
        scalar_position: str = SCALAR_POSITIONS[0],
        fixed_scalar: float = 1.0,
    ) -> None:
        super().__init__()
        self.space = space
        self.fixed_scalar = fixed_scalar
        self.scalar_position = scalar_position
        self.recompute = recompute
        self.stems = nn.ModuleDict(
            {
                str(scale): Stem(
                    input_channels,
                    space.channels[scale],
                    space.kernel_sizes[scale],
                    pool=relative_product([(1,) * space.dimension, *space.strides[1 : scale + 1]]),
                    stride=space.strides[0],
                )
                for scale in stems
            }
        )
        self.layers = nn.ModuleList(nn.ModuleDict() for _ in range(space.layers))
        for layer, edge, operation in operations:
            if (module := _edge_module(space, edge, operation)) is not None:
                self.layers[layer][_name(edge, operation)] = module
        self.output = Output(space, num_classes, coarsest_output)

    def run(self, image: Tensor, route: Route, modulation: Modulation | None, *, all_heads: bool) -> list[Tensor]:
        """Return the logits of an architecture, full resolution first.

        Args:
            image: shape (B, input channels, spatial axes of the patch).
            route: the architecture's; only its edges run.
            modulation: MAN's scalars for the active edges, or None for the plain network.
            all_heads: also return the deep-supervision heads, one for each scale down to the output's coarsest.

        Raises:
            InputSizeError: the image's size is not divisible by the network's strides.
        """
        _check_size(image, route)
        nodes = {scale: Scaled(self.stems[str(scale)](image)) for scale in route.stems}
        recompute = self.recompute and torch.is_grad_enabled()
        for layer, steps in enumerate(route.layers):
            run = self._run_layer_twice if recompute else self._run_layer
            nodes = run(layer, steps, nodes, modulation)
        return self.output(nodes, all_heads)

    def _run_layer_twice(
        self, layer: int, steps: Sequence[Step], nodes: Mapping[int, Scaled], modulation: Modulation | None
    ) -> dict[int, Scaled]:
        """As `_run_layer`, keeping what goes in alone, and running again for the backward pass."""
        scales, columns = tuple(nodes), tuple(step.column for step in steps)

        def run(*tensors: Tensor | None) -> dict[int, Scaled]:
            parts = iter(tensors)
            again = {scale: Scaled(next(parts), next(parts)) for scale in scales}
            of_layer = {(layer, column): s for column, s in zip(columns, parts, strict=False) if s is not None}
            return self._run_layer(layer, steps, again, of_layer or None)

        # One by one: autograd counts, and lets go of, only those tensors that are arguments by themselves.
        tensors = [part for scale in scales for part in nodes[scale]]
        if modulation is not None:
            tensors += [modulation.get((layer, column)) for column in columns]
        return checkpoint(run, *tensors, use_reentrant=False, preserve_rng_state=False)

    def _run_layer(
        self, layer: int, steps: Sequence[Step], nodes: Mapping[int, Scaled], modulation: Modulation | None
    ) -> dict[int, Scaled]:
        activated: dict[int, Tensor] = {}  # one activation per node, shared by its convolutions
        arriving: dict[int, list[Scaled]] = {}
        for step in steps:
            node = nodes[step.source]
            scale_bc = self._scalars(layer, step, node, modulation)
            if step.is_identity:
                term = node.times(scale_bc)
            elif step.is_convolution:
                if step.source not in activated:
                    activated[step.source] = activate(node.product())
                term = self._edge_term(layer, step, Scaled(activated[step.source]), scale_bc)
            else:
                term = self._edge_term(layer, step, node, scale_bc)
            arriving.setdefault(step.target, []).append(term)
        # Popped, so that terms which nothing keeps are gone before the next sum needs room.
        return {scale: sum_normalised(arriving.pop(scale)) for scale in sorted(arriving)}

    def _scalars(self, layer: int, step: Step, node: Scaled, modulation: Modulation | None) -> Tensor | None:
        """Return what an edge is scaled by, shape (B, channels), or (1, channels) for all samples."""
        of_man = None if modulation is None else modulation.get((layer, step.column))
        if self.fixed_scalar == 1:
            return of_man
        if of_man is None:
            return node.map.new_full((1, self.space.channels[step.target]), self.fixed_scalar)
        return self.fixed_scalar * of_man

    def _edge_term(self, layer: int, step: Step, taken: Scaled, scale_bc: Tensor | None) -> Scaled:
        """Run a convolution or a skip between scales on its node, which convolutions take activated."""
        edge = self.layers[layer][step.name]
        if self.scalar_position == "input":
            return Scaled(edge(taken.times(scale_bc).product()))
        return Scaled(edge(taken.product(), scale_bc))


def _check_size(image: Tensor, route: Route) -> None:
    if any(size % step for size, step in zip(image.shape[2:], route.stride, strict=True)):
        raise InputSizeError(
            f"the input's size {tuple(image.shape[2:])} is not divisible by {route.stride}, the stride of the coarsest "
            "scale in use; choose a patch size that is"
        )


def _name(edge: Edge, operation: Operation) -> str:
    return f"{edge.source}to{edge.target}_{operation.name.lower()}"


def _edge_module(space: SearchSpace, edge: Edge, operation: Operation) -> nn.Module | None:
    """Return what computes an edge, or None for a skip within a scale."""
    source, target = edge
    ones = (1,) * space.dimension
    down = space.strides[target] if target > source else ones
    up = space.strides[source] if target < source else ones
    channels = space.channels[source], space.channels[target]
    if operation is Operation.CONV:
        return ConvolutionEdge(*channels, space.kernel_sizes[max(source, target)], down, up)
    return None if is_identity(edge, operation) else ProjectionSkip(*channels, down, up)
