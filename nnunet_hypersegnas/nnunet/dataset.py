"""A preprocessed nnU-Net data set with one configuration of its plans: found, read and checked."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from pickle import UnpicklingError
from typing import Any

from nnunetv2.paths import nnUNet_preprocessed, nnUNet_results
from nnunetv2.training.dataloading.nnunet_dataset import infer_dataset_class, nnUNetBaseDataset
from nnunetv2.utilities.dataset_name_id_conversion import find_candidate_datasets, maybe_convert_to_dataset_name
from nnunetv2.utilities.label_handling.label_handling import LabelManager, determine_num_input_channels
from nnunetv2.utilities.plans_handling.plans_handler import ConfigurationManager, PlansManager

from nnunet_hypersegnas.errors import HyperSegNASError, abbreviated
from nnunet_hypersegnas.nnunet.cascade import FirstStage
from nnunet_hypersegnas.nnunet.nnunet_files import (
    check_configuration,
    read_dataset_json,
    read_plans_file,
    read_splits,
)

# What blosc2, NumPy and pickle raise where a file is damaged.
UNREADABLE = (
    *(RuntimeError, ValueError, OSError, EOFError, KeyError, TypeError),
    *(ImportError, AttributeError, IndexError, UnpicklingError),
)
NO_PLANS = ("dataset", "dataset_fingerprint", "splits_final")  # other JSON files beside the plans


class DatasetError(HyperSegNASError):
    """The data set, its plans or its preprocessed data are missing or contradict each other."""


@dataclass(frozen=True, kw_only=True)
class PreprocessedDataset:
    """One configuration of one plans file of a data set in nnUNet_preprocessed.

    Attributes:
        name: nnU-Net's.
        plans, configuration_name: the plans, and which of their configurations.
        dataset_json: content of dataset.json.
        trust_plans: whether networks of these and other plans of the data set may be built of any class they name.
    """

    name: str
    plans: Mapping[str, Any]
    configuration_name: str
    dataset_json: Mapping[str, Any]
    trust_plans: bool = False

    @classmethod
    def find(
        cls, dataset: str, plans_name: str, configuration: str, *, preprocessed: bool = True, trust_plans: bool = False
    ) -> PreprocessedDataset:
        """Find a data set by nnU-Net's name or id.

        Args:
            dataset: name or id.
            plans_name: of its plans.
            configuration: of these plans.
            preprocessed: whether its cases are needed; otherwise plans and dataset.json are enough.
            trust_plans: whether networks may be built of any class that plans name.

        Raises:
            DatasetError: naming what is missing or wrong, and the command that mends it.
            JsonFileError: its plans or its dataset.json hold something else than nnU-Net's do.
            CascadeError: the configuration is a cascade's second stage, and predictions of the first one are missing.
            SettingsError: and its `hypersegnas` block is wrong.
        """
        folder = preprocessed_folder(dataset)
        name = folder.name
        preprocess = f"run `nnUNetv2_plan_and_preprocess -d {dataset} -c {configuration}` first"
        if not (folder / "dataset.json").exists():
            raise DatasetError(f"data set {name} is not preprocessed: no {folder / 'dataset.json'}; {preprocess}")
        plans = read_plans(folder, plans_name)
        if plans["dataset_name"] != name:
            raise DatasetError(
                f"the plans {folder / plans_name}.json are those of {plans['dataset_name']}, not of {name}; use plans "
                "that nnU-Net made for this data set"
            )
        if configuration not in plans["configurations"]:
            raise DatasetError(
                f"plans {plans_name} have no configuration {configuration!r}; they have "
                f"{', '.join(plans['configurations'])}"
            )
        check_configuration(plans, configuration)
        found = cls(
            name=name,
            plans=plans,
            configuration_name=configuration,
            dataset_json=read_dataset_json(folder / "dataset.json"),
            trust_plans=trust_plans,
        )
        if preprocessed and (not found.data_folder.is_dir() or not any(found.data_folder.iterdir())):
            raise DatasetError(
                f"configuration {configuration} is not preprocessed: no {found.data_folder}; {preprocess}"
            )
        found.check_labels()
        if preprocessed and found.first_stage:
            found.first_stage.check(found.cases().identifiers)
        return found

    @property
    def folder(self) -> Path:
        return Path(nnUNet_preprocessed) / self.name

    @property
    def plans_manager(self) -> PlansManager:
        return PlansManager(dict(self.plans))

    @property
    def configuration(self) -> ConfigurationManager:
        return self.plans_manager.get_configuration(self.configuration_name)

    @property
    def data_folder(self) -> Path:
        return self.folder / self.configuration.data_identifier

    @property
    def label_manager(self) -> LabelManager:
        return self.plans_manager.get_label_manager(dict(self.dataset_json))

    @property
    def input_channels(self) -> int:
        return determine_num_input_channels(self.plans_manager, self.configuration, dict(self.dataset_json))

    @property
    def first_stage(self) -> FirstStage | None:
        """Whose predictions the networks take beside the image; None unless they are a cascade's second stage."""
        return FirstStage.of(self.plans, self.configuration_name)

    def channel_names(self) -> list[str]:
        """Return the names of the image's channels in nnU-Net's order, that of dataset.json, whatever its keys are."""
        return list((self.dataset_json.get("channel_names") or self.dataset_json["modality"]).values())

    def label_names(self) -> list[str]:
        """Return the names of the foreground labels or regions, in the order nnU-Net scores them."""
        manager = self.label_manager
        wanted = manager.foreground_regions if manager.has_regions else manager.foreground_labels
        by_value = {_hashable(value): name for name, value in self.dataset_json["labels"].items()}
        return [by_value[_hashable(value)] for value in wanted]

    def cases(self) -> nnUNetBaseDataset:
        """Return nnU-Net's reader of all preprocessed cases, and of the first stage's predictions on a cascade."""
        folder, first_stage = str(self.data_folder), self.first_stage
        return infer_dataset_class(folder)(
            folder, folder_with_segs_from_previous_stage=str(first_stage.folder) if first_stage else None
        )

    @contextmanager
    def reading(self, case: str) -> Iterator[None]:
        """Say which preprocessed case is meant where its files turn out to be damaged.

        Raises:
            DatasetError: naming the case, and where its files lie.
        """
        try:
            yield
        except UNREADABLE as error:
            raise DatasetError(
                f"the preprocessed case {case} in {self.data_folder} cannot be read "
                f"({type(error).__name__}: {abbreviated(str(error), 200)}); run nnUNetv2_preprocess again"
            ) from error

    def validation_cases(self, fold: int) -> list[str]:
        """Return the validation cases of a fold.

        Raises:
            DatasetError: there is no split yet, or no such fold in it.
        """
        path = self.folder / "splits_final.json"
        if not path.exists():
            raise DatasetError(f"no {path}; nnU-Net writes it when a training starts, so train the super-net first")
        splits = read_splits(path)
        if not 0 <= fold < len(splits):
            raise DatasetError(f"fold {fold} does not exist; {path.name} has folds 0 to {len(splits) - 1}")
        return list(splits[fold]["val"])

    def trained_folder(self, trainer: str, fold: int) -> Path:
        """Return the folder where nnU-Net keeps a training of these plans."""
        model = f"{trainer}__{self.plans['plans_name']}__{self.configuration_name}"
        return Path(nnUNet_results) / self.name / model / f"fold_{fold}"

    def check_labels(self) -> None:
        """Raise DatasetError unless nnU-Net can make sense of the labels in dataset.json."""
        labels = self.dataset_json.get("labels")
        try:
            if not isinstance(labels, dict):
                raise ValueError("there is no 'labels' object")
            if not self.label_names():
                raise ValueError("there is no foreground label")
        except Exception as error:  # nnU-Net's label manager asserts and raises what comes
            raise DatasetError(
                f"{self.folder / 'dataset.json'} has a label set that nnU-Net does not know ({error}): {labels}; "
                "needed is a background 0 and one or more foreground labels or regions"
            ) from error


