"""What a super-net's checkpoint says of itself, beside nnU-Net's own entries."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any, ClassVar

from nnunetv2.utilities.plans_handling.plans_handler import PlansManager

import nnunet_hypersegnas
from nnunet_hypersegnas.nnunet.checkpoint_files import CheckpointError, load_checkpoint
from nnunet_hypersegnas.nnunet.memory_limit import MemoryLimit
from nnunet_hypersegnas.nnunet.settings import BLOCK, SuperNetSettings
from nnunet_hypersegnas.space import SearchSpace

CONFIGURATION_KEYS = ("spacing", "patch_size", "data_identifier", "normalization_schemes", "previous_stage")
DATASET_KEYS = ("labels", "channel_names")
LOG_PREFIX = "hsnas_"  # of our keys in nnU-Net's log
TRAINING_SECONDS = f"{LOG_PREFIX}training_seconds"  # of the training iterations of each epoch
# Of records from before these could be set.
EARLIER_SETTINGS = {"man": "image and architecture", "annealing": "linear"}


@dataclass(frozen=True, kw_only=True)
class SuperNetRecord:
    """Search space, settings and position in the schedule of a super-net checkpoint."""

    KEY: ClassVar[str] = "hypersegnas"

    space: SearchSpace
    settings: SuperNetSettings
    iteration: int
    annealing_lambda: float
    validation_patches: int | None = None  # on how many the reference sub-nets are scored
    memory_limit: MemoryLimit | None = None  # which sub-nets are drawn
    written_by: str = "this version"

    def to_json(self) -> dict[str, Any]:
        return {
            "package_version": nnunet_hypersegnas.__version__,
            "nnunetv2_version": version("nnunetv2"),
            "space": self.space.to_json(),
            "settings": self.settings.to_json(),
            "iteration": self.iteration,
            "annealing_lambda": self.annealing_lambda,
            "validation_patches": self.validation_patches,
            "memory_limit": None if self.memory_limit is None else self.memory_limit.to_json(),
        }

    @classmethod
    def from_checkpoint(cls, checkpoint: Mapping[str, Any], path: str | Path) -> SuperNetRecord:
        """Read the record of a loaded checkpoint.

        Raises:
            CheckpointError: the checkpoint was not written by a HyperSegNAS super-net trainer, or by another version.
        """
        if cls.KEY not in checkpoint:
            raise CheckpointError(
                f"{path} was written by trainer {checkpoint.get('trainer_name', 'unknown')}, not by a HyperSegNAS "
                "super-net trainer; train one with `nnUNetv2_train ... -tr HyperSegNASSupernetTrainer`"
            )
        value = checkpoint[cls.KEY]
        try:
            space = SearchSpace.from_json(value["space"])
            return cls(
                space=space,
                settings=SuperNetSettings(**{**EARLIER_SETTINGS, **value["settings"]}),
                iteration=value["iteration"],
                annealing_lambda=value["annealing_lambda"],
                validation_patches=value.get("validation_patches"),
                memory_limit=MemoryLimit.from_json(value.get("memory_limit"), space),
                written_by=f"nnunet_hypersegnas {value['package_version']} with nnunetv2 "
                f"{value.get('nnunetv2_version', 'unknown')}",
            )
        except (KeyError, TypeError) as error:
            writer = value.get("package_version", "unknown") if isinstance(value, dict) else "unknown"
            raise CheckpointError(
                f"{path} was written by version {writer} of nnunet_hypersegnas; this is version "
                f"{nnunet_hypersegnas.__version__}, which cannot read its record ({type(error).__name__}: {error}); "
                "use that version, or train anew"
            ) from error

    @classmethod
    def read(cls, path: str | Path) -> SuperNetRecord:
        """Read the record of a checkpoint file.

        Raises:
            CheckpointError: as `from_checkpoint`, or the file cannot be read.
        """
        return cls.from_checkpoint(load_training(path, mmap=True), path)

    def misfit(self, path: str | Path) -> CheckpointError:
        """Return the error that the weights beside this record have not the shapes of this version's networks."""
        return CheckpointError(
            f"the weights in {path} do not fit the super-net of this version: it was written by {self.written_by}, "
            f"this is {versions()}; use those versions, or train anew without --c"
        )

    def check_continues(self, space: SearchSpace, settings: SuperNetSettings) -> None:
        """Raise CheckpointError unless training with these settings continues what this checkpoint holds."""
        if self.space != space:
            raise CheckpointError(
                f"the checkpoint was trained with search space {self.space.digest} ({self.space.to_json()}), the plans "
                f"now give {space.digest} ({space.to_json()}); restore the plans or train anew without --c"
            )
        mine, theirs = self.settings.to_json(), settings.to_json()
        # They change nothing in what is trained, what a recipe says stands in the other settings, and the search space,
        # which was compared as such, may be named in several ways.
        free = {"save_every", "recompute", "recipe", "memory", "layers", "channels", "scales", "full_resolution"}
        if changed := sorted(key for key in mine if key not in free and mine[key] != theirs[key]):
            difference = ", ".join(f"{key} {mine[key]} -> {theirs[key]}" for key in changed)
            raise CheckpointError(
                f"the checkpoint was trained with other settings ({difference}); let the hypersegnas block of the "
                "plans name the former ones or train anew without --c"
            )


def versions() -> str:
    """Name the versions that decide whether a checkpoint can be read."""
    return f"nnunet_hypersegnas {nnunet_hypersegnas.__version__} with nnunetv2 {version('nnunetv2')}"


def data_changes(
    init_args: Mapping[str, Any], configuration: Mapping[str, Any], dataset_json: Mapping[str, Any]
) -> list[str]:
    """Name everything that a super-net's patches depended on and that is different now.

    Args:
        init_args: nnU-Net's entry of the checkpoint: what its trainer was made with.
        configuration: the plans' configuration now, complete.
        dataset_json: dataset.json now.
    """
    plans = PlansManager(init_args["plans"]).get_configuration(init_args["configuration"]).configuration
    first_stages = [c.get(BLOCK, {}).get("previous_stage") for c in (plans, configuration)]
    compared = [("the plans' first stage", *first_stages)]
    compared += [(f"the plans' {key}", plans.get(key), configuration.get(key)) for key in CONFIGURATION_KEYS]
    compared += [(key, init_args["dataset_json"].get(key), dataset_json.get(key)) for key in DATASET_KEYS]
    return [f"{name} {then} then, {now} now" for name, then, now in compared if then != now]


def load_training(path: str | Path, *, mmap: bool = False) -> dict[str, Any]:
    """Load what a training of nnU-Net left behind, on the CPU.

    Args:
        path: of the file.
        mmap: leave the weights in the file, for whoever does not read them.

    Raises:
        CheckpointError: as `load_checkpoint`, or the file is no checkpoint of a training.
    """
    if not Path(path).exists():
        raise CheckpointError(
            f"no checkpoint at {path}; train this super-net first, or name another's trainer with -tr"
        )
    checkpoint = load_checkpoint(path, mmap=mmap)
    if "network_weights" not in checkpoint:
        raise CheckpointError(f"{path} is no nnU-Net checkpoint")
    return checkpoint
