"""The trace of a training step against numbers worked out by hand."""

import pytest
import torch
from torch import nn

from nnunet_hypersegnas.cost.tracing import count_multiply_adds, trace_training_step

BATCH, VOXELS = 2, 4**3
WEIGHTS = 3 * 1 * 27  # of one convolution, three channels out
IMAGE, OUTPUT = 4 * BATCH * VOXELS, 4 * BATCH * 3 * VOXELS


def convolution():
    return nn.Conv3d(1, 3, 3, padding=1, bias=False)


def traced(loss):
    return trace_training_step(
        convolution, loss, (BATCH, 1, 4, 4, 4), [(BATCH, 1, 4, 4, 4)], cuda_autocast=False, target_dtype=torch.bool
    )


def test_a_single_convolution():
    step = traced(lambda output, target: output.sum())
    assert step.parameters == WEIGHTS
    assert step.weight_bytes == 3 * 4 * WEIGHTS
    assert step.saved_bytes == 0  # image and weights are there anyway
    # In the optimizer's step: weights, gradients, momentum and two copies of the gradients; image, output, the loss's
    # value and the target of one byte a voxel.
    assert step.peak_bytes == 5 * 4 * WEIGHTS + IMAGE + OUTPUT + 4 + BATCH * VOXELS
    assert step.peak_weight_bytes == 3 * 4 * WEIGHTS
    assert step.peak_saved_bytes == 0


def test_what_the_loss_keeps_counts():
    assert traced(lambda output, target: output.exp().sum()).saved_bytes == OUTPUT  # exp keeps its result
    assert traced(lambda output, target: output.square().sum()).saved_bytes == OUTPUT  # a square its input


def test_the_peak_is_split_by_what_is_alive_then():
    """In the loss's forward pass, before there are gradients and after autograd has kept the result of exp."""
    step = traced(lambda output, target: (output.exp() * torch.ones(64)[:, None, None, None, None, None]).sum())
    assert step.peak_weight_bytes == 2 * 4 * WEIGHTS
    assert step.peak_saved_bytes >= OUTPUT
    assert step.peak_other_bytes >= 64 * OUTPUT


def test_a_loss_may_ask_for_values():
    asked = traced(lambda output, target: output.sum() if target.sum() > 0 else output.exp().sum())
    assert asked.saved_bytes == 0


@pytest.mark.parametrize(
    ("make", "expected"),
    [
        (lambda: nn.Conv3d(2, 6, 3, padding=1), 2 * 6 * 27 * 8**3),
        (lambda: nn.Conv3d(2, 6, 3, padding=1, groups=2), 6 * 27 * 8**3),
        (lambda: nn.Conv3d(2, 6, 3, stride=2, padding=1), 2 * 6 * 27 * 4**3),
        (lambda: nn.ConvTranspose3d(2, 6, 2, stride=2), 2 * 6 * 8 * 8**3),
        (lambda: nn.Sequential(nn.Conv3d(2, 4, 1), nn.InstanceNorm3d(4), nn.Conv3d(4, 3, 1)), (8 + 12) * 8**3),
    ],
    ids=["convolution", "groups", "stride", "transposed", "two"],
)
def test_multiply_adds(make, expected):
    assert count_multiply_adds(make, (1, 2, 8, 8, 8)) == expected
