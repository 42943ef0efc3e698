"""How nnU-Net finds this package's trainers: the folder that nnUNet_extTrainer has to name."""

from __future__ import annotations

import os
from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path

from nnunet_hypersegnas.errors import HyperSegNASError

VARIABLE = "nnUNet_extTrainer"
TRAINER = "HyperSegNASSupernetTrainer"


def external_trainer_folder() -> Path:
    """Return the folder of the shim module; nothing heavy is imported for it."""
    spec = find_spec("nnunet_hypersegnas.trainers")  # finds the package without running it
    for location in (spec.submodule_search_locations or []) if spec else []:
        if (folder := Path(location) / "nnunet_ext").is_dir():
            return folder
    raise HyperSegNASError("this installation of nnunet_hypersegnas has no trainers; install it again with pip")


def with_our_folder(current: str | None) -> str:
    """Return the variable's value with our folder added to what it holds, once."""
    folder, entries = external_trainer_folder(), entries_of(current)
    return os.pathsep.join(entries if holds(entries, folder) else [*entries, str(folder)])


def entries_of(value: str | None) -> list[str]:
    """Return the folders that a value of the variable names, as nnU-Net splits it."""
    return [entry for entry in (value or "").split(os.pathsep) if entry.strip()]


def holds(entries: Sequence[str], folder: Path) -> bool:
    """Say whether an entry names the folder, in whatever spelling (trailing slash, link)."""
    return os.path.realpath(folder) in map(os.path.realpath, entries)
