"""The optimizers that a super-net's settings name."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch

STATES = {"AdamW": 2, "SGD": 1}  # tensors that each keeps beside a weight


def make_optimizer(
    kind: str, groups: Sequence[Mapping[str, Any]], base_lr: float, weight_decay: float
) -> torch.optim.Optimizer:
    """Return an optimizer.

    Args:
        kind: "AdamW", or "SGD" with Nesterov momentum 0.99 as nnU-Net has it.
        groups: of parameters, as torch takes them.
        base_lr: learning rate at the start.
        weight_decay: of all groups.
    """
    groups = [dict(group) for group in groups]
    if kind == "SGD":
        return torch.optim.SGD(groups, base_lr, weight_decay=weight_decay, momentum=0.99, nesterov=True, foreach=True)
    return torch.optim.AdamW(groups, base_lr, weight_decay=weight_decay, foreach=True)
