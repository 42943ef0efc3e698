"""Budgets that are checked before anything is spent: refused where no network, and on no device, could meet them."""

import pytest

from benchmarks.typical_plans import TYPICAL
from nnunet_hypersegnas.nnunet.checked_budgets import checked_budgets, default_memory
from nnunet_hypersegnas.nnunet.cost_models import cost_model
from nnunet_hypersegnas.search import BudgetError

HIPPOCAMPUS = TYPICAL[7].dataset()  # networks need 150 MB to 2.5 GB of tensors, 939 MB and more as an H200 counts


def test_an_estimate_refuses_only_what_no_device_could_meet():
    model = cost_model(HIPPOCAMPUS, "cuda")
    found = checked_budgets(HIPPOCAMPUS, model, "cuda", ["600MB", "2GB"])
    assert found.counting.is_estimate and [budget.label for budget in found.budgets] == ["600MB", "2GB"]
    with pytest.raises(BudgetError, match=r"budget 400MB: no architecture has memory 376 MB to 400 MB.*hsnas_space"):
        checked_budgets(HIPPOCAMPUS, model, "cuda", ["400MB", "2GB"])
    with pytest.raises(BudgetError, match="budget 50GB"):
        checked_budgets(HIPPOCAMPUS, model, "cuda", ["50GB"])


def test_predicted_memory_refuses_what_the_space_does_not_hold():
    model = cost_model(HIPPOCAMPUS, "cpu")
    with pytest.raises(BudgetError, match="budget 10MB"):
        checked_budgets(HIPPOCAMPUS, model, "cpu", ["10MB"])


def test_without_a_budget_those_of_the_block_are_taken():
    assert default_memory(HIPPOCAMPUS) == ("own", "50%")
    configurations = HIPPOCAMPUS.plans["configurations"]
    block = {"hypersegnas": {"memory": ["2GB", "75%"]}}
    plans = {**HIPPOCAMPUS.plans, "configurations": {k: {**v, **block} for k, v in configurations.items()}}
    assert default_memory(type(HIPPOCAMPUS)(**{**vars(HIPPOCAMPUS), "plans": plans})) == ("2GB", "75%")
