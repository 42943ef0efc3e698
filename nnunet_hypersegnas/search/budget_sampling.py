"""Step 1 of the search: distinct architectures that meet the limits, however rare these are (paper section 3.2).

First the paper's uniform draws, as far as they land within the limits. Then draws with other probabilities of an edge
and of a convolution, tuned towards the limits. What is still open is filled by walks, whose random changes of a few
edges are kept as long as they do not lead away. Where memory is limited its window is cut into bins that get equal
shares, so that candidates do not crowd where the space is densest.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence

import numpy as np

from nnunet_hypersegnas.cost import PredictedCosts, Quantity
from nnunet_hypersegnas.search.limits import BudgetError, Interval, Limits
from nnunet_hypersegnas.space import (
    Architecture,
    Operation,
    SearchSpace,
    canonical,
    largest,
    mutate,
    rng_for,
    sample_codes,
    skip_path,
    to_codes,
)

BINS = 16
DRAWS = 4096  # architectures a round
UNIFORM_ROUNDS = TUNED_ROUNDS = 10
WALKERS = 256
WALK_ROUNDS = 150
START_CHOICES = 32  # a walk starts from the nearest of so many random architectures, so that starts differ

Predict = Callable[[np.ndarray], PredictedCosts]


def possible_range(space: SearchSpace, predict: Predict, quantity: Quantity) -> Interval:
    """Return between what a cost lies: a path of skips needs least, all edges most.

    Most of all with convolutions, or, for memory, with skips on some edges that lead down: such a skip keeps its pooled
    input, while a convolution shares its own with others.
    """
    paths = [skip_path(space, stem, output) for stem in range(space.n_scales) for output in range(stem + 1)]
    lowest = predict(to_codes(paths)).of(quantity).min()
    full = to_codes([largest(space)] * 2)
    full[1, :, [edge.target > edge.source for edge in space.edges]] = Operation.SKIP
    return Interval(lowest, max(_climb(codes, predict, quantity) for codes in full))


def out_of_range(quantity: Quantity, wanted: Interval, possible: Interval) -> str | None:
    """Return why no architecture has a cost that is wanted, given what is possible; None where some may have it."""
    if wanted.high >= possible.low and wanted.low <= possible.high:
        return None
    return (
        f"no architecture has {Limits({quantity: wanted})}: in this search space it is "
        f"{quantity.format(possible.low)} to {quantity.format(possible.high)}"
    )


def _climb(codes: np.ndarray, predict: Predict, quantity: Quantity) -> float:
    """Return the cost that exchanging one edge's operation at a time leads up to."""
    highest = predict(codes[None]).of(quantity)[0]
    changes = np.eye(codes.size, dtype=bool).reshape(-1, *codes.shape)
    for _ in range(codes.size):
        changed = np.where(changes, Operation.SKIP + Operation.CONV - codes, codes)
        costs = predict(changed).of(quantity)
        if costs.max() <= highest:
            break
        codes, highest = changed[costs.argmax()], costs.max()
    return highest


