"""How nnU-Net finds this package's trainers: the folder that nnUNet_extTrainer has to name."""

from __future__ import annotations

import os
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
    folder = str(external_trainer_folder())
    entries = [entry for entry in (current or "").split(os.pathsep) if entry.strip()]
    return os.pathsep.join(entries if folder in entries else [*entries, folder])
