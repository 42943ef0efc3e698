"""Maps of a hand-made MAN, whose scalars are known for every patch."""

import numpy as np
import pytest
import torch

from nnunet_hypersegnas.architectures import ScalarMoments
from nnunet_hypersegnas.architectures.man import EveryRow
from nnunet_hypersegnas.nnunet.man.maps import scalar_maps
from nnunet_hypersegnas.nnunet.man.results import Contrast, Deviation
from nnunet_hypersegnas.nnunet.sliding_window import SlidingWindow
from nnunet_hypersegnas.space import SearchSpace, largest, smallest

CPU = torch.device("cpu")
SPACE = SearchSpace.from_stages([[1, 1, 1], [2, 2, 2]], [[3, 3, 3]] * 2, layers=2, channels=(2, 3))
N = sum(EveryRow(SPACE, "output").sizes)


class HandMadeMAN:
    """Sigmoids of 1/4; by the share of a patch that is 1, up to 3/4 under `largest` and up to 1/2 under the other."""

    space = SPACE
    scalar_position = "output"
    told_image = True

    def scalars(self, image, architecture, rows):
        assert len(list(rows.active())) == 2 * SPACE.layers * len(SPACE.edges)
        share = image.flatten(1).mean(1, keepdim=True)
        return (0.25 + (0.5 if architecture == largest(SPACE) else 0.25) * share).expand(-1, N)


def maps_of(image, patch, stride, foreground=None):
    window = SlidingWindow([image], patch, CPU, stride=stride)
    foreground = image[0] > 0 if foreground is None else foreground
    advanced, moments = [], ScalarMoments()
    architectures = (largest(SPACE), smallest(SPACE))
    maps = scalar_maps(HandMadeMAN(), architectures, window, foreground, moments, advanced.append)
    assert moments.count == len(window.patches) and sum(advanced) == 2 * len(window.patches)
    return window, maps


def bright_quarter():
    image = np.zeros((1, 32, 16, 8), np.float32)
    image[:, :8] = 1
    return image


def test_the_step_is_where_the_image_has_it():
    """Patches side by side: a quarter of them has scalars of 1.5, the others of 0.5, so the mean is 0.75."""
    _, maps = maps_of(bright_quarter(), (8, 8, 8), 8)
    unit = N**0.5
    expected = np.full((32, 16, 8), 0.25 * unit)
    expected[:8] = 0.75 * unit
    np.testing.assert_allclose(maps.image.of_voxels, expected, rtol=1e-6)
    expected = np.zeros((32, 16, 8))
    expected[:8] = 0.5 * unit  # 1.5 under the one, 1 under the other
    np.testing.assert_allclose(maps.architecture.of_voxels, expected, atol=1e-6)
    assert (maps.foreground > 0).sum() == 2 and maps.most_foreground.mean() == 1

    found = Deviation.of(maps.image, maps.foreground, bright_quarter()[0] > 0)
    assert found.patches.ratio == pytest.approx(3) and found.voxels.ratio == pytest.approx(3)
    assert found.correlation == pytest.approx(1)


def test_a_voxel_gets_the_mean_of_the_patches_that_cover_it():
    window, maps = maps_of(bright_quarter(), (8, 8, 8), 4)
    firsts = sorted({patch.where[1].start for patch in window.patches})
    assert firsts == [0, 4, 8, 12, 16, 20, 24] and len(window.patches) == 7 * 3
    shares = np.array([1, 0.5, 0, 0, 0, 0, 0])
    distances = np.abs(shares - shares.mean()) * N**0.5
    covering = [[i for i, first in enumerate(firsts) if first <= x < first + 8] for x in range(32)]
    expected = np.array([distances[patches].mean() for patches in covering])
    np.testing.assert_allclose(maps.image.of_voxels, expected[:, None, None] * np.ones((1, 16, 8)), rtol=1e-5)


def test_a_stride_is_clipped_to_the_patch_and_reaches_the_border():
    for stride, expected in ((16, [0, 7, 15, 22]), (3, [0, 3, 6, 8, 11, 14, 16, 19, 22])):
        window = SlidingWindow([np.zeros((1, 30, 8, 8), np.float32)], (8, 8, 8), CPU, stride=stride)
        assert [patch.where[1].start for patch in window.patches] == expected


def test_a_volume_smaller_than_the_patch_is_padded():
    image = np.ones((1, 4, 20, 6), np.float32)
    window, maps = maps_of(image, (8, 8, 8), 16)
    assert maps.image.of_voxels.shape == maps.architecture.of_voxels.shape == (4, 20, 6)
    assert len(window.patches) == 3 and np.abs(maps.image.of_patches).max() < 1e-5  # all see as much of the padding


def test_2d_patches_go_slice_by_slice():
    image = np.zeros((1, 4, 16, 16), np.float32)
    image[:, 1] = 1
    window, maps = maps_of(image, (8, 8), 4)
    assert len(window.patches) == 4 * 9 and maps.most_foreground.shape == (1, 1, 8, 8)
    np.testing.assert_allclose(maps.image.of_voxels[1], 0.75 * N**0.5, rtol=1e-6)
    np.testing.assert_allclose(maps.image.of_voxels[[0, 2, 3]], 0.25 * N**0.5, rtol=1e-6)


def test_without_background_there_is_no_ratio():
    found = Contrast.of(np.ones(3), np.ones(3, bool))
    assert found.foreground == 1 and np.isnan(found.background) and np.isnan(found.ratio)
    assert np.isnan(Contrast.of(np.array([1.0, 0.0]), np.array([True, False])).ratio)
