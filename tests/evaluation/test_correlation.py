"""Rank correlations against scipy, and within windows against counting by hand."""

import itertools

import numpy as np
import pytest
from scipy.stats import kendalltau, spearmanr

from nnunet_hypersegnas.evaluation import correlation
from nnunet_hypersegnas.evaluation.correlation import ALL, WITHIN, rank_correlations


@pytest.fixture
def rng():
    return np.random.default_rng(3)


def by_group(found):
    return {one.group: one for one in found}


def test_over_all_networks_it_is_scipys_with_ties_too(rng):
    truth, values = rng.integers(0, 6, 15).astype(float), rng.integers(0, 6, 15).astype(float)
    (found,) = rank_correlations(truth, values[None], ["all of them"] * 15)
    tau, rho = kendalltau(truth, values), spearmanr(truth, values)
    assert found.group == ALL and found.networks == 15
    assert found.kendall.value == pytest.approx(tau.statistic) and found.kendall.p == pytest.approx(
        tau.pvalue, abs=0.03
    )
    assert found.spearman.value == pytest.approx(rho.statistic) and found.spearman.p == pytest.approx(
        rho.pvalue, abs=0.03
    )
    assert found.kendall.low < found.kendall.value < found.kendall.high
    assert found.by_prediction == (found.kendall.value,)


def test_the_bootstrap_is_scipys_on_the_resampled_lists(rng):
    """A network that was drawn twice stands in the list twice."""
    truth, values = rng.normal(size=8), rng.normal(size=8)
    same = np.ones((8, 8), bool)
    weights = correlation._resamples(np.zeros(8), seed=0)[:40]
    taus, rhos = correlation._taus(truth, values, same, weights), correlation._rhos(truth, values, weights)
    for number, counts in enumerate(weights.astype(int)):
        a, b = np.repeat(truth, counts), np.repeat(values, counts)
        assert taus[number] == pytest.approx(kendalltau(a, b).statistic)
        assert rhos[number] == pytest.approx(spearmanr(a, b).statistic)


def test_resamples_of_a_single_network_are_left_out():
    found = rank_correlations(np.array([0.1, 0.2, 0.3]), np.array([[1.0, 2.0, 3.0]]), ["w"] * 3)[0]
    assert (found.kendall.value, found.kendall.low, found.kendall.high) == (1, 1, 1)
    assert (found.spearman.low, found.spearman.high) == (1, 1)


def test_within_windows_only_pairs_of_one_window_count(rng):
    """Two windows that differ in size alone: together they look alike, within them nothing is left."""
    windows = ["small"] * 7 + ["large"] * 6
    truth = np.r_[rng.normal(size=7), 100 + rng.normal(size=6)]
    values = np.r_[rng.normal(size=7), 100 + rng.normal(size=6)]
    found = by_group(rank_correlations(truth, values[None], windows))
    assert list(found) == [ALL, WITHIN, "small", "large"]
    pairs = [(i, j) for i, j in itertools.combinations(range(13), 2) if windows[i] == windows[j]]
    signs = [np.sign((truth[i] - truth[j]) * (values[i] - values[j])) for i, j in pairs]
    assert found[WITHIN].kendall.value == pytest.approx(np.mean(signs))
    assert found[WITHIN].kendall.value < found[ALL].kendall.value - 0.3
    assert found[WITHIN].networks == 13 and np.isnan(found[WITHIN].spearman.value)
    for name, members in (("small", slice(0, 7)), ("large", slice(7, 13))):
        assert found[name].kendall.value == pytest.approx(kendalltau(truth[members], values[members]).statistic)
        assert found[name].networks == len(truth[members])


def test_p_of_few_networks_is_never_smaller_than_their_orders_allow():
    """Four in order: 2 of 24 orders are as far from 0."""
    found = rank_correlations(np.arange(4.0), np.arange(4.0)[None], ["w"] * 4)[0]
    assert found.kendall.p == pytest.approx(2 / 24, abs=0.01) and found.spearman.p == pytest.approx(2 / 24, abs=0.01)


def test_p_within_windows_is_that_of_permutations():
    """Three networks each in two windows, all ordered alike: 1 of 36 pairs of orders, and its mirror image."""
    truth = np.array([1.0, 2, 3, 1, 2, 3])
    found = by_group(rank_correlations(truth, truth[None] ** 2, ["a"] * 3 + ["b"] * 3))[WITHIN]
    assert found.kendall.value == 1 and found.kendall.p == pytest.approx(2 / 36, abs=0.007)


def test_networks_without_a_score_are_left_out(rng):
    truth, values = rng.normal(size=9), rng.normal(size=9)
    whole = rank_correlations(truth[2:], values[None, 2:], ["w"] * 7)
    truth[0], values[1] = np.nan, np.nan
    assert rank_correlations(truth, values[None], ["w"] * 9) == whole and whole[0].networks == 7


def test_too_few_or_all_alike_give_nothing():
    for truth in (np.array([1.0, 2.0]), np.full(5, np.nan), np.ones(5)):
        found = by_group(rank_correlations(truth, np.arange(len(truth))[None], ["a"] + ["b"] * (len(truth) - 1)))
        assert all(np.isnan([one.kendall.value, one.kendall.low, one.kendall.p]).all() for one in found.values())


def test_several_predictions_give_their_mean(rng):
    truth, values = rng.normal(size=10), rng.normal(size=(3, 10))
    (found,) = rank_correlations(truth, values, ["w"] * 10)
    taus = [kendalltau(truth, one).statistic for one in values]
    assert found.by_prediction == pytest.approx(tuple(taus)) and found.kendall.value == pytest.approx(np.mean(taus))
    assert found.spearman.value == pytest.approx(np.mean([spearmanr(truth, one).statistic for one in values]))
    assert np.isnan(found.kendall.p) and found.kendall.low < found.kendall.value < found.kendall.high


def test_it_is_the_same_each_time(rng):
    truth, values = rng.normal(size=10), rng.normal(size=(1, 10))
    first, again = (rank_correlations(truth, values, ["a", "b"] * 5) for _ in range(2))
    assert repr(first) == repr(again) and repr(first) != repr(rank_correlations(truth, values, ["a", "b"] * 5, seed=1))
