"""How long a run on a task of the challenge takes, and how much disk: from a short probe of the device."""

from __future__ import annotations

import math
import re
import statistics
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from math import prod
from pathlib import Path

import torch
from nnunetv2.inference.sliding_window_prediction import compute_steps_for_sliding_window

from nnunet_hypersegnas.architectures import OneShotNetwork
from nnunet_hypersegnas.evaluation.folders import cases_in
from nnunet_hypersegnas.nnunet.cost_meter import CostMeter
from nnunet_hypersegnas.nnunet.cost_models import cost_model
from nnunet_hypersegnas.nnunet.cross_validation import FOLDS
from nnunet_hypersegnas.nnunet.dataset import PreprocessedDataset
from nnunet_hypersegnas.nnunet.fine_tuning import sub_net_trainer
from nnunet_hypersegnas.nnunet.memory_limit import MemoryLimit
from nnunet_hypersegnas.nnunet.msd_steps import ENDING, MsdRun
from nnunet_hypersegnas.nnunet.optimizers import STATES, make_optimizer
from nnunet_hypersegnas.nnunet.settings import SuperNetSettings
from nnunet_hypersegnas.nnunet.sliding_window import STEP
from nnunet_hypersegnas.nnunet.validation_crops import MAX_SIDE_MM
from nnunet_hypersegnas.nnunet.variants import settings_under
from nnunet_hypersegnas.search import BudgetSampler, Rung, SearchSettings, Way, rungs_of
from nnunet_hypersegnas.space import Architecture, TrainingDraws, largest, smallest, to_architectures

PROBE_S = 60.0  # at most so much for each thing that is timed, but one round
ROUNDS = 3
ARCHITECTURES = 4
STOCK_EPOCHS, STOCK_ITERATIONS = 1000, 250
MIRRORED = {2: 4, 3: 8}  # forward passes of each patch, by number of axes
WEIGHT_BYTES = 4
CHECKPOINTS = 2


@dataclass(frozen=True, kw_only=True)
class Probe:
    """What was timed: seconds of a training step of super-net and searched network, and of one patch's prediction.

    The super-net's is the mean over its training, warm-up and sandwich steps included.
    """

    super_net_step_s: float
    network_step_s: float
    patch_s: float
    super_net_parameters: int
    network_parameters: int


@dataclass(frozen=True, kw_only=True)
class Estimate:
    """Seconds and bytes of one step; None where they are not known."""

    step: str
    seconds: float | None
    disk_bytes: float | None


def probe(run: MsdRun, dataset: PreprocessedDataset, device: torch.device) -> Probe:
    """Time training steps and predictions on batches of noise; loading of data is not in it.

    Raises:
        BudgetError: no network meets the first budget.
    """
    costs = cost_model(dataset, device.type)
    space = costs.space
    if run.memory:
        budgets = run.budgets()
        predict = budgets.counting.expected(costs.predict)
        sampler = BudgetSampler(space, predict, budgets.budgets[0].limits, 0)
        found = to_architectures(sampler.take(ARCHITECTURES))
    else:
        found = [largest(space)]
    meter = CostMeter(dataset, space, device)
    patch_ms = [meter.latency_ms(architecture) or math.inf for architecture in found[:1]]
    network_step_s = _seconds([meter.training_step(found[0])])
    settings = _settings(run, dataset)
    with tempfile.TemporaryDirectory() as folder:
        trainer = sub_net_trainer(dataset, space, 0, device, Path(folder))
        one_shot = OneShotNetwork(
            space,
            dataset.input_channels,
            dataset.label_manager.num_segmentation_heads,
            tuple(dataset.configuration.patch_size),
            deep_supervision=True,
            man=settings.man,
            recompute=settings.recompute,
            scalar_position=settings.scalar_position,
            fixed_scalar=settings.fixed_scalar,
        ).to(device)
        trainer.network = one_shot.train()
        trainer.optimizer = make_optimizer(settings.optimizer, one_shot, settings.base_lr, settings.weight_decay)
        batch = meter.noise()

        def step(architecture: Architecture, annealing: float = 0.5) -> Callable[[], None]:
            def train() -> None:
                one_shot.take(architecture, annealing)
                trainer.train_step(dict(batch))

            return train

        limit = MemoryLimit.at_start(dataset, space, settings, device)
        draws = TrainingDraws(
            space=space, seed=0, iterations_per_epoch=1, warmup=ARCHITECTURES, fits=limit.fits
        )  # the first ones are the warm-up's
        drawn = [draws.architecture(i) for i in range(2 * ARCHITECTURES)]
        super_net_step_s = _seconds([step(architecture) for architecture in drawn[ARCHITECTURES:]])
        if settings.sandwich_every:
            beside = sum(_seconds([step(one)]) for one in (largest(space), smallest(space)))
            super_net_step_s += beside / settings.sandwich_every
        if warmup := settings.warmup_phase / settings.epochs:  # in which MAN takes no part
            all_edges = [step(architecture, 1) for architecture in drawn[:ARCHITECTURES]]
            super_net_step_s += warmup * (_seconds(all_edges) - super_net_step_s)
    return Probe(
        super_net_step_s=super_net_step_s,
        network_step_s=network_step_s,
        patch_s=patch_ms[0] / 1e3,
        super_net_parameters=sum(p.numel() for p in one_shot.parameters()),
        network_parameters=sum(p.numel() for p in meter.network(found[0]).parameters()),
    )


