"""What a sub-net learns from another one in place of the labels (in-place distillation)."""

from __future__ import annotations

from typing import NamedTuple

import torch.nn.functional as F
from torch import Tensor, nn


class Taught(NamedTuple):
    """What a network's head is to imitate.

    Attributes:
        logits: the teacher's, shape (B, C, spatial axes), without gradient.
        target: nnU-Net's labels of the same voxels, which say where nothing is known.
    """

    logits: Tensor
    target: Tensor


class ImitationLoss(nn.Module):
    """Cross-entropy with the teacher's probabilities as soft targets, the mean over voxels.

    In-place distillation of US-Net (Yu and Huang, ICCV 2019) and BigNAS (Yu et al., ECCV 2020). Its gradient is that of
    the Kullback-Leibler divergence, which differs by the teacher's entropy.

    Args:
        regions: whether channels are regions, each with a sigmoid, and not labels with a softmax.
        ignore_label: its voxels say nothing, as in nnU-Net's loss; with regions, the target's last channel names them.
    """

    def __init__(self, *, regions: bool, ignore_label: int | None) -> None:
        super().__init__()
        self.regions, self.ignore_label = regions, ignore_label

    def forward(self, logits: Tensor, taught: Taught) -> Tensor:
        student, teacher = logits.float(), taught.logits.float()
        if self.regions:
            by_voxel = F.binary_cross_entropy_with_logits(student, teacher.sigmoid(), reduction="none").mean(1)
        else:
            by_voxel = F.cross_entropy(student, teacher.softmax(1), reduction="none")
        if self.ignore_label is None:
            return by_voxel.mean()
        known = ~taught.target[:, -1].bool() if self.regions else taught.target[:, 0] != self.ignore_label
        return (by_voxel * known).sum() / known.sum().clamp(min=1)
