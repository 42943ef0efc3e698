"""nnU-Net's cascade: whose low-resolution predictions a second stage takes beside the image, and where they lie."""

from __future__ import annotations

import filecmp
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from nnunetv2.paths import nnUNet_results
from nnunetv2.utilities.label_handling.label_handling import LabelManager, convert_labelmap_to_one_hot
from nnunetv2.utilities.plans_handling.plans_handler import PlansManager

from nnunet_hypersegnas.atomic import temporary_folder
from nnunet_hypersegnas.errors import HyperSegNASError
from nnunet_hypersegnas.nnunet.settings import SuperNetSettings

DEFAULT_TRAINER = "nnUNetTrainer"


class CascadeError(HyperSegNASError):
    """A cascade's first stage whose predictions are missing, or in the way."""


@dataclass(frozen=True, kw_only=True)
class FirstStage:
    """A trained first stage and its predictions for the second one.

    Attributes:
        results: nnU-Net's folder of results.
        dataset: name of the data set.
        model: trainer and plans, as `TRAINER__PLANS`.
        configuration: of the first stage.
        next_configuration: of the second stage.
    """

    results: Path
    dataset: str
    model: str
    configuration: str
    next_configuration: str

    @classmethod
    def of(cls, plans: Mapping[str, Any], configuration: str) -> FirstStage | None:
        """Return the first stage that a configuration builds on; None where it is no cascade's second stage.

        It was trained by nnU-Net's own trainer with the same plans, unless the `hypersegnas` block names another model.
        (nnU-Net itself looks for one that was trained by the second stage's own trainer, which no super-net's is.)
        """
        manager = PlansManager(dict(plans)).get_configuration(configuration)
        if manager.previous_stage_name is None:
            return None
        named = SuperNetSettings.from_configuration(manager.configuration).previous_stage
        return cls(
            results=Path(nnUNet_results),
            dataset=plans["dataset_name"],
            model=named or f"{DEFAULT_TRAINER}__{plans['plans_name']}",
            configuration=manager.previous_stage_name,
            next_configuration=configuration,
        )

    @property
    def folder(self) -> Path:
        """Where nnU-Net's validation of the first stage, in all its folds, leaves them."""
        trained = self.results / self.dataset / f"{self.model}__{self.configuration}"
        return trained / "predicted_next_stage" / self.next_configuration

    def files(self) -> list[Path]:
        return sorted(self.folder.iterdir()) if self.folder.is_dir() else []

    def missing(self, cases: Sequence[str]) -> list[str]:
        """Return the cases that have no prediction."""
        return sorted(set(cases) - {path.stem for path in self.files()})

    def check(self, cases: Sequence[str]) -> None:
        """Raise CascadeError unless every case has a prediction."""
        if missing := self.missing(cases):
            trainer, plans = self.model.split("__")
            raise CascadeError(
                f"{self.next_configuration} takes predictions of {self.configuration}, and {self.folder} has none for "
                f"{', '.join(missing[:3])} ({len(missing)} in all); run `nnUNetv2_train {self.dataset} "
                f"{self.configuration} FOLD -tr {trainer} -p {plans}` for every fold, or name another model in the "
                "plans' hypersegnas block with previous_stage: TRAINER__PLANS"
            )

    def under(self, plans_name: str) -> FirstStage:
        """Return the first stage as nnU-Net looks for it when it trains a second stage with other plans."""
        return replace(self, model=f"{self.model.split('__')[0]}__{plans_name}")

    def check_hand_on(self, plans_name: str) -> None:
        """Raise CascadeError where `hand_on` would replace other predictions."""
        target = self.under(plans_name)
        if self.files() and target.folder.exists() and not self._is_copied_to(target):
            raise CascadeError(
                f"{target.folder} holds other predictions than {self.folder}; choose another name with --plans, or "
                "replace them with --overwrite"
            )

    def hand_on(self, plans_name: str) -> None:
        """Copy the predictions, if there are any, to where nnU-Net looks for them when it trains with other plans."""
        target = self.under(plans_name)
        if not self.files() or self._is_copied_to(target):
            return
        with temporary_folder(target.folder) as copy:
            shutil.copytree(self.folder, copy, dirs_exist_ok=True)
            shutil.rmtree(target.folder, ignore_errors=True)
            copy.rename(target.folder)

    def _is_copied_to(self, other: FirstStage) -> bool:
        if other == self:
            return True
        mine, theirs = ([path.name for path in stage.files()] for stage in (self, other))
        if mine != theirs:
            return False
        _, different, unreadable = filecmp.cmpfiles(self.folder, other.folder, mine, shallow=False)
        return not different and not unreadable


def network_input(image: np.ndarray, prediction: np.ndarray | None, labels: LabelManager) -> np.ndarray:
    """Return what a network sees of an image.

    Args:
        image: shape (C, X, Y, Z).
        prediction: labels of the first stage, shape (X, Y, Z); None where there is none.
        labels: the data set's.

    Returns:
        Shape (C, X, Y, Z), or with one more channel for each foreground label, as nnU-Net has it.
    """
    if prediction is None:
        return image
    one_hot = convert_labelmap_to_one_hot(prediction, labels.foreground_labels, output_dtype=image.dtype)
    return np.vstack((image, one_hot))
