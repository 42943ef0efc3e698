"""What the costs of a search's candidates must be."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import numpy as np

from nnunet_hypersegnas.cost import PredictedCosts, Quantity
from nnunet_hypersegnas.errors import HyperSegNASError


class BudgetError(HyperSegNASError):
    """Limits that no architecture meets."""


@dataclass(frozen=True)
class Interval:
    """Values from `low` to `high`, both included."""

    low: float
    high: float

    @classmethod
    def below(cls, budget: float, tolerance: float) -> Interval:
        """What a budget allows: the budget itself, and at most `tolerance` less."""
        return cls(max(0, budget - tolerance), budget)

    @classmethod
    def around(cls, budget: float, tolerance: float) -> Interval:
        """The paper's window, within the tolerance on both sides (section 4: 300 MB)."""
        return cls(max(0, budget - tolerance), budget + tolerance)

    @classmethod
    def at_most(cls, budget: float) -> Interval:
        return cls(0, budget)

    def __contains__(self, value: float) -> bool:
        return self.low <= value <= self.high

    def distance(self, values: np.ndarray) -> np.ndarray:
        """Return how far values lie outside, relative to `high`; 0 inside."""
        outside = np.maximum(np.maximum(self.low - values, values - self.high), 0)
        return outside / self.high


@dataclass(frozen=True)
class Limits:
    """Intervals that a candidate's costs must lie in, all of them.

    Attributes:
        intervals: by quantity, one at least.
    """

    intervals: Mapping[Quantity, Interval]

    def __iter__(self) -> Iterator[tuple[Quantity, Interval]]:
        return iter(self.intervals.items())

    def distance(self, costs: PredictedCosts) -> np.ndarray:
        """Return for each architecture how far it is from meeting all limits, shape (n,); 0 where it does."""
        return np.sum([interval.distance(costs.of(quantity)) for quantity, interval in self], axis=0)

    def highest(self, quantity: Quantity) -> float:
        """Return the most that is allowed of a quantity; infinity where it is not limited."""
        return self.intervals[quantity].high if quantity in self.intervals else math.inf

    @property
    def measurable(self) -> bool:
        """Whether measuring can tell more than predicting: parameters and multiply-adds are exact anyway."""
        return bool(self.intervals.keys() & {Quantity.MEMORY, Quantity.LATENCY})

    def bins(self, count: int) -> list[Limits]:
        """Cut the memory's interval into equal parts; where memory is not limited there is one bin, these limits."""
        if Quantity.MEMORY not in self.intervals:
            return [self]
        interval = self.intervals[Quantity.MEMORY]
        ends = np.linspace(interval.low, interval.high, count + 1)
        parts = [Interval(low, high) for low, high in itertools.pairwise(ends)]
        return [Limits({**self.intervals, Quantity.MEMORY: part}) for part in parts]

    def __str__(self) -> str:
        def text(quantity: Quantity, interval: Interval) -> str:
            if interval.low <= 0:
                return f"{quantity.value} at most {quantity.format(interval.high)}"
            return f"{quantity.value} {quantity.format(interval.low)} to {quantity.format(interval.high)}"

        return ", ".join(text(quantity, interval) for quantity, interval in self)
