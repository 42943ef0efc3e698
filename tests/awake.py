"""A MAN as training leaves it: at start, its scalars are all one."""

import torch
from torch import nn

from nnunet_hypersegnas.architectures import OneShotNetwork


def _man(module):
    return module.man if isinstance(module, OneShotNetwork) else module


def awake(module, seed=0):
    """Return a MAN, or a network with one, after giving it scalars that depend on what it is told."""
    torch.manual_seed(seed)
    for linear in _man(module).hyper_net.rows.values():
        nn.init.normal_(linear.weight, std=0.05)
    return module


def saturated(module, layer):
    """Return it after giving a layer, counted from 0, scalars near 0 and 2, which tell little apart."""
    for name, linear in _man(module).hyper_net.rows.items():
        if name.startswith(f"layer{layer}_"):
            nn.init.normal_(linear.weight, std=50)
    return module