class BudgetSampler:
    """Gives distinct architectures within limits; what it gives depends on its arguments and the calls before alone.

    Args:
        space: the search space.
        predict: costs of codes of shape (n, L, E).
        limits: what the costs must be.
        seed: the run's seed.
        first: architectures that are given out before all others, where they meet the limits.

    Attributes:
        uniform, tuned, walked: how many architectures were found which way, those not given out yet included.

    Raises:
        BudgetError: no architecture can meet one of the limits; the message gives the smallest and the largest cost.
    """

    def __init__(
        self,
        space: SearchSpace,
        predict: Predict,
        limits: Limits,
        seed: int,
        first: Collection[Architecture] = (),
    ) -> None:
        self.space, self.predict, self.limits, self.seed = space, predict, limits, seed
        met = {}
        for quantity, interval in limits:
            possible = possible_range(space, predict, quantity)
            if reason := out_of_range(quantity, interval, possible):
                raise BudgetError(reason)
            met[quantity] = Interval(max(interval.low, possible.low), min(interval.high, possible.high))
        self.bins = Limits(met).bins(BINS)
        self.uniform = self.tuned = self.walked = 0
        self._seen: set[bytes] = set()
        self._ready: list[list[np.ndarray]] = [[] for _ in self.bins]
        self._calls = 0
        self._closest = np.inf
        self._first = self._meeting(first)

    def take(self, count: int) -> np.ndarray:
        """Return the codes of `count` further architectures, shape (count, L, E).

        Fewer come back where the limits hold no more, or none that some seconds of walking would find.

        Raises:
            BudgetError: none was found at all.
        """
        given, self._first = self._first[:count], self._first[count:]
        if len(given) == count:
            return np.array(given).reshape(-1, self.space.layers, len(self.space.edges))
        count -= len(given)
        self._calls += 1
        rng = rng_for(self.seed, "candidates", self._calls)
        # Evenly over the window, also where there are fewer to draw than bins.
        bins = (2 * np.arange(count) + 1) * len(self.bins) // (2 * count)
        share = np.bincount(bins, minlength=len(self.bins))
        for _ in range(UNIFORM_ROUNDS):
            if self._has(share):
                break
            self.uniform += self._offer(sample_codes(self.space, DRAWS, rng))
        pool = self._tuned_draws(share, rng)
        for limits, wanted, ready in zip(self.bins, share, self._ready, strict=True):
            self._walk(limits, wanted, [ready], pool, rng)
        self._walk(self.limits, count, self._ready, pool, rng)  # where bins cannot be filled, the others give more
        if not self._seen:
            raise BudgetError(
                f"no architecture was found with {self.limits}; the closest one misses by {self._closest:.2%}. Choose "
                "other limits, or a wider --tolerance"
            )
        return np.array([*given, *self._hand_out(share, count)])

    def _meeting(self, architectures: Collection[Architecture]) -> list[np.ndarray]:
        """Return the codes of those that meet the limits, each once; they count as seen."""
        if not architectures:
            return []
        codes = to_codes(list(dict.fromkeys(architectures)))
        found = list(codes[self.limits.distance(self.predict(codes)) == 0])
        self._seen |= {one.tobytes() for one in found}
        return found

    def _has(self, share: np.ndarray) -> bool:
        return all(len(ready) >= wanted for ready, wanted in zip(self._ready, share, strict=True))

    def _tuned_draws(self, share: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        """Draw with other densities of edges and convolutions, nearer and nearer to those that the limits need.

        Returns:
            Architectures of all densities, those near the limits most.
        """
        densities, pool = rng.random((DRAWS, 2)), []
        for _ in range(TUNED_ROUNDS):
            codes = sample_codes(self.space, DRAWS, rng, *densities.T)
            pool.append(codes)
            self.tuned += self._offer(codes)
            if self._has(share):
                break
            nearest = densities[self.limits.distance(self.predict(codes)).argsort(kind="stable")[: DRAWS // 20]]
            jitter = rng.normal(0, 0.03, (DRAWS, 2))
            densities = np.clip(nearest[rng.integers(len(nearest), size=DRAWS)] + jitter, 0.002, 0.998)
        return np.concatenate(pool)

    def _walk(
        self,
        limits: Limits,
        wanted: int,
        bins: Sequence[list[np.ndarray]],
        pool: np.ndarray,
        rng: np.random.Generator,
    ) -> None:
        """Walk towards the limits from architectures of the pool until the bins hold what is wanted, or give up."""
        distances = limits.distance(self.predict(pool))
        walkers, before = pool[:0], distances[:0]
        for turn in range(WALK_ROUNDS):
            if sum(map(len, bins)) >= wanted:
                return
            choices = rng.integers(len(pool), size=(WALKERS - len(walkers), START_CHOICES))
            starts = choices[np.arange(len(choices)), distances[choices].argmin(1)]
            walkers, before = np.concatenate([walkers, pool[starts]]), np.concatenate([before, distances[starts]])
            changed, valid = canonical(self.space, mutate(self.space, walkers, rng))
            after = np.where(valid, limits.distance(self.predict(changed)), np.inf)
            better = after <= before
            walkers[better], before[better] = changed[better], after[better]
            arrived = before == 0
            self.walked += self._offer(walkers[arrived])
            # Walks end where they arrive and begin anew elsewhere, so that not one neighbourhood fills a bin. Where
            # that does not do, they go on within the limits.
            if turn < WALK_ROUNDS // 2:
                walkers, before = walkers[~arrived], before[~arrived]

    def _offer(self, codes: np.ndarray) -> int:
        """Put those that meet the limits and are new into their bins; return how many."""
        costs = self.predict(codes)
        distance = self.limits.distance(costs)
        self._closest = min(self._closest, distance.min(initial=np.inf))
        of_bins = np.array([limits.distance(costs) for limits in self.bins])
        new = 0
        for i in np.flatnonzero(distance == 0):
            if (key := codes[i].tobytes()) not in self._seen:
                self._seen.add(key)
                self._ready[of_bins[:, i].argmin()].append(codes[i])
                new += 1
        return new

    def _hand_out(self, share: np.ndarray, count: int) -> list[np.ndarray]:
        chosen: list[np.ndarray] = []
        for ready, wanted in zip(self._ready, share, strict=True):
            chosen += ready[:wanted]
            del ready[:wanted]
        for ready in self._ready:  # what other bins could not give
            missing = count - len(chosen)
            chosen += ready[:missing]
            del ready[:missing]
        return chosen