def preprocessed_folder(dataset: str) -> Path:
    """Return the preprocessed folder, which need not exist, of a data set that is named by nnU-Net's name or id.

    Raises:
        DatasetError: nnU-Net does not know the data set, or its paths are not set.
    """
    for variable in (nnUNet_preprocessed, nnUNet_results):
        if not variable.is_set():
            raise DatasetError(f"{variable.env_var_name} is not set; set nnU-Net's three path variables first")
    if dataset.isdecimal() and len(named := find_candidate_datasets(int(dataset))) > 1:
        raise DatasetError(
            f"more than one data set has the id {dataset}: {', '.join(named)}; give the name, or rename all but one of "
            "them in nnU-Net's three folders"
        )
    try:
        name = maybe_convert_to_dataset_name(dataset)
    except (RuntimeError, ValueError) as error:
        raise DatasetError(
            f"no data set {abbreviated(dataset)} in {nnUNet_preprocessed}; convert it and run "
            f"`nnUNetv2_plan_and_preprocess -d {dataset}` first"
        ) from error
    return Path(nnUNet_preprocessed) / name


def read_plans(folder: Path, plans_name: str) -> dict[str, Any]:
    """Read a plans file of a data set's preprocessed folder.

    Raises:
        DatasetError: there are no plans of that name.
        JsonFileError: the file is not an nnU-Net plans file.
    """
    path = folder / f"{plans_name}.json"
    if not path.exists():
        known = sorted(p.stem for p in folder.glob("*.json") if p.stem not in NO_PLANS)
        raise DatasetError(f"no plans {plans_name} in {folder}; there are {', '.join(known) or 'none'}")
    return read_plans_file(path)


def is_plans(value: Mapping[str, Any]) -> bool:
    """Whether the content of a JSON file looks like nnU-Net's plans."""
    needed = {"dataset_name", "plans_name", "configurations"} <= set(value)
    return needed and isinstance(value["configurations"], dict)


def _hashable(value: Any) -> Any:
    return tuple(value) if isinstance(value, list) else value
