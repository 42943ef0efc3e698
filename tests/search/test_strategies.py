"""Evolution on a made-up landscape: the score of an architecture is how much of a hidden pattern it holds."""

import numpy as np
import pytest

from nnunet_hypersegnas.cost import CostModel, Quantity
from nnunet_hypersegnas.search import (
    BudgetSampler,
    Interval,
    Limits,
    Rung,
    Score,
    SearchSettings,
    Way,
    possible_range,
    predicted_candidates,
    strategy_of,
)
from nnunet_hypersegnas.search.predictor import ScorePredictor
from nnunet_hypersegnas.space import Operation, SearchSpace, canonical, cross_over, rng_for, sample_codes, to_codes
from tests.cost.truth import setup_for

SPACE = SearchSpace.paper()
MODEL = CostModel(SPACE, setup_for((96, 96, 96), autocast=True))
WINDOW = Limits({Quantity.MEMORY: Interval(0.9e9, 1.0e9)})
RUNG = Rung(way=Way.PATCHES, amount=3, keep=100, cost_patches=3)
WEIGHTS = rng_for(0, "landscape").normal(size=(len(Operation) + 1, 1, len(SPACE.edges)))


def landscape(codes):
    """Some edges are good and some are bad, wherever they are."""
    return sum((WEIGHTS[o] * (codes == o)).sum((1, 2)) for o in Operation)


def noise(codes):
    return np.array([rng_for(0, "noise", c.tobytes().hex()).random() for c in codes])


def run(strategy, value=landscape, count=120, seed=0):
    settings = SearchSettings(candidates=count, strategy=strategy, seed=seed)
    proposes = strategy_of(settings, BudgetSampler(SPACE, MODEL.predict, WINDOW, seed))
    candidates = []
    for generation, size in enumerate(proposes.generations()):
        new = predicted_candidates(proposes.source(generation, candidates), size)
        scores = value(to_codes([c.architecture for c in new]))
        candidates += [c.scored(RUNG, Score(dsc_by_label={"a": s})) for c, s in zip(new, scores, strict=True)]
    return candidates, proposes


def best(candidates, k=5):
    return np.mean(sorted((c.scores[RUNG].dsc for c in candidates), reverse=True)[:k])


@pytest.mark.parametrize("strategy", ["random", "evolution"])
def test_as_many_distinct_canonical_candidates_as_asked_for_within_the_limits(strategy):
    candidates, _ = run(strategy)
    assert len({c.architecture for c in candidates}) == 120
    assert all(0.9e9 <= c.predicted_memory_bytes <= 1.0e9 for c in candidates)
    codes = to_codes([c.architecture for c in candidates])
    pruned, valid = canonical(SPACE, codes)
    assert valid.all() and (pruned == codes).all()


@pytest.mark.parametrize("strategy", ["random", "evolution"])
def test_a_strategy_follows_from_the_seed(strategy):
    first, again, other = run(strategy)[0], run(strategy)[0], run(strategy, seed=1)[0]
    assert [c.architecture for c in first] == [c.architecture for c in again]
    assert {c.architecture for c in first} != {c.architecture for c in other}


def test_evolution_finds_better_ones_where_there_is_something_to_be_found():
    for seed in range(3):
        assert best(run("evolution", seed=seed)[0]) > best(run("random", seed=seed)[0]) + 1


def test_the_predictor_chooses_only_where_it_predicts():
    _, guided = run("evolution")
    assert all("it chooses" in line for line in guided.report[-3:])
    _, blind = run("evolution", value=noise)
    assert any("not used" in line for line in blind.report)
    assert len(blind.report) == len(guided.report) == 6


def test_the_predictor_is_judged_by_scores_it_was_not_fitted_to():
    candidates, _ = run("random", count=200)
    fitted = ScorePredictor.fitted(candidates, MODEL.predict, seed=0)
    assert fitted.is_useful and fitted.held_out > 0.8 > fitted.by_memory
    fresh = sample_codes(SPACE, 200, rng_for(5, "fresh"))
    assert np.corrcoef(fitted(fresh), landscape(fresh))[0, 1] > 0.7

    def by_parameters(codes):
        return MODEL.predict(codes).parameters.astype(float)

    candidates, _ = run("random", value=by_parameters)
    assert not ScorePredictor.fitted(candidates, MODEL.predict, seed=0).is_useful  # parameters alone tell all


def test_few_scores_and_equal_ones_make_no_predictor():
    candidates, _ = run("random", count=10)
    assert not ScorePredictor.fitted(candidates, MODEL.predict, seed=0).is_useful
    candidates, _ = run("random", value=lambda codes: np.zeros(len(codes)))
    assert not ScorePredictor.fitted(candidates, MODEL.predict, seed=0).is_useful
    run("evolution", value=lambda codes: np.full(len(codes), np.nan), count=40)


def test_a_narrow_budget_is_filled_up_by_the_sampler_and_ends():
    low = possible_range(SPACE, MODEL.predict, Quantity.MEMORY).low
    limits = Limits({Quantity.MEMORY: Interval(0, 1.02 * low)})  # there are few so small
    settings = SearchSettings(candidates=400, strategy="evolution")
    proposes = strategy_of(settings, BudgetSampler(SPACE, MODEL.predict, limits, 0))
    candidates = []
    for generation, size in enumerate(proposes.generations()):
        new = predicted_candidates(proposes.source(generation, candidates), size)
        candidates += [c.scored(RUNG, Score(dsc_by_label={"a": 0.5})) for c in new]
    assert 0 < len({c.architecture for c in candidates}) == len(candidates) <= 400


def test_crossing_over_takes_whole_layers_of_both():
    mothers = np.ones((50, SPACE.layers, len(SPACE.edges)), np.int8)
    children = cross_over(mothers, 2 * mothers, rng_for(0, "cross"))
    assert ((children[:, :, :1] == children).all(2)).all()
    changes = (np.diff(children[:, :, 0], axis=1) == 1).sum(1)
    assert (changes == 1).all() and (children[:, 0] == 1).all() and (children[:, -1] == 2).all()
