import math

import pytest

from nnunet_hypersegnas.cost import Quantity, SizeError
from nnunet_hypersegnas.search import BudgetError, Interval, budgets_of


def test_a_memory_size_is_a_window_below_it():
    small, large = budgets_of(["5GB", "7.5 GB"], {})
    assert small.limits.intervals == {Quantity.MEMORY: Interval(4_700_000_000, 5_000_000_000)}
    assert large.limits.intervals[Quantity.MEMORY].high == 7_500_000_000
    assert (small.plans_name("Plans"), large.plans_name("Plans")) == ("Plans_5GB", "Plans_7p5GB")


def test_the_papers_window_lies_on_both_sides():
    (budget,) = budgets_of(["5GB"], {}, tolerance="1GB", around=True)
    assert budget.limits.intervals[Quantity.MEMORY] == Interval(4_000_000_000, 6_000_000_000)
    (budget,) = budgets_of(["200MB"], {})
    assert budget.limits.intervals[Quantity.MEMORY] == Interval(0, 200_000_000)


def test_other_limits_hold_for_every_memory_size_and_also_alone():
    at_most = {Quantity.PARAMETERS: "5M", Quantity.LATENCY: "50ms"}
    for budget in budgets_of(["5GB", "6GB"], at_most):
        assert budget.limits.intervals[Quantity.PARAMETERS] == Interval(0, 5_000_000)
        assert budget.limits.intervals[Quantity.LATENCY] == Interval(0, 50)
    (alone,) = budgets_of([], at_most)
    assert alone.label == "5Mparams_50ms" and Quantity.MEMORY not in alone.limits.intervals
    assert alone.limits.highest(Quantity.PARAMETERS) == 5_000_000 and alone.limits.highest(Quantity.MEMORY) == math.inf
    assert str(alone.limits) == "parameters at most 5.00 M, latency at most 50 ms"


@pytest.mark.parametrize("memory", [["5GB", "5 GB"], ["5GB", "5000MB"], ["1GB", "1GB"]])
def test_one_size_twice_is_refused(memory):
    with pytest.raises(BudgetError, match="names a size twice"):
        budgets_of(memory, {})


def test_no_budget_and_unreadable_ones_are_refused():
    with pytest.raises(BudgetError, match="give --memory, --max-params"):
        budgets_of([], {})
    for memory, at_most in (
        (["-5GB"], {}),
        (["5"], {}),
        ([], {Quantity.PARAMETERS: "many"}),
        ([], {Quantity.LATENCY: "5"}),
    ):
        with pytest.raises(SizeError):
            budgets_of(memory, at_most)
    with pytest.raises(SizeError, match="write a positive number with a unit"):
        budgets_of(["5GB"], {}, tolerance="300")
