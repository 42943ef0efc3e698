"""NRRD, MetaImage and GIPL files, which ITK reads."""

from __future__ import annotations

import re
from math import prod
from pathlib import Path

import numpy as np
import SimpleITK as sitk

from nnunet_hypersegnas.evaluation.geometry import Geometry, in_3d
from nnunet_hypersegnas.evaluation.unreadable import (
    CutOffError,
    UnreadableImageError,
    because,
    check_holds_labels,
    check_is_file,
)

ENDINGS = (".nrrd", ".mha", ".gipl")
META_AXES = re.compile(rb"NDims[\s=:]*(\S*)")
HEADER_BYTES = 1 << 16
MOST_EXPANSION = 1 << 16  # bytes that a byte of the file can stand for, generously, with any compression
ELSEWHERE = re.compile(rb"(?im)^(?:data ?file\s*:|ElementDataFile\s*=)(.*)$")  # of NRRD, and of MetaImage
TYPES = {
    getattr(sitk, f"sitk{name}"): np.dtype(name.lower())
    for name in ("Int8", "UInt8", "Int16", "UInt16", "Int32", "UInt32", "Int64", "UInt64", "Float32", "Float64")
}


def read_labels(path: Path) -> tuple[np.ndarray, Geometry]:
    """Read a label map: labels of shape (Z, Y, X), and where they lie.

    Raises:
        UnreadableImageError: the file is missing or no label map.
    """
    reader = _checked_header(path)
    try:
        labels = sitk.GetArrayFromImage(reader.Execute())
    except RuntimeError as error:
        raise _because(error) from error
    return labels[None] if labels.ndim == 2 else labels, _geometry(reader)


def _checked_header(path: Path) -> sitk.ImageFileReader:
    size = check_is_file(path)
    start = _start(path)
    if path.name.lower().endswith(".mha"):
        _check_axes(start)
    _check_holds_its_voxels(start)
    reader = sitk.ImageFileReader()
    reader.SetFileName(str(path))
    try:
        reader.ReadImageInformation()
    except RuntimeError as error:
        raise _because(error) from error
    if reader.GetNumberOfComponents() != 1 or reader.GetPixelID() not in TYPES:
        name = sitk.GetPixelIDValueAsString(reader.GetPixelID())
        raise UnreadableImageError(
            f"it has {reader.GetNumberOfComponents()} values for each voxel ({name}); a label map has one number"
        )
    dtype = TYPES[reader.GetPixelID()]
    check_holds_labels(tuple(reader.GetSize()), dtype)
    if prod(reader.GetSize()) * dtype.itemsize > size * MOST_EXPANSION:
        raise CutOffError
    return reader


def _start(path: Path) -> bytes:
    """Return the beginning of a file, in which its header lies."""
    try:
        with path.open("rb") as file:
            return file.read(HEADER_BYTES)
    except OSError as error:
        raise because(error.strerror or error) from error


def _check_holds_its_voxels(start: bytes) -> None:
    """Raise UnreadableImageError where a header says that the voxels lie in another file."""
    if any(name.strip().upper() != b"LOCAL" for name in ELSEWHERE.findall(start.partition(b"\n\n")[0])):
        raise UnreadableImageError("its voxels lie in another file; a label map has to hold them itself")


def _check_axes(start: bytes) -> None:
    """Raise UnreadableImageError where a MetaImage has more axes than ITK has room for, of which the process dies."""
    found = META_AXES.findall(start)
    if not found or not all(axes in (b"2", b"3") for axes in found):
        shown = b", ".join(found).decode("latin-1") or "no number of"
        raise because(f"it has {shown} axes; a label map has 2 or 3")


def _geometry(reader: sitk.ImageFileReader) -> Geometry:
    shape, n = tuple(reader.GetSize()), reader.GetDimension()
    placement = in_3d(reader.GetSpacing(), reader.GetOrigin(), np.array(reader.GetDirection()).reshape(n, n))
    return Geometry((*shape, 1)[:3], (placement,))


def _because(error: RuntimeError) -> UnreadableImageError:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return because(lines[-1] if lines else error)
