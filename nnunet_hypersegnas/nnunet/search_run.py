"""One run of the search on an nnU-Net data set: super-net in, plans out."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

import nnunet_hypersegnas
from nnunet_hypersegnas.atomic import write_json, written_atomically
from nnunet_hypersegnas.cost import CostModel, TrainingSetup, format_bytes
from nnunet_hypersegnas.nnunet.dataset import PreprocessedDataset, read_plans
from nnunet_hypersegnas.nnunet.plans import PROVENANCE, PlansError, check_plans_name, searched_plans
from nnunet_hypersegnas.nnunet.scoring import CropScorer
from nnunet_hypersegnas.nnunet.sub_net_evaluator import FineTuningPlan, SubNetEvaluator, digest
from nnunet_hypersegnas.nnunet.super_net_loading import load_super_net
from nnunet_hypersegnas.nnunet.validation_crops import load_validation_crops
from nnunet_hypersegnas.search import Budget, BudgetSampler, Candidate, ProgressBar, coarse_to_fine
from nnunet_hypersegnas.space import to_architectures

BIAS_NOTE = "selection-biased: this fold's validation cases chose the architecture"


@dataclass(frozen=True, kw_only=True)
class SearchSettings:
    """What a search does; the defaults are the paper's (section 4).

    Attributes:
        candidates: architectures sampled under each budget.
        finalists: N, how many of them are fine-tuned.
        finetune_iterations: iterations of each fine-tuning.
        finetune_lr: its initial learning rate.
        validation_cases: score on at most so many of the fold's validation cases; all where None.
        seed: seed of sampling and fine-tuning.
    """

    candidates: int = 2000
    finalists: int = 10
    finetune_iterations: int = 5000
    finetune_lr: float = 0.01
    validation_cases: int | None = None
    seed: int = 0


@dataclass(frozen=True, kw_only=True)
class FoundNetwork:
    """The best network under one budget, and the files that were written for it."""

    budget: Budget
    winner: Candidate
    n_candidates: int
    fold: int
    record: Path
    plans: Path | None
    weights: Path


class SuperNetSearch:
    """The searches of one trained super-net.

    Args:
        dataset: data set and configuration that the super-net was trained on.
        fold: its fold; also the one whose validation cases score the candidates.
        trainer: name of the trainer class that trained it.
        device: where sub-nets are scored and fine-tuned.
        settings: see `SearchSettings`.

    Raises:
        CheckpointError: no final checkpoint, annealing incomplete, or another search space or label set.
        DatasetError: the fold's validation cases cannot be used.
    """

    def __init__(
        self,
        dataset: PreprocessedDataset,
        fold: int,
        trainer: str,
        device: torch.device,
        settings: SearchSettings,
    ) -> None:
        self.dataset, self.fold, self.device, self.settings = dataset, fold, device, settings
        folder = dataset.trained_folder(trainer, fold)
        checkpoint = folder / "checkpoint_final.pth"
        self.folder = folder / "search"
        self.space, network = load_super_net(dataset, checkpoint)
        self.costs = CostModel(self.space, training_setup(dataset, device.type))
        stat = checkpoint.stat()
        self.evaluator = SubNetEvaluator(
            dataset,
            fold,
            network.to(device),
            CropScorer(dataset, load_validation_crops(dataset, fold, settings.validation_cases), device),
            folder=self.folder,
            checkpoint_id=f"{stat.st_size} {stat.st_mtime_ns}",
            plan=FineTuningPlan(
                iterations=settings.finetune_iterations, learning_rate=settings.finetune_lr, seed=settings.seed
            ),
            device=device,
        )

    def candidates(self, budget: Budget) -> list[Candidate]:
        """Return the candidates of a budget (step 1).

        Raises:
            BudgetError: no architecture fits.
        """
        sampler = BudgetSampler(self.space, self.costs.predict, budget.limits, self.settings.seed)
        codes = sampler.take(self.settings.candidates)
        costs = self.costs.predict(codes)
        return [
            Candidate(architecture=architecture, predicted_memory_bytes=int(memory), parameters=int(parameters))
            for architecture, memory, parameters in zip(
                to_architectures(codes), costs.memory_bytes, costs.parameters, strict=True
            )
        ]

    def search(
        self,
        budget: Budget,
        candidates: Sequence[Candidate],
        plans_name: str | None,
        progress: Callable[[str, Sequence[Candidate]], ProgressBar],
    ) -> FoundNetwork:
        """Find the best of a budget's candidates; write its record, its inherited weights and, named, its plans."""
        ranked = coarse_to_fine(candidates, self.evaluator, self.settings.finalists, progress)
        winner = ranked[0]
        name = budget.plans_name(plans_name) if plans_name else f"no_plans_{budget.plans_name('budget')}"
        weights = self.folder / f"{name}_weights_fold{self.fold}.pth"
        with written_atomically(weights) as temporary:
            shutil.copyfile(self.evaluator.weights_file(winner.architecture), temporary)
        provenance = self._provenance(budget, winner, weights)
        record = self.folder / f"{name}.json"
        write_json(record, {**provenance, "candidates": [candidate.to_json() for candidate in ranked]})
        plans = self.dataset.folder / f"{name}.json" if plans_name else None
        if plans:
            write_json(
                plans,
                searched_plans(
                    self.dataset.plans,
                    self.dataset.configuration_name,
                    name,
                    self.space,
                    winner.architecture,
                    provenance,
                ),
            )
        return FoundNetwork(
            budget=budget,
            winner=winner,
            n_candidates=len(ranked),
            fold=self.fold,
            record=record,
            plans=plans,
            weights=weights,
        )

    def check_plans_names(self, budgets: Sequence[Budget], plans_name: str, overwrite: bool) -> None:
        """Refuse to replace plans that this very search did not write, before any time is spent.

        Raises:
            PlansError: naming every file that is in the way.
        """
        check_plans_name(plans_name)
        taken = []
        for budget in budgets:
            name = budget.plans_name(plans_name)
            if (self.dataset.folder / f"{name}.json").exists() and not overwrite:
                found = read_plans(self.dataset.folder, name).get(PROVENANCE, {})
                if found.get("search") != self._identity(budget):
                    taken.append(f"{name}.json")
        if taken:
            raise PlansError(
                f"{', '.join(taken)} exist already in {self.dataset.folder}; choose another name with --plans, or "
                "replace them with --overwrite"
            )

    def close(self) -> None:
        self.evaluator.close()

    def _identity(self, budget: Budget) -> str:
        """Name this search: equal arguments on an equal super-net give equal names."""
        s = self.settings
        return digest(self.evaluator.fine_tuned_stage, str(budget.limits), s.candidates, s.finalists)

    def _provenance(self, budget: Budget, winner: Candidate, weights: Path) -> dict[str, Any]:
        return {
            "package_version": nnunet_hypersegnas.__version__,
            "search": self._identity(budget),
            "dataset": self.dataset.name,
            "configuration": self.dataset.configuration_name,
            "supernet_plans": self.dataset.plans["plans_name"],
            "selected_on_fold": self.fold,
            "note": BIAS_NOTE,
            "device": self.device.type,
            "limits": {quantity.value: [interval.low, interval.high] for quantity, interval in budget.limits},
            "seed": self.settings.seed,
            "finetune_iterations": self.settings.finetune_iterations,
            "winner": winner.to_json(),
            "inherited_weights": str(weights),
            "inherited_weights_note": f"use them for fold {self.fold} only: they have seen the other folds' cases",
        }


