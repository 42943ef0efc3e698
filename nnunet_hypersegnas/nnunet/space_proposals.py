"""Channels and layers under which a data set's search space holds given budgets."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from nnunet_hypersegnas.cost import CostModel, PredictedCosts, SetupError, TrainingSetup
from nnunet_hypersegnas.nnunet.memory_counting import MemoryCounting
from nnunet_hypersegnas.nnunet.settings import SuperNetSettings
from nnunet_hypersegnas.nnunet.stages import MOST_FEATURES, Stages
from nnunet_hypersegnas.search import COMFORTABLE, Budget, drawn_costs, quantile_of
from nnunet_hypersegnas.space import SearchSpace, SearchSpaceError

STEP = 8  # channels are multiples of it: tensor cores work on eight at a time
WIDEST = 128  # channels at full resolution
LAYERS = (12, 14, 16, 10, 8, 6)  # in the order of preference: the paper's first, then what is nearest
ALIKE = 0.2  # difference of two departures that nobody would notice: a fifth of the multiply-adds
DRAWN = 500  # architectures for each space that is tried


@dataclass(frozen=True, kw_only=True)
class Reference:
    """A network that users train today: what its training takes, and how much it computes."""

    memory_bytes: float
    multiply_adds: float


@dataclass(frozen=True, kw_only=True)
class Proposal:
    """A search space, and where budgets lie in it.

    Attributes:
        settings: with its channels and layers.
        space: the search space.
        quantiles: where each budget lies among drawn candidates, by label.
        multiply_adds: of drawn candidates with the reference's memory; None without a reference.
        departure: how far these are from the reference's, as the absolute logarithm of their ratio.
    """

    settings: SuperNetSettings
    space: SearchSpace
    quantiles: Mapping[str, float]
    multiply_adds: float | None
    departure: float

    def holds(self, labels: Sequence[str]) -> bool:
        """Whether budgets lie between the 10 and the 90 % quantile."""
        return all(self.quantiles[label] in COMFORTABLE for label in labels)

    def margin(self, labels: Sequence[str]) -> float:
        """Return how far the budgets lie from the 10 and the 90 % quantile, the nearest of them."""
        places = [self.quantiles[label] for label in labels]
        return min(min(places) - COMFORTABLE.low, COMFORTABLE.high - max(places))


def spaces_for(
    configuration: Mapping[str, Any],
    settings: SuperNetSettings,
    setup: TrainingSetup,
    counting: MemoryCounting,
    budgets: Sequence[Budget],
    reference: Reference | None,
) -> list[Proposal]:
    """Return the spaces from full resolution, of all widths and numbers of layers, that hold any of the budgets.

    Args:
        configuration: of the plans, whose stages the scales are.
        settings: of which all but channels, layers and scales are kept.
        setup: how networks are trained.
        counting: how the device counts memory.
        budgets: of memory, as the device counts it.
        reference: the plans' own network.
    """
    stages = Stages.of(configuration)
    most = MOST_FEATURES[len(stages.strides[0])]
    found = []
    for layers in LAYERS:
        n = min(len(stages.strides), layers // 2 + 1)
        for width in range(STEP, WIDEST + 1, STEP):
            channels = tuple(min(most, width << scale) for scale in range(n))
            tried = replace(settings, layers=layers, channels=channels, scales=None, full_resolution=True)
            try:
                space = tried.space(configuration)
            except (SearchSpaceError, SetupError):
                break
            drawn = drawn_costs(space, counting.expected(CostModel(space, setup).predict), DRAWN)
            places = {budget.label: quantile_of(budget.memory_bytes, drawn.memory_bytes) for budget in budgets}
            if max(places.values()) < COMFORTABLE.low:  # and wider networks need still more
                break
            if max(place in COMFORTABLE for place in places.values()):
                found.append(_proposal(tried, space, places, drawn, counting, reference))
    return found


def best_for(proposals: Sequence[Proposal], labels: Sequence[str]) -> Proposal | None:
    """Return the space that holds all these budgets, or None.

    Of those whose networks compute about as much as the reference at its memory, it is the one in which the budgets lie
    furthest from the ends of what is drawn; among equals, the one with the number of layers that is preferred.
    """
    holding = [proposal for proposal in proposals if proposal.holds(labels)]
    if not holding:
        return None
    least = min(proposal.departure for proposal in holding)
    alike = [proposal for proposal in holding if proposal.departure <= least + ALIKE]
    return min(alike, key=lambda p: (-round(p.margin(labels), 1), LAYERS.index(p.settings.layers), p.departure))


def groups_that_fit(proposals: Sequence[Proposal], budgets: Sequence[Budget]) -> list[list[str]]:
    """Split budgets into groups, smallest first, each of which one space holds; a group may be one that none holds."""
    groups: list[list[str]] = []
    for budget in sorted(budgets, key=lambda budget: budget.memory_bytes):
        if groups and best_for(proposals, [*groups[-1], budget.label]):
            groups[-1].append(budget.label)
        else:
            groups.append([budget.label])
    return groups


def _proposal(
    settings: SuperNetSettings,
    space: SearchSpace,
    places: Mapping[str, float],
    drawn: PredictedCosts,
    counting: MemoryCounting,
    reference: Reference | None,
) -> Proposal:
    computed = _multiply_adds_at(drawn, counting.count(reference.memory_bytes)) if reference else None
    apart = abs(math.log(computed / reference.multiply_adds)) if reference and computed else 0.0
    return Proposal(settings=settings, space=space, quantiles=places, multiply_adds=computed, departure=apart)


def _multiply_adds_at(drawn: PredictedCosts, memory_bytes: float) -> float:
    """Return the multiply-adds of candidates with some memory: of a line through the logarithms of both."""
    slope, constant = np.polyfit(np.log(drawn.memory_bytes), np.log(drawn.multiply_adds), 1)
    return math.exp(constant + slope * math.log(memory_bytes))
