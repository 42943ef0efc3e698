"""What the cost of a training step depends on beside the architecture, and the sizes that follow from it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from math import prod

from nnunet_hypersegnas.errors import HyperSegNASError
from nnunet_hypersegnas.space import SearchSpace

FP32 = 4  # bytes
INT64 = 8
INT16 = 2


class SetupError(HyperSegNASError):
    """A patch that the search space cannot work on."""


@dataclass(frozen=True, kw_only=True)
class TrainingSetup:
    """How networks are trained.

    Attributes:
        patch_size: voxels of each axis.
        batch_size: patches a step.
        input_channels: image channels.
        num_classes: channels of a segmentation head.
        autocast: fp16 autocast, as nnU-Net trains on CUDA; without it all is fp32, as on CPU.
        deep_supervision: every head is trained, as nnU-Net does.
        optimizer_states: tensors that the optimizer keeps for each parameter (SGD with momentum: 1; Adam: 2).
    """

    patch_size: tuple[int, ...]
    batch_size: int
    input_channels: int
    num_classes: int
    autocast: bool = False
    deep_supervision: bool = True
    optimizer_states: int = 1


def check_patch(patch_size: Sequence[int], space: SearchSpace) -> None:
    """Raise SetupError unless the space's networks can be trained on patches of this size."""
    patch, coarsest = list(patch_size), space.cumulative_strides[-1]
    if len(patch) != len(coarsest):
        raise SetupError(f"patch size {patch} has {len(patch)} axes, the search space {len(coarsest)}")
    fitting = [max(1, -(-size // stride)) * stride for size, stride in zip(patch, coarsest, strict=True)]
    if fitting != patch:
        raise SetupError(
            f"patch size {patch} is not divisible by {list(coarsest)}, the stride of the coarsest scale; the next "
            f"one that is: {fitting}"
        )
    if prod(patch) == prod(coarsest):
        raise SetupError(
            f"patch size {patch} leaves a single voxel at the coarsest scale, of which InstanceNorm makes nothing; "
            "take a larger one, or fewer scales"
        )


@dataclass(frozen=True)
class TensorSizes:
    """Sizes of the tensors in a search space's networks under a training setup; scales are indices.

    Raises:
        SetupError: see `check_patch`.
    """

    space: SearchSpace
    setup: TrainingSetup

    def __post_init__(self) -> None:
        check_patch(self.setup.patch_size, self.space)

    @property
    def width(self) -> int:
        """Bytes of an activation's element."""
        return 2 if self.setup.autocast else FP32

    @cached_property
    def full_voxels(self) -> int:
        """Voxels of a batch of patches."""
        return self.setup.batch_size * prod(self.setup.patch_size)

    @cached_property
    def voxels(self) -> tuple[int, ...]:
        """Voxels of a batch at each scale."""
        return tuple(self.full_voxels // prod(stride) for stride in self.space.cumulative_strides)

    @cached_property
    def maps(self) -> tuple[int, ...]:
        """Bytes of a feature map at each scale."""
        return tuple(self.width * c * n for c, n in zip(self.space.channels, self.voxels, strict=True))

    @cached_property
    def image(self) -> int:
        """Bytes of a batch of images, which the loader gives in fp32."""
        return FP32 * self.setup.input_channels * self.full_voxels

    @cached_property
    def full_resolution_channels(self) -> int:
        """Channels at full resolution, where the stem has a stride."""
        return max(self.space.channels[0] // 2, self.setup.num_classes)

    def norm_statistics(self, channels: int) -> int:
        """Bytes that an InstanceNorm keeps beside its input: mean, inverse deviation, the weight for every sample."""
        return 3 * FP32 * channels * self.setup.batch_size

    def weights_kept(self, convolution_weights: int) -> int:
        """Bytes of the fp16 copy of convolution weights that autocast makes and the backward pass needs."""
        return 2 * convolution_weights if self.setup.autocast else 0
