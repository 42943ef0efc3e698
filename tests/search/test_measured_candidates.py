import math

import numpy as np
import pytest

from nnunet_hypersegnas.cost import CostModel, Quantity
from nnunet_hypersegnas.search import (
    BudgetError,
    BudgetSampler,
    Distribution,
    Interval,
    Limits,
    measured_candidates,
    predicted_candidates,
)
from nnunet_hypersegnas.space import SearchSpace
from tests.cost.truth import setup_for

SPACE = SearchSpace.paper()
MODEL = CostModel(SPACE, setup_for((96, 96, 96), autocast=True))
WINDOW = Limits({Quantity.MEMORY: Interval(0.9e9, 1.0e9)})


class _Bar:
    count = 0

    def advance(self, best_dsc=None):
        self.count += 1


class _Device:
    """Measures what is predicted, but for an offset and an error that depends on the architecture alone."""

    def __init__(self, offset=0.0, error=0.0):
        self.offset, self.error, self.asked = offset, error, []

    def measure(self, architecture):
        self.asked.append(architecture)
        error = self.error * np.sin(int(architecture.id, 16) % 1000)
        return {Quantity.MEMORY: MODEL.predict_one(architecture).memory_bytes[0] * (1 + error) + self.offset}


def sampler(limits=WINDOW):
    return BudgetSampler(SPACE, MODEL.predict, limits, seed=0)


def test_those_that_miss_the_window_when_measured_are_replaced():
    device, bar = _Device(error=0.03), _Bar()
    found = measured_candidates(sampler(), 50, device, bar)
    assert len({c.architecture for c in found}) == 50 == bar.count
    assert all(c.measured[Quantity.MEMORY] in WINDOW.intervals[Quantity.MEMORY] for c in found)
    assert 50 < len(device.asked) == len(set(device.asked)) < 100  # each measured once, and few for nothing
    again = measured_candidates(sampler(), 50, _Device(error=0.03), _Bar())
    assert [c.architecture for c in again] == [c.architecture for c in found]


def test_predictions_that_do_not_hold_end_in_one_line_that_says_what_is_measured():
    device = _Device(offset=0.5e9)
    with pytest.raises(BudgetError, match=r"none of 64 networks .* has it measured: memory 1\.4. GB to 1\.5. GB"):
        measured_candidates(sampler(), 200, device, _Bar())
    assert len(device.asked) == 64


def test_a_device_that_is_too_small_is_an_error_and_no_crash():
    with pytest.raises(BudgetError, match=r"none of 50 networks .*: none fits the device"):
        measured_candidates(sampler(), 5, _Device(offset=math.inf), _Bar())


def test_predicted_candidates_carry_all_costs():
    (candidate,) = predicted_candidates(sampler(), 1)
    costs = MODEL.predict_one(candidate.architecture)
    assert candidate.predicted_memory_bytes == costs.memory_bytes[0]
    assert candidate.multiply_adds == costs.multiply_adds[0]
    value = candidate.to_json()
    assert value["measured_memory_bytes"] is None and value["predicted_latency_ms"] is None


def test_the_distribution_tells_what_the_candidates_are_like():
    found = predicted_candidates(sampler(), 80)
    distribution = Distribution.of(found, SPACE)
    edges = [c.architecture.n_edges for c in found]
    assert distribution.edges == (min(edges), np.median(edges), max(edges))
    assert distribution.convolutions.largest == max(c.architecture.n_convolutions for c in found)
    using_coarsest = sum(any(3 in edge for _, _, edge, _ in c.architecture.active()) for c in found)
    assert distribution.scales[3] == using_coarsest / 80
    assert distribution.candidates == 80 and distribution.memory_bytes.smallest >= 0.9e9
    assert "80 candidates of 9" in str(distribution) and f"{using_coarsest / 80:.0%}" in str(distribution)
