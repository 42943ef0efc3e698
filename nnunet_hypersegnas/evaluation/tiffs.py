"""TIFF files as nnU-Net keeps segmentations in them: voxel sizes stand in a JSON file beside a stack."""

from __future__ import annotations

import logging
import math
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import islice
from pathlib import Path

import numpy as np
import tifffile
from typing_extensions import TypedDict  # pydantic needs it before Python 3.12

from nnunet_hypersegnas.evaluation.geometry import Geometry, Placement
from nnunet_hypersegnas.evaluation.unreadable import (
    CutOffError,
    UnreadableImageError,
    because,
    by,
    check_holds_labels,
    check_is_file,
)
from nnunet_hypersegnas.json_files import JsonFileError, read_checked

ENDINGS = (".tif", ".tiff")
SMALLEST_PAGE_BYTES, MOST_PAGES = 18, 1 << 16  # a page for each slice, or one for all
MOST_EXPANSION = 1 << 16  # bytes that a byte of the file can stand for, generously, with any of TIFF's compressions


def read_labels(path: Path) -> tuple[np.ndarray, Geometry]:
    """Read a stack of slices, or one slice.

    Returns:
        Labels of shape (Z, Y, X), and their geometry. A stack's voxel size is that of `CASE.json`, and not known where
        there is no such file, as beside nnU-Net's copies of the labels; that of a single slice is 1, as in other
        pictures.

    Raises:
        CutOffError: the file promises more than it can hold.
        UnreadableImageError: the file is missing or no label map, or the one beside it states no voxel size.
    """
    size = check_is_file(path)
    try:
        with _quiet(), tifffile.TiffFile(path) as tiff:
            _check_pages(tiff, size)
            series = tiff.series[0]
            check_holds_labels(tuple(series.shape), np.dtype(series.dtype))
            if math.prod(series.shape) * np.dtype(series.dtype).itemsize > size * MOST_EXPANSION:
                raise CutOffError
            labels = np.asarray(series.asarray())
    except UnreadableImageError:
        raise
    except Exception as error:  # tifffile raises what its decoders do
        raise because(f"{type(error).__name__}: {error}") from error
    placement = Placement((1.0, 1.0, 1.0)) if labels.ndim == 2 else _placement(path.with_suffix(".json"))
    labels = labels[None] if labels.ndim == 2 else labels
    return labels, Geometry(labels.shape[::-1], (placement,))


def _check_pages(tiff: tifffile.TiffFile, size: int) -> None:
    """Raise UnreadableImageError where pages refer to one another in a circle, which tifffile follows for minutes."""
    most = min(size // SMALLEST_PAGE_BYTES, MOST_PAGES)
    if sum(1 for _ in islice(tiff.pages, most + 1)) > most:
        raise UnreadableImageError(f"its pages do not end; in {size:,} bytes {most:,} are possible")


class _Beside(TypedDict):
    spacing: list[float]


def _placement(beside: Path) -> Placement:
    if not beside.is_file():
        return Placement(None)
    try:
        spacing = read_checked(beside, _Beside, "nnU-Net's file with the voxel size of a stack")["spacing"]
    except JsonFileError as error:
        raise UnreadableImageError(str(error)) from error
    spacing_mm = tuple(map(float, spacing))
    if len(spacing_mm) != 3 or not all(0 < size < math.inf for size in spacing_mm):
        raise UnreadableImageError(f"{beside} has spacing {by(spacing_mm)}; needed are three positive numbers")
    return Placement(spacing_mm[::-1])


@contextmanager
def _quiet() -> Iterator[None]:
    """Keep tifffile's warnings of a damaged file from the screen: an error says in one line what is wrong."""
    logger = logging.getLogger("tifffile")
    level = logger.level
    logger.setLevel(logging.CRITICAL + 1)
    try:
        yield
    finally:
        logger.setLevel(level)
