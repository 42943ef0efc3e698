"""Architectures that users name: in files written by hand or by a search, inside plans, or by a common name."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from nnunet_hypersegnas.errors import HyperSegNASError, abbreviated
from nnunet_hypersegnas.json_files import read_object
from nnunet_hypersegnas.nnunet.dataset import is_plans
from nnunet_hypersegnas.nnunet.nnunet_files import check_plans
from nnunet_hypersegnas.nnunet.plans import NETWORK_CLASS
from nnunet_hypersegnas.space import Architecture, SearchSpace, named_architecture, names_of_architectures

JSON = ".json"


class ArchitectureFileError(HyperSegNASError):
    """A file or a name that stands for no architecture."""


@dataclass(frozen=True, kw_only=True)
class FoundArchitecture:
    """An architecture that a user names.

    Attributes:
        name: for people and for files.
        architecture: the architecture.
        space: its search space, where that is known.
        is_of_plans: whether the name is that of plans.
    """

    name: str
    architecture: Architecture
    space: SearchSpace | None = None
    is_of_plans: bool = False


def find_architecture(name: str, space: SearchSpace, configuration: str | None = None) -> FoundArchitecture:
    """Find what a user means by an architecture.

    Args:
        name: of an architecture that every search space has, such as unet, or path of a JSON file: an architecture, a
            search's record, whose winner counts, or plans of a searched network.
        space: in which a name such as unet stands for an architecture.
        configuration: of plans; may be left out where only one has a searched network.

    Raises:
        ArchitectureFileError, DatasetError: what is missing, or what the file holds instead.
    """
    if name in names_of_architectures():
        return FoundArchitecture(name=name, architecture=named_architecture(name, space), space=space)
    path = Path(name)
    if not is_named_file(name):
        raise ArchitectureFileError(
            f"no architecture {abbreviated(name)}; give the path of a JSON file, or one of "
            f"{', '.join(names_of_architectures())}"
        )
    content = read_object(path)
    if is_plans(content):
        check_plans(content, path)
        return _of_plans(content, path, configuration)
    return FoundArchitecture(name=name_of(path), architecture=architecture_in(content, path))


def is_named_file(name: str) -> bool:
    """Whether a user means a file: one that is there, or would be a JSON file. Names of plans hold dots, too."""
    try:
        return name.endswith(JSON) or Path(name).is_file()
    except OSError:  # too long to be one
        return False


def name_of(path: Path) -> str:
    """Return what a file is called without its ending, where that is .json, and only that."""
    return path.name.removesuffix(JSON)


def architecture_in(content: Mapping[str, Any], path: Path) -> Architecture:
    """Return the architecture that a JSON file of ours holds.

    Raises:
        ArchitectureFileError: it holds none.
        ArchitectureError: what it holds is no architecture.
    """
    match content:
        case {"codes": _}:
            return Architecture.from_json(content)
        case {"winner": {"architecture": winner}}:
            return Architecture.from_json(winner)
    raise ArchitectureFileError(
        f"{path} holds no plans, no architecture ('codes') and no record of a search ('winner')"
    )


def _of_plans(plans: Mapping[str, Any], path: Path, configuration: str | None) -> FoundArchitecture:
    searched = {
        name: value["architecture"]["arch_kwargs"]
        for name, value in plans["configurations"].items()
        if value.get("architecture", {}).get("network_class_name") == NETWORK_CLASS
    }
    wanted = [name for name in searched if configuration in (None, name)]
    if len(wanted) != 1:
        has = f"configurations with searched networks: {', '.join(searched) or 'none'}"
        asked = f", asked for is {configuration}" if configuration else ""
        raise ArchitectureFileError(f"{path} has {has}{asked}; choose one with -c")
    kwargs = searched[wanted[0]]
    return FoundArchitecture(
        name=name_of(path),
        architecture=Architecture.from_json(kwargs["architecture"]),
        space=SearchSpace.from_json(kwargs["space"]),
        is_of_plans=True,
    )
