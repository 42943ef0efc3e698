"""In-place distillation: what a student is told by a teacher, and what it is not."""

import pytest
import torch
import torch.nn.functional as F

from nnunet_hypersegnas.architectures import ImitationLoss, Taught


def _case(channels=3, seed=0):
    generator = torch.Generator().manual_seed(seed)
    student, teacher = torch.randn(2, 2, channels, 4, 6, 4, dtype=torch.double, generator=generator)
    return student.float().requires_grad_(), teacher.float()


def _gradient(loss, logits):
    return torch.autograd.grad(loss, logits)[0]


def test_of_labels_the_gradient_is_that_of_kullback_and_leibler():
    student, teacher = _case()
    got = ImitationLoss(regions=False, ignore_label=None)(student, Taught(teacher, torch.zeros(2, 1, 4, 6, 4)))
    by_voxel = F.kl_div(student.log_softmax(1), teacher.softmax(1), reduction="none").sum(1)
    torch.testing.assert_close(_gradient(got, student), _gradient(by_voxel.mean(), student))


def test_of_regions_each_channel_is_a_decision_of_its_own():
    student, teacher = _case()
    got = ImitationLoss(regions=True, ignore_label=None)(student, Taught(teacher, torch.zeros(2, 3, 4, 6, 4)))
    p, q = teacher.sigmoid(), student.sigmoid()
    torch.testing.assert_close(got, -(p * q.log() + (1 - p) * (1 - q).log()).mean())


@pytest.mark.parametrize("regions", [False, True])
def test_who_says_the_same_has_nothing_to_learn(regions):
    student, _ = _case()
    loss = ImitationLoss(regions=regions, ignore_label=None)(student, Taught(student.detach(), torch.zeros(2, 1, 4)))
    assert _gradient(loss, student).abs().max() < 1e-7


@pytest.mark.parametrize("regions", [False, True])
def test_voxels_to_ignore_say_nothing(regions):
    student, teacher = _case()
    ignored = torch.zeros(2, 4, 6, 4, dtype=torch.bool)
    ignored[:, :2] = True
    # nnU-Net's targets: labels in one channel, or regions with the ignored voxels in a last one.
    target = (
        torch.cat([torch.ones(2, 3, 4, 6, 4), ignored[:, None].float()], 1) if regions else 7.0 * ignored[:, None] + 1
    )
    loss = ImitationLoss(regions=regions, ignore_label=8 if not regions else 3)
    got = loss(student, Taught(teacher, target))
    known = ImitationLoss(regions=regions, ignore_label=None)(student[:, :, 2:], Taught(teacher[:, :, 2:], target))
    torch.testing.assert_close(got, known)
    assert _gradient(got, student)[:, :, :2].abs().max() == 0
    nothing = torch.ones_like(target) if regions else torch.full_like(target, 8)
    assert loss(student, Taught(teacher, nothing)) == 0
