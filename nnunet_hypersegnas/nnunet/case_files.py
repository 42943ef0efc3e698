"""The files in which nnU-Net keeps a preprocessed case, by their exact names: ids hold dots, and end in _seg."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from nnunet_hypersegnas.nnunet.dataset import PreprocessedDataset

IMAGES = (".b2nd", ".npz")  # either of the two that nnU-Net's readers look for
PROPERTIES = ".pkl"
ENDINGS = (*IMAGES, "_seg.b2nd", ".npy", "_seg.npy", PROPERTIES)


def case_files(dataset: PreprocessedDataset, cases: Sequence[str]) -> list[Path]:
    """Return the files that are there of some cases, and on a cascade the first stage's predictions of them."""
    folders = [dataset.data_folder, *([dataset.first_stage.folder] if dataset.first_stage else [])]
    paths = [folder / f"{case}{ending}" for folder in folders for case in cases for ending in ENDINGS]
    return [path for path in paths if path.exists()]


def is_preprocessed(dataset: PreprocessedDataset, case: str) -> bool:
    """Whether nnU-Net can load a case; the ids that its readers list lack those that end in _seg."""
    folder = dataset.data_folder
    return (folder / f"{case}{PROPERTIES}").exists() and any((folder / f"{case}{end}").exists() for end in IMAGES)
