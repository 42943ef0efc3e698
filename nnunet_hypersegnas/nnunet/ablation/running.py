"""Running an ablation: train what is not trained, score what is not scored, one super-net after the other."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path

import torch

from nnunet_hypersegnas.evaluation.ablation import ScoredSuperNet
from nnunet_hypersegnas.nnunet.ablation.entries import AblationPlan, Entry
from nnunet_hypersegnas.nnunet.ablation.folder import AblationFolder
from nnunet_hypersegnas.nnunet.ablation.scoring import AblationScorer
from nnunet_hypersegnas.nnunet.ablation.sub_nets import SubNet
from nnunet_hypersegnas.nnunet.discovery import TRAINER, VARIABLE, with_our_folder
from nnunet_hypersegnas.nnunet.fold_training import FoldJob, FoldState, run_jobs
from nnunet_hypersegnas.nnunet.settings import NO_VALIDATION
from nnunet_hypersegnas.search import Progress

Announce = Callable[[Entry, FoldJob, Mapping[str, str]], None]


def training_variables() -> dict[str, str]:
    """Return what the environment of nnU-Net's command lacks: to find our trainers, and not to validate."""
    needed = {VARIABLE: with_our_folder(os.environ.get(VARIABLE)), NO_VALIDATION: "1"}
    return {name: value for name, value in needed.items() if os.environ.get(name) != value}


def train(entry: Entry, device: str, announce: Announce) -> None:
    """Train a super-net by its stock command, or go on with it; nothing is done where it is trained.

    Raises:
        FoldsError: nnU-Net failed, or another process trains it.
    """
    if entry.state is FoldState.DONE:
        return
    entry.write_plans()
    variables = training_variables()
    run_jobs([entry.job(device)], entry.model, [variables], lambda job, *_: announce(entry, job, variables))


def scored_super_nets(
    plan: AblationPlan,
    folder: AblationFolder,
    sub_nets: Sequence[SubNet],
    validation_cases: int | None,
    device: torch.device,
    announce: Announce,
    progress: Progress,
) -> Iterator[ScoredSuperNet]:
    """Train and score, and yield each super-net as soon as its scores are there.

    Args:
        plan: what is compared.
        folder: where scores are kept.
        sub_nets: that are scored.
        validation_cases: at most so many score; None for all of the fold.
        device: that trains and scores.
        announce: called with each training as it starts, and what its environment needs.
        progress: makes the bars of the scoring.

    Raises:
        FoldsError, CheckpointError, DatasetError: see `train` and `AblationScorer`.
    """
    scorer: AblationScorer | None = None
    for entry in plan.entries():
        train(entry, device.type, announce)
        # Not before the first training: it makes the split that says which cases validate.
        scorer = scorer or AblationScorer(plan.dataset, plan.fold, validation_cases, folder, sub_nets, device)
        yield scorer.score(entry, progress)


def default_folder(plan: AblationPlan) -> Path:
    """Return the ablation's folder among nnU-Net's results of the data set, where nnU-Net does not look."""
    dataset = plan.dataset
    name = f"{dataset.plans['plans_name']}_{dataset.configuration_name}_fold_{plan.fold}"
    return dataset.trained_folder(TRAINER, plan.fold).parent.parent / "hsnas_ablation" / name
