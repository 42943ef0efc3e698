"""The demo's loop: real commands only, from an MSD folder to scored predictions."""

from __future__ import annotations

import json
import math
import os
import shutil
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from nnunet_hypersegnas.atomic import write_json
from nnunet_hypersegnas.cost.measuring import MemoryMetric
from nnunet_hypersegnas.errors import HyperSegNASError
from nnunet_hypersegnas.nnunet.checked_budgets import checked_budgets
from nnunet_hypersegnas.nnunet.cost_models import cost_model
from nnunet_hypersegnas.nnunet.dataset import PreprocessedDataset
from nnunet_hypersegnas.nnunet.findings import BIAS_NOTE
from nnunet_hypersegnas.nnunet.memory_budgets import MemoryBudgets
from nnunet_hypersegnas.nnunet.memory_counting import MemoryCounting
from nnunet_hypersegnas.nnunet.msd_steps import dataset_name
from nnunet_hypersegnas.nnunet.stock_commands import run_stock, shown
from nnunet_hypersegnas.search import labels_of
from nnunet_hypersegnas.space import rng_for, sample_codes

CONFIGURATION = "3d_fullres"
FOLD = 0
SUPERNET_PLANS = "HyperSegNASDemoSupernet"
SEARCHED_PLANS = "HyperSegNASDemo"
SUPERNET_TRAINER = "HyperSegNASSupernetTrainer"


class DemoError(HyperSegNASError):
    """Sizes that are none, or a folder that belongs to something else."""


@dataclass(frozen=True, kw_only=True)
class DemoSettings:
    """Sizes of the demo; the defaults take a few minutes on two CPU cores.

    Attributes:
        layers, channels: the super-net's search space.
        patch_size: largest patch, in voxels; nnU-Net's own where that is smaller.
        batch_size: patches a step.
        supernet_epochs, iterations_per_epoch: super-net training, annealing (a fifth) and warm-up (a tenth) included.
        candidates, finalists, finetune_iterations: the search under each budget.
        budgets: training-memory budgets; by default two that the space can meet.
        validation_cases: cases that score candidates.
        final_trainer: nnU-Net trainer of the networks found; starts from the inherited weights, as fold 0 allows.
        seed: of the synthetic data, the super-net and the search.

    Raises:
        DemoError: naming every number that is not positive.
        HyperSegNASError: budgets that cannot be read.
    """

    layers: int = 6
    channels: tuple[int, ...] = (8, 16, 32)
    patch_size: int = 32
    batch_size: int = 2
    supernet_epochs: int = 7
    iterations_per_epoch: int = 100
    candidates: int = 12
    finalists: int = 2
    finetune_iterations: int = 150
    budgets: tuple[str, ...] = ()
    validation_cases: int = 4
    final_trainer: str = "nnUNetTrainer_1epoch"
    seed: int = 0

    def __post_init__(self) -> None:
        no_sizes = ("budgets", "final_trainer", "seed")
        values = {name: value for name, value in asdict(self).items() if name not in no_sizes}
        wrong = [
            f"--{name.replace('_', '-')} {value}"
            for name, value in values.items()
            if min(value if isinstance(value, tuple) else (value,), default=0) < 1
        ]
        if wrong:
            raise DemoError(f"{', '.join(wrong)}: positive numbers are needed")
        labels_of(self.budgets)


class Commands:
    """Runs nnU-Net's and our own commands in the demo's folder, with nnU-Net's variables pointing into it."""

    def __init__(self, folder: Path, device: str, trainers: Path) -> None:
        self.folder, self.device = folder, device
        for name in ("nnUNet_raw", "nnUNet_preprocessed", "nnUNet_results"):
            self.path(name).mkdir(parents=True, exist_ok=True)
            os.environ[name] = str(self.path(name))  # for the commands, and for looking into their results here
        os.environ["nnUNet_extTrainer"] = str(trainers)
        if device == "cpu":  # busy-waiting OpenMP threads and many spawned workers slow small CPU runs manyfold
            os.environ["OMP_WAIT_POLICY"] = "PASSIVE"
            os.environ.setdefault("nnUNet_def_n_proc", "2")
            os.environ.setdefault("nnUNet_n_proc_DA", "0")

    def path(self, variable: str) -> Path:
        return self.folder / variable

    def run(self, title: str, *command: str | Path, **variables: str) -> None:
        """Run one command, its output going to a log file.

        Raises:
            CommandError: it failed; the message ends with the last line it printed.
        """
        words = [str(word) for word in command]
        print(f"\n[{title}]\n$ {shown(words)}", flush=True)
        started = time.monotonic()
        self.execute(words, self.log(title), variables)
        print(f"  done in {time.monotonic() - started:.0f} s", flush=True)
        marker = self._marker(title)
        marker.parent.mkdir(exist_ok=True)
        marker.touch()

    def execute(self, words: Sequence[str], log: Path, variables: Mapping[str, str]) -> None:
        """Run a command to its end."""
        run_stock(words, log, variables)

    def log(self, title: str) -> Path:
        """Return the file of what a step prints."""
        return self.folder / "logs" / f"{title.replace(' ', '_')}.log"

    def has_run(self, title: str) -> bool:
        """Whether this step was ever finished here."""
        return self._marker(title).exists()

    def _marker(self, title: str) -> Path:
        return self.folder / "finished" / title.replace(" ", "_")


