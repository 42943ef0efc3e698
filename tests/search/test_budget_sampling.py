import contextlib
import itertools

import numpy as np
import pytest

from nnunet_hypersegnas.cost import CostModel, Quantity, TrainingSetup
from nnunet_hypersegnas.search import BudgetError, BudgetSampler, Interval, Limits, possible_range
from nnunet_hypersegnas.space import (
    Architecture,
    ArchitectureError,
    SearchSpace,
    largest,
    rng_for,
    sample_codes,
    to_architectures,
    to_codes,
    u_net,
)
from tests.cost.truth import TRUTH, setup_for
from tests.spaces import TINY

PAPER = SearchSpace.paper()
SETUP = TrainingSetup(patch_size=(96, 96, 96), batch_size=2, input_channels=1, num_classes=3, autocast=True)
MODEL = CostModel(PAPER, SETUP)


def all_of(space):
    for codes in itertools.product(itertools.product((0, 1, 2), repeat=len(space.edges)), repeat=space.layers):
        with contextlib.suppress(ArchitectureError):
            yield Architecture(codes)


def memory(low, high):
    return Limits({Quantity.MEMORY: Interval(low, high)})


def take(limits, count, seed=0):
    return BudgetSampler(PAPER, MODEL.predict, limits, seed).take(count)


@pytest.mark.parametrize(
    "limits",
    [
        memory(0.55e9, 0.60e9),
        memory(0.36e9, 0.38e9),  # of uniform draws one in 1,500 lands here,
        memory(1.00e9, 1.05e9),  # one in 200,000 here,
        memory(1.35e9, 1.40e9),  # and none here
        Limits({Quantity.MEMORY: Interval(0.7e9, 0.8e9), Quantity.PARAMETERS: Interval.at_most(6e6)}),
        Limits({Quantity.MULTIPLY_ADDS: Interval.at_most(30e9)}),
    ],
    ids=str,
)
def test_exactly_the_asked_number_of_distinct_architectures_within_the_limits(limits):
    codes = take(limits, 200)
    assert len(codes) == 200 == len(set(to_architectures(codes)))
    assert (limits.distance(MODEL.predict(codes)) == 0).all()


@pytest.mark.parametrize(("low", "high"), [(0.55e9, 0.60e9), (1.00e9, 1.05e9)])
def test_they_are_spread_over_the_window_and_over_topologies(low, high):
    codes = take(memory(low, high), 400)
    counts, _ = np.histogram(MODEL.predict(codes).memory_bytes, 8, (low, high))
    assert counts.min() == counts.max() == 50
    on = (codes > 0).mean((1, 2))
    convolutions = (codes == 2).sum((1, 2)) / (codes > 0).sum((1, 2))
    assert np.ptp(on) > 0.25 and np.ptp(convolutions) > 0.3
    distance = (codes[:100, None] != codes[None, :100]).sum((2, 3))
    assert np.median(distance[np.triu_indices(100, 1)]) > 20  # of 120 codes


def test_a_few_are_spread_over_the_window_too():
    memory_bytes = np.sort(MODEL.predict(take(memory(0.5e9, 0.6e9), 4)).memory_bytes)
    assert (np.floor((memory_bytes - 0.5e9) / 0.025e9) == [0, 1, 2, 3]).all()


def test_the_same_arguments_give_the_same_and_another_seed_others():
    limits = memory(1.00e9, 1.05e9)
    assert (take(limits, 30) == take(limits, 30)).all()
    assert set(to_architectures(take(limits, 30))) != set(to_architectures(take(limits, 30, seed=1)))


