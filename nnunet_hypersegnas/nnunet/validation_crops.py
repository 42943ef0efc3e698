"""Foreground crops of a fold's validation cases, on which the search scores sub-nets (paper section 4).

They are cut once and kept in files that every worker maps into its memory, so that many workers hold them once.
"""

from __future__ import annotations

import io
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from nnunetv2.training.dataloading.nnunet_dataset import nnUNetBaseDataset

from nnunet_hypersegnas.atomic import temporary_folder, write_json
from nnunet_hypersegnas.json_files import JsonFileError, read_checked, read_object
from nnunet_hypersegnas.nnunet.cascade import network_input
from nnunet_hypersegnas.nnunet.case_files import case_files, is_preprocessed
from nnunet_hypersegnas.nnunet.dataset import DatasetError, PreprocessedDataset
from nnunet_hypersegnas.nnunet.digests import digest

MAX_SIDE_MM = 192.0
INDEX = "cases.json"  # the cases' ids; the files have their numbers in it for names, since ids can be anything


@dataclass(frozen=True, kw_only=True)
class ValidationCrop:
    """A crop of one preprocessed case: `image` has shape (C, X, Y, Z), `labels` (X, Y, Z), in nnU-Net's axis order.

    On a cascade's second stage the image has channels of the first stage's prediction too.
    """

    case: str
    image: np.ndarray
    labels: np.ndarray


def scoring_cases(dataset: PreprocessedDataset, fold: int, max_cases: int | None = None) -> list[str]:
    """Return the fold's validation cases, or `max_cases` of them, spread evenly over the fold's list.

    Raises:
        DatasetError: there is no such fold, or its cases are not preprocessed.
    """
    keys = dataset.validation_cases(fold)
    if max_cases is not None and max_cases < len(keys):
        keys = [keys[i] for i in np.linspace(0, len(keys) - 1, max_cases).round().astype(int)]
    if missing := sorted(key for key in set(keys) if not is_preprocessed(dataset, key)):
        raise DatasetError(
            f"validation cases of fold {fold} are not preprocessed ({', '.join(missing[:3])}, {len(missing)} in all); "
            "run nnUNetv2_preprocess again"
        )
    return keys


def crops_name(dataset: PreprocessedDataset, cases: Sequence[str]) -> str:
    """Return the name of a folder for the crops of some cases: another one where anything they are cut from changed."""
    files = [
        (path.parent.name, path.name, path.stat().st_size, path.stat().st_mtime_ns)
        for path in case_files(dataset, cases)
    ]
    # Labels can change without the cases' files: some are ignored, and on a cascade each has a channel.
    described = dataset.data_folder.with_name("dataset.json")
    labels = read_object(described).get("labels") if described.exists() else None
    return f"crops_{digest(list(cases), files, labels, list(dataset.configuration.patch_size), MAX_SIDE_MM)}"


def keep_validation_crops(
    folder: Path, dataset: PreprocessedDataset, fold: int, max_cases: int | None = None
) -> list[ValidationCrop]:
    """Write the crops of a fold's `scoring_cases` into a folder, where they are not there yet, and return them.

    Cases without foreground are left out.

    Raises:
        DatasetError: as `scoring_cases`, or none of the cases has foreground, or what was kept is not complete.
    """
    if not folder.exists():
        _keep(folder, dataset, fold, scoring_cases(dataset, fold, max_cases))
    return read_validation_crops(folder)


def _keep(folder: Path, dataset: PreprocessedDataset, fold: int, keys: Sequence[str]) -> None:
    with temporary_folder(folder) as unfinished:
        names: list[str] = []
        for crop in _cut(dataset, keys):
            image, labels = _files(len(names))
            _save(unfinished / image, crop.image)
            _save(unfinished / labels, crop.labels)
            names.append(crop.case)
        if not names:
            raise DatasetError(f"no validation case of fold {fold} has foreground; search on another fold")
        write_json(unfinished / INDEX, names)
        try:
            unfinished.rename(folder)
        except OSError:
            if not folder.exists():  # another search has written the same ones in the meantime
                raise


def _files(number: int) -> tuple[str, str]:
    return f"{number}_image.npy", f"{number}_labels.npy"


def _save(path: Path, array: np.ndarray) -> None:
    buffer = io.BytesIO()  # straight to a full disk, NumPy would raise an error that does not say so
    np.save(buffer, array)
    path.write_bytes(buffer.getbuffer())


def read_validation_crops(folder: Path) -> list[ValidationCrop]:
    """Map the crops that `keep_validation_crops` wrote into memory.

    Raises:
        DatasetError: they are not all there.
    """

    try:
        names = read_checked(folder / INDEX, list[str], "a list of cases")
        return [_mapped(folder, number, case) for number, case in enumerate(names)]
    except (JsonFileError, FileNotFoundError, EOFError, ValueError) as error:
        raise DatasetError(
            f"the validation crops in {folder} are not complete ({error}); delete that folder, and search again"
        ) from error


def _mapped(folder: Path, number: int, case: str) -> ValidationCrop:
    # torch takes no memory that cannot be written
    image, labels = (np.load(folder / name, mmap_mode="c") for name in _files(number))
    return ValidationCrop(case=case, image=image, labels=labels)


def _cut(dataset: PreprocessedDataset, keys: Sequence[str]) -> Iterator[ValidationCrop]:
    cases = dataset.cases()
    for key in keys:
        with dataset.reading(key):
            crop = _crop_of(dataset, cases, key)
        if crop is not None:
            yield crop


def _crop_of(dataset: PreprocessedDataset, cases: nnUNetBaseDataset, key: str) -> ValidationCrop | None:
    """Return the crop of a case; None where it has no foreground."""
    data, seg, prediction, properties = cases.load_case(key)
    labels = np.asarray(seg[:])[0]
    foreground = labels > 0
    if dataset.label_manager.has_ignore_label:
        foreground &= labels != dataset.label_manager.ignore_label
    if not foreground.any():
        return None
    transposed = [properties["spacing"][i] for i in dataset.plans_manager.transpose_forward]
    spacing_mm = list(dataset.configuration.spacing)
    box = foreground_box(
        foreground, [*transposed[: 3 - len(spacing_mm)], *spacing_mm], dataset.configuration.patch_size
    )
    image = network_input(
        np.array(data[(slice(None), *box)]),
        None if prediction is None else np.asarray(prediction[box]),
        dataset.label_manager,
    )
    return ValidationCrop(case=key, image=image, labels=labels[box].copy())


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