def run_demo(
    commands: Commands,
    msd_folder: Path,
    settings: DemoSettings,
    test_labels: Path | None,
) -> dict[str, Any]:
    """Run the loop on a task in MSD's folder format and return what `summary.json` holds.

    Steps that are finished are skipped, so an interrupted demo goes on when it is started again.
    """
    started = time.monotonic()
    dataset = dataset_name(msd_folder)
    number = str(int(dataset[7:10]))
    device = ("-device", commands.device)
    raw, preprocessed = commands.path("nnUNet_raw") / dataset, commands.path("nnUNet_preprocessed") / dataset
    if not commands.has_run("convert"):
        shutil.rmtree(raw, ignore_errors=True)  # half-converted: nnU-Net refuses to go on in it
        commands.run("convert", "nnUNetv2_convert_MSD_dataset", "-i", msd_folder)
    if not commands.has_run("plan and preprocess"):
        shutil.rmtree(preprocessed, ignore_errors=True)  # cases that were half written would stay so
        commands.run(
            "plan and preprocess",
            *("nnUNetv2_plan_and_preprocess", "-d", number, "-c", CONFIGURATION, "-np", "2"),
            nnUNet_n_proc_DA="1",  # planning crashes with 0
        )
    write_small_plans(preprocessed, settings)
    sizes = settings.budgets or default_budgets(dataset, commands.device, settings.seed)
    tolerance = _tolerance(dataset, commands.device, sizes)

    train = ("nnUNetv2_train", number, CONFIGURATION, str(FOLD))
    supernet = _model_folder(commands, dataset, SUPERNET_TRAINER, SUPERNET_PLANS)
    if not (supernet / f"fold_{FOLD}" / "validation" / "summary.json").exists():
        resume = ("--c",) if any((supernet / f"fold_{FOLD}").glob("checkpoint_*.pth")) else ()
        commands.run("train the super-net", *train, "-tr", SUPERNET_TRAINER, "-p", SUPERNET_PLANS, *resume, *device)

    commands.run(
        "search",
        *("hsnas_search", number, CONFIGURATION, str(FOLD), "--memory", *sizes, "--plans", SEARCHED_PLANS),
        *("--tolerance", tolerance, "-p", SUPERNET_PLANS),
        *("--candidates", str(settings.candidates), "--finalists", str(settings.finalists)),
        *("--finetune-iterations", str(settings.finetune_iterations), "--seed", str(settings.seed)),
        *("--validation-cases", str(settings.validation_cases), *device),
        # What a toy's tensors need is lost in the hundreds of MB that NVML sees.
        *(("--memory-metric", "allocated") if commands.device == "cuda" else ()),
    )

    networks = []
    for label in labels_of(sizes):
        plans_name = f"{SEARCHED_PLANS}_{label}"
        plans = json.loads((preprocessed / f"{plans_name}.json").read_text())
        found = plans["hypersegnas_search"]
        model = _model_folder(commands, dataset, settings.final_trainer, plans_name)
        validation = model / f"fold_{FOLD}" / "validation" / "summary.json"
        if not validation.exists():
            weights = ("-pretrained_weights", found["inherited_weights"])
            commands.run(
                f"train {plans_name}", *train, "-tr", settings.final_trainer, "-p", plans_name, *weights, *device
            )
        predictions = commands.folder / "predictions" / plans_name
        commands.run(
            f"predict {plans_name}",
            *("nnUNetv2_predict", "-d", number, "-i", raw / "imagesTs", "-o", predictions, "-c", CONFIGURATION),
            *("-f", str(FOLD), "-p", plans_name, "-tr", settings.final_trainer, *device),
            *(("-npp", "0", "-nps", "0") if commands.device == "cpu" else ()),  # no worker processes for a few cases
        )
        test = None
        if test_labels is not None:
            labels = [str(v) for v in json.loads((raw / "dataset.json").read_text())["labels"].values() if v != 0]
            commands.run(f"score {plans_name}", "nnUNetv2_evaluate_simple", test_labels, predictions, "-l", *labels)
            test = _dsc_of(predictions / "summary.json")
        networks.append(
            {
                "budget": label,
                "plans": plans_name,
                "predicted_memory_bytes": found["winner"]["predicted_memory_bytes"],
                "measured_memory_bytes": found["winner"]["measured_memory_bytes"],
                "parameters": found["winner"]["parameters"],
                "dsc_shared_weights": found["winner"]["shared"]["dsc"],
                "dsc_fine_tuned": found["winner"]["fine_tuned"]["dsc"],
                "dsc_validation": _dsc_of(validation),
                "dsc_test": test,
                "predictions": str(predictions),
                "model": str(model),
            }
        )
    summary = {
        "dataset": dataset,
        "fold": FOLD,
        "validation_note": BIAS_NOTE,
        "device": commands.device,
        "settings": asdict(settings),
        "supernet": str(supernet),
        "networks": networks,
        "seconds": round(time.monotonic() - started),
    }
    write_json(commands.folder / "summary.json", summary)
    return summary


