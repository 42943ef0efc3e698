"""Channels and layers under which a space holds given budgets."""

import numpy as np
import pytest

from benchmarks.typical_plans import TYPICAL
from nnunet_hypersegnas.cost import CostModel
from nnunet_hypersegnas.nnunet.cost_models import training_setup
from nnunet_hypersegnas.nnunet.memory_counting import MemoryCounting
from nnunet_hypersegnas.nnunet.settings import SuperNetSettings
from nnunet_hypersegnas.nnunet.space_proposals import (
    LAYERS,
    STEP,
    Proposal,
    Reference,
    best_for,
    groups_that_fit,
    spaces_for,
)
from nnunet_hypersegnas.search import COMFORTABLE, budgets_of, drawn_costs, quantile_of
from nnunet_hypersegnas.space import SearchSpace

(SMALL,) = (plans.dataset() for plans in TYPICAL if plans.name == "tiny images, three stages")
CONFIGURATION, SETUP = SMALL.configuration.configuration, training_setup(SMALL, "cuda")
SETTINGS = SuperNetSettings(epochs=7, channels=(4, 6), scales=2)
TENSORS = MemoryCounting()


def proposals(budgets, reference=None, counting=TENSORS):
    return spaces_for(CONFIGURATION, SETTINGS, SETUP, counting, budgets, reference)


def test_proposed_spaces_hold_the_budget_and_keep_all_other_settings():
    budgets = budgets_of(["30MB"], {})
    found = proposals(budgets)
    assert found and {p.settings.layers for p in found} <= set(LAYERS)
    for proposal in found[:: len(found) // 3 or 1]:
        settings, space = proposal.settings, proposal.space
        assert settings.epochs == 7 and settings.full_resolution and settings.space(CONFIGURATION) == space
        assert space.channels == tuple(settings.channels) and all(c % STEP == 0 for c in space.channels)
        assert space.finest_is_full_resolution and space.layers == settings.layers
        drawn = drawn_costs(space, CostModel(space, SETUP).predict)
        assert quantile_of(30e6, drawn.memory_bytes) == pytest.approx(proposal.quantiles["30MB"], abs=0.06)
        assert proposal.holds(["30MB"]) and proposal.quantiles["30MB"] in COMFORTABLE


def test_budgets_that_a_device_counts_otherwise_are_placed_as_it_counts_them():
    counting = MemoryCounting(offset_bytes=100e6, factor=2)
    plain = proposals(budgets_of(["30MB"], {}))
    counted = proposals(budgets_of(["160MB"], {}), counting=counting)
    assert [(p.space, p.quantiles["30MB"]) for p in plain] == [(p.space, p.quantiles["160MB"]) for p in counted]


def test_a_budget_that_no_space_holds_gets_none():
    budgets = budgets_of(["1MB"], {})
    assert proposals(budgets) == [] and best_for([], ["1MB"]) is None
    assert groups_that_fit([], budgets) == [["1MB"]]


def test_budgets_too_far_apart_come_in_groups_from_the_smallest_on():
    budgets = budgets_of(["100MB", "20MB", "22MB", "95MB"], {})
    found = proposals(budgets)
    assert best_for(found, [budget.label for budget in budgets]) is None
    assert groups_that_fit(found, budgets) == [["20MB", "22MB"], ["95MB", "100MB"]]
    for group in (["20MB", "22MB"], ["95MB", "100MB"]):
        assert best_for(found, group).holds(group)


def test_the_reference_chooses_among_spaces_that_hold_the_budgets():
    """The chosen space's networks compute about as much as the reference where they need as much memory."""
    budgets = budgets_of(["30MB"], {})
    free = proposals(budgets)
    computed = {}
    for proposal in free:
        drawn = drawn_costs(proposal.space, CostModel(proposal.space, SETUP).predict, 500)
        computed[proposal.space] = np.median(drawn.multiply_adds[np.abs(drawn.memory_bytes / 30e6 - 1) < 0.1])
    for target in (min(computed.values()), max(computed.values())):
        best = best_for(proposals(budgets, Reference(memory_bytes=30e6, multiply_adds=target)), ["30MB"])
        assert abs(np.log(computed[best.space] / target)) < 0.5
        assert best.multiply_adds == pytest.approx(computed[best.space], rel=0.3)


def proposal(layers, place, departure):
    space = SearchSpace(layers=layers, channels=(8,), strides=((1, 1, 1),), kernel_sizes=((3, 3, 3),))
    return Proposal(
        settings=SuperNetSettings(layers=layers),
        space=space,
        quantiles={"a": place},
        multiply_adds=1,
        departure=departure,
    )


def test_of_spaces_that_compute_alike_the_one_whose_budgets_lie_in_the_middle_is_best():
    edge, middle, far = proposal(12, 0.15, 0.0), proposal(14, 0.5, 0.1), proposal(16, 0.5, 0.9)
    assert best_for([edge, middle, far], ["a"]) is middle
    same = proposal(12, 0.5, 0.15)
    assert best_for([middle, same], ["a"]) is same  # the paper's number of layers
    assert best_for([proposal(12, 0.05, 0.0), far], ["a"]) is far  # the first one does not hold it
