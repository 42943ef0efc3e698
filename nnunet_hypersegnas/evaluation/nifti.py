"""NIfTI files: the header first, which is held against what the file can hold, then the voxels, piece by piece.

Voxels come in the file's own order, as nnU-Net writes them with any of its readers. ITK refuses files whose axes are
not at right angles; nnU-Net takes nibabel for them, and so does this.
"""

from __future__ import annotations

import gzip
import logging
import os
import zlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import BinaryIO, Literal, cast

import nibabel as nib
import numpy as np
from nibabel.spatialimages import HeaderDataError

from nnunet_hypersegnas.evaluation.geometry import Geometry, Placement, in_3d
from nnunet_hypersegnas.evaluation.unreadable import (
    CutOffError,
    UnreadableImageError,
    because,
    check_holds_labels,
    check_is_file,
)

ENDINGS = (".nii", ".nii.gz")
KINDS = {348: (nib.Nifti1Header, b"n+1"), 540: (nib.Nifti2Header, b"n+2")}  # by the size that a header says it has
GZIP = b"\x1f\x8b"
MOST_EXPANSION = 1032  # bytes that one byte of gzip can stand for (zlib's technical details)
PIECE_BYTES = 1 << 22
UNITS_MM, UNITS_MASK = {1: 1e3, 3: 1e-3}, 7  # of lengths, by the code of metres and of micrometres
RAS_TO_LPS = np.diag([-1.0, -1.0, 1.0])  # from NIfTI's coordinates to ITK's
SILENT = logging.Logger("nifti")  # nibabel's checks mend what they can, and would print it
SILENT.addHandler(logging.NullHandler())


@dataclass(frozen=True)
class NiftiImage:
    """What a header says.

    Attributes:
        shape: of the voxels, x first, single axes at the end left away.
        dtype: of a voxel in the file.
        offset: byte of the first voxel, in the file without gzip.
        scale: factor and summand of the values; None where they are as they are.
        description: free text.
        placements: of the first two or three axes, all that it states.
    """

    shape: tuple[int, ...]
    dtype: np.dtype
    offset: int
    scale: tuple[float, float] | None
    description: str
    placements: tuple[Placement, ...]

    @property
    def geometry(self) -> Geometry:
        """Of the spatial axes; a slice has three as well."""
        return Geometry((*self.shape, 1)[:3], self.placements)

    @property
    def type_of_values(self) -> np.dtype:
        return np.dtype(np.float64) if self.scale else self.dtype.newbyteorder("=")

    @property
    def end(self) -> int:
        """Where the last voxel ends, in the file without gzip."""
        return self.offset + prod(self.shape) * self.dtype.itemsize


def read_header(path: Path) -> NiftiImage:
    """Read a header, and refuse one that promises more than a file of this size can hold.

    Raises:
        CutOffError: it does.
        UnreadableImageError: the file is missing or no NIfTI.
    """
    size = check_is_file(path)
    with _opened(path) as (content, is_packed):
        image = _read_header(content)
    if image.end > size * (MOST_EXPANSION if is_packed else 1):
        raise CutOffError
    return image


def check_whole(path: Path) -> None:
    """Look at the header and at where the file ends, which is a matter of milliseconds where nothing is wrong.

    Raises:
        CutOffError: it ends too early.
        UnreadableImageError: the file is missing or no NIfTI.
    """
    image = read_header(path)
    with _opened(path) as (content, is_packed):
        if not is_packed or _size_without_gzip(path) == image.end % 2**32:
            return
        _skip(content, image.end)
        _read_what_is_left(content)


def read_labels(path: Path) -> tuple[np.ndarray, Geometry]:
    """Read a label map: labels of shape (Z, Y, X), and where they lie.

    Raises:
        CutOffError: it is cut off.
        UnreadableImageError: the file is missing or no label map.
    """
    image = read_header(path)
    check_holds_labels(image.shape, image.dtype)
    flat, filled = np.empty(prod(image.shape), image.type_of_values), 0
    for piece in _pieces(path, image):
        flat[filled : filled + len(piece)] = piece
        filled += len(piece)
    return flat.reshape(image.geometry.shape[::-1]), image.geometry


def read_values(path: Path, most: int) -> np.ndarray:
    """Return the different values of a label map, sorted, without holding all of its voxels.

    Args:
        path: of the file.
        most: where there are more values than this, those found until then are enough.

    Raises:
        CutOffError: it is cut off.
        UnreadableImageError: the file is missing or no label map.
    """
    image = read_header(path)
    check_holds_labels(image.shape, image.dtype)
    values = np.empty(0, image.type_of_values)
    for piece in _pieces(path, image):
        values = np.union1d(values, piece)
        if len(values) > most:
            break
    return values


def _pieces(path: Path, image: NiftiImage) -> Iterator[np.ndarray]:
    with _opened(path) as (content, _):
        _skip(content, image.offset)
        left = image.end - image.offset
        while left:
            block = _read(content, min(left, PIECE_BYTES))
            left -= len(block)
            values = np.frombuffer(block, image.dtype).astype(image.dtype.newbyteorder("="), copy=False)
            yield values * image.scale[0] + image.scale[1] if image.scale else values
        _read_what_is_left(content)


# -- bytes -----------------------------------------------------------------------------------------------------------


