import math

import pytest

from nnunet_hypersegnas.cost import Quantity, SizeError
from nnunet_hypersegnas.search import BudgetError, Interval, budgets_of, labels_of, memory_fault, networks_in


def test_a_memory_size_is_a_window_below_it():
    small, large = budgets_of(["5GB", "7.5 GB"], {})
    assert small.limits.intervals == {Quantity.MEMORY: Interval(4_700_000_000, 5_000_000_000)}
    assert large.limits.intervals[Quantity.MEMORY].high == 7_500_000_000
    assert (small.plans_name("Plans"), large.plans_name("Plans")) == ("Plans_5GB", "Plans_7p5GB")


def test_the_papers_window_lies_on_both_sides():
    (budget,) = budgets_of(["5GB"], {}, tolerance="1GB", around=True)
    assert budget.limits.intervals[Quantity.MEMORY] == Interval(4_000_000_000, 6_000_000_000)
    (budget,) = budgets_of(["200MB"], {}, tolerance="300MB")
    assert budget.limits.intervals[Quantity.MEMORY] == Interval(0, 200_000_000)


def test_by_default_the_tolerance_is_300_mb_and_a_share_of_small_budgets():
    small, paper, large = budgets_of(["200MB", "5GB", "12GB"], {})
    assert small.limits.intervals[Quantity.MEMORY] == Interval(pytest.approx(188e6), 200e6)
    assert paper.limits.intervals[Quantity.MEMORY] == Interval(pytest.approx(4.7e9), 5e9)  # the paper's
    assert large.limits.intervals[Quantity.MEMORY] == Interval(pytest.approx(11.7e9), 12e9)
    assert [budget.memory_bytes for budget in (small, paper, large)] == [200e6, 5e9, 12e9]


def test_budgets_relative_to_networks_follow_from_what_these_take():
    memory = ["own", "50%", "nnUNetResEncUNetMPlans", "3GB"]
    assert networks_in(memory) == ["own", "nnUNetResEncUNetMPlans"]
    assert labels_of(memory) == ["own", "50pct", "nnUNetResEncUNetMPlans", "3GB"]
    budgets = budgets_of(memory, {}, networks={"own": 4e9, "nnUNetResEncUNetMPlans": 8e9})
    assert [budget.memory_bytes for budget in budgets] == [4e9, 2e9, 8e9, 3e9]
    assert [budget.plans_name("P") for budget in budgets][:2] == ["P_own", "P_50pct"]
    lows = [budget.limits.intervals[Quantity.MEMORY].low for budget in budgets]
    assert lows == pytest.approx([3.76e9, 1.88e9, 7.7e9, 2.82e9])


def test_a_share_is_one_of_tensors_and_a_size_is_what_the_device_counts():
    """What a device adds, as CUDA's context, is the same for all networks."""
    networks = {"own": 4e9}
    budgets = budgets_of(["own", "50%", "3GB"], {}, networks=networks, count=lambda tensors: 1e9 + 1.25 * tensors)
    assert [budget.memory_bytes for budget in budgets] == [6e9, 3.5e9, 3e9]


def test_a_relative_budget_is_named_as_it_was_asked_for():
    """Its bytes follow from how a device counts, which may change between two calls of a search."""
    own, size = budgets_of(["own", "3GB"], {Quantity.PARAMETERS: "5M"}, around=True, networks={"own": 4e9})
    again, _ = budgets_of(["own", "3GB"], {Quantity.PARAMETERS: "5M"}, around=True, networks={"own": 4.1e9})
    assert str(own) == str(again) == "memory own, tolerance default, around, parameters at most 5.00 M"
    assert str(size) == str(size.limits)
    wide, _ = budgets_of(["own", "3GB"], {}, tolerance="1GB", networks={"own": 4e9})
    assert str(wide) != str(budgets_of(["own"], {}, networks={"own": 4e9})[0])


@pytest.mark.parametrize(
    ("text", "label", "share"),
    [
        ("own", "own", 1),
        (" OWN ", "own", 1),
        ("50%", "50pct", 0.5),
        ("12.5 %", "12p5pct", 0.125),
        ("150%", "150pct", 1.5),
    ],
)
def test_shares_of_the_plans_own_network(text, label, share):
    (budget,) = budgets_of([text], {}, networks={"own": 1e9})
    assert (budget.label, budget.memory_bytes) == (label, share * 1e9)


def test_other_limits_hold_for_every_memory_size_and_also_alone():
    at_most = {Quantity.PARAMETERS: "5M", Quantity.LATENCY: "50ms"}
    for budget in budgets_of(["5GB", "6GB"], at_most):
        assert budget.limits.intervals[Quantity.PARAMETERS] == Interval(0, 5_000_000)
        assert budget.limits.intervals[Quantity.LATENCY] == Interval(0, 50)
    (alone,) = budgets_of([], at_most)
    assert alone.label == "5Mparams_50ms" and Quantity.MEMORY not in alone.limits.intervals
    assert alone.limits.highest(Quantity.PARAMETERS) == 5_000_000 and alone.limits.highest(Quantity.MEMORY) == math.inf
    assert str(alone.limits) == "parameters at most 5.00 M, latency at most 50 ms"


@pytest.mark.parametrize("memory", [["5GB", "5000MB"], ["1GB", "1000 MB", "2GB"]])
def test_one_size_twice_is_refused(memory):
    with pytest.raises(BudgetError, match="names a size twice"):
        budgets_of(memory, {})


def test_no_budget_and_unreadable_ones_are_refused():
    with pytest.raises(BudgetError, match="give --memory, --max-params"):
        budgets_of([], {})
    for memory, at_most in (
        (["-5GB"], {}),
        (["5"], {}),
        (["0%"], {}),
        ([], {Quantity.PARAMETERS: "many"}),
        ([], {Quantity.LATENCY: "5"}),
    ):
        with pytest.raises(SizeError):
            budgets_of(memory, at_most)
    with pytest.raises(SizeError, match="write a positive number with a unit"):
        budgets_of(["5GB"], {}, tolerance="300")


@pytest.mark.parametrize(
    "text",
    [
        *("", " ", "%", "0%", "0.0%", "-5%", "1e3%", "own%", "50%%", "5", "-5GB", "0GB", "../plans", "a/b", "٣٤%"),
        *("5\nGB", "50\n%", "plans\nmore", "0" * 300 + "5GB", "5." + "0" * 300 + "GB", "1" + "0" * 300 + "%", "a" * 61),
    ],
    ids=lambda text: repr(text[:12]),
)
def test_what_is_no_budget_is_refused_in_one_short_line(text):
    with pytest.raises(SizeError) as error:
        labels_of([text])
    assert "\n" not in str(error.value) and len(str(error.value)) < 300
    assert memory_fault([text]) == str(error.value)


@pytest.mark.parametrize(
    "memory",
    [["own", "OWN"], ["50%", "50 %"], ["nnUNetPlans", "nnunetplans"], ["5GB", "5 GB"]],
)
def test_budgets_of_one_name_in_the_plans_are_refused(memory):
    with pytest.raises(BudgetError, match="would have one name in the plans"):
        budgets_of(memory, {}, networks=dict.fromkeys([*memory, "own"], 1e9))
    assert "would have one name" in memory_fault(memory)


def test_one_size_by_two_names_is_refused_once_it_is_known():
    memory = ["own", "100%", "4GB"]
    assert memory_fault(memory) is None
    with pytest.raises(BudgetError, match=r"names a size twice \(own is 4.00 GB, 100% is 4.00 GB, 4GB is 4.00 GB\)"):
        budgets_of(memory, {}, networks={"own": 4e9})
