"""One run of the search on an nnU-Net data set: super-net in, the best networks under some budgets out."""

from __future__ import annotations

import math
import socket
import uuid
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch

from nnunet_hypersegnas.architectures import OneShotNetwork
from nnunet_hypersegnas.cost import CostModel, Quantity
from nnunet_hypersegnas.nnunet.cost_models import cost_model
from nnunet_hypersegnas.nnunet.crews import Crew
from nnunet_hypersegnas.nnunet.dataset import PreprocessedDataset
from nnunet_hypersegnas.nnunet.device_measuring import Measuring
from nnunet_hypersegnas.nnunet.digests import file_digest
from nnunet_hypersegnas.nnunet.run_folder import RunFolder, RunRecord, check_run_name
from nnunet_hypersegnas.nnunet.scoring import CropScorer
from nnunet_hypersegnas.nnunet.super_net_loading import check_space, check_trained, load_super_net
from nnunet_hypersegnas.nnunet.supernet_checkpoint import SuperNetRecord
from nnunet_hypersegnas.nnunet.validation_crops import (
    crops_name,
    keep_validation_crops,
    scoring_cases,
)
from nnunet_hypersegnas.search import (
    Budget,
    BudgetSampler,
    Candidate,
    Contest,
    Evaluation,
    Lead,
    Meter,
    Progress,
    RankingError,
    Rung,
    Score,
    SearchSettings,
    Source,
    Way,
    climb,
    gather,
    measured_candidates,
    predicted_candidates,
    ranking_fault,
    refine,
    rungs_of,
    strategy_of,
)
from nnunet_hypersegnas.space import Architecture, SearchSpace, named_architecture, names_of_architectures

# Workers stay while networks are measured where so many times the largest budget is free, and some more: kernels that
# are tried bring workspaces as large as the network, one that turns out to need more than the budget has to fit as
# well, and a budget of what torch allocates has neither CUDA's context in it nor what torch reserves beyond.
ROOM, ROOM_BYTES = 2, 2_000_000_000


@dataclass(frozen=True, kw_only=True)
class Spent:
    """What a search took.

    Attributes:
        evaluations: how many.
        cost_patches: scored patches plus three times the trained ones.
        seconds: of all workers together.
    """

    evaluations: int = 0
    cost_patches: int = 0
    seconds: float = 0.0

    def plus(self, evaluation: Evaluation) -> Spent:
        return Spent(
            evaluations=self.evaluations + 1,
            cost_patches=self.cost_patches + evaluation.cost_patches,
            seconds=self.seconds + evaluation.seconds,
        )


@dataclass(frozen=True, kw_only=True)
class Course:
    """The way of a search.

    Attributes:
        rungs: the cheapest first.
        labels: that the first rung shows.
    """

    rungs: Sequence[Rung]
    labels: Sequence[str]

    def ranking_fault(self, contests: Sequence[Contest]) -> str | None:
        """Return why the scores on the first rung rank nothing, or None where they do."""
        scored = {c.architecture: c.scores for contest in contests for c in contest.candidates}
        return ranking_fault([scores[self.rungs[0]] for scores in scored.values()], self.labels)


class _MeterAlone:
    """Measures after making room on the device, where that is needed."""

    def __init__(self, meter: Meter, make_room: Callable[[], None]) -> None:
        self._meter, self._make_room = meter, make_room

    def measure(self, architecture: Architecture) -> Mapping[Quantity, float]:
        self._make_room()
        return self._meter.measure(architecture)


