"""Predicted training memory: parameters with their gradients and momentum, and the tensors saved for backward.

A simple sum, without running anything: what allocators, cuDNN's workspaces and the backward pass's own peak add is not
counted. Terms mirror `architectures/`: each stands beside what it is.

Notation: N_s voxels of a batch at scale s, C_s its channels.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import ceil, prod

from nnunet_hypersegnas.space import OFF, Architecture, Edge, Operation, SearchSpace

BYTES_PER_PARAMETER = 4 * 3  # fp32 weight, gradient and SGD momentum
STATISTICS_PER_NORM_CHANNEL = 3  # for each sample the mean, the inverse deviation and a copy of the affine's weight


@dataclass(frozen=True, kw_only=True)
class TrainingSetup:
    """What the training memory depends on beside the architecture.

    Attributes:
        patch_size: voxels of each axis.
        batch_size: patches a step.
        input_channels: image channels.
        num_classes: channels of a segmentation head.
        bytes_per_activation: 4 in fp32, 2 under autocast.
        deep_supervision: every head is trained, as nnU-Net does.
    """

    patch_size: tuple[int, ...]
    batch_size: int
    input_channels: int
    num_classes: int
    bytes_per_activation: int = 4
    deep_supervision: bool = True


class TrainingMemoryModel:
    """Predicts training memory and counts parameters of a space's architectures, from tables by edge and scale."""

    def __init__(self, space: SearchSpace, setup: TrainingSetup) -> None:
        self.space, self.setup = space, setup
        full = setup.batch_size * prod(setup.patch_size)
        self._full_voxels = full
        self._voxels = [self._voxels_at(stride) for stride in space.cumulative_strides]
        self._feature_map = [c * n for c, n in zip(space.channels, self._voxels, strict=True)]
        self._head_channels = max(space.channels[0] // 2, setup.num_classes)  # where the stem has a stride
        # By column and then by code, so that an architecture's own codes are the indices.
        self._saved = [(0, *(self._saved_by_edge(edge, o) for o in Operation)) for edge in space.edges]
        self._weights = [(0, *(self._parameters_of_edge(edge, o) for o in Operation)) for edge in space.edges]

    def predict_bytes(self, architecture: Architecture) -> int:
        """Return the predicted training memory in bytes."""
        parameters, width = self.parameters(architecture), self.setup.bytes_per_activation
        image = self.setup.input_channels * self._full_voxels
        total = BYTES_PER_PARAMETER * parameters + 4 * image  # the image in fp32, as it comes from the loader
        if width < 4:  # autocast keeps a narrow copy of what convolutions read
            total += width * (parameters + (image if 0 in architecture.stems else 0))
        return total + width * self.saved_elements(architecture) + self._loss_bytes(architecture)

    def parameters(self, architecture: Architecture) -> int:
        """Return the number of parameters of the searched network."""
        space, setup = self.space, self.setup
        channels, coarsest = space.channels, max(architecture.outputs)
        total = sum(
            of_edge[code] for row in architecture.codes for of_edge, code in zip(self._weights, row, strict=True)
        )
        for scale in architecture.stems:
            total += setup.input_channels * channels[scale] * prod(space.kernel_sizes[scale]) + 2 * channels[scale]
        for scale in range(1, coarsest + 1):  # merges: 1x1 convolution and norm
            total += channels[scale] * channels[scale - 1] + 2 * channels[scale - 1]
        heads = list(channels[: coarsest + 1])
        if not space.finest_is_full_resolution:
            c = self._head_channels
            total += channels[0] * c + 2 * c + c * c * prod(space.kernel_sizes[0]) + 2 * c
            heads.insert(0, c)
        return total + sum((c + 1) * setup.num_classes for c in heads)

    def saved_elements(self, architecture: Architecture) -> int:
        """Return the number of elements of all activations kept for the backward pass, the image excepted."""
        total = 0
        maps = _FeatureMaps(self._feature_map)
        nodes: dict[int, int] = {}
        edges = tuple(zip(self.space.edges, self._saved, strict=True))
        for scale in architecture.stems:
            total += self._saved_by_stem(scale)
            nodes[scale] = maps.new(scale)
        for row in architecture.codes:
            arriving: dict[int, list[int | None]] = {}
            activated = set()
            for code, ((source, target), saved) in zip(row, edges, strict=True):
                if code == OFF:
                    continue
                identity = code == Operation.SKIP and source == target
                arriving.setdefault(target, []).append(nodes[source] if identity else None)
                if identity:
                    continue  # hands the tensor on
                total += saved[code]
                maps.save(nodes[source])  # by the activation, the pooling or the 1x1 convolution
                if code == Operation.CONV and source not in activated:
                    activated.add(source)
                    total += self._feature_map[source]  # the activated map, every convolution's input
            # A node that only an identity reaches is the same tensor as before; any other is a new one.
            nodes = {t: ids[0] if len(ids) == 1 and ids[0] is not None else maps.new(t) for t, ids in arriving.items()}
        return total + self._saved_by_output(nodes, maps) + maps.saved_elements

    def _saved_by_output(self, nodes: dict[int, int], maps: _FeatureMaps) -> int:
        channels, coarsest = self.space.channels, max(nodes)
        total = 0
        for scale in range(coarsest, -1, -1):
            alone = scale == coarsest
            maps.save(nodes[scale] if alone else maps.new(scale))  # the running sum, by the activation
            total += self._feature_map[scale]  # activated: input of the head and of the merge
            if scale > 0:
                # The merge's convolution, kept by its norm, which works before the upsampling.
                total += self._saved_by_norm(channels[scale - 1], self._voxels[scale])
        if not self.space.finest_is_full_resolution:
            total += self._saved_by_norm(self._head_channels, self._voxels[0])  # as a merge
            # The upsampled map and its activation, the convolution's output, the norm's output and its activation.
            total += self._saved_by_norm(self._head_channels, self._full_voxels)
            total += 4 * self._head_channels * self._full_voxels
        return total

    def _saved_by_stem(self, scale: int) -> int:
        pooled = self.setup.input_channels * self._voxels[scale] * prod(self.space.strides[0])
        # The convolution's input, unless it is the image itself, and its output, for the norm.
        return (pooled if scale else 0) + self._saved_by_norm(self.space.channels[scale], self._voxels[scale])

    def _saved_by_edge(self, edge: Edge, operation: Operation) -> int:
        """What an edge keeps beside its source: the convolution's output for the norm, and a pooled input."""
        source, target = edge
        if operation is Operation.SKIP and source == target:
            return 0
        # Going up, the norm still works at the low resolution.
        out = self._saved_by_norm(self.space.channels[target], self._voxels[max(source, target)])
        pooled = self.space.channels[source] * self._voxels[target] if target > source else 0
        return out + (pooled if operation is Operation.SKIP else 0)

    def _saved_by_norm(self, channels: int, voxels: int) -> int:
        """A norm's input, and its statistics of every sample."""
        return channels * (voxels + STATISTICS_PER_NORM_CHANNEL * self.setup.batch_size)

    def _parameters_of_edge(self, edge: Edge, operation: Operation) -> int:
        source, target = edge
        if operation is Operation.SKIP and source == target:
            return 0
        kernel = prod(self.space.kernel_sizes[max(source, target)]) if operation is Operation.CONV else 1
        return self.space.channels[source] * self.space.channels[target] * kernel + 2 * self.space.channels[target]

    def _loss_bytes(self, architecture: Architecture) -> int:
        """What nnU-Net's Dice and cross-entropy loss keeps, for every head that is trained."""
        voxels = [self._voxels[scale] for scale in range(max(architecture.outputs) + 1)]
        if not self.space.finest_is_full_resolution:
            voxels.insert(0, self._full_voxels)
        if not self.setup.deep_supervision:
            voxels = voxels[:1]
        elif len(voxels) > 1:
            voxels = voxels[:-1]  # nnU-Net gives the last of several heads no weight
        logits = self.setup.bytes_per_activation
        softmax = log_softmax = one_hot_target = 4  # fp32, also under autocast
        target = 2 + 8  # int16 as it comes from the loader, and int64 for the cross-entropy
        return ((logits + softmax + log_softmax + one_hot_target) * self.setup.num_classes + target) * sum(voxels)

    def _voxels_at(self, stride: Sequence[int]) -> int:
        return self.setup.batch_size * prod(ceil(p / s) for p, s in zip(self.setup.patch_size, stride, strict=True))


class _FeatureMaps:
    """Counts feature maps that are kept for backward, each tensor once however many edges it passes through."""

    def __init__(self, elements_by_scale: Sequence[int]) -> None:
        self._elements = elements_by_scale
        self._scales: list[int] = []
        self._saved: set[int] = set()

    def new(self, scale: int) -> int:
        """Return the id of a new tensor at a scale."""
        self._scales.append(scale)
        return len(self._scales) - 1

    def save(self, tensor: int) -> None:
        self._saved.add(tensor)

    @property
    def saved_elements(self) -> int:
        return sum(self._elements[self._scales[tensor]] for tensor in self._saved)
