"""The super-nets of an ablation: a variant under a seed, and the stock command that trains it."""

from __future__ import annotations

import json
from collections.abc import Sequence
from copy import deepcopy
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

from nnunet_hypersegnas.atomic import write_json
from nnunet_hypersegnas.nnunet.cross_validation import CrossValidation
from nnunet_hypersegnas.nnunet.dataset import PreprocessedDataset
from nnunet_hypersegnas.nnunet.fold_training import FoldJob, FoldState
from nnunet_hypersegnas.nnunet.nnunet_files import read_plans_file
from nnunet_hypersegnas.nnunet.plans import check_plans_name
from nnunet_hypersegnas.nnunet.settings import BLOCK, SuperNetSettings
from nnunet_hypersegnas.nnunet.supernet_checkpoint import CheckpointError, SuperNetRecord
from nnunet_hypersegnas.nnunet.variants import Variant, settings_under


@dataclass(frozen=True, kw_only=True)
class Entry:
    """One super-net of an ablation.

    Attributes:
        variant: how it is trained, and evaluated.
        seed: of its training.
        fold: of the data set's split.
        model: nnU-Net's, under plans that hold the seed.
        settings: that its training has.
        final_lambda: of Eq. 5, with which its sub-nets are scored.
        copied_plans: whether the plans are a copy that the ablation writes.
    """

    variant: Variant
    seed: int
    fold: int
    model: CrossValidation
    settings: SuperNetSettings
    final_lambda: float
    copied_plans: bool

    @property
    def name(self) -> str:
        return f"{self.variant.key}, seed {self.seed}"

    @property
    def plans_file(self) -> Path:
        dataset = self.model.dataset
        return dataset.folder / f"{dataset.plans['plans_name']}.json"

    @property
    def checkpoint(self) -> Path:
        return self.model.fold_folder(self.fold) / "checkpoint_final.pth"

    @property
    def state(self) -> FoldState:
        """How far its training is; nnU-Net's own validation, which is not needed here, does not count."""
        if self.checkpoint.exists():
            return FoldState.DONE
        return FoldState.BEGUN if any(self.checkpoint.parent.glob("checkpoint_*.pth")) else FoldState.NEW

    def job(self, device: str) -> FoldJob:
        """Return the stock command that trains it, or goes on where it was interrupted."""
        dataset = self.model.dataset
        command = ["nnUNetv2_train", dataset.name, dataset.configuration_name, str(self.fold)]
        command += ["-tr", self.model.trainer, "-p", dataset.plans["plans_name"], "-device", device]
        state = self.state
        return FoldJob(fold=self.fold, state=state, command=command + (["--c"] if state is FoldState.BEGUN else []))

    def faults(self) -> list[str]:
        """Return what stands in the way: other plans under the copy's name, or checkpoints of other settings."""
        found = []
        if self.copied_plans and self.plans_file.exists():
            there = read_plans_file(self.plans_file)
            if there != json.loads(json.dumps(self.model.dataset.plans)):
                found.append(
                    f"{self.plans_file} is there already and is not the ablation's copy of the plans with seed "
                    f"{self.seed} as they are now; remove or rename it"
                )
        space = self.settings.space(self.model.dataset.configuration.configuration)
        for path in sorted(self.checkpoint.parent.glob("checkpoint_*.pth")):
            try:
                SuperNetRecord.read(path).check_continues(space, self.settings)
            except CheckpointError as error:
                found.append(f"{path}: {error}")
        return found

    def write_plans(self) -> None:
        """Write the copy of the plans, where there is to be one and it is not there yet."""
        if self.copied_plans and not self.plans_file.exists():
            write_json(self.plans_file, dict(self.model.dataset.plans))


@dataclass(frozen=True, kw_only=True)
class AblationPlan:
    """What is compared: variants, seeds, and the plans all of them start from.

    Attributes:
        dataset: with the plans' configuration.
        fold: of its split.
        variants: in the order of the tables.
        seeds: in the order in which super-nets are trained.
    """

    dataset: PreprocessedDataset
    fold: int
    variants: tuple[Variant, ...]
    seeds: tuple[int, ...]

    @cached_property
    def settings(self) -> SuperNetSettings:
        """The plans' own.

        Raises:
            SettingsError: their block is wrong.
        """
        return SuperNetSettings.from_configuration(self.dataset.configuration.configuration)

    def entries(self) -> list[Entry]:
        """Return all super-nets, seed by seed, so that one comparison is complete before another is begun."""
        return [self._entry(variant, seed) for seed in self.seeds for variant in self.variants]

    def _entry(self, variant: Variant, seed: int) -> Entry:
        dataset = self._with(variant, seed)
        base = SuperNetSettings.from_configuration(dataset.configuration.configuration)
        return Entry(
            variant=variant,
            seed=seed,
            fold=self.fold,
            model=CrossValidation(dataset=dataset, trainer=variant.trained_as),
            settings=replace(base, **settings_under(variant.trained_as)),
            final_lambda=replace(base, **variant.settings).final_lambda,
            copied_plans=dataset is not self.dataset,
        )

    def _with(self, variant: Variant, seed: int) -> PreprocessedDataset:
        """Return the data set with the plans of a variant and seed: its own, or a copy whose name says which."""
        if not variant.changes and seed == self.settings.seed:
            return self.dataset
        name = f"{self.dataset.plans['plans_name']}_seed{seed}"
        if variant.plans_suffix:
            name += f"_{variant.plans_suffix}"
        changes: dict[str, Any] = {**variant.changes, "seed": seed}
        if self.dataset.first_stage:  # by name, since the copy's plans have another one
            changes["previous_stage"] = self.dataset.first_stage.model
        check_plans_name(name)
        plans = deepcopy(dict(self.dataset.plans))
        plans["plans_name"] = name
        block = {**self.dataset.configuration.configuration.get(BLOCK, {}), **changes}
        # What the plans leave open stays open.
        block = {key: value for key, value in block.items() if value is not None}
        plans["configurations"][self.dataset.configuration_name][BLOCK] = block
        return replace(self.dataset, plans=plans)


def faults_of(entries: Sequence[Entry]) -> list[str]:
    """Return everything that stands in the way of some super-nets, each once."""
    return list(dict.fromkeys(fault for entry in entries for fault in entry.faults()))