def estimates(run: MsdRun, dataset: PreprocessedDataset, probed: Probe, search: SearchSettings) -> list[Estimate]:
    """Return what the steps of a run take at most, those included that are done already.

    Args:
        run: its sizes.
        dataset: planned.
        probed: on the device.
        search: the search's settings.
    """
    configuration, settings = dataset.configuration, _settings(run, dataset)
    cases, tests = (len(cases_in(run.folder / name, ENDING)) for name in ("labelsTr", "imagesTs"))
    image = [round(n) for n in configuration.configuration["median_image_size_in_voxels"]]
    if len(image) == 2:
        image = [round(dataset.plans["original_median_shape_after_transp"][0]), *image]
    patches, validation = _patches(image, configuration.patch_size), cases / len(FOLDS)
    spacing_mm = [1.0] * (3 - len(configuration.spacing)) + list(configuration.spacing)
    crop = [min(n, int(MAX_SIDE_MM / mm)) for n, mm in zip(image, spacing_mm, strict=True)]
    scored = int(min(validation, search.validation_cases or math.inf)) or 1
    rungs = rungs_of(
        search,
        crops=scored,
        patches=scored * _patches(crop, configuration.patch_size),
        batch_size=configuration.batch_size,
    )
    case_s = probed.patch_s * patches * MIRRORED[len(configuration.patch_size)]
    epochs = _epochs(run.trainer, STOCK_EPOCHS)
    heads, networks = dataset.label_manager.num_segmentation_heads, len(run.searched)
    found = [
        Estimate(step="convert", seconds=None, disk_bytes=_size(run.folder)),
        Estimate(
            step="plan and preprocess",
            seconds=None,
            disk_bytes=cases * prod(image) * (4 * dataset.input_channels + 2),
        ),
    ]
    if not run.transfer:
        iterations = settings.epochs * settings.iterations_per_epoch
        tunings = (1 + search.refinement_rounds) * search.finalists
        found += [
            Estimate(
                step="super-net",
                seconds=iterations * probed.super_net_step_s + validation * case_s,
                disk_bytes=CHECKPOINTS * _checkpoint_bytes(probed.super_net_parameters, settings.optimizer),
            ),
            Estimate(
                step="search",
                seconds=len(run.memory) * probed.patch_s * _scored_patches(search, rungs),
                disk_bytes=len(run.memory) * tunings * WEIGHT_BYTES * probed.network_parameters,
            ),
        ]
    fold_s = epochs * STOCK_ITERATIONS * probed.network_step_s + validation * case_s
    # With all of nnU-Net's probabilities, which it compresses.
    fold_bytes = (
        CHECKPOINTS * _checkpoint_bytes(probed.network_parameters, "SGD") + 4 * validation * prod(image) * heads
    )
    folds = networks * len(run.folds)
    return [
        *found,
        Estimate(step=f"folds ({networks} x {len(run.folds)})", seconds=folds * fold_s, disk_bytes=folds * fold_bytes),
        Estimate(step="predict", seconds=folds * tests * case_s, disk_bytes=None),
    ]


def describe_estimates(found: Sequence[Estimate]) -> list[dict[str, str]]:
    """Return one row of text for each step and, last, their sum."""
    total = Estimate(
        step="all",
        seconds=sum(e.seconds or 0 for e in found),
        disk_bytes=sum(e.disk_bytes or 0 for e in found),
    )
    return [
        {
            "step": one.step,
            "time": "-" if one.seconds is None else _duration(one.seconds),
            "disk, at most": "-" if one.disk_bytes is None else f"{one.disk_bytes / 1e9:.2g} GB",
        }
        for one in [*found, total]
    ]


def _patches(image: Sequence[int], patch: Sequence[int]) -> int:
    """Return how many patches nnU-Net's sliding window lays over an image."""
    inner = [max(n, p) for n, p in zip(image[-len(patch) :], patch, strict=True)]
    return prod(len(s) for s in compute_steps_for_sliding_window(tuple(inner), tuple(patch), STEP)) * prod(
        image[: -len(patch)]
    )


def _seconds(steps: Sequence[Callable[[], None]]) -> float:
    """Return the median time of a step, after one that warms up; a training step ends by reading its loss."""
    steps[0]()
    started, taken = time.monotonic(), []
    for _ in range(ROUNDS):
        for step in steps:
            before = time.monotonic()
            step()
            taken.append(time.monotonic() - before)
        if time.monotonic() - started > PROBE_S:
            break
    return statistics.median(taken)


def _settings(run: MsdRun, dataset: PreprocessedDataset) -> SuperNetSettings:
    """Return the settings with which the run's super-net is trained."""
    settings = SuperNetSettings.from_configuration(dataset.configuration.configuration)
    settings = replace(settings, **settings_under(run.supernet_trainer))
    return settings.shortened(_epochs(run.supernet_trainer, settings.epochs))


def _scored_patches(search: SearchSettings, rungs: Sequence[Rung]) -> float:
    """Return what a budget's evaluations cost in scored patches, a trained one counted as three."""
    climbing = sum(rung.keep * rung.cost_patches for rung in rungs)
    tuning = sum(rung.keep * rung.cost_patches for rung in rungs if rung.way is Way.FINE_TUNING)
    return climbing + search.refinement_rounds * tuning


def _checkpoint_bytes(parameters: int, optimizer: str) -> int:
    return WEIGHT_BYTES * (1 + STATES[optimizer]) * parameters


def _epochs(trainer: str, default: int) -> int:
    """Return the epochs that a trainer's name tells, as in nnUNetTrainer_250epochs."""
    found = re.search(r"_(\d+)epochs?$", trainer)
    return int(found[1]) if found else default


def _size(folder: Path) -> float:
    return float(sum(path.stat().st_size for path in folder.rglob("*.nii.gz") if not path.name.startswith(".")))


def _duration(seconds: float) -> str:
    if seconds < 3600:
        return f"{max(1, round(seconds / 60))} min"
    return f"{seconds / 3600:.1f} h" if seconds < 48 * 3600 else f"{seconds / 86400:.1f} days"
