"""nnU-Net's augmentation without what the paper's does not have."""

from __future__ import annotations

from batchgeneratorsv2.transforms.base.basic_transform import BasicTransform, ImageOnlyTransform
from batchgeneratorsv2.transforms.nnunet.random_binary_operator import ApplyRandomBinaryOperatorTransform
from batchgeneratorsv2.transforms.nnunet.remove_connected_components import (
    RemoveRandomConnectedComponentFromOneHotEncodingTransform,
)
from batchgeneratorsv2.transforms.spatial.spatial import SpatialTransform
from batchgeneratorsv2.transforms.utils.compose import ComposeTransforms
from batchgeneratorsv2.transforms.utils.random import RandomTransform

OF_A_CASCADE = (ApplyRandomBinaryOperatorTransform, RemoveRandomConnectedComponentFromOneHotEncodingTransform)


def rotation_and_flip(transforms: ComposeTransforms) -> ComposeTransforms:
    """Return nnU-Net's transforms without scaling and without all that changes intensities; angles and axes stay.

    What a cascade does to the first stage's predictions stays too, and so does what is no augmentation.
    """
    kept: list[BasicTransform] = []
    for transform in transforms.transforms:
        if isinstance(transform, SpatialTransform):
            transform.p_scaling = 0
        changed = transform.transform if isinstance(transform, RandomTransform) else None
        if not isinstance(changed, ImageOnlyTransform) or isinstance(changed, OF_A_CASCADE):
            kept.append(transform)
    return ComposeTransforms(kept)
