"""How much MAN's scalars differ between the patches of a volume, and between two architectures on each patch."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch

from nnunet_hypersegnas.architectures import MetaAssistantNetwork, ScalarMoments, all_scalars
from nnunet_hypersegnas.nnunet.sliding_window import SlidingWindow
from nnunet_hypersegnas.space import Architecture


@dataclass(frozen=True, kw_only=True, eq=False)
class DeviationMap:
    """L2 distances between vectors of all c_tot scalars, each of them in (0, 2).

    Attributes:
        of_patches: of every patch, shape (n,).
        of_voxels: the mean over the patches that cover a voxel, shape (X, Y, Z).
    """

    of_patches: np.ndarray
    of_voxels: np.ndarray


@dataclass(frozen=True, kw_only=True, eq=False)
class ScalarMaps:
    """One volume's.

    Attributes:
        image: Eq. 6, under the first architecture, from the mean over the volume's patches.
        architecture: Eq. 7, between the two.
        foreground: share of each patch's voxels, in 0 to 1, shape (n,).
        most_foreground: the patch that shows most, shape (1, C, spatial axes).
    """

    image: DeviationMap
    architecture: DeviationMap
    foreground: np.ndarray
    most_foreground: torch.Tensor


def scalar_maps(
    man: MetaAssistantNetwork,
    architectures: tuple[Architecture, Architecture],
    window: SlidingWindow,
    foreground: np.ndarray,
    moments: ScalarMoments,
    advance: Callable[[int], object],
) -> ScalarMaps:
    """Go over a volume twice: for the mean over its patches, then for the distances, so that no scalars are kept.

    Args:
        man: on the window's device.
        architectures: the two of Eq. 7; Eq. 6 is under the first.
        window: of one image.
        foreground: bool, shape (X, Y, Z), of that image.
        moments: takes in the scalars of all patches under the first architecture.
        advance: called with the number of patches of each batch gone over, in either pass.
    """
    mean = ScalarMoments()
    for images in window.batches(window.patches):
        scalars = all_scalars(man, images, architectures[0])
        mean.add(scalars)
        moments.add(scalars)
        advance(len(images))
    from_mean, between = [], []
    for images in window.batches(window.patches):
        first, second = (all_scalars(man, images, architecture).double() for architecture in architectures)
        from_mean.append(torch.linalg.vector_norm(first - mean.mean, dim=1))  # Eq. (6)
        between.append(torch.linalg.vector_norm(first - second, dim=1))  # Eq. (7)
        advance(len(images))
    shown = window.padded(0, foreground, False)
    share = np.array([float(shown[patch.where[1:]].float().mean()) for patch in window.patches])
    most = window.patches[int(share.argmax())]
    (most_foreground,) = window.batches([most])
    return ScalarMaps(
        image=_map(window, from_mean),
        architecture=_map(window, between),
        foreground=share,
        most_foreground=most_foreground,
    )


def _map(window: SlidingWindow, distances: list[torch.Tensor]) -> DeviationMap:
    of_patches = torch.cat(distances).cpu().numpy()
    return DeviationMap(of_patches=of_patches, of_voxels=window.averaged(0, of_patches))
