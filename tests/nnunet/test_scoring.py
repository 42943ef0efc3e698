"""Crops and scores on real preprocessed cases, compared with nnU-Net's own."""

import json
import os
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from nnunetv2.evaluation.evaluate_predictions import compute_metrics_on_folder_simple
from torch import nn

from nnunet_hypersegnas.nnunet.dataset import DatasetError, PreprocessedDataset
from nnunet_hypersegnas.nnunet.scoring import CropScorer
from nnunet_hypersegnas.nnunet.validation_crops import (
    ValidationCrop,
    crops_name,
    foreground_box,
    keep_validation_crops,
    read_validation_crops,
    scoring_cases,
)

CPU = torch.device("cpu")


@pytest.fixture
def dataset(demo_environment):
    return PreprocessedDataset.find("999", "HyperSegNASDemoSupernet", "3d_fullres")


@pytest.fixture
def load_crops(dataset, tmp_path):
    def load(max_cases=None):
        return keep_validation_crops(tmp_path / f"crops_{max_cases}", dataset, 0, max_cases)

    return load


def test_crops_hold_the_foreground_of_the_folds_validation_cases(dataset, load_crops):
    crops = load_crops()
    splits = json.loads((dataset.folder / "splits_final.json").read_text())
    assert [crop.case for crop in crops] == splits[0]["val"]
    for crop in crops:
        _, seg, *_ = dataset.cases().load_case(crop.case)
        assert (crop.labels > 0).sum() == (seg[0] > 0).sum()
        assert crop.image.shape == (1, *crop.labels.shape)
        patch = dataset.configuration.patch_size
        assert all(a >= min(b, c) for a, b, c in zip(crop.labels.shape, patch, seg[0].shape, strict=True))
    assert [crop.case for crop in load_crops(1)] == [crops[0].case]


AWKWARD = ["sub-01.ses.1", "sub-02.ses.1", "a", "a_labels", "b_seg"]


@pytest.fixture
def awkward(demo_environment):
    """The demo's cases under ids that hold dots, and that end like the names of files."""
    source = demo_environment.preprocessed
    folder = source.parent / "Dataset996_Awkward"
    plans = json.loads((source / "HyperSegNASDemoSupernet.json").read_text()) | {"dataset_name": folder.name}
    data = source / plans["configurations"]["3d_fullres"]["data_identifier"]
    (folder / data.name).mkdir(parents=True)
    for new, old in zip(AWKWARD, sorted(data.glob("*.pkl")), strict=False):
        for ending in (".b2nd", "_seg.b2nd", ".pkl"):
            shutil.copy(data / f"{old.name.removesuffix('.pkl')}{ending}", folder / data.name / f"{new}{ending}")
    shutil.copy(source / "dataset.json", folder)
    (folder / "HyperSegNASDemoSupernet.json").write_text(json.dumps(plans))
    (folder / "splits_final.json").write_text(json.dumps([{"train": [], "val": AWKWARD}]))
    yield PreprocessedDataset.find("996", "HyperSegNASDemoSupernet", "3d_fullres")
    shutil.rmtree(folder)


def test_crops_of_cases_with_any_id_are_their_own(awkward, tmp_path):
    crops = keep_validation_crops(tmp_path / "crops", awkward, 0)
    assert [crop.case for crop in crops] == AWKWARD
    for crop in crops:
        _, seg, *_ = awkward.cases().load_case(crop.case)
        assert crop.image.ndim == 4 and (crop.labels > 0).sum() == (seg[0] > 0).sum()
    (awkward.data_folder / "b_seg.pkl").unlink()
    with pytest.raises(DatasetError, match=r"are not preprocessed \(b_seg, 1 in all\)"):
        scoring_cases(awkward, 0)