def claim_folder(folder: Path, identity: Mapping[str, Any], kind: str = "demo") -> None:
    """Take an empty folder for a demo, or a run of another kind, or go on in one that the same run began.

    Raises:
        DemoError: the folder holds something else.
    """
    marker = folder / f"{kind}.json"
    if marker.exists():
        before, now = json.loads(marker.read_text()), json.loads(json.dumps(identity))  # where tuples are lists
        changes = [
            f"{name} {before.get(name)} there, {now.get(name)} now"
            for name in sorted({*before, *now})
            if before.get(name) != now.get(name)
        ]
        if changes:
            raise DemoError(
                f"{folder} holds another {kind} ({'; '.join(changes)}); choose another --folder or delete it"
            )
        return
    if folder.exists() and not folder.is_dir():
        raise DemoError(f"{folder} is a file; choose another --folder")
    if folder.exists() and any(folder.iterdir()):
        raise DemoError(f"{folder} is not empty and holds no {kind}; choose another --folder")
    write_json(marker, dict(identity))


def write_small_plans(preprocessed: Path, settings: DemoSettings) -> None:
    """Write a copy of nnU-Net's plans with a small patch and batch and the super-net's settings in them."""
    plans = json.loads((preprocessed / "nnUNetPlans.json").read_text())
    plans["plans_name"] = SUPERNET_PLANS
    plans["configurations"] = {CONFIGURATION: plans["configurations"][CONFIGURATION]}
    configuration = plans["configurations"][CONFIGURATION]
    strides = configuration["architecture"]["arch_kwargs"]["strides"]
    channels = list(settings.channels[: len(strides)])
    configuration["patch_size"] = small_patch(configuration, settings.patch_size, len(channels))
    configuration["batch_size"] = settings.batch_size
    configuration["hypersegnas"] = {
        "layers": settings.layers,
        "channels": channels,
        "epochs": settings.supernet_epochs,
        "annealing_epochs": settings.supernet_epochs / 5,
        "warmup_epochs": settings.supernet_epochs / 10,
        "iterations_per_epoch": settings.iterations_per_epoch,
        "save_every": 1,
        "seed": settings.seed,
    }
    write_json(preprocessed / f"{SUPERNET_PLANS}.json", plans)


def small_patch(configuration: Mapping[str, Any], largest: int, scales: int) -> list[int]:
    """Return a configuration's patch with no side longer than `largest`, if a super-net of so many scales lets it."""
    strides = configuration["architecture"]["arch_kwargs"]["strides"]
    # The patch must divide by the stride of the coarsest scale that the super-net uses.
    steps = [1] * len(strides[0])
    for stride in strides[: scales + 1]:
        steps = [a * b for a, b in zip(steps, stride, strict=True)]
    return [
        max(step, min(size, largest) // step * step)
        for size, step in zip(configuration["patch_size"], steps, strict=True)
    ]


def default_budgets(dataset: str, device: str, seed: int) -> tuple[str, ...]:
    """Return a smaller and a larger budget that the demo's space can meet, since nobody knows a toy's megabytes."""
    costs = cost_model(_small(dataset), device)
    sizes = sorted(costs.predict(sample_codes(costs.space, 200, rng_for(seed, "demo budget"))).memory_bytes)
    return tuple(f"{math.ceil(sizes[i] / 1e6)}MB" for i in (60, 190))


def _tolerance(dataset: str, device: str, budgets: Sequence[str]) -> str:
    """Return a tolerance for which the budgets' windows do not overlap.

    Raises:
        BudgetError: no network of the demo's space can meet one of them.
    """
    small = _small(dataset)
    model = cost_model(small, device)
    checked_budgets(small, model, device, budgets, metric=MemoryMetric.ALLOCATED)
    # Of tensors, so that a demo that goes on finds the same, whatever has been calibrated meanwhile.
    found = MemoryBudgets.of(small, device, MemoryCounting(), budgets)
    sizes = sorted(budget.memory_bytes for budget in found.budgets)
    gaps = [b - a for a, b in zip([0, *sizes], sizes, strict=False) if b > a]
    return f"{max(1, int(min(gaps) // 1000))}KB"


def _small(dataset: str) -> PreprocessedDataset:
    return PreprocessedDataset.find(dataset, SUPERNET_PLANS, CONFIGURATION)


def _model_folder(commands: Commands, dataset: str, trainer: str, plans_name: str) -> Path:
    return commands.path("nnUNet_results") / dataset / f"{trainer}__{plans_name}__{CONFIGURATION}"


def _dsc_of(summary: Path) -> dict[str, float]:
    """Return DSC by label, and their mean, from one of nnU-Net's summary.json files."""
    content = json.loads(summary.read_text())
    return {"mean": content["foreground_mean"]["Dice"]} | {k: v["Dice"] for k, v in content["mean"].items()}