@contextmanager
def _opened(path: Path) -> Iterator[tuple[BinaryIO, bool]]:
    """Yield what is in a file, and whether gzip had packed it: endings do not always say so, and ITK ignores them."""
    try:
        with path.open("rb") as file:
            is_packed = file.read(len(GZIP)) == GZIP
            file.seek(0)
            yield cast(BinaryIO, gzip.GzipFile(fileobj=file) if is_packed else file), is_packed
    except EOFError as error:
        raise CutOffError from error
    except (OSError, zlib.error) as error:  # gzip finds a wrong check sum, or bytes that mean nothing
        raise because(error) from error


def _read(content: BinaryIO, size: int) -> bytes:
    block = content.read(size)
    while len(block) < size:
        more = content.read(size - len(block))
        if not more:
            raise CutOffError
        block += more
    return block


def _skip(content: BinaryIO, size: int) -> None:
    while size:
        size -= len(_read(content, min(size, PIECE_BYTES)))


def _read_what_is_left(content: BinaryIO) -> None:
    """Read on a little: gzip compares its check sum where its content ends."""
    content.read(PIECE_BYTES)


def _size_without_gzip(path: Path) -> int:
    """Return how many bytes gzip's last member says it has packed, modulo 4 GiB."""
    with path.open("rb") as file:
        file.seek(-4, os.SEEK_END)
        return int.from_bytes(file.read(), "little")


# -- header ----------------------------------------------------------------------------------------------------------


def _read_header(content: BinaryIO) -> NiftiImage:
    start = content.read(4)
    if not start:
        raise CutOffError
    orders: tuple[Literal["little", "big"], ...] = ("little", "big")
    order = next((o for o in orders if int.from_bytes(start, o) in KINDS), None)
    if order is None:
        raise because("it is no NIfTI file")
    size = int.from_bytes(start, order)
    kind, magic = KINDS[size]
    block = start + _read(content, size - len(start))
    try:
        header = kind(block, endianness=order, check=False)
        header.check_fix(logger=SILENT, error_level=100)
        if not bytes(header["magic"]).startswith(magic):
            raise because("it is no NIfTI file of one part")
        with np.errstate(all="ignore"):  # any bytes can stand for numbers, and those that matter are looked at
            return _understood(header)
    except KeyError as error:  # nibabel looks the type up
        raise UnreadableImageError(f"its voxels are of type {error}, which NIfTI does not know") from error
    except (HeaderDataError, ValueError, OverflowError) as error:
        raise because(error) from error


def _understood(header: nib.Nifti1Header) -> NiftiImage:
    shape = tuple(int(n) for n in header.get_data_shape())
    while len(shape) > 3 and shape[-1] == 1:
        shape = shape[:-1]
    if header["dim"][0] > 7 or len(shape) < 2 or min(shape) < 1:
        raise UnreadableImageError(f"its header promises voxels of shape {shape}")
    offset = float(header["vox_offset"])
    if not header.sizeof_hdr <= offset < 2**63:
        raise because(f"its voxels are said to start at byte {offset:g}")
    factor, summand = header.get_slope_inter()
    is_scaled = factor is not None and (factor, summand) != (1, 0)
    return NiftiImage(
        shape=shape,
        dtype=header.get_data_dtype(),
        offset=int(offset),
        scale=(float(factor), float(summand)) if is_scaled else None,
        description=bytes(header["descrip"]).decode("latin-1"),
        placements=tuple(_placements(header, min(len(shape), 3))),
    )


def _placements(header: nib.Nifti1Header, axes: int) -> Iterator[Placement]:
    """Yield the places that a header states, or its voxel size alone.

    Sizes of voxels stand in two places as well: ITK takes `pixdim`, and nibabel writes what the affine has. ITK turns
    metres and micrometres into mm, nibabel leaves numbers as they are.
    """
    for mm in dict.fromkeys((UNITS_MM.get(int(header["xyzt_units"]) & UNITS_MASK, 1.0), 1.0)):
        sizes = mm * np.abs(np.array(header["pixdim"][1 : 1 + axes], float))
        yield from _placed(sizes, [np.diag([mm, mm, mm, 1]) @ affine for affine in _affines(header)])


def _placed(sizes: np.ndarray, affines: Sequence[np.ndarray]) -> Iterator[Placement]:
    axes = len(sizes)
    for affine in affines:
        columns = affine[:3, :axes]
        lengths = np.hypot(np.hypot(columns[0], columns[1]), columns[2])
        if not (np.isfinite(affine).all() and (lengths > 0).all() and np.isfinite(lengths).all()):
            raise UnreadableImageError("its affine has an axis without length, or values that are no numbers")
        origin, direction = RAS_TO_LPS @ affine[:3, 3], RAS_TO_LPS @ columns / lengths
        yield in_3d(lengths, origin, direction)
        if not np.allclose(sizes, lengths, rtol=1e-5) and np.isfinite(sizes).all() and (sizes > 0).all():
            yield in_3d(sizes, origin, direction)
    if not affines:
        yield Placement((*map(float, sizes), 1.0)[:3])


def _affines(header: nib.Nifti1Header) -> Iterator[np.ndarray]:
    if header["sform_code"] > 0:
        yield header.get_sform()
    if header["qform_code"] > 0:
        try:
            yield header.get_qform()
        except (HeaderDataError, ValueError):  # no rotation
            if header["sform_code"] <= 0:
                raise