def test_crops_are_cut_anew_where_anything_they_are_cut_from_changed(awkward):
    def named(*cases):
        return crops_name(awkward, cases)

    before = named("sub-01.ses.1")
    assert len({before, named("sub-02.ses.1"), named("sub-01.ses.1", "sub-02.ses.1"), named("a"), named("b_seg")}) == 5
    for ending in (".b2nd", "_seg.b2nd", ".pkl"):
        file = awkward.data_folder / f"sub-01.ses.1{ending}"
        stat = file.stat()
        os.utime(file, ns=(stat.st_atime_ns, stat.st_mtime_ns + 1))
        assert named("sub-01.ses.1") != before
        os.utime(file, ns=(stat.st_atime_ns, stat.st_mtime_ns))
        assert named("sub-01.ses.1") == before
    alone = named("a")
    (awkward.data_folder / "a_labels.b2nd").write_bytes(b"another case's")
    assert named("a") == alone
    described = json.loads((awkward.folder / "dataset.json").read_text())
    (awkward.folder / "dataset.json").write_text(json.dumps(described | {"description": "says nothing of the crops"}))
    assert named("sub-01.ses.1") == before
    described["labels"]["ignore"] = 3
    (awkward.folder / "dataset.json").write_text(json.dumps(described))
    assert named("sub-01.ses.1") != before


@pytest.mark.parametrize(
    ("where", "spacing", "patch", "expected"),
    [
        # the box itself; widened to the patch; held within the image; at most 192 mm, in the middle
        ((slice(10, 30),) * 3, (1, 1, 1), (8, 8, 8), [(10, 30)] * 3),
        ((slice(10, 14),) * 3, (1, 1, 1), (8, 8, 8), [(8, 16)] * 3),
        ((slice(0, 2),) * 3, (1, 1, 1), (8, 8, 8), [(0, 8)] * 3),
        ((slice(0, 100),) * 3, (4.8, 1, 1), (8, 8, 8), [(30, 70), (0, 100), (0, 100)]),
        # a 2D patch covers the last two axes
        ((slice(50, 51), slice(10, 14), slice(10, 14)), (5, 1, 1), (8, 8), [(50, 51), (8, 16), (8, 16)]),
    ],
)
def test_foreground_box(where, spacing, patch, expected):
    foreground = np.zeros((100, 100, 100), bool)
    foreground[where] = True
    box = foreground_box(foreground, spacing, patch)
    assert [(s.start, s.stop) for s in box] == expected


class _Threshold(nn.Module):
    """Depends on each voxel alone, far from any tie, so tiles and nnU-Net's half-precision sums cannot change it."""

    def forward(self, image):
        return torch.cat([torch.zeros_like(image), 8.0 * (image > 0.5) - 4, 16.0 * (image > 2) - 8], 1)


def test_dsc_is_what_nnunet_computes_on_the_same_label_maps(dataset, load_crops, tmp_path):
    crops = load_crops()
    score = CropScorer(dataset, crops, CPU).score(_Threshold())
    reader = dataset.plans_manager.image_reader_writer_class()
    for name in ("prediction", "reference"):
        (tmp_path / name).mkdir()
    properties = {"sitk_stuff": {"spacing": (1, 1, 1), "origin": (0, 0, 0), "direction": (1, 0, 0, 0, 1, 0, 0, 0, 1)}}
    for crop in crops:
        logits = _Threshold()(torch.from_numpy(crop.image)[None])[0]
        file = f"{crop.case}.nii.gz"
        reader.write_seg(logits.argmax(0).numpy().astype(np.uint8), str(tmp_path / "prediction" / file), properties)
        labels = np.maximum(crop.labels, 0).astype(np.uint8)
        reader.write_seg(labels, str(tmp_path / "reference" / file), properties)
    compute_metrics_on_folder_simple(
        str(tmp_path / "reference"), str(tmp_path / "prediction"), [1, 2], str(tmp_path / "s.json"), num_processes=1
    )
    expected = json.loads((tmp_path / "s.json").read_text())["mean"]
    assert 0.05 < score.dsc < 0.95
    assert score.dsc_by_label["organ"] == pytest.approx(expected["1"]["Dice"], abs=1e-4)
    assert score.dsc_by_label["lesion"] == pytest.approx(expected["2"]["Dice"], abs=1e-4)
    per_case = json.loads((tmp_path / "s.json").read_text())["metric_per_case"]
    for case in per_case:
        name = Path(case["prediction_file"]).name.removesuffix(".nii.gz")
        assert score.dsc_by_case[name]["organ"] == pytest.approx(case["metrics"]["1"]["Dice"], abs=1e-4)


