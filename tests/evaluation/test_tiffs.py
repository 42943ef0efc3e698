"""Stacks in TIFF files, whose voxel size stands beside them."""

import json

import numpy as np
import pytest
import tifffile

from nnunet_hypersegnas.errors import FaultsError
from nnunet_hypersegnas.evaluation import LabelSet, Scoring, score_pairs
from nnunet_hypersegnas.evaluation.folders import pairs_in
from nnunet_hypersegnas.evaluation.images import read_segmentation
from nnunet_hypersegnas.evaluation.unreadable import UnreadableImageError
from tests.evaluation.conftest import two_boxes, write_image

SCORING = Scoring(labels=LabelSet.from_json({"background": 0, "first": 1, "second": 2}), tolerance_mm=1.0)


def write_stack(path, labels, spacing=None):
    path.parent.mkdir(parents=True, exist_ok=True)
    tifffile.imwrite(path, labels, photometric="minisblack", compression="zlib")
    if spacing:
        path.with_suffix(".json").write_text(json.dumps({"spacing": spacing}))


def scores(folder):
    return [(s.dsc, s.nsd, s.reference_ml) for s in score_pairs(pairs_in(folder / "p", folder / "r"), SCORING, 1)]


@pytest.mark.parametrize("side", ["p", "r"])
def test_scores_are_those_of_the_same_images_in_another_format(tmp_path, side):
    """nnU-Net writes the file beside a prediction, and copies references without theirs."""
    for name, labels in (("p", two_boxes(2)), ("r", two_boxes())):
        write_image(tmp_path / "nifti" / name / "a.nii.gz", labels, (0.8, 0.8, 4.0))
        write_stack(tmp_path / "tiff" / name / "a.tif", labels, [4.0, 0.8, 0.8] if name == side else None)
    expected = scores(tmp_path / "nifti")
    assert scores(tmp_path / "tiff") == [pytest.approx(score, rel=1e-5) for score in expected]
    assert expected[0][1] < 1


def test_a_thin_stack_is_no_picture_in_colours(tmp_path):
    labels = np.arange(4 * 8 * 8, dtype=np.uint8).reshape(4, 8, 8) % 3
    write_stack(tmp_path / "a.tif", labels, [5, 1, 2])
    found = read_segmentation(tmp_path / "a.tif")
    assert np.array_equal(found.labels, labels) and found.geometry.placements[0].spacing_mm == (2, 1, 5)
    write_stack(tmp_path / "slice.tif", labels[0])
    assert read_segmentation(tmp_path / "slice.tif").labels.shape == (1, 8, 8)


def test_what_is_wrong_is_one_line(tmp_path):
    for name in ("p", "r"):
        write_stack(tmp_path / name / "a.tif", two_boxes())
    with pytest.raises(FaultsError, match="has a voxel size, for the tolerance in mm"):
        scores(tmp_path)
    write_stack(tmp_path / "p" / "a.tif", two_boxes(), [1, 1, 1])
    write_stack(tmp_path / "r" / "a.tif", two_boxes(), [1, 1, 2])
    with pytest.raises(FaultsError, match="has spacing 1 x 1 x 1 in place of 2 x 1 x 1"):
        scores(tmp_path)
    path = tmp_path / "p" / "a.tif"
    path.with_suffix(".json").write_text(json.dumps({"spacing": [1, 0, 1]}))
    with pytest.raises(UnreadableImageError, match="three positive numbers"):
        read_segmentation(path)
    path.write_bytes(path.read_bytes()[:60])
    with pytest.raises(UnreadableImageError, match="it cannot be read"):
        read_segmentation(path)
