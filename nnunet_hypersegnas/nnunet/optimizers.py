"""The optimizers that a super-net's settings name."""

from __future__ import annotations

import torch
from torch import nn

STATES = {"AdamW": 2, "SGD": 1}  # tensors that each keeps beside a weight


def make_optimizer(kind: str, module: nn.Module, base_lr: float, weight_decay: float) -> torch.optim.Optimizer:
    """Return an optimizer of all of a module's parameters, in one group that remembers its `base_lr`.

    Args:
        kind: "AdamW", or "SGD" with Nesterov momentum 0.99 as nnU-Net has it.
        module: what it trains.
        base_lr: learning rate at the start.
        weight_decay: of all parameters.
    """
    groups = [{"params": list(module.parameters()), "base_lr": base_lr}]
    if kind == "SGD":
        return torch.optim.SGD(groups, base_lr, weight_decay=weight_decay, momentum=0.99, nesterov=True, foreach=True)
    return torch.optim.AdamW(groups, base_lr, weight_decay=weight_decay, foreach=True)