def test_crops_are_mapped_into_memory_and_kept_once(dataset, load_crops, tmp_path):
    crops = load_crops(1)
    assert isinstance(crops[0].image, np.memmap) and isinstance(crops[0].labels, np.memmap)
    (folder,) = tmp_path.iterdir()  # and no unfinished one
    before = {path: path.stat().st_mtime_ns for path in folder.iterdir()}
    load_crops(1)
    assert {path: path.stat().st_mtime_ns for path in folder.iterdir()} == before
    labels = next(folder.glob("*_labels.npy"))
    for spoil in (
        lambda: labels.write_bytes(labels.read_bytes()[:100]),
        lambda: labels.write_bytes(b""),
        labels.unlink,
    ):
        spoil()
        with pytest.raises(DatasetError, match="are not complete"):
            read_validation_crops(folder)


def test_a_fold_without_foreground_is_refused(dataset, load_crops, tmp_path, monkeypatch):
    cases = type(dataset.cases())
    load_case = cases.load_case

    def without_labels(self, key):
        data, seg, previous, properties = load_case(self, key)
        return data, np.zeros_like(seg[:]), previous, properties

    monkeypatch.setattr(cases, "load_case", without_labels)
    with pytest.raises(DatasetError, match="no validation case of fold 0 has foreground; search on another fold"):
        load_crops()
    assert not list(tmp_path.iterdir())


def test_patches_are_scored_together_the_most_telling_ones_first(dataset, load_crops):
    crops = load_crops()
    scorer = CropScorer(dataset, crops, CPU)
    assert len(scorer.patches) == len(scorer.window.patches) >= len(crops)
    firsts = scorer.patches[: len(crops)]
    assert {patch.image for patch in firsts} == set(range(len(crops)))  # of every crop one before a second
    network = _Threshold()
    tp = predicted = true = np.zeros(2)
    for patch in firsts:
        crop = crops[patch.image]
        inside = tuple(
            slice(max(0, p.start - o), max(0, min(p.stop - o, n)))
            for p, o, n in zip(patch.where[1:], _padding_before(scorer, patch, crop), crop.labels.shape, strict=True)
        )
        segmentation = network(torch.from_numpy(crop.image)[None])[0].argmax(0).numpy()[inside]
        labels = crop.labels[inside]
        tp = tp + [((segmentation == i) & (labels == i)).sum() for i in (1, 2)]
        predicted = predicted + [(segmentation == i).sum() for i in (1, 2)]
        true = true + [(labels == i).sum() for i in (1, 2)]
    score = scorer.score_patches(network, len(crops))
    assert list(score.dsc_by_label.values()) == pytest.approx((2 * tp / (predicted + true)).tolist())
    assert not score.dsc_by_case
    # With all patches it is near the score of whole crops, though voxels in the overlap count twice.
    everything = scorer.score_patches(network, len(scorer.patches))
    assert everything.dsc == pytest.approx(scorer.score(network).dsc, abs=0.1)


def _padding_before(scorer, patch, crop):
    padded = scorer._padded[patch.image].shape
    return [(p - n) // 2 for p, n in zip(padded, crop.labels.shape, strict=True)]


def test_a_label_that_is_nowhere_has_no_score(dataset):
    image = np.full((1, 32, 32, 32), -5, np.float32)
    labels = np.zeros((32, 32, 32), np.int16)
    image[:, 4:20, 4:20, 4:20], labels[4:20, 4:20, 4:20] = 1.0, 1
    score = CropScorer(dataset, [ValidationCrop(case="x", image=image, labels=labels)], CPU).score(_Threshold())
    assert score.dsc_by_label["organ"] == 1
    assert np.isnan(score.dsc_by_label["lesion"])
    assert score.dsc == 1
