import numpy as np
import pytest
import torch
from batchgeneratorsv2.transforms.noise import gaussian_blur
from nnunetv2.training.nnUNetTrainer.nnUNetTrainer import nnUNetTrainer

from nnunet_hypersegnas.nnunet.seeded_batches import ForgetfulTransforms

PATCH = (16, 20, 16)


@pytest.fixture
def transforms() -> ForgetfulTransforms:
    return ForgetfulTransforms(
        nnUNetTrainer.get_training_transforms(
            np.array(PATCH), (-0.5, 0.5), [[1, 1, 1], [0.5, 0.5, 0.5]], (0, 1, 2), do_dummy_2d_data_aug=False
        )
    )


def drawn(transforms: ForgetfulTransforms, seed: int) -> torch.Tensor:
    image = torch.randn(1, *PATCH, generator=torch.Generator().manual_seed(seed))
    np.random.seed(seed)
    torch.manual_seed(seed)
    return transforms(image=image, segmentation=torch.zeros(1, *PATCH, dtype=torch.int16))["image"]


def test_samples_are_blurred_one_way_and_without_timing_it(transforms, monkeypatch):
    blurred, ways = gaussian_blur.blur_dimension, []

    def watched(*args, force_use_fft=None, **kwargs):
        ways.append(force_use_fft)
        return blurred(*args, force_use_fft=force_use_fft, **kwargs)

    monkeypatch.setattr(gaussian_blur, "blur_dimension", watched)
    for seed in range(40):
        drawn(transforms, seed)
    # nnU-Net blurs a fifth of the samples, each along three axes; timing would blur eighteen times more often.
    assert 3 * 2 <= len(ways) <= 3 * 20
    assert not any(ways)


def test_a_sample_follows_from_its_seed_whatever_was_drawn_before(transforms):
    alone = [drawn(transforms, seed) for seed in range(20)]
    again = [drawn(transforms, seed) for seed in reversed(range(20))][::-1]
    assert all(torch.equal(a, b) for a, b in zip(alone, again, strict=True))
