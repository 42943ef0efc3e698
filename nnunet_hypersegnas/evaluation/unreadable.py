"""Why a file gives no segmentation, and what every reader asks of a file before it looks inside."""

from __future__ import annotations

import stat
from math import prod
from pathlib import Path

import numpy as np

from nnunet_hypersegnas.errors import HyperSegNASError

MOST_VOXELS = 1 << 31  # of a label map; a CT of 1024 x 1024 x 2048
MOST_CHARACTERS = 200  # of what a library says about a file
KINDS = "biuf"  # of NumPy's types: what can hold labels


class UnreadableImageError(HyperSegNASError):
    """A file that is missing, cut off or no label map; says it of "it", and whoever names the file goes before."""


class CutOffError(UnreadableImageError):
    """A file that ends before the voxels that it promises."""

    def __init__(self) -> None:
        super().__init__("it cannot be read (it is cut off)")


def because(error: BaseException | str) -> UnreadableImageError:
    """Return the error that hands on, in one line, what a library said."""
    return UnreadableImageError(f"it cannot be read ({shortened(error)})")


def shortened(error: BaseException | str) -> str:
    """Return what a library said on one line, and no longer than a reader wants it."""
    words = " ".join(str(error).split()) or type(error).__name__
    return words if len(words) <= MOST_CHARACTERS else f"{words[:MOST_CHARACTERS]}..."


def check_is_file(path: Path) -> int:
    """Return a file's size in bytes.

    Raises:
        UnreadableImageError: it is not there, or something else than a file, such as a pipe, of which reading waits.
    """
    try:
        found = path.stat()
    except FileNotFoundError:
        raise UnreadableImageError("it is not there") from None
    except OSError as error:
        raise because(error.strerror or error) from error
    if stat.S_ISDIR(found.st_mode):
        raise UnreadableImageError("it is a folder")
    if not stat.S_ISREG(found.st_mode):
        raise UnreadableImageError("it is no file but a pipe, a socket or a device")
    return found.st_size


def check_holds_labels(shape: tuple[int, ...], dtype: np.dtype) -> None:
    """Look at what a header promises, before anything is read.

    Args:
        shape: along all axes.
        dtype: of the values.

    Raises:
        UnreadableImageError: it is no label map of two or three axes, or one of too many voxels.
    """
    if dtype.kind not in KINDS or dtype.itemsize > 8:
        raise UnreadableImageError(f"its values are of type {dtype}; needed is one number for each voxel")
    if len(shape) not in (2, 3):
        raise UnreadableImageError(f"it has {len(shape)} axes ({by(shape)}); a label map has 2 or 3")
    if min(shape) < 1 or prod(shape) > MOST_VOXELS:
        raise UnreadableImageError(f"its header promises {by(shape)} voxels; 1 to {MOST_VOXELS:,} are possible")


def by(values: tuple[float, ...]) -> str:
    """Write sizes as 4 x 5 x 6."""
    return " x ".join(f"{value:.6g}" for value in values)
