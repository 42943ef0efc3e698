"""Label maps on disk, whatever their format, with every reason not to trust them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from nnunet_hypersegnas.evaluation import itk_images, nifti, pictures, tiffs
from nnunet_hypersegnas.evaluation.geometry import Geometry
from nnunet_hypersegnas.evaluation.unreadable import UnreadableImageError

FORMATS = (nifti, itk_images, tiffs, pictures)
ENDINGS = tuple(ending for format_ in FORMATS for ending in format_.ENDINGS)
MOST_LABELS = 1000  # of a case whose labels nobody has named; an image of a scanner has more values


@dataclass(frozen=True)
class Segmentation:
    """Labels of an image: shape (Z, Y, X), as the file holds them."""

    labels: np.ndarray
    geometry: Geometry


def read_segmentation(path: Path) -> Segmentation:
    """Read a segmentation, in the file's own order of voxels.

    Raises:
        CutOffError: the file is cut off.
        UnreadableImageError: it is missing, or no label map.
    """
    format_ = next((f for f in FORMATS if path.name.lower().endswith(f.ENDINGS)), None)
    if format_ is None:
        raise UnreadableImageError(f"its format is not known; known are {', '.join(ENDINGS)}")
    try:
        return Segmentation(*format_.read_labels(path))
    except MemoryError as error:
        raise UnreadableImageError("its voxels do not fit into this machine's memory") from error


def label_faults(labels: np.ndarray, allowed: frozenset[int] | None) -> list[str]:
    """Name the values of a segmentation that are no labels.

    Args:
        labels: of any type.
        allowed: values; None allows whole numbers of 0 or more, not too many of them.
    """
    values = np.unique(labels)
    if not np.isfinite(values).all() or (values != np.floor(values)).any():
        odd = values[~np.isfinite(values) | (values != np.floor(values))]
        return [f"values that are no whole numbers, {_some(odd)}"]
    if allowed is None:
        negative = [f"negative labels, {_some(values[values < 0])}"] if (values < 0).any() else []
        many = [f"{len(values):,} labels; {MOST_LABELS:,} are possible"] if len(values) > MOST_LABELS else []
        return negative + many
    unknown = [v for v in values if int(v) not in allowed]
    return [f"labels {_some(unknown)}, known are {', '.join(map(str, sorted(allowed)))}"] if unknown else []


def _some(values: Sequence[float] | np.ndarray) -> str:
    shown = ", ".join(f"{value:g}" for value in list(values)[:5])
    return shown + (", ..." if len(values) > 5 else "")
