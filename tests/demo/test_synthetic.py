"""The synthetic task: MSD's folder format, reproducible, and not to be solved by a threshold."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk

from nnunet_hypersegnas.demo.synthetic import SPACING_MM, synthetic_case, write_synthetic_task
from nnunet_hypersegnas.errors import HyperSegNASError
from nnunet_hypersegnas.space import rng_for


@pytest.fixture(scope="module")
def task(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_synthetic_task(tmp_path_factory.mktemp("a") / "Task999_Synthetic", n_training=3, n_test=2, seed=7)


def voxels(path: Path) -> np.ndarray:
    return sitk.GetArrayFromImage(sitk.ReadImage(str(path)))


def test_folder_is_as_the_decathlon_has_it(task: Path) -> None:
    description = json.loads((task / "dataset.json").read_text())
    assert (description["numTraining"], description["numTest"]) == (3, 2)
    assert description["labels"] == {"0": "background", "1": "organ", "2": "lesion"}
    named = [name for pair in description["training"] for name in pair.values()] + description["test"]
    hidden = [name.replace("imagesTs", "labelsTs") for name in description["test"]]
    files = {f"./{path.relative_to(task).as_posix()}" for path in task.rglob("*.nii.gz")}
    assert files == {*named, *hidden}


def test_description_has_the_decathlons_keys(task: Path, test_data: Path) -> None:
    ours, theirs = (
        json.loads((folder / "dataset.json").read_text()) for folder in (task, test_data / "Task04_Hippocampus")
    )
    assert set(theirs) <= set(ours)
    assert ours["training"][0].keys() == theirs["training"][0].keys()
    assert ours["test"][0].startswith("./imagesTs/") and theirs["test"][0].startswith("./imagesTs/")


def test_image_and_labels_share_their_geometry(task: Path) -> None:
    for path in sorted(task.glob("labels*/*.nii.gz")):
        labels = sitk.ReadImage(str(path))
        image = sitk.ReadImage(str(task / path.parent.name.replace("labels", "images") / path.name))
        assert image.GetSize() == labels.GetSize()
        for read in (sitk.Image.GetSpacing, sitk.Image.GetOrigin, sitk.Image.GetDirection):
            assert read(image) == pytest.approx(read(labels))
        assert image.GetSpacing() == pytest.approx(SPACING_MM)
        assert (image.GetPixelID(), labels.GetPixelID()) == (sitk.sitkFloat32, sitk.sitkUInt8)


def test_case_follows_from_seed_and_number_alone(task: Path, tmp_path: Path) -> None:
    other = write_synthetic_task(tmp_path / "Task001_Synthetic", n_training=1, n_test=2, seed=7)
    for kind in ("images", "labels"):
        second = np.array_equal(
            voxels(task / f"{kind}Tr" / "synthetic_002.nii.gz"), voxels(other / f"{kind}Ts" / "synthetic_002.nii.gz")
        )
        assert second


def test_other_seed_gives_other_voxels() -> None:
    (first, _), (second, _) = (synthetic_case(rng_for(seed, "synthetic case", 1)) for seed in (0, 1))
    assert first.shape != second.shape or not np.array_equal(first, second)


def test_every_case_has_organ_and_lesion_and_sizes_differ() -> None:
    cases = [synthetic_case(rng_for(0, "synthetic case", number)) for number in range(15)]
    assert all(set(np.unique(labels)) == {0, 1, 2} for _, labels in cases)
    assert all(np.isfinite(image).all() for image, _ in cases)
    assert len({labels.shape for _, labels in cases}) > 5
    assert all((labels == 1).sum() > (labels == 2).sum() > 20 for _, labels in cases)


@pytest.mark.parametrize("label", [1, 2])
def test_no_threshold_solves_it(label: int) -> None:
    """The best window of intensities, chosen for each case with its labels at hand, is a poor segmentation."""
    for number in range(3):
        image, labels = synthetic_case(rng_for(0, "synthetic case", number))
        bounds = np.quantile(image, np.linspace(0, 1, 33))
        inside, _ = np.histogram(image[labels == label], bounds)
        everywhere, _ = np.histogram(image, bounds)
        hits, chosen = (np.concatenate([[0], counts.cumsum()]) for counts in (inside, everywhere))
        size = (labels == label).sum()
        best = max(
            2 * (hits[j] - hits[i]) / (chosen[j] - chosen[i] + size) for i in range(33) for j in range(i + 1, 33)
        )
        assert best < 0.8


def test_folder_in_use_is_refused(task: Path) -> None:
    before = (task / "dataset.json").read_bytes()
    with pytest.raises(HyperSegNASError, match="is not empty; a synthetic task needs a folder of its own"):
        write_synthetic_task(task, n_training=1, n_test=1, seed=0)
    assert (task / "dataset.json").read_bytes() == before
