"""From a task folder of the Medical Segmentation Decathlon to predictions of its test images, in stock commands."""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path

from nnunetv2.paths import nnUNet_preprocessed, nnUNet_raw, nnUNet_results

from nnunet_hypersegnas.cost.measuring import MemoryMetric
from nnunet_hypersegnas.errors import HyperSegNASError
from nnunet_hypersegnas.evaluation.folders import cases_in
from nnunet_hypersegnas.nnunet.architecture_files import find_architecture
from nnunet_hypersegnas.nnunet.checked_budgets import checked_budgets, default_memory
from nnunet_hypersegnas.nnunet.cost_models import cost_model, search_space
from nnunet_hypersegnas.nnunet.dataset import PreprocessedDataset
from nnunet_hypersegnas.nnunet.fold_training import remove_torn_checkpoints
from nnunet_hypersegnas.nnunet.memory_budgets import MemoryBudgets
from nnunet_hypersegnas.nnunet.nnunet_files import read_plans_file
from nnunet_hypersegnas.nnunet.plans import network_digest
from nnunet_hypersegnas.nnunet.prediction_folders import ENDING, PredictionFolders, remove_broken
from nnunet_hypersegnas.nnunet.set_aside import set_aside
from nnunet_hypersegnas.nnunet.transfer import Transfer
from nnunet_hypersegnas.search import DEFAULT_MEMORY, labels_of

FOLD = 0  # the super-net's
STOCK_PLANS = "nnUNetPlans"
SUPER_NET = "super-net"  # title of its step


class MsdError(HyperSegNASError):
    """A folder that is no task in the challenge's format, or data that are in the way."""


@dataclass(frozen=True, kw_only=True)
class Step:
    """One step of the way.

    Attributes:
        title: what it is.
        command: returns nnU-Net's command, or ours, with what it needs to go on where it stood.
        variables: of the environment, for the command.
        done: says whether there is nothing left to do.
        prepare: moves aside what an interruption left half done.
        finish: called when the command has ended well.
        repeats: it is called each time, since the command itself knows what is left to do.
    """

    title: str
    command: Callable[[], list[str]]
    done: Callable[[], bool]
    variables: Mapping[str, str] = field(default_factory=dict)
    prepare: Callable[[], None] = lambda: None
    finish: Callable[[], None] = lambda: None
    repeats: bool = False


