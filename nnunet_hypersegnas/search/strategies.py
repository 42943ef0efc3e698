"""Where a budget's candidates come from: drawn at random, or generation by generation from the best ones so far."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Protocol

import numpy as np

from nnunet_hypersegnas.search.budget_sampling import BudgetSampler, Predict
from nnunet_hypersegnas.search.candidates import Candidate, Source
from nnunet_hypersegnas.search.predictor import ScorePredictor
from nnunet_hypersegnas.search_settings import SearchSettings
from nnunet_hypersegnas.space import canonical, cross_over, mutate, rng_for, to_codes

FIRST_SHARE = 0.4  # of the candidates are drawn at random before the first offspring
GENERATIONS = 6  # of offspring
PARENT_SHARE, FEWEST_PARENTS = 0.15, 8  # of all candidates so far are parents, by their score on the first rung
REFINED = 3  # fine-tuned networks whose neighbours are fine-tuned
CHILDREN = 1024  # bred at a time
ROUNDS = 30
CHOICE = 8  # children to each one that the predictor may choose


class Strategy(Protocol):
    """Proposes the candidates of one budget; what it proposes follows from the seed and the scores alone."""

    def generations(self) -> list[int]:
        """Return how many candidates each generation has."""

    def source(self, generation: int, candidates: Sequence[Candidate]) -> Source:
        """Return where a generation comes from, given all candidates before it, with their scores."""

    def neighbours(self, number: int, candidates: Sequence[Candidate]) -> Source | None:
        """Return where neighbours of the best candidates come from, in a round of `refine`; None: there are none."""

    @property
    def report(self) -> list[str]:
        """Lines that tell the user how it went."""


def strategy_of(settings: SearchSettings, sampler: BudgetSampler) -> Strategy:
    """Return the strategy that the settings name."""
    if settings.strategy == "evolution":
        return Evolution(sampler, settings.candidates)
    return Random(sampler, settings.candidates)


class Random:
    """All candidates are drawn at random, as in the paper."""

    report: list[str] = []  # noqa: RUF012  there is nothing to tell

    def __init__(self, sampler: BudgetSampler, count: int) -> None:
        self.sampler, self.count = sampler, count

    def generations(self) -> list[int]:
        return [self.count]

    def source(self, generation: int, candidates: Sequence[Candidate]) -> Source:
        return self.sampler

    def neighbours(self, number: int, candidates: Sequence[Candidate]) -> Source | None:
        return None


class Evolution:
    """A random generation, then offspring of the best, chosen by a predictor as far as that is any good."""

    def __init__(self, sampler: BudgetSampler, count: int) -> None:
        self.sampler, self.count = sampler, count
        self.report: list[str] = []

    def generations(self) -> list[int]:
        first = min(self.count, max(2 * FEWEST_PARENTS, math.ceil(FIRST_SHARE * self.count)))
        rest, sizes = self.count - first, [first]
        for left in range(GENERATIONS, 0, -1):
            sizes.append(math.ceil(rest / left))
            rest -= sizes[-1]
        return [size for size in sizes if size]

    def source(self, generation: int, candidates: Sequence[Candidate]) -> Source:
        if not generation or not candidates:
            return self.sampler
        predictor = ScorePredictor.fitted(candidates, self.sampler.predict, self.sampler.seed)
        self.report.append(f"generation {generation}: {predictor}")
        return Offspring(self.sampler, generation, candidates, predictor if predictor.is_useful else None)

    def neighbours(self, number: int, candidates: Sequence[Candidate]) -> Source | None:
        return Offspring(self.sampler, GENERATIONS + number, candidates, None, n_parents=REFINED)


class Offspring:
    """Children of the best candidates within the same limits, each one new; a source of candidates.

    Where no more children are to be had, the sampler fills up.

    Args:
        sampler: gives the limits.
        generation: its number.
        candidates: all so far, with their scores.
        predictor: chooses among the children, if there is one.
        n_parents: how many of the best candidates are parents; by default a share of all.
    """

    def __init__(
        self,
        sampler: BudgetSampler,
        generation: int,
        candidates: Sequence[Candidate],
        predictor: ScorePredictor | None,
        n_parents: int | None = None,
    ) -> None:
        self.sampler, self.generation, self.predictor = sampler, generation, predictor
        self.predict: Predict = sampler.predict
        self.limits, self.seed = sampler.limits, sampler.seed
        ranked = sorted(candidates, key=lambda c: c.standing)
        n_parents = n_parents or max(FEWEST_PARENTS, math.ceil(PARENT_SHARE * len(ranked)))
        self.parents = to_codes([candidate.architecture for candidate in ranked[:n_parents]])
        self._known = {codes.tobytes() for codes in to_codes([candidate.architecture for candidate in ranked])}
        self._calls = 0

    def take(self, count: int) -> np.ndarray:
        self._calls += 1
        rng = rng_for(self.seed, "offspring", self.generation, self._calls)
        children = self._breed(count * (CHOICE if self.predictor else 1), rng)
        if self.predictor and len(children):
            children = children[np.argsort(-self.predictor(children), kind="stable")]
        chosen = list(children[:count])
        self._known |= {codes.tobytes() for codes in chosen}
        while len(chosen) < count:
            drawn = [c for c in self.sampler.take(count - len(chosen)) if c.tobytes() not in self._known]
            if not drawn:
                break
            chosen += drawn
            self._known |= {codes.tobytes() for codes in drawn}
        return np.array(chosen)

    def _breed(self, count: int, rng: np.random.Generator) -> np.ndarray:
        """Return up to `count` distinct new children within the limits."""
        space, found = self.sampler.space, dict[bytes, np.ndarray]()
        for _ in range(ROUNDS):
            mothers, fathers = self.parents[rng.integers(len(self.parents), size=(2, CHILDREN))]
            crossed = cross_over(mothers, fathers, rng)
            children = np.where(rng.random((CHILDREN, 1, 1)) < 0.5, crossed, mothers)
            children, valid = canonical(space, mutate(space, children, rng))
            meeting = valid & (self.limits.distance(self.predict(children)) == 0)
            for child in children[meeting]:
                key = child.tobytes()
                if key not in self._known and key not in found:
                    found[key] = child
            if len(found) >= count:
                break
        bred = list(found.values())[:count]
        return np.array(bred, dtype=np.int8).reshape(-1, space.layers, len(space.edges))
