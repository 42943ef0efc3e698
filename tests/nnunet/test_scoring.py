"""Crops and scores on real preprocessed cases, compared with nnU-Net's own."""

import json

import numpy as np
import pytest
import torch
from nnunetv2.evaluation.evaluate_predictions import compute_metrics_on_folder_simple
from torch import nn

from nnunet_hypersegnas.nnunet.dataset import PreprocessedDataset
from nnunet_hypersegnas.nnunet.scoring import CropScorer
from nnunet_hypersegnas.nnunet.validation_crops import ValidationCrop, foreground_box, load_validation_crops

CPU = torch.device("cpu")


@pytest.fixture
def dataset(demo_environment):
    return PreprocessedDataset.find("999", "HyperSegNASDemoSupernet", "3d_fullres")


def test_crops_hold_the_foreground_of_the_folds_validation_cases(dataset):
    crops = load_validation_crops(dataset, 0)
    splits = json.loads((dataset.folder / "splits_final.json").read_text())
    assert [crop.case for crop in crops] == splits[0]["val"]
    for crop in crops:
        _, seg, *_ = dataset.cases().load_case(crop.case)
        assert (crop.labels > 0).sum() == (seg[0] > 0).sum()
        assert crop.image.shape == (1, *crop.labels.shape)
        patch = dataset.configuration.patch_size
        assert all(a >= min(b, c) for a, b, c in zip(crop.labels.shape, patch, seg[0].shape, strict=True))
    assert [crop.case for crop in load_validation_crops(dataset, 0, max_cases=1)] == [crops[0].case]


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


def test_dsc_is_what_nnunet_computes_on_the_same_label_maps(dataset, tmp_path):
    crops = load_validation_crops(dataset, 0)
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


def test_a_label_that_is_nowhere_has_no_score(dataset):
    image = np.full((1, 32, 32, 32), -5, np.float32)
    labels = np.zeros((32, 32, 32), np.int16)
    image[:, 4:20, 4:20, 4:20], labels[4:20, 4:20, 4:20] = 1.0, 1
    score = CropScorer(dataset, [ValidationCrop(case="x", image=image, labels=labels)], CPU).score(_Threshold())
    assert score.dsc_by_label["organ"] == 1
    assert np.isnan(score.dsc_by_label["lesion"])
    assert score.dsc == 1
