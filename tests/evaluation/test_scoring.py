"""Scores of cases, and everything that can be wrong with their files."""

import gzip
import math
import re

import numpy as np
import pytest

from nnunet_hypersegnas.errors import FaultsError
from nnunet_hypersegnas.evaluation import EmptyReference, LabelsError, LabelSet, Scoring, score_pairs
from nnunet_hypersegnas.evaluation.folders import FoldersError, pairs_in
from nnunet_hypersegnas.evaluation.images import read_segmentation
from nnunet_hypersegnas.evaluation.nifti import check_whole
from nnunet_hypersegnas.evaluation.unreadable import UnreadableImageError
from nnunet_hypersegnas.space import rng_for
from tests.evaluation.conftest import two_boxes, write_image

LABELS = LabelSet.from_json({"background": 0, "first": 1, "second": 2})
SCORING = Scoring(labels=LABELS, tolerance_mm=1.0)


def scores_of(folders, scoring=SCORING, processes=1):
    return {(s.case, s.structure): s for s in score_pairs(pairs_in(*folders), scoring, processes)}


def test_dsc_and_nsd_of_each_structure(folders):
    scores = scores_of(folders)
    for shift in range(4):
        score = scores[f"case_{shift}", "first"]
        assert score.dsc == pytest.approx((6 - shift) / 6)
        assert score.reference_ml == score.predicted_ml == pytest.approx(6**3 * 3 / 1000)
    assert scores["case_0", "first"].nsd == 1
    nsd = [scores[f"case_{shift}", "first"].nsd for shift in range(4)]
    assert nsd == sorted(nsd, reverse=True) and nsd[1] == 1 and 0.3 < nsd[3] < 0.9  # the first shift is of 1 mm


def test_what_a_case_does_not_have_is_left_out_or_zero(folders):
    left_out = scores_of(folders)["case_3", "second"]
    assert math.isnan(left_out.dsc) and math.isnan(left_out.nsd) and left_out.predicted_ml > 0
    zero = scores_of(folders, Scoring(labels=LABELS, tolerance_mm=1.0, empty_reference=EmptyReference.ZERO))
    assert zero["case_3", "second"].dsc == zero["case_3", "second"].nsd == 0
    write_image(folders[0] / "case_3.nii.gz", np.zeros((12, 14, 16), np.uint8))
    write_image(folders[1] / "case_3.nii.gz", np.zeros((12, 14, 16), np.uint8))
    for policy in EmptyReference:
        found = scores_of(folders, Scoring(labels=LABELS, tolerance_mm=1.0, empty_reference=policy))
        assert math.isnan(found["case_3", "first"].dsc)


def test_processes_change_nothing(folders):
    assert list(map(repr, scores_of(folders).values())) == list(map(repr, scores_of(folders, processes=2).values()))


def test_regions_and_what_is_ignored(folders):
    labels = LabelSet.from_json({"background": 0, "both": [1, 2], "second": 2, "ignore": 3})
    truth, guess = two_boxes(), two_boxes()
    guess[:2] = 1
    truth[:2] = 3
    write_image(folders[1] / "case_0.nii.gz", truth)
    write_image(folders[0] / "case_0.nii.gz", guess)
    scores = scores_of(folders, Scoring(labels=labels, tolerance_mm=1.0))
    assert scores["case_0", "both"].dsc == 1 and scores["case_0", "both"].nsd == 1
    assert scores["case_0", "second"].dsc == 1
    guess[5] = 3  # only a reference can have it
    write_image(folders[0] / "case_0.nii.gz", guess)
    with pytest.raises(FaultsError, match=r"case_0: prediction .* labels 3, known are 0, 1, 2"):
        scores_of(folders, Scoring(labels=labels, tolerance_mm=1.0))


def test_without_labels_every_one_is_scored(folders):
    scores = scores_of(folders, Scoring(labels=None, tolerance_mm=None))
    assert scores["case_1", "1"].dsc == pytest.approx(5 / 6) and math.isnan(scores["case_1", "1"].nsd)


