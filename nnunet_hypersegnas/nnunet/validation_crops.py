"""Foreground crops of a fold's validation cases, on which the search scores sub-nets (paper section 4)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from nnunet_hypersegnas.nnunet.dataset import DatasetError, PreprocessedDataset

MAX_SIDE_MM = 192.0


@dataclass(frozen=True, kw_only=True)
class ValidationCrop:
    """A crop of one preprocessed case: `image` has shape (C, X, Y, Z), `labels` (X, Y, Z), in nnU-Net's axis order."""

    case: str
    image: np.ndarray
    labels: np.ndarray


def scoring_cases(dataset: PreprocessedDataset, fold: int, max_cases: int | None = None) -> list[str]:
    """Return the fold's validation cases, or `max_cases` of them, spread evenly over the fold's list.

    Raises:
        DatasetError: there is no such fold.
    """
    keys = dataset.validation_cases(fold)
    if max_cases is not None and max_cases < len(keys):
        keys = [keys[i] for i in np.linspace(0, len(keys) - 1, max_cases).round().astype(int)]
    return keys


def load_validation_crops(
    dataset: PreprocessedDataset, fold: int, max_cases: int | None = None
) -> list[ValidationCrop]:
    """Load the crops of a fold's `scoring_cases`; cases without foreground are left out.

    Raises:
        DatasetError: the fold's validation cases are not preprocessed, or none of them has foreground.
    """
    keys = scoring_cases(dataset, fold, max_cases)
    cases = dataset.cases()
    if missing := sorted(set(keys) - set(cases.identifiers)):
        raise DatasetError(
            f"validation cases of fold {fold} are not preprocessed ({', '.join(missing[:3])}, {len(missing)} in all); "
            "run nnUNetv2_preprocess again"
        )
    patch_size = dataset.configuration.patch_size
    crops = []
    for key in keys:
        data, seg, _, properties = cases.load_case(key)
        labels = np.asarray(seg[:])[0]
        foreground = labels > 0
        if dataset.label_manager.has_ignore_label:
            foreground &= labels != dataset.label_manager.ignore_label
        if not foreground.any():
            continue
        transposed = [properties["spacing"][i] for i in dataset.plans_manager.transpose_forward]
        spacing_mm = list(dataset.configuration.spacing)
        box = foreground_box(foreground, [*transposed[: 3 - len(spacing_mm)], *spacing_mm], patch_size)
        # Copies, so that the whole case can be freed.
        image, reference = np.array(data[(slice(None), *box)]), labels[box].copy()
        crops.append(ValidationCrop(case=key, image=image, labels=reference))
    if not crops:
        raise DatasetError(f"no validation case of fold {fold} has foreground; search on another fold")
    return crops


def foreground_box(
    foreground: np.ndarray, spacing_mm: Sequence[float], patch_size: Sequence[int]
) -> tuple[slice, slice, slice]:
    """Return the box around the foreground: at most 192 mm a side, at least the patch where the image has room.

    Args:
        foreground: shape (X, Y, Z), bool, not empty.
        spacing_mm: voxel size of each axis.
        patch_size: 2D patches cover the last two axes.
    """
    least = [1] * (3 - len(patch_size)) + list(patch_size)
    box = []
    for axis, (size, spacing, minimum) in enumerate(zip(foreground.shape, spacing_mm, least, strict=True)):
        other = tuple(i for i in range(3) if i != axis)
        where = np.flatnonzero(foreground.any(axis=other))
        first, last = int(where[0]), int(where[-1]) + 1
        side = min(last - first, max(1, int(MAX_SIDE_MM / spacing)))
        side = min(size, max(side, minimum))
        start = min(max(0, (first + last - side) // 2), size - side)
        box.append(slice(start, start + side))
    return box[0], box[1], box[2]