class SuperNetSearch:
    """A search in one trained super-net. Making one is cheap: the super-net is loaded when it is needed.

    Args:
        dataset: data set and configuration that the super-net was trained on.
        fold: its fold; also the one whose validation cases score the candidates.
        trainer: name of the trainer class that trained it.
        device: type of the devices that evaluate sub-nets, and where costs are measured.
        settings: see `SearchSettings`.
        run_name: names the run's folder.

    Raises:
        CheckpointError: no final checkpoint.
        DatasetError: there is no such fold.
        RunError: the name is no folder's.
    """

    def __init__(
        self,
        dataset: PreprocessedDataset,
        fold: int,
        trainer: str,
        device: torch.device,
        settings: SearchSettings,
        run_name: str,
    ) -> None:
        check_run_name(run_name)
        self.dataset, self.fold, self.trainer, self.device, self.settings = dataset, fold, trainer, device, settings
        folder = dataset.trained_folder(trainer, fold)
        self.checkpoint = folder / "checkpoint_final.pth"
        check_trained(dataset, self.checkpoint)
        self.cases = scoring_cases(dataset, fold, settings.validation_cases)
        self.folder = RunFolder(folder / "search" / run_name)
        self.spent = Spent()

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
        """The super-net, on the CPU.

        Raises:
            CheckpointError: annealing is incomplete, or it was trained for another search space or label set.
        """
        return load_super_net(self.dataset, self.checkpoint)[1]

    @cached_property
    def costs(self) -> CostModel:
        """Predicts the costs of sub-nets.

        Raises:
            CheckpointError: the checkpoint cannot be read, or is of another search space.
            SetupError: the plans' patch does not fit the search space.
        """
        record = SuperNetRecord.read(self.checkpoint)
        return cost_model(self.dataset, self.device.type, check_space(self.dataset, record, self.checkpoint))

    def record(self, budgets: Sequence[Budget], memory: str, storage: str | None) -> RunRecord:
        """Return what names this search.

        Args:
            budgets: one network is searched for each.
            memory: the metric of memory, or "predicted".
            storage: without its password; None for the run's own.

        Raises:
            RunError: the run's folder holds a search with other arguments.
        """
        plans = self.dataset.plans["plans_name"]
        return self.folder.continued(
            RunRecord(
                dataset=self.dataset.name,
                configuration=self.dataset.configuration_name,
                fold=self.fold,
                plans=plans,
                trainer=self.trainer,
                super_net=file_digest(self.checkpoint),
                device=self.device.type,
                memory=memory,
                budgets={budget.label: str(budget) for budget in budgets},
                settings=self.settings,
                crops=crops_name(self.dataset, self.cases),
                storage=storage,
                host=socket.gethostname(),
                study=f"{self.dataset.name} {plans} fold {self.fold} {self.folder.path.name} {uuid.uuid4().hex[:8]}",
                prepared=False,
            )
        )

    def prepare(self, record: RunRecord) -> Course:
        """Cut the crops, where they are not there, and return the search's course.

        Raises:
            DatasetError: the fold's validation cases cannot be used.
        """
        crops_folder = self.folder.path.parent / record.crops
        crops = keep_validation_crops(crops_folder, self.dataset, self.fold, self.settings.validation_cases)
        scorer = CropScorer(self.dataset, crops, torch.device("cpu"))
        rungs = rungs_of(
            self.settings,
            crops=len(scorer.crops),
            patches=len(scorer.patches),
            batch_size=self.dataset.configuration.batch_size,
        )
        first = rungs[0]
        return Course(rungs=rungs, labels=scorer.labels_shown(first.amount if first.way is Way.PATCHES else None))

    def contests(self, budgets: Sequence[Budget], measuring: Measuring) -> list[Contest]:
        """Return the budgets with where their candidates come from.

        Raises:
            BudgetError: no architecture can fit.
        """
        expected = measuring.expected(self.costs.predict)
        # Hand-made networks that fit a budget take part, so that a search does no worse than they do.
        named = [named_architecture(name, self.space) for name in names_of_architectures()]
        samplers = [BudgetSampler(self.space, expected, budget.limits, self.settings.seed, named) for budget in budgets]
        return [
            Contest(budget, strategy_of(self.settings, sampler), [], frozenset(named))
            for budget, sampler in zip(budgets, samplers, strict=True)
        ]

    def run(
        self,
        contests: Sequence[Contest],
        course: Course,
        lead: Lead,
        crew: Crew,
        measuring: Measuring,
        progress: Progress,
        *,
        force: bool = False,
    ) -> None:
        """Draw, evaluate and fine-tune the contests' candidates; what was evaluated before is not evaluated again.

        Raises:
            BudgetError: no architecture meets a budget.
            EvaluationError, CrewError: nothing gets evaluated.
            RankingError: scores on the first rung rank nothing; with `force` the search goes on all the same.
        """
        rungs = course.rungs
        stage: dict[str, Any] = {"rungs": [rung.to_json() for rung in rungs], "budgets": len(contests), "totals": {}}

        def evaluate(rung: Rung, architectures: Sequence[Architecture]) -> dict[Architecture, Score]:
            totals = stage["totals"]
            totals[rung.name] = totals.get(rung.name, 0) + len(architectures)
            lead.announce({**stage, "now": rung.name})
            best = -math.inf
            with progress(rung.title, len(architectures)) as bar:

                def note(evaluation: Evaluation) -> None:
                    nonlocal best
                    self.spent = self.spent.plus(evaluation)
                    if not math.isnan(evaluation.score.dsc):
                        best = max(best, evaluation.score.dsc)
                    bar.advance(best)

                found = lead.evaluate(
                    rung, architectures, on_done=note, meanwhile=lambda: crew.watch(self.spent.evaluations)
                )
            return {architecture: evaluation.score for architecture, evaluation in found.items()}

        largest_bytes = max(contest.budget.limits.highest(Quantity.MEMORY) for contest in contests)
        needed_bytes = ROOM * largest_bytes + ROOM_BYTES

        def make_room() -> None:
            if measuring.free_bytes() < needed_bytes and (ended := crew.make_room()):
                lead.release(ended)

        def alone(meter: Meter | None) -> Meter | None:
            return None if meter is None else _MeterAlone(meter, make_room)

        def draw(source: Source, count: int) -> list[Candidate]:
            lead.announce({**stage, "now": "drawing candidates"})
            drawn = self._draw(source, count, alone(measuring.candidates), progress)
            measuring.release()
            return drawn

        gather(contests, rungs[0], draw, evaluate)
        if not force and (fault := course.ranking_fault(contests)):
            lead.announce({**stage, "now": "stopped, since the super-net cannot rank its sub-nets yet"})
            raise RankingError(
                f"{self.checkpoint} cannot rank its sub-nets yet: {rungs[0].title}, {fault}. Train it longer (epochs), "
                "with more foreground (oversample_foreground), both in the plans' hypersegnas block, or with a smaller "
                "patch; --force goes on all the same, and scores nothing anew"
            )
        climb(contests, rungs, evaluate, alone(measuring.finalists))
        refine(contests, rungs, self.settings.refinements, draw, evaluate, alone(measuring.finalists))
        lead.announce({**stage, "now": "finished"})

    def _draw(self, source: Source, count: int, meter: Meter | None, progress: Progress) -> list[Candidate]:
        if meter is None or not source.limits.measurable:
            return predicted_candidates(source, count)
        with progress("measuring candidates", count) as bar:
            return measured_candidates(source, count, meter, bar)
