"""Discovered topologies as ordinary nnU-Net plans, with the weights they inherit."""

from __future__ import annotations

import re
from collections.abc import Mapping
from copy import deepcopy
from pathlib import Path
from typing import Any

from nnunetv2.utilities.plans_handling.plans_handler import PlansManager

from nnunet_hypersegnas.architectures import SearchedNet, searched_net_kwargs
from nnunet_hypersegnas.errors import HyperSegNASError
from nnunet_hypersegnas.nnunet.checkpoint_files import write_checkpoint
from nnunet_hypersegnas.nnunet.digests import digest
from nnunet_hypersegnas.space import Architecture, SearchSpace

PROVENANCE = "hypersegnas_search"
NETWORK_CLASS = "nnunet_hypersegnas.architectures.SearchedNet"


class PlansError(HyperSegNASError):
    """Plans that cannot be written, or not under that name."""


def check_plans_name(name: str) -> None:
    """Raise PlansError unless nnU-Net can use the name: it becomes part of folder names that are split at '__'."""
    if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9_.-]*", name) or "__" in name or name.endswith("_"):
        raise PlansError(
            f"plans name {name!r} does not work in nnU-Net; use letters, digits, '.', '-' and single '_' inside"
        )


def searched_plans(
    plans: Mapping[str, Any],
    configuration: str,
    plans_name: str,
    space: SearchSpace,
    architecture: Architecture,
    provenance: Mapping[str, Any],
    fixed_scalar: float = 1.0,
) -> dict[str, Any]:
    """Return plans whose configuration trains the searched network; all else, so the preprocessed data, stays.

    Configurations that inherit from it (a cascade's 3d_cascade_fullres) keep the network they had.

    Args:
        plans: the plans that the super-net was trained with.
        configuration: the configuration whose network is replaced.
        plans_name: name of the new plans.
        space: the super-net's search space.
        architecture: the network that was found.
        provenance: how it was found; kept in the plans, where nnU-Net does not look.
        fixed_scalar: what the super-net's edges are multiplied with.
    """
    result = deepcopy(dict(plans))
    result["plans_name"] = plans_name
    result[PROVENANCE] = dict(provenance)
    before = planned_network(plans, configuration)
    for heir in result["configurations"].values():
        if heir.get("inherits_from") == configuration:
            heir.setdefault("architecture", deepcopy(before))
    result["configurations"][configuration]["architecture"] = {
        "network_class_name": NETWORK_CLASS,
        "arch_kwargs": searched_net_kwargs(space, architecture, fixed_scalar),
        "_kw_requires_import": [],
    }
    return result


def planned_network(plans: Mapping[str, Any], configuration: str) -> dict[str, Any]:
    """Return a configuration's network as plans describe it, wherever it is inherited from.

    Raises:
        PlansError: there is no such configuration.
    """
    if configuration not in plans["configurations"]:
        raise PlansError(f"plans {plans.get('plans_name')} have no configuration {configuration!r}")
    found: dict[str, Any] = PlansManager(deepcopy(dict(plans))).get_configuration(configuration).configuration
    return dict(found["architecture"])


def network_digest(plans: Mapping[str, Any], configuration: str) -> str:
    """Return a short name of a configuration's network, the same for the same network."""
    return digest(planned_network(plans, configuration))


def network_in_words(plans: Mapping[str, Any], configuration: str) -> str:
    """Name a configuration's network for people: its class and its digest."""
    kind = str(planned_network(plans, configuration)["network_class_name"]).rpartition(".")[2]
    return f"{kind} {network_digest(plans, configuration)}"


def write_inherited_weights(path: Path, network: SearchedNet, *, fold: int, stage: str) -> None:
    """Write weights that `nnUNetv2_train -pretrained_weights` takes, marked with the only fold they may be used for.

    The super-net was trained on the other folds' validation cases, so weights that come from it would leak them.
    """
    content = {
        "network_weights": {key: value.cpu() for key, value in network.state_dict().items()},
        "hypersegnas": {"fold": fold, "architecture": network.architecture.to_json(), "stage": stage},
    }
    write_checkpoint(path, content)
