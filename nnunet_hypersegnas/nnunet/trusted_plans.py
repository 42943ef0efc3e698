"""Whether a network may be built from plans: nnU-Net imports and calls whatever they name, so a file could run code."""

from __future__ import annotations

import pydoc
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import dynamic_network_architectures
from nnunetv2.utilities.find_class_by_name import recursive_find_python_class
from torch import nn

from nnunet_hypersegnas.errors import HyperSegNASError, abbreviated
from nnunet_hypersegnas.nnunet.plans import planned_network

ARCHITECTURES = "dynamic_network_architectures.architectures"
OF_NETWORKS = ("dynamic_network_architectures.", "nnunetv2.", "nnunet_hypersegnas.")
OF_PARTS = ("torch.nn.", *OF_NETWORKS)


class UntrustedPlansError(HyperSegNASError):
    """Plans that name something else than classes of networks."""


def check_trusted(plans: Mapping[str, Any], configuration: str, trust: bool = False) -> None:
    """Hold what nnU-Net would call to build a configuration's network against the packages whose classes it may.

    Args:
        plans: nnU-Net's.
        configuration: whose network is to be built.
        trust: build it whatever they name.

    Raises:
        UntrustedPlansError: the network is no class of dynamic_network_architectures, nnU-Net or this package, or its
            parts are none of these or of torch.nn.
        PlansError: there is no such configuration.
    """
    if trust:
        return
    network = planned_network(plans, configuration)
    if not _is_class_of(OF_NETWORKS, network["network_class_name"]):
        raise _untrusted(plans, "network_class_name", network["network_class_name"])
    for key in network["_kw_requires_import"]:
        part = network["arch_kwargs"].get(key)
        if part is not None and not _is_class_of(OF_PARTS, part):
            raise _untrusted(plans, key, part)


def _is_class_of(packages: tuple[str, ...], name: object) -> bool:
    """Whether a dotted name stands for a class of networks, or of their parts, that one of these packages defines.

    Where the name begins says too little: `torch.nn.functional.torch.hub.load` begins with torch.nn.
    """
    if not isinstance(name, str) or not name.startswith(packages):
        return False
    try:
        found = pydoc.locate(name) or _moved(name)
    except pydoc.ErrorDuringImport:
        return False
    return isinstance(found, type) and issubclass(found, nn.Module) and f"{found.__module__}.".startswith(packages)


def _moved(name: str) -> object:
    """Return what nnU-Net takes for a class that is no longer where plans say."""
    folder = Path(dynamic_network_architectures.__path__[0]) / "architectures"
    return recursive_find_python_class(str(folder), name.rpartition(".")[2], ARCHITECTURES)


def _untrusted(plans: Mapping[str, Any], key: str, name: object) -> UntrustedPlansError:
    return UntrustedPlansError(
        f"plans {abbreviated(plans.get('plans_name'))} name {abbreviated(name)} as {key}, which is no class of a "
        "network that nnU-Net, this package or torch.nn has, so to build it could run anyone's code; use plans of "
        "nnU-Net's planners or of this package, or add --trust-plans where you know where these come from"
    )
