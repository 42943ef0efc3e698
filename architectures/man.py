"""Meta-Assistant Network: channel-wise scalars from image and architecture (paper section 3.2, Eq. 4 and 5).

Shapes: B batch, C channels, H hidden width of the HyperNet.

What keeps MAN alive, because each of these kills it silently (docs/experiments.md): the architecture vector is centred
and has unit variance, over architectures; the image vector likewise, over images; no norm follows the encoder's last
convolution, which would remove most of the image's signal; the architecture vector reaches the last layer past the
hidden ones, too, whose ReLUs make different architectures alike; what the last layer reads is centred, and it has no
bias, since a mask that is the same for all architectures and images is what a HyperNet learns first, and only repeats
the norms' own weights; and that layer starts at zero, where MAN does nothing: scalars that start at random are noise to
the super-net, and what training does first is to make them independent of architecture and image.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from math import prod, sqrt
from typing import Protocol

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from nnunet_hypersegnas.architectures.topology_network import (
    SCALAR_POSITIONS,
    Modulation,
    is_identity,
    scalar_channels,
)
from nnunet_hypersegnas.space import Architecture, Edge, Operation, SearchSpace, encode

# Six convolutions, a 256-d image vector (section 4); widths are ours: twice as many channels an eighth as many voxels.
ENCODER_CHANNELS = (8, 16, 32, 64, 128, 256)
FEWEST_NORMED_VOXELS = 8  # a norm over few voxels leaves little of the image, over two their order, over one nothing
HIDDEN_WIDTH = 256
HIDDEN_LAYERS = 4  # with the output layer, five fully connected layers (section 4)
LONGEST_MEMORY = 20  # steps: until then a plain mean over all that was shown, then one that keeps up with the encoder

# What a super-net's MAN is told: the paper's two kinds of meta information, one of them, or there is no MAN at all.
MAN_INPUTS = ("image and architecture", "image", "architecture", "none")

Row = tuple[int, int, Edge, Operation]  # of the HyperNet's last layer: layer, column, edge, operation


class Rows(Protocol):
    """Names rows of the HyperNet's last layer, as an architecture does."""

    def active(self) -> Iterator[Row]: ...


@dataclass(frozen=True)
class EveryRow:
    """Stands where MAN takes an architecture's rows, and names both operations of every edge: all its scalars.

    Attributes:
        space: whose edges these are.
        position: where the scalars act, which says how many an edge has.
        identities: whether skips within a scale have scalars.
    """

    space: SearchSpace
    position: str
    identities: bool = True

    @classmethod
    def of(cls, man: MetaAssistantNetwork) -> EveryRow:
        return cls(man.space, man.scalar_position, identities=man.told_image)

    def active(self) -> Iterator[Row]:
        for layer in range(self.space.layers):
            for column, edge in enumerate(self.space.edges):
                for operation in Operation:
                    if self.identities or not is_identity(edge, operation):
                        yield layer, column, edge, operation

    def scalars(self, edge: Edge) -> int:
        """Return how many scalars an operation of an edge has."""
        return scalar_channels(self.space, edge, self.position)

    @property
    def sizes(self) -> list[int]:
        """How many scalars each layer has: their order is layer by layer."""
        sizes = [0] * self.space.layers
        for layer, _, edge, _ in self.active():
            sizes[layer] += self.scalars(edge)
        return sizes


