"""NSD against MONAI's, which equals the challenge's own."""

import itertools
import warnings

import numpy as np
import pytest
import SimpleITK as sitk
import torch
from scipy.ndimage import gaussian_filter

from nnunet_hypersegnas.evaluation import surface_dice


def monai(reference, prediction, spacing_mm, tolerance_mm):
    from monai.metrics import compute_surface_dice

    def one_hot(mask):
        return torch.from_numpy(np.stack([~mask, mask])[None].astype(np.float32))

    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)  # of its own arguments
        return compute_surface_dice(
            one_hot(prediction),
            one_hot(reference),
            class_thresholds=[tolerance_mm],
            spacing=[float(mm) for mm in spacing_mm],
            use_subvoxels=True,
        ).item()


def blobs(seed, shape=(30, 40, 35)):
    rng = np.random.default_rng(seed)
    reference = gaussian_filter(rng.normal(size=shape), 4) > 0.01
    return reference, np.roll(reference, 1, axis=seed % 3) ^ (gaussian_filter(rng.normal(size=shape), 1.5) > 0.12)


@pytest.mark.parametrize("spacing_mm", [(1, 1, 1), (6.5, 0.8, 0.8), (0.7, 1.3, 2.1)])
@pytest.mark.parametrize("tolerance_mm", [0.5, 1.0, 3.0])
def test_it_is_monais(spacing_mm, tolerance_mm):
    for seed in range(3):
        reference, prediction = blobs(seed)
        expected = monai(reference, prediction, spacing_mm, tolerance_mm)
        assert 0.3 < expected < 1
        assert surface_dice(reference, prediction, spacing_mm, tolerance_mm) == pytest.approx(expected, abs=1e-6)


def test_every_way_that_a_surface_crosses_a_cube():
    """All 256 cubes, so ambiguous ones too, each with another one at the same place."""
    rng = np.random.default_rng(0)
    for _ in range(4):
        reference, prediction = (rng.random((14, 14, 14)) < 0.5 for _ in range(2))
        expected = monai(reference, prediction, (1, 1.5, 2), 1.2)
        assert surface_dice(reference, prediction, (1, 1.5, 2), 1.2) == pytest.approx(expected, abs=1e-6)


def test_real_labels(test_data):
    """Of the Decathlon's hippocampi: a case's labels against its neighbour's and against themselves, shifted."""
    paths = sorted((test_data / "Task04_Hippocampus" / "labelsTr").glob("hippocampus_*.nii.gz"))[:12]
    labels = [sitk.GetArrayFromImage(sitk.ReadImage(str(path))) for path in paths]
    compared = 0
    for mine, other in itertools.pairwise(labels):
        box = tuple(slice(0, min(a, b)) for a, b in zip(mine.shape, other.shape, strict=True))
        for value in (1, 2):
            for prediction in (other[box] == value, np.roll(mine[box], 1, axis=0) == value):
                expected = monai(mine[box] == value, prediction, (1, 1, 1), 1.0)
                found = surface_dice(mine[box] == value, prediction, (1, 1, 1), 1.0)
                assert found == pytest.approx(expected, abs=1e-6)
                compared += 0 < expected < 1
    assert compared > 20


def test_what_is_empty():
    empty, full = np.zeros((4, 4, 4), bool), np.ones((4, 4, 4), bool)
    assert np.isnan(surface_dice(empty, empty, (1, 1, 1), 1))
    assert surface_dice(full, empty, (1, 1, 1), 1) == surface_dice(empty, full, (1, 1, 1), 1) == 0
    assert surface_dice(full, full, (1, 1, 1), 1) == 1


def test_one_slice_is_an_image_in_two_dimensions():
    """A square of 10 x 10 within one of 14 x 14: no element of an outline is within 1 mm, all are within 3 mm."""
    outer, inner = np.zeros((1, 20, 20), bool), np.zeros((1, 20, 20), bool)
    outer[:, 3:17, 3:17] = inner[:, 5:15, 5:15] = True
    for axes in ((0, 1, 2), (1, 0, 2), (1, 2, 0)):
        masks = [mask.transpose(axes) for mask in (outer, inner)]
        assert surface_dice(*masks, (1, 1, 1), 1) == 0
        assert surface_dice(*masks, (1, 1, 1), 3) == 1
    shifted = np.roll(outer, 2, axis=1)  # the sides along the shift stay where they are, but for their ends
    assert surface_dice(outer, shifted, (999, 1, 1), 1) == pytest.approx(0.5, abs=0.05)
