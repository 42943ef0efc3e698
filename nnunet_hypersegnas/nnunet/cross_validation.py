"""What stock nnU-Net trainings of some folds have left behind: validation predictions, and which fold is biased."""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from nnunet_hypersegnas.errors import FaultsError, HyperSegNASError
from nnunet_hypersegnas.evaluation import LabelSet, Pair
from nnunet_hypersegnas.evaluation.folders import name_some
from nnunet_hypersegnas.nnunet.dataset import PreprocessedDataset
from nnunet_hypersegnas.nnunet.nnunet_files import read_plans_file, read_splits
from nnunet_hypersegnas.nnunet.plans import PROVENANCE, network_in_words

FOLDS = (0, 1, 2, 3, 4)


class UnknownFoldError(HyperSegNASError):
    """The data set's split has no such fold."""


class ChangedPlansError(HyperSegNASError):
    """What was trained has another network than plans of the same name describe now."""


@dataclass(frozen=True, kw_only=True)
class CrossValidation:
    """A model of nnU-Net: one data set, plans, configuration and trainer, and its folds."""

    dataset: PreprocessedDataset
    trainer: str

    @property
    def name(self) -> str:
        """As nnU-Net names its folder."""
        return self.folder.name

    @property
    def folder(self) -> Path:
        return self.dataset.trained_folder(self.trainer, 0).parent

    def fold_folder(self, fold: int) -> Path:
        return self.dataset.trained_folder(self.trainer, fold)

    @property
    def labels(self) -> LabelSet:
        return LabelSet.from_json(self.dataset.dataset_json["labels"])

    @property
    def biased_fold(self) -> int | None:
        """The fold whose validation cases chose the architecture; None where no search did."""
        fold = self.dataset.plans.get(PROVENANCE, {}).get("selected_on_fold")
        return None if fold is None else int(fold)

    @property
    def known_folds(self) -> tuple[int, ...]:
        """Folds of the data set's split; nnU-Net's five where there is no split yet."""
        path = self.dataset.folder / "splits_final.json"
        return tuple(range(len(read_splits(path)))) if path.exists() else FOLDS

    def check_fold(self, fold: int) -> None:
        """Raise UnknownFoldError where the data set's split has no such fold."""
        if fold not in self.known_folds:
            raise UnknownFoldError(f"no fold {fold}; the data set has {', '.join(map(str, self.known_folds))}")

    def check_plans(self) -> None:
        """Hold the plans against those that nnU-Net keeps beside the folds it has trained.

        Raises:
            ChangedPlansError: they describe another network, so its folds would be taken for this one's.
        """
        path = self.folder / "plans.json"
        begun = [*self.folder.glob("fold_*/checkpoint_*.pth"), *self.folder.glob("fold_*/validation/summary.json")]
        if not begun or not path.exists():
            return
        configuration = self.dataset.configuration_name
        there, now = (network_in_words(plans, configuration) for plans in (read_plans_file(path), self.dataset.plans))
        if there != now:
            raise ChangedPlansError(
                f"{self.folder} holds folds of another network ({there}) than the plans "
                f"{self.dataset.plans['plans_name']} describe now ({now}); move that folder away to train this one, or "
                "give the new plans another name"
            )

    def best_configuration_command(self, folds: Sequence[int]) -> list[str]:
        """Return nnU-Net's command that puts the folds together and finds their postprocessing."""
        dataset = self.dataset
        command = ["nnUNetv2_find_best_configuration", dataset.name, "-p", dataset.plans["plans_name"]]
        command += ["-c", dataset.configuration_name, "-tr", self.trainer, "--disable_ensembling"]
        return [*command, "-f", *map(str, folds)]

    def train_command(self, fold: int | str, *, probabilities: bool = True) -> list[str]:
        """Return nnU-Net's command that trains and validates a fold, and keeps the validation's probabilities."""
        dataset = self.dataset
        command = ["nnUNetv2_train", dataset.name, dataset.configuration_name, str(fold)]
        command += ["-tr", self.trainer, "-p", dataset.plans["plans_name"]]
        return [*command, "--npz"] if probabilities else command

    def pairs(self, folds: Sequence[int]) -> list[Pair]:
        """Return the validation predictions of some folds, with the labels they are compared with.

        Raises:
            ChangedPlansError: the folds are those of another network.
            DatasetError: there is no split, or no such fold in it.
            FaultsError: naming every fold that was not trained and validated, and every case that is missing.
        """
        self.check_plans()
        ending = self.dataset.dataset_json["file_ending"]
        truth = self.dataset.folder / "gt_segmentations"
        pairs, faults, untrained = [], [], []
        for fold in folds:
            cases = self.dataset.validation_cases(fold)
            predictions = self.fold_folder(fold) / "validation"
            if not (predictions / "summary.json").exists():
                untrained.append(str(fold))
                continue
            for folder in (predictions, truth):
                if missing := [case for case in cases if not (folder / f"{case}{ending}").exists()]:
                    faults.append(f"{folder} has no {ending} file of fold {fold} for {name_some(missing)}")
            pairs += [
                Pair(case=c, prediction=predictions / f"{c}{ending}", reference=truth / f"{c}{ending}", fold=fold)
                for c in cases
            ]
        if untrained:
            faults.append(
                f"not trained and validated: fold {', '.join(untrained)} (no validation/summary.json); run "
                f"{shlex.join(self.train_command('FOLD'))}, or choose folds with -f"
            )
        if faults:
            raise FaultsError(f"{self.name} is not complete", faults)
        return pairs