def test_named_architectures_come_first_where_they_meet_the_limits():
    first = [largest(PAPER), u_net(PAPER), u_net(PAPER)]
    too_large, fitting, _ = MODEL.predict(to_codes(first)).memory_bytes
    limits = memory(fitting - 0.03e9, fitting + 0.03e9)
    assert too_large > fitting + 0.03e9

    def sampler(first):
        return BudgetSampler(PAPER, MODEL.predict, limits, 0, first)

    found = to_architectures(sampler(first).take(40))
    assert found[0] == u_net(PAPER) and len(set(found)) == 40
    assert (limits.distance(MODEL.predict(to_codes(found))) == 0).all()
    one_by_one = sampler(first)
    given = to_architectures(np.concatenate([one_by_one.take(1), one_by_one.take(20)]))
    assert given[0] == u_net(PAPER) and len(set(given)) == 21
    assert u_net(PAPER) not in to_architectures(sampler([]).take(40))
    assert found == to_architectures(sampler(first).take(40))


def test_further_ones_are_new():
    sampler = BudgetSampler(PAPER, MODEL.predict, memory(0.55e9, 0.56e9), 0)
    found = to_architectures(np.concatenate([sampler.take(40), sampler.take(3), sampler.take(40)]))
    assert len(set(found)) == 83


def test_a_window_that_holds_few_gives_all_of_them():
    """Against all architectures of a tiny space."""
    model = CostModel(TINY, TrainingSetup(patch_size=(16, 16, 16), batch_size=2, input_channels=1, num_classes=3))
    everything = list(set(all_of(TINY)))
    sizes = np.array([model.predict_one(a).memory_bytes[0] for a in everything])
    low, high = np.quantile(sizes, [0.4, 0.45])
    sampler = BudgetSampler(TINY, model.predict, memory(low, high), 0)
    expected = {a for a, size in zip(everything, sizes, strict=True) if low <= size <= high}
    assert set(to_architectures(sampler.take(10_000))) == expected
    assert len(sampler.take(5)) == 0  # nothing is left, which is no error


@pytest.mark.parametrize(("low", "high"), [(0, 0.3e9), (2e9, 2.3e9)])
def test_an_impossible_window_names_the_smallest_and_the_largest_cost(low, high):
    with pytest.raises(BudgetError, match=r"in this search space it is 3\d\d MB to 1\.\d\d GB") as error:
        take(memory(low, high), 10)
    assert "\n" not in str(error.value)


def test_limits_that_exclude_each_other_end_after_a_bounded_search(monkeypatch):
    monkeypatch.setattr("nnunet_hypersegnas.search.budget_sampling.WALK_ROUNDS", 3)
    limits = Limits({Quantity.MEMORY: Interval(1.2e9, 1.3e9), Quantity.PARAMETERS: Interval.at_most(20_000)})
    with pytest.raises(BudgetError, match=r"no architecture was found with memory.*parameters.*misses by"):
        take(limits, 10)


QUANTITIES = (Quantity.MEMORY, Quantity.PARAMETERS, Quantity.MULTIPLY_ADDS)


@pytest.mark.parametrize("autocast", [False, True])
def test_the_possible_range_is_that_of_all_architectures(autocast):
    """Exhaustively over a tiny space."""
    model = CostModel(TINY, setup_for((16, 16, 16), autocast=autocast))
    costs = model.predict(to_codes(list(set(all_of(TINY)))))
    for quantity in QUANTITIES:
        values = costs.of(quantity)
        assert possible_range(TINY, model.predict, quantity) == Interval(values.min(), values.max())


@pytest.mark.parametrize("autocast", [False, True])
@pytest.mark.parametrize("name", TRUTH)
def test_no_draw_lies_outside_the_possible_range(name, autocast):
    space, patch, batch = TRUTH[name]
    rng = rng_for(0, "range")
    model = CostModel(space, setup_for(patch, batch, autocast=autocast))
    drawn = model.predict(sample_codes(space, 5000, rng, rng.random(5000) ** 0.3, rng.random(5000) ** 0.3))
    for quantity in QUANTITIES:
        assert (possible_range(space, model.predict, quantity).distance(drawn.of(quantity)) == 0).all()
