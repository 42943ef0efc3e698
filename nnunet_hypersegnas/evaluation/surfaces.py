"""Normalised surface distance (NSD), as the Medical Segmentation Decathlon computes it.

A surface lies wherever a cube of 2 x 2 x 2 voxels is partly inside a structure. It has the area of the triangles that
marching cubes (Lorensen and Cline 1987) puts there. NSD is the share of both surfaces' areas that is at most a
tolerance away from the other surface (Nikolov et al., J Med Internet Res 2021, 10.2196/26151).
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache

import numpy as np
from scipy.ndimage import distance_transform_edt
from skimage.measure import marching_cubes

CORNERS = 8
CODES = 1 << CORNERS  # a bit for each corner of a cube, the first one the highest


def surface_dice(
    reference: np.ndarray, prediction: np.ndarray, spacing_mm: Sequence[float], tolerance_mm: float
) -> float:
    """Return the NSD of a structure: 1 where no surface is further away than the tolerance.

    Args:
        reference: shape (X, Y, Z), bool. An image of one slice is taken as 2D, its outlines as surfaces.
        prediction: likewise.
        spacing_mm: voxel size of each axis.
        tolerance_mm: in mm.

    Returns:
        Between 0 and 1; NaN where both are empty, 0 where one is.
    """
    box = _box(reference | prediction)
    if box is None:
        return float("nan")
    masks, spacing = [np.pad(mask[box], 1) for mask in (reference, prediction)], list(spacing_mm)
    if not all(mask.any() for mask in masks):
        return 0.0
    for axis, size in enumerate(reference.shape):
        if size == 1:  # twice the same slice, so that there is no surface above and below
            masks, spacing[axis] = [np.repeat(mask.take([1], axis), 2, axis) for mask in masks], 1.0
    codes = [_codes(mask) for mask in masks]
    surfaces = [(code != 0) & (code != CODES - 1) for code in codes]
    areas = _areas(tuple(float(mm) for mm in spacing))
    near = total = 0.0
    for code, surface, other in zip(codes, surfaces, reversed(surfaces), strict=True):
        area = areas[code[surface]]
        near += area[_distances_mm(surface, other, spacing) <= tolerance_mm].sum()
        total += area.sum()
    return float(near / total)


def _box(mask: np.ndarray) -> tuple[slice, ...] | None:
    box = []
    for axis in range(mask.ndim):
        where = np.flatnonzero(mask.any(axis=tuple(i for i in range(mask.ndim) if i != axis)))
        if not len(where):
            return None
        box.append(slice(int(where[0]), int(where[-1]) + 1))
    return tuple(box)


def _codes(mask: np.ndarray) -> np.ndarray:
    """Return which corners of each cube of 2 x 2 x 2 voxels are inside, uint8."""
    codes = np.zeros([size - 1 for size in mask.shape], np.uint8)
    for corner in np.ndindex(2, 2, 2):
        codes <<= 1
        codes |= mask[tuple(slice(i, i + n) for i, n in zip(corner, codes.shape, strict=True))]
    return codes


def _distances_mm(surface: np.ndarray, other: np.ndarray, spacing_mm: Sequence[float]) -> np.ndarray:
    """Return how far each element of a surface is from the other surface."""
    # Distances of all voxels, which scipy would give, take as long as finding the nearest elements.
    nearest = distance_transform_edt(~other, sampling=spacing_mm, return_distances=False, return_indices=True)
    squares = np.zeros(np.count_nonzero(surface))
    for axis, own in enumerate(np.nonzero(surface)):
        squares += ((nearest[axis][surface] - own) * spacing_mm[axis]) ** 2
    return np.asarray(np.sqrt(squares))


@lru_cache(maxsize=256)
def _areas(spacing_mm: tuple[float, float, float]) -> np.ndarray:
    """Return the area in mm² of the surface in a cube, for each code."""
    x, y, z = spacing_mm
    across = np.array([y * z, x * z, x * y])  # of a triangle's projections onto the three planes
    return np.array([np.linalg.norm(vectors * across, axis=1).sum() for vectors in _triangles()])


@lru_cache(maxsize=1)
def _triangles() -> list[np.ndarray]:
    """Return the area vectors of each code's triangles in a cube of side 1."""
    return [_triangles_of(code) for code in range(CODES)]


def _triangles_of(code: int) -> np.ndarray:
    # The 1987 table has a code and its complement share a surface; later ones resolve ambiguous faces in other ways.
    code = min(code, CODES - 1 - code, key=lambda c: (c.bit_count(), c))
    if not code:
        return np.zeros((0, 3))
    inside = np.array([code >> (CORNERS - 1 - corner) & 1 for corner in range(CORNERS)], float).reshape(2, 2, 2)
    vertices, faces, *_ = marching_cubes(inside, 0.5, method="lorensen")
    a, b, c = (vertices[faces[:, i]] for i in range(3))
    return np.asarray(np.cross(b - a, c - a) / 2, float)
