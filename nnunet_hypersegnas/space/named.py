"""The architectures that come with this package as JSON files, for 12 layers and 4 scales."""

from __future__ import annotations

import json
from importlib.resources import files

from nnunet_hypersegnas.space.architecture import Architecture

_FOLDER = files("nnunet_hypersegnas.space") / "named"


def names_of_architectures() -> list[str]:
    return sorted(file.name.removesuffix(".json") for file in _FOLDER.iterdir() if file.name.endswith(".json"))


def named_architecture(name: str) -> Architecture:
    """Return one of `names_of_architectures()`."""
    return Architecture.from_json(json.loads((_FOLDER / f"{name}.json").read_text()))
