"""One run of the search on an nnU-Net data set: super-net in, plans out."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import torch

import nnunet_hypersegnas
from nnunet_hypersegnas.architectures import OneShotNetwork
from nnunet_hypersegnas.atomic import write_json, written_atomically
from nnunet_hypersegnas.cost import CostModel, Quantity
from nnunet_hypersegnas.nnunet.cost_models import cost_model
from nnunet_hypersegnas.nnunet.dataset import PreprocessedDataset, read_plans
from nnunet_hypersegnas.nnunet.device_measuring import Measuring
from nnunet_hypersegnas.nnunet.plans import PROVENANCE, PlansError, check_plans_name, searched_plans
from nnunet_hypersegnas.nnunet.scoring import CropScorer
from nnunet_hypersegnas.nnunet.sub_net_evaluator import FineTuningPlan, Stages, SubNetEvaluator, digest
from nnunet_hypersegnas.nnunet.super_net_loading import check_trained, load_super_net
from nnunet_hypersegnas.nnunet.validation_crops import load_validation_crops, scoring_cases
from nnunet_hypersegnas.search import (
    Budget,
    BudgetSampler,
    Candidate,
    Distribution,
    Meter,
    Progress,
    SearchSettings,
    coarse_to_fine,
    measured_candidates,
    predicted_candidates,
)
from nnunet_hypersegnas.space import SearchSpace

BIAS_NOTE = "selection-biased: this fold's validation cases chose the architecture"
CONTENT = "content"  # key of the provenance that tells whether plans were edited since they were written


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
    """The searches of one trained super-net. Making one is cheap: the super-net is loaded when it is needed.

    Args:
        dataset: data set and configuration that the super-net was trained on.
        fold: its fold; also the one whose validation cases score the candidates.
        trainer: name of the trainer class that trained it.
        device: where sub-nets are scored and fine-tuned.
        settings: see `SearchSettings`.

    Raises:
        CheckpointError: no final checkpoint.
        DatasetError: there is no such fold.
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
        self.folder = folder / "search"
        self.checkpoint = folder / "checkpoint_final.pth"
        check_trained(dataset, self.checkpoint)
        self.fine_tuning = FineTuningPlan(
            iterations=settings.finetune_iterations, learning_rate=settings.finetune_lr, seed=settings.seed
        )
        stat = self.checkpoint.stat()
        cases = scoring_cases(dataset, fold, settings.validation_cases)
        self.stages = Stages.of(f"{stat.st_size} {stat.st_mtime_ns}", cases, self.fine_tuning)

    def load_super_net(self) -> None:
        """Load the super-net now, with its errors, rather than when it is needed.

        Raises:
            CheckpointError: see `network`.
            SetupError: see `costs`.
        """
        _ = self.network, self.costs

    @property
    def space(self) -> SearchSpace:
        return self.costs.space

    @cached_property
    def network(self) -> OneShotNetwork:
        """The super-net, on the CPU until `evaluator` needs it.

        Raises:
            CheckpointError: annealing is incomplete, or it was trained for another search space or label set.
        """
        return load_super_net(self.dataset, self.checkpoint)[1]

    @cached_property
    def costs(self) -> CostModel:
        """Predicts the costs of sub-nets.

        Raises:
            SetupError: the plans' patch does not fit the search space.
        """
        return cost_model(self.dataset, self.device.type)

    @cached_property
    def evaluator(self) -> SubNetEvaluator:
        """Scores sub-nets on the device.

        Raises:
            DatasetError: the fold's validation cases cannot be used.
        """
        crops = load_validation_crops(self.dataset, self.fold, self.settings.validation_cases)
        return SubNetEvaluator(
            self.dataset,
            self.fold,
            self.network.to(self.device),
            CropScorer(self.dataset, crops, self.device),
            folder=self.folder,
            stages=self.stages,
            plan=self.fine_tuning,
            device=self.device,
        )

    def sampler(self, budget: Budget, measuring: Measuring) -> BudgetSampler:
        """Return what draws the candidates of a budget (step 1).

        Raises:
            BudgetError: no architecture can fit.
        """
        return BudgetSampler(self.space, measuring.expected(self.costs.predict), budget.limits, self.settings.seed)

    def candidates(self, sampler: BudgetSampler, meter: Meter | None, progress: Progress) -> list[Candidate]:
        """Draw candidates; by measured costs where a meter is given and the budget limits what it measures.

        Raises:
            BudgetError: no architecture fits.
        """
        if meter is None or not sampler.limits.measurable:
            return predicted_candidates(sampler, self.settings.candidates)
        with progress("measuring candidates", self.settings.candidates) as bar:
            return measured_candidates(sampler, self.settings.candidates, meter, bar)

    def search(
        self,
        budget: Budget,
        candidates: Sequence[Candidate],
        plans_name: str | None,
        measuring: Measuring,
        progress: Progress,
    ) -> FoundNetwork:
        """Find the best of a budget's candidates; write its record, its inherited weights and, named, its plans."""
        ranked = coarse_to_fine(
            candidates, self.evaluator, self.settings.finalists, progress, budget.limits, measuring.finalists
        )
        winner = ranked[0]
        name = budget.plans_name(plans_name) if plans_name else f"no_plans_{budget.plans_name('budget')}"
        weights = self.folder / f"{name}_weights_fold{self.fold}.pth"
        with written_atomically(weights) as temporary:
            shutil.copyfile(self.evaluator.weights_file(winner.architecture), temporary)
        provenance = self._provenance(budget, winner, weights, measuring)
        record = self.folder / f"{name}.json"
        distribution = Distribution.of(candidates, self.space)
        write_json(
            record,
            {**provenance, "distribution": distribution.to_json(), "candidates": [c.to_json() for c in ranked]},
        )
        plans = self.dataset.folder / f"{name}.json" if plans_name else None
        if plans:
            self._write_plans(plans, winner, provenance)
        return FoundNetwork(
            budget=budget,
            winner=winner,
            n_candidates=len(ranked),
            fold=self.fold,
            record=record,
            plans=plans,
            weights=weights,
        )

    def _write_plans(self, path: Path, winner: Candidate, provenance: dict[str, Any]) -> None:
        plans = searched_plans(
            self.dataset.plans,
            self.dataset.configuration_name,
            path.stem,
            self.space,
            winner.architecture,
            provenance,
        )
        plans[PROVENANCE][CONTENT] = digest(plans)
        write_json(path, plans)

    def check_plans_names(self, budgets: Sequence[Budget], plans_name: str, overwrite: bool) -> None:
        """Refuse to replace plans that this very search did not write, or that were edited since.

        Raises:
            PlansError: naming every file that is in the way.
        """
        check_plans_name(plans_name)
        taken = []
        for budget in budgets:
            path = self.dataset.folder / f"{budget.plans_name(plans_name)}.json"
            if path.exists() and not overwrite:
                found = read_plans(self.dataset.folder, path.stem)
                provenance = found.get(PROVENANCE, {})
                content = provenance.pop(CONTENT, None)
                if provenance.get("search") != self._identity(budget) or content != digest(found):
                    taken.append(path.name)
        if taken:
            raise PlansError(
                f"{', '.join(taken)} exist already in {self.dataset.folder}; choose another name with --plans, or "
                "replace them with --overwrite"
            )

    def close(self) -> None:
        if "evaluator" in self.__dict__:
            self.evaluator.close()

    def _identity(self, budget: Budget) -> str:
        """Name this search: equal arguments on an equal super-net give equal names."""
        s = self.settings
        return digest(self.stages.fine_tuned, self.device.type, str(budget.limits), s.candidates, s.finalists)

    def _provenance(self, budget: Budget, winner: Candidate, weights: Path, measuring: Measuring) -> dict[str, Any]:
        calibration = measuring.calibration
        return {
            "package_version": nnunet_hypersegnas.__version__,
            "search": self._identity(budget),
            "dataset": self.dataset.name,
            "configuration": self.dataset.configuration_name,
            "supernet_plans": self.dataset.plans["plans_name"],
            "selected_on_fold": self.fold,
            "note": BIAS_NOTE,
            "device": self.device.type,
            "memory_metric": measuring.metric.value if measuring.metric else "predicted",
            "calibrated_on": vars(calibration.conditions) if calibration else None,
            "limits": {quantity.value: [interval.low, interval.high] for quantity, interval in budget.limits},
            "seed": self.settings.seed,
            "finetune_iterations": self.settings.finetune_iterations,
            "winner": winner.to_json(),
            "inherited_weights": str(weights),
            "inherited_weights_note": f"use them for fold {self.fold} only: they have seen the other folds' cases",
        }