def training_setup(dataset: PreprocessedDataset, device_type: str) -> TrainingSetup:
    """Return what the training memory of a sub-net depends on beside its architecture."""
    return TrainingSetup(
        patch_size=tuple(dataset.configuration.patch_size),
        batch_size=dataset.configuration.batch_size,
        input_channels=dataset.input_channels,
        num_classes=dataset.label_manager.num_segmentation_heads,
        autocast=device_type == "cuda",  # as nnU-Net's trainer does it
    )


def describe(found: Sequence[FoundNetwork]) -> list[dict[str, str]]:
    """Return one row for each network found, as text."""
    rows = []
    for network in found:
        winner = network.winner
        assert winner.shared is not None and winner.fine_tuned is not None
        rows.append(
            {
                "budget": network.budget.label,
                "predicted memory": format_bytes(winner.predicted_memory_bytes),
                "parameters": f"{winner.parameters / 1e6:.2f} M",
                "edges (convs)": f"{winner.architecture.n_edges} ({winner.architecture.n_convolutions})",
                "candidates": str(network.n_candidates),
                "DSC shared": f"{winner.shared.dsc:.4f}",
                "DSC fine-tuned": f"{winner.fine_tuned.dsc:.4f}",
                "plans": network.plans.stem if network.plans else "-",
            }
        )
    return rows
