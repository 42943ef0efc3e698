"""TIFF files as nnU-Net keeps segmentations in them: voxel sizes stand in a JSON file beside a stack."""

from __future__ import annotations

import json
from math import nan
from pathlib import Path

import numpy as np
import tifffile

ENDINGS = (".tif", ".tiff")
UNKNOWN = (nan, nan, nan)


class TiffError(Exception):
    """A file that is missing, cut off or no segmentation, or a wrong file beside it."""


def read_tiff(path: Path) -> tuple[np.ndarray, tuple[float, ...]]:
    """Read a stack of slices, or one slice.

    Returns:
        Labels of shape (Z, Y, X), and the size of a voxel along these axes, in mm: that of `CASE.json`; NaN where
        there is no such file, as beside nnU-Net's copies of the labels; of a single slice 1, as in other pictures.

    Raises:
        TiffError: saying what is wrong.
    """
    try:
        labels = np.asarray(tifffile.imread(path))
    except FileNotFoundError:
        raise TiffError("it is not there") from None
    except Exception as error:  # tifffile raises what its decoders do
        raise TiffError(f"it cannot be read ({type(error).__name__}: {error})") from error
    if labels.ndim == 2:
        return labels[None], (1.0, 1.0, 1.0)
    if labels.ndim != 3:
        raise TiffError(f"it has {labels.ndim} axes, a stack of slices has 3")
    beside = path.with_suffix(".json")
    if not beside.exists():
        return labels, UNKNOWN
    try:
        spacing_mm = tuple(map(float, json.loads(beside.read_text())["spacing"]))
    except (ValueError, KeyError, TypeError) as error:
        raise TiffError(f"{beside} has no spacing ({type(error).__name__}: {error})") from error
    if len(spacing_mm) != 3 or not all(size > 0 for size in spacing_mm):
        raise TiffError(f"{beside} has spacing {spacing_mm}; needed are three positive numbers")
    return labels, spacing_mm
