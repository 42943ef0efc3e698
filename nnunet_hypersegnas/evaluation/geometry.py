"""Where the voxels of an image lie, and whether two images have them at the same places."""

from __future__ import annotations

import itertools
from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np

from nnunet_hypersegnas.evaluation.unreadable import UnreadableImageError, by

CLOSE = 1e-3  # of a voxel; files hold geometry in single precision
SMALLEST_MM, LARGEST_MM = 1e-6, 1e6  # of a voxel


@dataclass(frozen=True)
class Placement:
    """A place of voxels; axes in the order of the file, x first. None is what a file does not say.

    Attributes:
        spacing_mm: size of a voxel along each axis.
        origin_mm: centre of the first voxel in ITK's coordinates (left, posterior, superior).
        direction: matrix of 3 x 3, row by row, whose columns are the axes; they need not be at right angles.
    """

    spacing_mm: tuple[float, ...] | None
    origin_mm: tuple[float, ...] | None = None
    direction: tuple[float, ...] | None = None

    def __post_init__(self) -> None:
        for name, values in (("origin", self.origin_mm), ("direction", self.direction)):
            if values is not None and not np.isfinite(values).all():
                raise UnreadableImageError(f"its {name} has values that are no numbers, {by(values)}")
        if self.spacing_mm is not None and not all(SMALLEST_MM <= size <= LARGEST_MM for size in self.spacing_mm):
            raise UnreadableImageError(
                f"its voxel size is {by(self.spacing_mm)} mm; {SMALLEST_MM:g} to {LARGEST_MM:g} are possible"
            )

    def differences(self, other: Placement) -> list[str]:
        """Name what another placement has otherwise; what one of them does not say is no difference."""
        allowed = CLOSE * np.array(self.spacing_mm or 1.0)
        return [
            f"{name} {by(theirs)} in place of {by(mine)}"
            for name, mine, theirs, tolerance in (
                ("spacing", self.spacing_mm, other.spacing_mm, allowed),
                ("origin", self.origin_mm, other.origin_mm, allowed),
                ("direction", self.direction, other.direction, CLOSE),
            )
            if mine and theirs and not (np.abs(np.subtract(mine, theirs)) <= tolerance).all()
        ]


@dataclass(frozen=True)
class Geometry:
    """Shape of an image, x first, and its place.

    A NIfTI file can state two places that differ, of which ITK takes the one and nibabel the other. Whoever reads an
    image and writes a prediction hands on one of them, so two images agree where any of their places do.
    """

    shape: tuple[int, ...]
    placements: tuple[Placement, ...]

    def differences(self, other: Geometry) -> list[str]:
        """Name what another geometry has otherwise."""
        if len(self.shape) != len(other.shape):
            return [f"{len(other.shape)} axes in place of {len(self.shape)}"]
        mine, theirs = self._nearest(other)
        shapes = [f"shape {by(other.shape)} in place of {by(self.shape)}"] if self.shape != other.shape else []
        return shapes + mine.differences(theirs)

    def spacing_mm(self, other: Geometry) -> tuple[float, ...] | None:
        """Return the voxel size on which both agree, or that of the one that states it; None if none does."""
        mine, theirs = self._nearest(other)
        return mine.spacing_mm or theirs.spacing_mm

    def _nearest(self, other: Geometry) -> tuple[Placement, Placement]:
        pairs = itertools.product(self.placements, other.placements)
        return min(pairs, key=lambda pair: len(pair[0].differences(pair[1])))


def in_3d(spacing_mm: Iterable[float], origin_mm: Iterable[float], direction: np.ndarray) -> Placement:
    """Return the placement of an image of two or three axes; a slice is 1 mm thick.

    Args:
        spacing_mm: length 2 or 3, as there are axes.
        origin_mm: length 2 or 3.
        direction: a column for each axis, with 2 or 3 rows.
    """
    whole = np.zeros((3, 3))
    whole[: direction.shape[0], : direction.shape[1]] = direction
    if direction.shape[1] == 2:
        whole[:, 2] = np.cross(whole[:, 0], whole[:, 1])
    return Placement(
        spacing_mm=(*map(float, spacing_mm), 1.0)[:3],
        origin_mm=(*map(float, origin_mm), 0.0)[:3],
        direction=tuple(whole.ravel().tolist()),
    )