class ImageEncoder(nn.Module):
    """M: six convolutions with InstanceNorm and ReLU, then the mean over the patch.

    Strides and kernels follow the patch: along an axis that is one voxel long, a kernel of 3 would only see padding,
    and its weights cost time in every optimizer step.
    """

    def __init__(self, input_channels: int, patch_size: Sequence[int]) -> None:
        super().__init__()
        conv_class, norm_class = {2: (nn.Conv2d, nn.InstanceNorm2d), 3: (nn.Conv3d, nn.InstanceNorm3d)}[len(patch_size)]
        size, channels = list(patch_size), input_channels
        blocks: list[nn.Module] = []
        for i, width in enumerate(ENCODER_CHANNELS):
            kernel = tuple(3 if s > 1 else 1 for s in size)
            stride = tuple(2 if s > 1 else 1 for s in size)
            size = [-(-s // step) for s, step in zip(size, stride, strict=True)]
            conv = conv_class(channels, width, kernel, stride, tuple(k // 2 for k in kernel))
            nn.init.kaiming_normal_(conv.weight, nonlinearity="relu")
            nn.init.zeros_(conv.bias)
            blocks.append(conv)
            if i < len(ENCODER_CHANNELS) - 1 and prod(size) >= FEWEST_NORMED_VOXELS:
                blocks.append(norm_class(width))
            blocks.append(nn.ReLU())
            channels = width
        self.blocks = nn.Sequential(*blocks)

    def forward(self, image: Tensor) -> Tensor:
        """Return image vectors, shape (B, 256)."""
        return self.blocks(image).flatten(2).mean(2)


class RunningStandardisation(nn.Module):
    """Centres a vector's entries and scales them to unit variance, over what training has shown of late.

    Between images, an image vector differs little from what all of them have in common. A batch is too few images for
    statistics of its own, so both in training and afterwards the running ones are taken.
    """

    mean: Tensor
    variance: Tensor
    count: Tensor

    def __init__(self, entries: int, eps: float = 1e-3) -> None:
        super().__init__()
        self.eps = eps
        self.register_buffer("mean", torch.zeros(entries))
        self.register_buffer("variance", torch.ones(entries))
        self.register_buffer("count", torch.zeros((), dtype=torch.long))

    def forward(self, vectors: Tensor) -> Tensor:
        """Return the vectors, shape (B, entries), standardised; in a training step they enter the statistics first."""
        if self.training and torch.is_grad_enabled():
            self._take_in(vectors.detach())
        return (vectors - self.mean) * (self.variance + self.eps).rsqrt()

    def _take_in(self, vectors: Tensor) -> None:
        vectors = vectors.nan_to_num(posinf=0.0, neginf=0.0)  # of a damaged image, whose step will be skipped
        self.count += 1
        share = 1 / self.count.clamp(max=LONGEST_MEMORY)
        mean = _over_processes(vectors.mean(0))
        self.mean += share * (mean - self.mean)
        squares = _over_processes((vectors - self.mean).square().mean(0))
        self.variance += share * (squares - self.variance)


def _over_processes(value: Tensor) -> Tensor:
    """Return the mean of a value over the processes that train together."""
    if torch.distributed.is_available() and torch.distributed.is_initialized():
        torch.distributed.all_reduce(value)
        value /= torch.distributed.get_world_size()
    return value


class HyperNet(nn.Module):
    """H: fully connected layers that end in one block of rows for each operation of each edge.

    Departs from the paper in what the last layer reads: the architecture vector, past the hidden layers, and how far
    their answer is from that to an average architecture and image, not the answer itself.

    The last layer is stored in blocks, so that only the rows an architecture needs are computed and only these get
    gradients: the others' `grad` stays None, and an optimiser leaves them alone (the paper's mask, section 4).

    Args:
        rows: of the last layer, all there are to be.
        code: length of the architecture vector, 0 where there is none.
        features: length of the image vector, 0 where there is none.
    """

    def __init__(self, rows: EveryRow, code: int, features: int) -> None:
        super().__init__()
        widths = [code + features] + [HIDDEN_WIDTH] * HIDDEN_LAYERS
        self.hidden = nn.ModuleList(nn.Linear(a, b) for a, b in itertools.pairwise(widths))
        self.rows = nn.ModuleDict(
            {
                _block(layer, column, operation): nn.Linear(HIDDEN_WIDTH + code, rows.scalars(edge), bias=False)
                for layer, column, edge, operation in rows.active()
            }
        )
        for linear in self.hidden:
            nn.init.kaiming_normal_(linear.weight, nonlinearity="relu")
            nn.init.zeros_(linear.bias)
        for linear in self.rows.values():
            nn.init.zeros_(linear.weight)

    def __contains__(self, row: Row) -> bool:
        """Whether the last layer has a row; `EveryRow` says which it is given."""
        layer, column, _, operation = row
        return _block(layer, column, operation) in self.rows

    def forward(self, code: Tensor, image_vector: Tensor, rows: Iterable[Row]) -> Tensor:
        """Return the sigmoids, in (0, 1), shape (B, sum of the scalars over the rows' edges in their order).

        Args:
            code: the architecture vector, shape (B, its length).
            image_vector: shape (B, its length).
            rows: of the last layer, that are wanted.
        """
        blocks = [self.rows[_block(layer, column, operation)] for layer, column, _, operation in rows]
        if not blocks:
            return code.new_zeros(len(code), 0)
        told = torch.cat([code, image_vector], 1)
        vector = torch.cat([told, torch.zeros_like(told[:1])])  # the average is all zero, since both are centred
        for linear in self.hidden:
            vector = F.relu(linear(vector))
        vector = torch.cat([vector[:-1] - vector[-1:], code], 1)

        def product(vector: Tensor) -> Tensor:
            # One for all blocks: hundreds of small ones would cost more than the network.
            return F.linear(vector, torch.cat([b.weight for b in blocks]))

        # The backward pass joins the blocks anew: to keep them would take more memory than some sub-nets do.
        values = checkpoint(product, vector, use_reentrant=False, preserve_rng_state=False)
        return torch.sigmoid(values.float())


class MetaAssistantNetwork(nn.Module):
    """MAN: image encoder and HyperNet.

    Departs from the paper where MAN is told the architecture alone. Its scalars are constants of a sub-net then, which
    `inherit_weights` puts into the weights of the searched network, so MAN can stay to the end and nothing has to be
    annealed away. For that, skips within a scale have no scalars: there are no weights to put them into.

    Args:
        space: the super-net's search space.
        input_channels: image channels.
        patch_size: the spatial size that the encoder's strides are made for.
        told_architecture: whether the HyperNet gets the architecture vector; without it, this is variant B of section
            4.1.
        told_image: whether it gets the image vector; without it there is no encoder.
        scalar_position: where its scalars act, one of `SCALAR_POSITIONS`.
    """

    def __init__(
        self,
        space: SearchSpace,
        input_channels: int,
        patch_size: Sequence[int],
        *,
        told_architecture: bool = True,
        told_image: bool = True,
        scalar_position: str = SCALAR_POSITIONS[0],
    ) -> None:
        super().__init__()
        self.space, self.told_architecture, self.scalar_position = space, told_architecture, scalar_position
        features = ENCODER_CHANNELS[-1] if told_image else 0
        self.encoder = ImageEncoder(input_channels, patch_size) if told_image else None
        self.standardisation = RunningStandardisation(features) if told_image else None
        code = space.n_architecture_entries if told_architecture else 0
        self.hyper_net = HyperNet(EveryRow.of(self), code, features)

    @property
    def told_image(self) -> bool:
        return self.encoder is not None

    def forward(self, image: Tensor | None, architecture: Architecture, annealing: float = 0.0) -> Modulation | None:
        """Return the scalars of the active edges, each of shape (B, channels), relative to the paper's fixed 0.5.

        A MAN that is told no image returns them in shape (1, channels), and none for skips within a scale.

        Args:
            image: shape (B, input channels, spatial axes); None will do where MAN is not told the image.
            architecture: the sampled sub-net.
            annealing: lambda of Eq. 5; at 1 MAN has no influence, None comes back and MAN gets no gradient.
        """
        if annealing >= 1:
            return None
        # Eq. (5), times 2. Departs from the paper by that factor: the fixed scalar 0.5 becomes 1, so that with
        # lambda = 1 the network is exactly the plain network, chains of skips do not fade by 0.5 a layer, and nothing
        # has to be folded into the weights at export.
        scalars = annealing + 2 * (1 - annealing) * self.scalars(image, architecture, rows=architecture)
        active = self._with_scalars(architecture)
        parts = scalars.split(
            [scalar_channels(self.space, edge, self.scalar_position) for *_, edge, _ in active], dim=1
        )
        return {(layer, column): part for (layer, column, *_), part in zip(active, parts, strict=True)}

    def _with_scalars(self, rows: Rows) -> list[Row]:
        return [row for row in rows.active() if row in self.hyper_net]

    def scalars(self, image: Tensor | None, architecture: Architecture, rows: Rows) -> Tensor:
        """Return H's sigmoids for the edges of `rows`, when told `architecture` (Eq. 4, omega_H^{a,I}).

        In training the two are the same; with `rows` held fixed, the scalars of different architectures compare.

        Returns:
            Shape (B, sum of the scalars over those edges of `rows` that have any, in their order); B is 1 where MAN is
            not told the image.
        """
        image_vector = self._image_vector(image)
        code = self._architecture_vector(architecture) if self.told_architecture else []
        told = image_vector.new_tensor(code).expand(len(image_vector), -1)
        return self.hyper_net(told, image_vector, self._with_scalars(rows))

    def _image_vector(self, image: Tensor | None) -> Tensor:
        """Return it standardised, shape (B, 256); shape (1, 0) where MAN is not told the image."""
        if self.encoder is None or self.standardisation is None:
            return self.hyper_net.hidden[0].weight.new_zeros(1, 0)
        return self.standardisation(self.encoder(image).float())

    def _architecture_vector(self, architecture: Architecture) -> Sequence[float]:
        """Return the architecture's bits centred and scaled to unit variance (a quarter of them are set on average)."""
        bits = encode(architecture, self.space)
        return ((bits - _MEAN_BIT) / sqrt(_MEAN_BIT * (1 - _MEAN_BIT))).tolist()


# An edge is on with probability 1/2, holds either operation, and a quarter of the edges drawn lead nowhere.
_MEAN_BIT = 0.5 * 0.5 * 0.75


def _block(layer: int, column: int, operation: Operation) -> str:
    return f"layer{layer}_edge{column}_{operation.name.lower()}"
