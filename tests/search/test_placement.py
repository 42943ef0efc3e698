"""Where budgets lie in a search space."""

import numpy as np
import pytest

from nnunet_hypersegnas.cost import CostModel, Quantity
from nnunet_hypersegnas.search import (
    Budget,
    Interval,
    Limits,
    budgets_of,
    drawn_costs,
    place,
    possible_range,
    quantile_of,
    quantiles,
    unmet_budgets,
)
from tests.cost.truth import setup_for
from tests.spaces import FULL_RESOLUTION, TINY

PREDICT = CostModel(FULL_RESOLUTION, setup_for((16, 24, 16))).predict
DRAWN = drawn_costs(FULL_RESOLUTION, PREDICT)
RANGE = possible_range(FULL_RESOLUTION, PREDICT, Quantity.MEMORY)


def budget_at(share, label="b"):
    """A budget that so many of the networks drawn stay below."""
    return Budget(label, Limits({Quantity.MEMORY: Interval.below(np.quantile(DRAWN.memory_bytes, share), 1e5)}))


def test_quantiles_are_of_the_space_and_not_of_a_run():
    assert (drawn_costs(FULL_RESOLUTION, PREDICT).memory_bytes == DRAWN.memory_bytes).all()
    values = np.arange(1001.0)
    assert quantiles(values) == {"q05": 50, "q10": 100, "q50": 500, "q90": 900, "q95": 950}
    assert (quantile_of(-1, values), quantile_of(500, values), quantile_of(2000, values)) == (0, 500 / 1001, 1)


def test_budgets_are_placed_among_the_networks_drawn_and_their_candidates_counted():
    wanted = {"low": 0.02, "middle": 0.5, "high": 0.97}
    placed = place(FULL_RESOLUTION, PREDICT, DRAWN, [budget_at(s, label) for label, s in wanted.items()], 20)
    assert [p.quantile for p in placed] == pytest.approx(list(wanted.values()), abs=0.005)
    assert [p.is_comfortable for p in placed] == [False, True, False]
    assert [p.found for p in placed] == [20] * 3
    interval = placed[1].budget.limits.intervals[Quantity.MEMORY]
    assert placed[1].to_json() == {
        "budget": "middle",
        "lowest_bytes": round(interval.low),
        "highest_bytes": round(interval.high),
        "quantile": placed[1].quantile,
        "candidates": 20,
        "candidates_asked_for": 20,
    }


def test_a_window_that_holds_fewer_candidates_than_asked_for_or_none():
    predict = CostModel(TINY, setup_for((16, 16, 16))).predict
    memory = possible_range(TINY, predict, Quantity.MEMORY)
    few = Budget("few", Limits({Quantity.MEMORY: Interval(0, memory.low + 0.1 * (memory.high - memory.low))}))
    none = Budget("none", Limits({Quantity.MEMORY: Interval(0, memory.low - 1)}))
    few, none = place(TINY, predict, drawn_costs(TINY, predict), [few, none], 1000)
    assert 1 <= few.found < 1000 and (few.asked, none.found, none.quantile) == (1000, 0, 0)


def test_budgets_that_nothing_meets_are_told_apart_from_those_that_something_does():
    high, low = f"{round(RANGE.high / 1e3) + 1000}KB", f"{round(RANGE.low / 1e3) - 5}KB"
    budgets = budgets_of([low, f"{round(RANGE.low / 1e3) + 5}KB", high], {}, tolerance="10KB")
    assert list(unmet_budgets(FULL_RESOLUTION, PREDICT, budgets)) == [budgets[0].label, budgets[2].label]
    assert unmet_budgets(FULL_RESOLUTION, PREDICT, [budget_at(0.5)]) == {}


def test_other_limits_are_checked_too_and_latency_is_left_to_the_calibration():
    budgets = budgets_of([], {Quantity.PARAMETERS: "1", Quantity.LATENCY: "1ms"})
    unmet = unmet_budgets(FULL_RESOLUTION, PREDICT, budgets)
    assert list(unmet) == [budgets[0].label] and "no architecture has parameters at most 1" in unmet[budgets[0].label]
    assert unmet_budgets(FULL_RESOLUTION, PREDICT, budgets_of([], {Quantity.LATENCY: "1ms"})) == {}
