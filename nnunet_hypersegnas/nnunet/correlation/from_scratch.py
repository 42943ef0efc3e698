"""The truth: a sub-net as ordinary plans, trained from scratch by stock nnU-Net and scored by its own validation."""

from __future__ import annotations

import io
import math
from collections.abc import Mapping
from contextlib import redirect_stdout
from copy import deepcopy
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from nnunetv2.utilities.find_objects import recursive_find_trainer_class_by_name

import nnunet_hypersegnas
from nnunet_hypersegnas.atomic import write_json
from nnunet_hypersegnas.json_files import JsonFileError, read_object
from nnunet_hypersegnas.nnunet.cascade import CascadeError
from nnunet_hypersegnas.nnunet.correlation.errors import CorrelationError
from nnunet_hypersegnas.nnunet.correlation.sub_nets import RankedNet
from nnunet_hypersegnas.nnunet.cross_validation import ChangedPlansError, CrossValidation
from nnunet_hypersegnas.nnunet.dataset import PreprocessedDataset
from nnunet_hypersegnas.nnunet.discovery import TRAINER
from nnunet_hypersegnas.nnunet.fold_training import FoldJob, FoldState, missing_jobs, state_of
from nnunet_hypersegnas.nnunet.plans import PROVENANCE, check_plans_name, searched_plans
from nnunet_hypersegnas.nnunet.settings import BLOCK
from nnunet_hypersegnas.search import Score
from nnunet_hypersegnas.space import SearchSpace


@dataclass(frozen=True, kw_only=True)
class FromScratch:
    """One sub-net as a model of nnU-Net.

    Attributes:
        net: the sub-net.
        model: nnU-Net's, under plans of its own.
        fold: that it is trained on.
    """

    net: RankedNet
    model: CrossValidation
    fold: int

    @classmethod
    def of(
        cls, dataset: PreprocessedDataset, space: SearchSpace, net: RankedNet, trainer: str, fold: int
    ) -> FromScratch:
        """Make plans of a sub-net, which are not written yet.

        Args:
            dataset: with the super-net's plans.
            space: that they span.
            net: the sub-net.
            trainer: nnU-Net's, that trains it.
            fold: the super-net's.

        Raises:
            PlansError: the name does not work in nnU-Net.
        """
        name = f"{dataset.plans['plans_name']}_net_{net.architecture.id}"
        check_plans_name(name)
        provenance = {
            "package_version": nnunet_hypersegnas.__version__,
            "supernet_plans": dataset.plans["plans_name"],
            "architecture": net.architecture.id,
            "note": "drawn by hsnas_correlation, to hold a super-net's ranking against training from scratch",
        }
        plans = searched_plans(dataset.plans, dataset.configuration_name, name, space, net.architecture, provenance)
        return cls(net=net, model=CrossValidation(dataset=replace(dataset, plans=plans), trainer=trainer), fold=fold)

    @property
    def plans_file(self) -> Path:
        dataset = self.model.dataset
        return dataset.folder / f"{dataset.plans['plans_name']}.json"

    @property
    def summary_file(self) -> Path:
        return self.model.fold_folder(self.fold) / "validation" / "summary.json"

    @property
    def state(self) -> FoldState:
        return state_of(self.model, self.fold)

    def jobs(self, device: str) -> list[FoldJob]:
        """Return the stock command that trains and validates it, or goes on; nothing where that is done."""
        return missing_jobs(self.model, [self.fold], device, None, probabilities=False)

    def faults(self, base: PreprocessedDataset) -> list[str]:
        """Return what stands in the way: other plans of this name, or folds of another network.

        Args:
            base: with the super-net's plans.
        """
        found = []
        if self.plans_file.exists() and _what_trains(read_object(self.plans_file)) != _what_trains(
            self.model.dataset.plans
        ):
            found.append(
                f"{self.plans_file} is there already and does not train sub-net {self.net.architecture.id} of plans "
                f"{base.plans['plans_name']} as they are now; remove or rename it"
            )
        try:
            self.model.check_plans()
            if base.first_stage:
                base.first_stage.check_hand_on(self.plans_file.stem)
        except (ChangedPlansError, CascadeError) as error:
            found.append(str(error))
        return found

    def write_plans(self, base: PreprocessedDataset) -> None:
        """Write the plans, where they are not there yet, and on a cascade the predictions that they build on."""
        if base.first_stage:
            base.first_stage.hand_on(self.plans_file.stem)
        if not self.plans_file.exists():
            write_json(self.plans_file, dict(self.model.dataset.plans))

    def truth(self) -> Score | None:
        """Return what nnU-Net's validation says, on full volumes; None where the network is not done.

        Raises:
            CorrelationError: nnU-Net's file is damaged.
        """
        if self.state is not FoldState.DONE:
            return None
        try:
            means = read_object(self.summary_file)["mean"]
            return Score(dsc_by_label={name: _dice(means[key]) for name, key in self._keys().items()})
        except (JsonFileError, ValueError, KeyError, TypeError) as error:
            raise CorrelationError(
                f"{self.summary_file} holds no DSC of every label ({type(error).__name__}: {error}); delete it, and "
                "the same command has nnU-Net write it again"
            ) from error

    def _keys(self) -> dict[str, str]:
        """Return by the name of each label or region how nnU-Net's summary calls it."""
        labels = self.model.dataset.label_manager
        values = labels.foreground_regions if labels.has_regions else labels.foreground_labels
        return {name: str(value) for name, value in zip(self.model.dataset.label_names(), values, strict=True)}


def check_trainer(name: str) -> None:
    """Raise CorrelationError unless nnU-Net finds a trainer of networks of that name."""
    if name.startswith(TRAINER):
        raise CorrelationError(
            f"--trainer {name} trains super-nets; the networks' own one is nnUNetTrainer or a variant"
        )
    try:
        with redirect_stdout(io.StringIO()):
            recursive_find_trainer_class_by_name(name)
    except RuntimeError as error:
        raise CorrelationError(
            f"nnU-Net finds no trainer {name!r}; --trainer takes one that `nnUNetv2_train -tr` takes"
        ) from error


def _dice(metrics: Mapping[str, Any]) -> float:
    value = metrics["Dice"]
    return math.nan if value is None else float(value)


def _what_trains(plans: Mapping[str, Any]) -> dict[str, Any]:
    """Return plans without what a network's training does not depend on: provenance and the super-net's settings."""
    result = deepcopy({key: value for key, value in plans.items() if key != PROVENANCE})
    for configuration in result["configurations"].values():
        configuration.pop(BLOCK, None)
    return result
