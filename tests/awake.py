"""A MAN as training leaves it: at start, its scalars are all one."""

import torch
from torch import nn

from nnunet_hypersegnas.architectures import OneShotNetwork


def awake(module, seed=0):
    """Return a MAN, or a network with one, after giving it scalars that depend on what it is told."""
    torch.manual_seed(seed)
    man = module.man if isinstance(module, OneShotNetwork) else module
    for linear in man.hyper_net.rows.values():
        nn.init.normal_(linear.weight, std=0.05)
        nn.init.normal_(linear.bias, std=0.3)
    return module