def test_the_challenges_labels_are_understood():
    assert LabelSet.from_json({"0": "background", "1": "Anterior", "2": "Posterior"}).structures[0].name == "Anterior"
    for wrong in ({"background": 0}, {"background": 0, "a": "b"}, {"a": 1.5}):
        with pytest.raises(LabelsError):
            LabelSet.from_json(wrong)


def test_all_faults_come_in_one_report(folders):
    predictions, references = folders
    shape = two_boxes()
    write_image(predictions / "case_0.nii.gz", shape, spacing=(1.0, 1.5, 2.5), origin=(3.0, 1.0, -7.0))
    write_image(predictions / "case_1.nii.gz", shape + 0.5)
    write_image(predictions / "case_2.nii.gz", shape + np.uint8(3))
    path = references / "case_3.nii.gz"
    path.write_bytes(path.read_bytes()[:-60])
    with pytest.raises(FaultsError) as report:
        scores_of(folders)
    assert report.value.summary == "4 of 4 cases cannot be scored"
    faults = "\n".join(report.value.faults)
    for fault in (
        "case_0: prediction .*has spacing 1 x 1.5 x 2.5 in place of 1 x 1.5 x 2",
        "case_0: prediction .*has origin 3 x 1 x -7 in place of 3 x 0 x -7",
        "case_1: prediction .*has values that are no whole numbers, 0.5, 1.5, 2.5",
        "case_2: prediction .*has labels 3, 4, 5, known are 0, 1, 2",
        "case_3: reference .*cannot be read",
    ):
        assert re.search(fault, faults), fault
    write_image(predictions / "case_0.nii.gz", shape[1:])
    with pytest.raises(FaultsError, match=r"case_0: prediction .*has shape 16 x 14 x 11 in place of 16 x 14 x 12"):
        scores_of(folders)


def test_cases_that_only_one_folder_has(folders, tmp_path):
    predictions, references = folders
    (predictions / "case_1.nii.gz").unlink()
    with pytest.raises(FaultsError, match=r"predictions has no .nii.gz file for case_1"):
        pairs_in(predictions, references)
    assert [pair.case for pair in pairs_in(predictions, references, chill=True)] == ["case_0", "case_2", "case_3"]
    (references / "case_2.nii.gz").unlink()
    with pytest.raises(FaultsError, match=r"labelsTr has no .nii.gz file for case_2"):
        pairs_in(predictions, references, chill=True)
    with pytest.raises(FoldersError, match="there is no folder"):
        pairs_in(predictions, tmp_path / "nothing")
    (tmp_path / "nothing").mkdir()
    with pytest.raises(FoldersError, match="holds no segmentations"):
        pairs_in(tmp_path / "nothing", references)


@pytest.mark.parametrize("ending", [".nii", ".nii.gz"])
def test_a_file_with_too_few_voxels_is_cut_off(tmp_path, ending):
    """ITK takes those that are missing for zeros; two members of gzip in a row are a whole file."""
    path = tmp_path / f"a{ending}"
    write_image(path, two_boxes())
    content = gzip.decompress(path.read_bytes()) if ending == ".nii.gz" else path.read_bytes()
    pack = gzip.compress if ending == ".nii.gz" else bytes
    path.write_bytes(pack(content[:1000]) + pack(content[1000:]))
    assert np.array_equal(read_segmentation(path).labels, two_boxes())
    path.write_bytes(pack(content[:-1]))
    with pytest.raises(UnreadableImageError, match="cut off"):
        read_segmentation(path)


@pytest.mark.parametrize("share", [0.05, 0.5, 0.9, 0.99, 0.9999])
def test_a_file_whose_writing_was_interrupted_is_cut_off(tmp_path, share):
    """Compressed bytes are missing, so that the last member of gzip has no end."""
    path = tmp_path / "a.nii.gz"
    write_image(path, rng_for(0, "cut off").integers(0, 3, size=(40, 128, 128)).astype(np.uint8))
    check_whole(path)
    content = path.read_bytes()
    path.write_bytes(content[: int(len(content) * share)])
    with pytest.raises(UnreadableImageError, match="it cannot be read"):
        read_segmentation(path)
    with pytest.raises(UnreadableImageError, match="it cannot be read"):
        check_whole(path)