@dataclass(frozen=True, kw_only=True)
class MsdRun:
    """What is run on a task.

    Attributes:
        folder: of the task, as the challenge gives it.
        configuration: of the plans.
        memory: budgets; one network is searched for each. With a transferred architecture there are none.
        tolerance, around: how far below a budget its candidates may lie, and whether above it too, see `budgets_of`.
        trust_plans: whether networks that budgets are relative to may be built of any class that plans name.
        metric: of a GPU's memory; the search's default where None.
        plans: that the super-net is trained with.
        plans_name: of the searched or transferred plans.
        transfer: architecture that is taken in place of a search.
        supernet_trainer, trainer: of the super-net and of the final networks.
        folds: of the cross-validation.
        device: nnU-Net's.
        output: folder for predictions.
        search_arguments: further ones for hsnas_search.
    """

    folder: Path
    configuration: str
    memory: tuple[str, ...]
    tolerance: str | None
    around: bool
    trust_plans: bool = False
    metric: MemoryMetric | None
    plans: str
    plans_name: str
    transfer: str | None
    supernet_trainer: str
    trainer: str
    folds: tuple[int, ...]
    device: str
    output: Path
    search_arguments: tuple[str, ...]

    def __post_init__(self) -> None:
        dataset_name(self.folder)
        labels_of(self.memory)
        for variable in (nnUNet_raw, nnUNet_preprocessed, nnUNet_results):
            if not variable.is_set():
                raise MsdError(f"{variable.env_var_name} is not set; set nnU-Net's three path variables first")

    def with_default_budgets(self) -> MsdRun:
        """Return this run, with the budgets that are searched where none was asked for."""
        if self.memory or self.transfer:
            return self
        return replace(self, memory=default_memory(self.planned()) if self.are_planned else DEFAULT_MEMORY)

    @property
    def task(self) -> str:
        return self.folder.resolve().name

    @property
    def dataset(self) -> str:
        """As nnU-Net names it."""
        return dataset_name(self.folder)

    @property
    def number(self) -> str:
        return str(int(self.dataset[7:10]))

    @property
    def raw(self) -> Path:
        return Path(nnUNet_raw) / self.dataset

    @property
    def preprocessed(self) -> Path:
        return Path(nnUNet_preprocessed) / self.dataset

    @property
    def searched(self) -> list[str]:
        """Names of the plans of the networks that are trained in the end."""
        if self.transfer:
            return [self.plans_name]
        return [f"{self.plans_name}_{label}" for label in labels_of(self.memory)]

    @property
    def are_planned(self) -> bool:
        """Whether the data set has the super-net's plans."""
        return (self.preprocessed / f"{self.plans}.json").exists()

    def planned(self) -> PreprocessedDataset:
        """Return the data set with the super-net's plans, whose cases need not be preprocessed yet.

        Raises:
            DatasetError: there are no such plans.
        """
        return PreprocessedDataset.find(
            self.dataset, self.plans, self.configuration, preprocessed=False, trust_plans=self.trust_plans
        )

    def budgets(self) -> MemoryBudgets:
        """Return the budgets, once the data are planned.

        Raises:
            BudgetError: no network of the search space can meet one of them.
        """
        dataset, device_type = self.planned(), self.device.partition(":")[0]
        model = cost_model(dataset, device_type)
        return checked_budgets(
            dataset,
            model,
            device_type,
            self.memory,
            tolerance=self.tolerance,
            around=self.around,
            metric=self.metric,
        )

    def predictions(self, plans_name: str) -> PredictionFolders:
        """Return the folders of a network's predictions."""
        maker = {
            "trainer": self.trainer,
            "plans": plans_name,
            "configuration": self.configuration,
            "folds": list(self.folds),
        }
        plans = self.preprocessed / f"{plans_name}.json"
        if plans.exists():
            maker["network"] = network_digest(read_plans_file(plans), self.configuration)
        return PredictionFolders(final=self.output / plans_name / self.task, maker=maker)

    def check_predictions(self) -> None:
        """Raise PredictionsError where predictions of other models are in the way, before time is spent."""
        for name in self.searched:
            self.predictions(name).check()

    def steps(self) -> list[Step]:
        """Return all steps, first to last."""
        return [
            Step(
                title="convert",
                command=self._convert,
                done=(self.raw / "dataset.json").exists,  # nnU-Net writes it last
                prepare=self._check_conversion,
                finish=self._converting.unlink,
            ),
            Step(
                title="plan and preprocess",
                command=self._preprocess,
                done=self._is_preprocessed,
                # Planning crashes with 0, which is right for training on a few CPU cores.
                variables={"nnUNet_n_proc_DA": "1"} if os.environ.get("nnUNet_n_proc_DA") == "0" else {},
            ),
            *self._architectures(),
            *[step for name in self.searched for step in self._network(name)],
        ]

    # -- data --------------------------------------------------------------------------------------------------------

    def _convert(self) -> list[str]:
        return ["nnUNetv2_convert_MSD_dataset", "-i", str(self.folder)]

    @property
    def _converting(self) -> Path:
        return self.raw.with_name(f"{self.dataset}.hsnas_converting")

    def _check_conversion(self) -> None:
        if self.raw.exists() and not self._converting.exists():
            raise MsdError(
                f"{self.raw} is there without dataset.json, half converted it seems; nnU-Net cannot go on in it: "
                "delete it, and call again"
            )
        if self.raw.exists():  # begun by this command, and interrupted
            set_aside(self.raw, "is half converted")
        self._converting.parent.mkdir(parents=True, exist_ok=True)
        self._converting.touch()

    def _preprocess(self) -> list[str]:
        number = self.number
        if (self.preprocessed / f"{self.plans}.json").exists():
            return ["nnUNetv2_preprocess", "-d", number, "-c", self.configuration, "-plans_name", self.plans]
        if self.plans != STOCK_PLANS:
            raise MsdError(f"no plans {self.plans} in {self.preprocessed}; make them first, or leave -p away")
        return ["nnUNetv2_plan_and_preprocess", "-d", number, "-c", self.configuration]

    def _is_preprocessed(self) -> bool:
        plans = self.preprocessed / f"{self.plans}.json"
        if not plans.exists():
            return False
        configuration = read_plans_file(plans)["configurations"].get(self.configuration, {})
        identifier = configuration.get("data_identifier", f"{self.plans}_{self.configuration}")
        # A case's properties are the last of its files.
        finished = len(list((self.preprocessed / identifier).glob("*.pkl")))
        return finished >= len(cases_in(self.raw / "labelsTr", ENDING))

    # -- architectures -----------------------------------------------------------------------------------------------

    def _architectures(self) -> list[Step]:
        if self.transfer:
            return [
                Step(title="transfer", command=self._transfer, done=self._is_transferred, prepare=self._refuse_others)
            ]
        fold = self._results(self.supernet_trainer, self.plans) / f"fold_{FOLD}"

        def train() -> list[str]:
            command = ["nnUNetv2_train", self.number, self.configuration, str(FOLD)]
            command += ["-tr", self.supernet_trainer, "-p", self.plans, "-device", self.device]
            return command + (["--c"] if any(fold.glob("checkpoint_*.pth")) else [])

        return [
            Step(
                title=SUPER_NET,
                command=train,
                done=(fold / "validation" / "summary.json").exists,
                prepare=lambda: remove_torn_checkpoints(fold),
            ),
            Step(title="search", command=self._search, done=lambda: False, repeats=True),
        ]

    def _transfer(self) -> list[str]:
        command = ["hsnas_transfer", str(self.transfer), self.configuration, "--to", self.number]
        return [*command, "-p", self.plans, "--plans", self.plans_name]

    @property
    def _transferred(self) -> Path:
        return self.preprocessed / f"{self.plans_name}.json"

    def _is_transferred(self) -> bool:
        if not self._transferred.exists():
            return False
        dataset = self.planned()
        wanted = Transfer.to(dataset, find_architecture(str(self.transfer), search_space(dataset))).plans(
            dataset, self.plans_name
        )
        there = read_plans_file(self._transferred)
        return network_digest(there, self.configuration) == network_digest(wanted, self.configuration)

    def _refuse_others(self) -> None:
        if self._transferred.exists():
            raise MsdError(
                f"{self._transferred} describes another network than --transfer {self.transfer}; choose another name "
                "with --plans, or remove it and what was trained with it"
            )

    def _search(self) -> list[str]:
        command = ["hsnas_search", self.number, self.configuration, str(FOLD), "-p", self.plans]
        command += ["-tr", self.supernet_trainer, "--plans", self.plans_name, "--device", self.device]
        return [*command, "--memory", *self.memory, *self.search_arguments]

    # -- networks ----------------------------------------------------------------------------------------------------

    def _network(self, plans_name: str) -> list[Step]:
        folds = [str(fold) for fold in self.folds]
        model = ["-tr", self.trainer, "-p", plans_name]
        results = self._results(self.trainer, plans_name)
        together = results / f"crossval_results_folds_{'_'.join(folds)}"
        folders = self.predictions(plans_name)
        before, final = folders.before, folders.final

        def cross_validate() -> list[str]:
            command = ["hsnas_crossval", self.number, self.configuration, *model, "--device", self.device]
            return [*command, "-f", *folds]

        def predict() -> list[str]:
            command = ["nnUNetv2_predict", "-d", self.number, "-i", str(self.raw / "imagesTs")]
            command += ["-o", str(before), "-c", self.configuration, *model, "-f", *folds, "-device", self.device]
            return [*command, "--continue_prediction"]

        def postprocess() -> list[str]:
            command = ["nnUNetv2_apply_postprocessing", "-i", str(before), "-o", str(final)]
            command += ["-pp_pkl_file", str(together / "postprocessing.pkl")]
            return [*command, "-plans_json", str(together / "plans.json")]

        def prepare() -> None:
            self.predictions(plans_name).claim()
            remove_broken(before)

        def are_trained() -> bool:
            kept, planned = together / "plans.json", self.preprocessed / f"{plans_name}.json"
            if not ((together / "postprocessing.pkl").exists() and kept.exists() and planned.exists()):
                return False
            # Of another network they are no one's to go on with: hsnas_crossval says so.
            there, now = (network_digest(read_plans_file(path), self.configuration) for path in (kept, planned))
            return there == now

        def are_predicted(folder: Path) -> bool:
            images = self.raw / "imagesTs"
            cases = cases_in(images, f"_0000{ENDING}") if images.is_dir() else []
            # Asked anew, since the plans may have been written meanwhile.
            return bool(cases) and self.predictions(plans_name).are_predicted(folder, cases)

        return [
            Step(
                title=f"folds of {plans_name}",
                command=cross_validate,
                done=are_trained,
            ),
            Step(
                title=f"predict with {plans_name}",
                command=predict,
                done=lambda: are_predicted(before),
                prepare=prepare,
            ),
            # It writes all files anew, those that are half written as well.
            Step(title=f"postprocess {plans_name}", command=postprocess, done=lambda: are_predicted(final)),
        ]

    def _results(self, trainer: str, plans_name: str) -> Path:
        return Path(nnUNet_results) / self.dataset / f"{trainer}__{plans_name}__{self.configuration}"


def dataset_name(msd_folder: Path) -> str:
    """Return the name that nnU-Net gives a task in MSD's folder format.

    Raises:
        MsdError: it is no such folder.
    """
    folder = msd_folder.resolve()
    missing = [n for n in ("imagesTr", "labelsTr", "imagesTs", "dataset.json") if not (folder / n).exists()]
    match = re.fullmatch(r"Task(\d+)_([^_]+)", folder.name)
    if missing or not match:
        wrong = f"{', '.join(missing)} missing" if missing else "its name is not of the form Task09_Spleen"
        raise MsdError(f"{msd_folder} is no task of the Medical Segmentation Decathlon: {wrong}")
    return f"Dataset{int(match[1]):03d}_{match[2]}"
