"""Images and segmentations on disk, with every reason not to trust them."""

from __future__ import annotations

import gzip
import math
import os
import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import SimpleITK as sitk

from nnunet_hypersegnas.evaluation.tiffs import ENDINGS as TIFF_ENDINGS
from nnunet_hypersegnas.evaluation.tiffs import TiffError, read_tiff

READ_BYTES = 1 << 20
CUT_OFF = "it cannot be read (it is cut off)"
CLOSE = 1e-3  # of a voxel; files hold geometry in single precision


@dataclass(frozen=True)
class Geometry:
    """Where the voxels of an image lie; axes in the order of the file, x first; NaN is a spacing that is not known."""

    shape: tuple[int, ...]
    spacing_mm: tuple[float, ...]
    origin_mm: tuple[float, ...]
    direction: tuple[float, ...]

    def differences(self, other: Geometry) -> list[str]:
        """Name what another geometry has otherwise."""
        if len(self.shape) != len(other.shape):
            return [f"{len(other.shape)} axes in place of {len(self.shape)}"]
        found = []
        if self.shape != other.shape:
            found.append(f"shape {_by(other.shape)} in place of {_by(self.shape)}")
        allowed = CLOSE * np.array(self.spacing_mm)
        for name, mine, theirs, tolerance in (
            ("spacing", self.spacing_mm, other.spacing_mm, allowed),
            ("origin", self.origin_mm, other.origin_mm, allowed),
            ("direction", self.direction, other.direction, CLOSE),
        ):
            if (np.abs(np.subtract(mine, theirs)) > tolerance).any():
                found.append(f"{name} {_by(theirs)} in place of {_by(mine)}")
        return found


class UnreadableImageError(Exception):
    """A file that is missing, cut off or no image."""


@dataclass(frozen=True)
class Segmentation:
    """Labels of an image: shape (Z, Y, X), as the file holds them."""

    labels: np.ndarray
    geometry: Geometry

    @property
    def spacing_mm(self) -> tuple[float, ...]:
        """Voxel size along the axes of `labels`."""
        return self.geometry.spacing_mm[::-1]

    @property
    def has_spacing(self) -> bool:
        return bool(np.isfinite(self.spacing_mm).all())


def read_geometry(path: Path) -> Geometry:
    """Read the header of an image; of a four-dimensional one the spatial axes.

    Raises:
        UnreadableImageError: the file is missing or no image.
    """
    reader = _header(path)
    n, size = min(3, reader.GetDimension()), reader.GetDimension()
    direction = np.array(reader.GetDirection()).reshape(size, size)[:n, :n]
    return Geometry(
        tuple(reader.GetSize()[:n]),
        tuple(reader.GetSpacing()[:n]),
        tuple(reader.GetOrigin()[:n]),
        tuple(direction.flat),
    )


def check_whole(path: Path) -> None:
    """Look at an image's header and at where its file ends, which is a matter of milliseconds.

    Raises:
        UnreadableImageError: the file is missing, cut off or no image.
    """
    if _is_cut_off(path, _header(path)):
        raise UnreadableImageError(CUT_OFF)


def read_segmentation(path: Path) -> Segmentation:
    """Read a segmentation.

    Raises:
        UnreadableImageError: the file is missing, cut off or no image.
    """
    if path.name.lower().endswith(TIFF_ENDINGS):  # ITK takes a thin stack for colours, and knows no voxel size
        return _of_tiff(path)
    try:
        image = sitk.ReadImage(str(path))
    except RuntimeError as error:
        raise UnreadableImageError(_reason(path, error)) from error
    if _is_cut_off(path, image):
        raise UnreadableImageError(CUT_OFF)
    geometry = Geometry(image.GetSize(), image.GetSpacing(), image.GetOrigin(), image.GetDirection())
    labels = sitk.GetArrayFromImage(image)
    if labels.ndim == 2:  # one slice
        labels = labels[None]
        geometry = Geometry((*geometry.shape, 1), (*geometry.spacing_mm, 1.0), (*geometry.origin_mm, 0.0), (1.0,))
    return Segmentation(labels, geometry)


def _of_tiff(path: Path) -> Segmentation:
    try:
        labels, spacing_mm = read_tiff(path)
    except TiffError as error:
        raise UnreadableImageError(str(error)) from error
    return Segmentation(labels, Geometry(labels.shape[::-1], spacing_mm[::-1], (0.0,) * 3, tuple(np.eye(3).flat)))


def label_faults(labels: np.ndarray, allowed: frozenset[int] | None) -> list[str]:
    """Name the values of a segmentation that are no labels.

    Args:
        labels: of any type.
        allowed: values; None allows every whole number of 0 or more.
    """
    values = np.unique(labels)
    if not np.isfinite(values).all() or (values != np.floor(values)).any():
        odd = values[~np.isfinite(values) | (values != np.floor(values))]
        return [f"values that are no whole numbers, {_some(odd)}"]
    if allowed is None:
        return [f"negative labels, {_some(values[values < 0])}"] if (values < 0).any() else []
    unknown = [v for v in values if int(v) not in allowed]
    return [f"labels {_some(unknown)}, known are {', '.join(map(str, sorted(allowed)))}"] if unknown else []


def _header(path: Path) -> sitk.ImageFileReader:
    reader = sitk.ImageFileReader()
    reader.SetFileName(str(path))
    try:
        reader.ReadImageInformation()
    except RuntimeError as error:
        raise UnreadableImageError(_reason(path, error)) from error
    return reader


def _is_cut_off(path: Path, image: sitk.Image | sitk.ImageFileReader) -> bool:
    """Whether a NIfTI file holds fewer voxels than its header says; ITK takes missing ones for zeros without a word."""
    if not path.name.endswith((".nii", ".nii.gz")):
        return False
    voxel_bytes = int(image.GetMetaData("bitpix")) // 8
    needed = int(float(image.GetMetaData("vox_offset"))) + math.prod(image.GetSize()) * voxel_bytes
    if path.suffix != ".gz":
        return path.stat().st_size < needed
    with path.open("rb") as file:
        file.seek(-4, os.SEEK_END)
        size = int.from_bytes(file.read(), "little")  # of the last member, modulo 4 GiB
    if size == needed % 2**32:
        return False
    try:
        with gzip.open(path) as content:
            return sum(map(len, iter(lambda: content.read(READ_BYTES), b""))) < needed
    except (EOFError, gzip.BadGzipFile, zlib.error):  # the compressed stream itself ends too early, or is torn
        return True


def _reason(path: Path, error: RuntimeError) -> str:
    if not path.exists():
        return "it is not there"
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return f"it cannot be read ({lines[-1] if lines else error})"


def _by(values: Sequence[float]) -> str:
    return " x ".join(f"{value:.6g}" for value in values)


def _some(values: Sequence[float] | np.ndarray) -> str:
    shown = ", ".join(f"{value:g}" for value in list(values)[:5])
    return shown + (", ..." if len(values) > 5 else "")
