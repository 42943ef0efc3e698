"""Where budgets lie in a search space: among the candidates that are drawn, and how many the sampler finds there."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from nnunet_hypersegnas.cost import PredictedCosts, Quantity
from nnunet_hypersegnas.search.budget_sampling import BudgetSampler, Predict, out_of_range, possible_range
from nnunet_hypersegnas.search.budgets import Budget
from nnunet_hypersegnas.search.limits import BudgetError, Interval
from nnunet_hypersegnas.space import SearchSpace, rng_for, sample_codes

DRAWN = 4000  # architectures that quantiles are of
COMFORTABLE = Interval(0.1, 0.9)  # quantiles between which a super-net has trained many networks of a budget's size
SEED = 0  # quantiles are those of the space, not of a run


@dataclass(frozen=True, kw_only=True)
class Placement:
    """A budget in a search space.

    Attributes:
        budget: with its limits.
        quantile: share of drawn candidates that need less memory than the budget.
        found: distinct candidates within the limits that the sampler found.
        asked: how many it was asked for.
    """

    budget: Budget
    quantile: float
    found: int
    asked: int

    @property
    def is_comfortable(self) -> bool:
        return self.quantile in COMFORTABLE

    def to_json(self) -> dict[str, Any]:
        memory = self.budget.limits.intervals[Quantity.MEMORY]
        return {
            "budget": self.budget.label,
            "lowest_bytes": round(memory.low),
            "highest_bytes": round(memory.high),
            "quantile": self.quantile,
            "candidates": self.found,
            "candidates_asked_for": self.asked,
        }


def drawn_costs(space: SearchSpace, predict: Predict, count: int = DRAWN) -> PredictedCosts:
    """Return the costs of candidates that are drawn as in a super-net's training (paper section 4)."""
    return predict(sample_codes(space, count, rng_for(SEED, "quantiles of the search space")))


def quantile_of(value: float, drawn: np.ndarray) -> float:
    """Return the share of drawn values that lie below a value."""
    return float((drawn < value).mean())


def place(
    space: SearchSpace, predict: Predict, drawn: PredictedCosts, budgets: Sequence[Budget], count: int
) -> list[Placement]:
    """Say where memory budgets lie.

    Args:
        space: the search space.
        predict: costs of codes, memory as the device counts it.
        drawn: costs of drawn candidates, by the same prediction.
        budgets: of memory.
        count: how many candidates the sampler is asked for.
    """
    found = []
    for budget in budgets:
        try:
            candidates = len(BudgetSampler(space, predict, budget.limits, SEED).take(count))
        except BudgetError:
            candidates = 0
        quantile = quantile_of(budget.memory_bytes, drawn.memory_bytes)
        found.append(Placement(budget=budget, quantile=quantile, found=candidates, asked=count))
    return found


def unmet_budgets(space: SearchSpace, predict: Predict, budgets: Sequence[Budget]) -> dict[str, str]:
    """Return the budgets that no architecture of a space can meet, by label, each with the reason."""
    ranges: dict[Quantity, Interval] = {}
    unmet = {}
    for budget in budgets:
        for quantity, interval in budget.limits:
            if quantity is Quantity.LATENCY:  # known from a calibration alone
                continue
            if quantity not in ranges:
                ranges[quantity] = possible_range(space, predict, quantity)
            if reason := out_of_range(quantity, interval, ranges[quantity]):
                unmet[budget.label] = reason
    return unmet


def quantiles(values: np.ndarray) -> dict[str, float]:
    """Return the 5, 10, 50, 90 and 95 % quantiles by name: q05, q10, ..."""
    return {f"q{percent:02d}": float(np.quantile(values, percent / 100)) for percent in (5, 10, 50, 90, 95)}