def describe(found: Sequence[FoundNetwork]) -> list[dict[str, str]]:
    """Return one row for each network found, as text; measured costs have columns of their own."""

    def text(quantity: Quantity, value: float | None) -> str:
        return "-" if value is None else quantity.format(value)

    rows = []
    for network in found:
        winner = network.winner
        assert winner.shared is not None and winner.fine_tuned is not None
        rows.append(
            {
                "budget": network.budget.label,
                "predicted memory": text(Quantity.MEMORY, winner.predicted_memory_bytes),
                "measured memory": text(Quantity.MEMORY, winner.measured.get(Quantity.MEMORY)),
                "parameters": text(Quantity.PARAMETERS, winner.parameters),
                "multiply-adds": text(Quantity.MULTIPLY_ADDS, winner.multiply_adds),
                "predicted latency": text(Quantity.LATENCY, winner.predicted_latency_ms),
                "measured latency": text(Quantity.LATENCY, winner.measured.get(Quantity.LATENCY)),
                "edges (convs)": f"{winner.architecture.n_edges} ({winner.architecture.n_convolutions})",
                "candidates": str(network.n_candidates),
                "DSC shared": f"{winner.shared.dsc:.4f}",
                "DSC fine-tuned": f"{winner.fine_tuned.dsc:.4f}",
                "plans": network.plans.stem if network.plans else "-",
            }
        )
    unknown = [key for key in rows[0] if all(row[key] == "-" for row in rows) and key != "measured memory"]
    return [{key: text for key, text in row.items() if key not in unknown} for row in rows]
