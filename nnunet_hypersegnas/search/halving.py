"""Successive halving (Jamieson and Talwalkar, 2016) over the rungs of a search, for several budgets at once.

Synchronous: no candidate climbs before all of its rung are evaluated, so the result depends on the scores alone and not
on who answered first. An architecture that is a candidate of several budgets is evaluated once.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from nnunet_hypersegnas.errors import HyperSegNASError
from nnunet_hypersegnas.search.budgets import Budget
from nnunet_hypersegnas.search.candidates import Candidate, Meter, Source
from nnunet_hypersegnas.search.limits import BudgetError
from nnunet_hypersegnas.search.rungs import Rung, Way
from nnunet_hypersegnas.search.score import Score
from nnunet_hypersegnas.search.strategies import Strategy
from nnunet_hypersegnas.space import Architecture

MOST_TRIED = 5  # times the finalists asked for, where finalists are measured and miss the budget

Scores = Mapping[Architecture, Score]
Evaluate = Callable[[Rung, Sequence[Architecture]], Scores]
Draw = Callable[[Source, int], list[Candidate]]


@dataclass
class Contest:
    """The candidates of one budget.

    Attributes:
        budget: with its limits.
        strategy: where candidates come from.
        candidates: all so far, with their scores.
        seeded: architectures that climb to the last rung whatever their scores are on the way.
        gathered: how many candidates there were before any of them climbed.
    """

    budget: Budget
    strategy: Strategy
    candidates: list[Candidate]
    seeded: frozenset[Architecture] = frozenset()
    gathered: int = 0

    def note(self, rung: Rung, climbing: Sequence[Candidate], scores: Scores) -> None:
        """Add the scores of those that climbed."""
        chosen = {candidate.architecture for candidate in climbing}
        self.candidates = [
            c.scored(rung, scores[c.architecture]) if c.architecture in chosen else c for c in self.candidates
        ]

    def best(self, count: int) -> list[Candidate]:
        return sorted(self.candidates, key=lambda c: c.standing)[:count]

    def climbing(self, count: int) -> list[Candidate]:
        """Return the best candidates, and beside them those that climb anyway."""
        best = self.best(count)
        return best + [c for c in self.candidates if c.architecture in self.seeded and c not in best]


def gather(contests: Sequence[Contest], rung: Rung, draw: Draw, evaluate: Evaluate) -> None:
    """Draw the candidates of all budgets, generation by generation, and score each on the first rung.

    Raises:
        BudgetError: no architecture meets a budget.
    """
    sizes = [contest.strategy.generations() for contest in contests]
    for generation in range(max(map(len, sizes))):
        drawn: list[list[Candidate]] = []
        for contest, of_contest in zip(contests, sizes, strict=True):
            count = of_contest[generation] if generation < len(of_contest) else 0
            drawn.append(draw(contest.strategy.source(generation, contest.candidates), count) if count else [])
            contest.candidates = contest.candidates + drawn[-1]
        _evaluate(contests, rung, drawn, evaluate)
    for contest in contests:
        contest.gathered = len(contest.candidates)


def climb(contests: Sequence[Contest], rungs: Sequence[Rung], evaluate: Evaluate, meter: Meter | None = None) -> None:
    """Let the best candidates of each budget climb the rungs.

    Args:
        contests: their candidates are scored on the first rung.
        rungs: all of the search.
        evaluate: scores architectures on a rung.
        meter: measures those that are to be fine-tuned; one that misses the limits gives its place to the next best.

    Raises:
        HyperSegNASError: no candidate could be scored.
        BudgetError: none of a budget's best meets its limits when measured.
    """
    tuning = False
    for rung in rungs[1:]:
        if all(
            math.isnan(score.dsc) for contest in contests for c in contest.candidates for score in c.scores.values()
        ):
            raise HyperSegNASError("no candidate could be scored: no validation crop holds a foreground label")
        if rung.way is Way.FINE_TUNING and not tuning:
            tuning = True
            climbing = [_within_budget(contest, rung.keep, meter) for contest in contests]
        else:
            climbing = [contest.climbing(rung.keep) for contest in contests]
        _evaluate(contests, rung, climbing, evaluate)


def refine(
    contests: Sequence[Contest],
    rungs: Sequence[Rung],
    rounds: int,
    draw: Draw,
    evaluate: Evaluate,
    meter: Meter | None = None,
) -> None:
    """Fine-tune neighbours of the best fine-tuned networks, as many in a round as there are finalists.

    Shared weights favour networks with many edges over sparse ones, which gain more by fine-tuning
    (docs/experiments.md). Here networks are compared after fine-tuning only: what shared weights say of the neighbours
    is noted, and decides nothing.

    Args:
        contests: whose candidates have climbed all rungs.
        rungs: all of the search.
        rounds: each starts from the best of those before.
        draw, evaluate, meter: as in `gather` and `climb`.
    """
    tuning = [rung for rung in rungs if rung.way is Way.FINE_TUNING]
    for number in range(1, rounds + 1):
        neighbours = [_neighbours(contest, number, tuning[0].keep, draw, meter) for contest in contests]
        if not any(neighbours):
            break
        for contest, drawn in zip(contests, neighbours, strict=True):
            contest.candidates = contest.candidates + drawn
        of_round = [{candidate.architecture for candidate in drawn} for drawn in neighbours]
        for rung in rungs:
            ranked = [
                [c for c in contest.best(len(contest.candidates)) if c.architecture in members]
                for contest, members in zip(contests, of_round, strict=True)
            ]
            keep = rung.keep if rung in tuning else max(map(len, neighbours))
            _evaluate(contests, rung, [candidates[:keep] for candidates in ranked], evaluate)


def _neighbours(contest: Contest, number: int, count: int, draw: Draw, meter: Meter | None) -> list[Candidate]:
    """Return new candidates near the best ones within the budget, none where there are none."""
    source = contest.strategy.neighbours(number, contest.candidates)
    if source is None:
        return []
    try:
        drawn = draw(source, count)
    except BudgetError:  # all that meet the budget are known; the search has its networks
        return []
    if meter is None:
        return drawn
    return [c for c in (one.measured_by(meter) for one in drawn) if c.meets(contest.budget.limits)]


def _evaluate(
    contests: Sequence[Contest], rung: Rung, climbing: Sequence[Sequence[Candidate]], evaluate: Evaluate
) -> None:
    scores = evaluate(rung, list(dict.fromkeys(c.architecture for candidates in climbing for c in candidates)))
    for contest, candidates in zip(contests, climbing, strict=True):
        contest.note(rung, candidates, scores)


def _within_budget(contest: Contest, count: int, meter: Meter | None) -> list[Candidate]:
    """Return the best candidates that meet the limits when measured in a process of their own."""
    if meter is None:
        return contest.climbing(count)
    ranked, kept = contest.best(len(contest.candidates)), list[Candidate]()
    for place, candidate in enumerate(ranked):
        seeded = candidate.architecture in contest.seeded
        if not seeded and (len(kept) >= count or place >= MOST_TRIED * count):
            continue
        ranked[place] = candidate.measured_by(meter)
        if ranked[place].meets(contest.budget.limits):
            kept.append(ranked[place])
    contest.candidates = ranked
    # Those that miss the budget climb no more.
    contest.seeded &= frozenset(candidate.architecture for candidate in kept)
    if not kept:
        raise BudgetError(
            f"none of the {min(len(ranked), MOST_TRIED * count)} best candidates has {contest.budget.limits} when "
            "measured in a process of its own; choose another budget or a wider --tolerance"
        )
    return kept


def winner(budget: Budget, contests: Sequence[Contest], last: Rung) -> Candidate:
    """Return the best network that the search found within a budget, a smaller budget's finalists included.

    Raises:
        BudgetError: none was fine-tuned.
    """
    finished = [c for contest in contests for c in contest.candidates if last in c.scores]
    allowed = [c for c in finished if all(c.cost(quantity) <= limit.high for quantity, limit in budget.limits)]
    if not allowed:
        raise BudgetError(f"no finalist has {budget.limits}; choose another budget or a wider --tolerance")
    return min(allowed, key=lambda c: c.standing)


def pareto_front(contests: Sequence[Contest], last: Rung) -> list[Candidate]:
    """Return the fine-tuned networks than which none is both smaller and better, by memory."""
    finished = {c.architecture: c for contest in contests for c in contest.candidates if last in c.scores}
    front: list[Candidate] = []
    for candidate in sorted(finished.values(), key=lambda c: (c.memory_bytes, c.standing)):
        dsc = candidate.scores[last].dsc
        if not math.isnan(dsc) and (not front or dsc > front[-1].scores[last].dsc):
            front.append(candidate)
    return front
