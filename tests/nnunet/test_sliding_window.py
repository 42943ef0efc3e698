"""The batched sliding window gives what nnU-Net's own predictor gives."""

import contextlib
import io

import numpy as np
import pytest
import torch
from nnunetv2.inference.predict_from_raw_data import nnUNetPredictor
from torch import nn

from nnunet_hypersegnas.architectures import SearchedNet, searched_net_kwargs
from nnunet_hypersegnas.nnunet.cost_models import search_space
from nnunet_hypersegnas.nnunet.dataset import PreprocessedDataset
from nnunet_hypersegnas.nnunet.scoring import CropScorer
from nnunet_hypersegnas.nnunet.sliding_window import SlidingWindow
from nnunet_hypersegnas.nnunet.validation_crops import ValidationCrop
from nnunet_hypersegnas.space import largest

CPU = torch.device("cpu")


@pytest.fixture
def dataset(demo_environment):
    return PreprocessedDataset.find("999", "HyperSegNASDemoSupernet", "3d_fullres")


def nnunets_logits(dataset, configuration, network, images):
    with contextlib.redirect_stdout(io.StringIO()):
        predictor = nnUNetPredictor(
            use_mirroring=False, perform_everything_on_device=False, device=CPU, allow_tqdm=False
        )
    predictor.manual_initialization(
        network, dataset.plans_manager, configuration, None, dict(dataset.dataset_json), "", None
    )
    return [predictor.predict_sliding_window_return_logits(torch.from_numpy(image)) for image in images]


def whole_cases(dataset, count):
    """Images and labels of some preprocessed cases, and a part of one that is smaller than a patch."""
    cases = dataset.cases()
    loaded = [cases.load_case(key)[:2] for key in list(cases.identifiers)[:count]]
    return [(np.asarray(image[:]), np.asarray(seg[:])[0]) for image, seg in loaded]


@pytest.mark.parametrize("batch_size", [1, 3, None])
def test_whole_volumes_are_predicted_and_scored_as_by_nnunet(dataset, batch_size):
    torch.manual_seed(0)
    space = search_space(dataset)
    network = SearchedNet(1, 3, **searched_net_kwargs(space, largest(space))).eval()
    cases = whole_cases(dataset, 3)
    images = [*(image for image, _ in cases), cases[0][0][:, :20, :40, :10].copy()]
    expected = nnunets_logits(dataset, dataset.configuration, network, images)
    window = SlidingWindow(images, dataset.configuration.patch_size, CPU, batch_size)
    found = list(window.logits(network))
    assert len(window.patches) > len(images) + 4
    assert [f.shape for f in found] == [(3, *image.shape[1:]) for image in images]
    for a, b in zip(found, expected, strict=True):
        torch.testing.assert_close(a.float(), b.float(), rtol=0.01, atol=0.01)
    crops = [ValidationCrop(case="x", image=image, labels=labels) for image, labels in cases]
    scorer = CropScorer(dataset, crops, CPU)
    for crop, a, b in zip(crops, found, expected, strict=False):
        ours, nnunets = (scorer._dsc(scorer._counts(logits, torch.from_numpy(crop.labels))) for logits in (a, b))
        assert ours == pytest.approx(nnunets, abs=1e-4, nan_ok=True)


def test_2d_patches_run_slice_by_slice(dataset):
    configuration = dataset.configuration
    configuration.configuration["patch_size"] = [16, 24]
    image = np.random.default_rng(0).normal(size=(1, 5, 40, 30)).astype(np.float32)
    network = nn.Conv2d(1, 3, 3, padding=1)
    (expected,) = nnunets_logits(dataset, configuration, network, [image])
    (found,) = SlidingWindow([image], (16, 24), CPU).logits(network)
    assert found.shape == (3, 5, 40, 30)
    torch.testing.assert_close(found.float(), expected.float(), rtol=0.01, atol=0.01)


def test_logits_come_image_by_image(dataset):
    """So those of the first can be gone when those of the last are there."""
    images = [np.zeros((1, 8, 8, 8), np.float32)] * 3
    alive = []

    class Network(nn.Module):
        def forward(self, image):
            alive.append(len(image))
            return image.repeat(1, 2, 1, 1, 1)

    logits = SlidingWindow(images, (8, 8, 8), CPU, 1).logits(Network())
    next(logits)
    assert len(alive) <= 2
