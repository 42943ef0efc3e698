"""How far something that was predicted of networks ranks them as their training does (paper section 4.1, Fig. 4).

Shapes: A networks, P predictions of all of them (one for each super-net), R resamples.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from nnunet_hypersegnas.evaluation.ablation import ALL, FEWEST_RANKED
from nnunet_hypersegnas.evaluation.statistics import RESAMPLES, percentiles
from nnunet_hypersegnas.space import rng_for

WITHIN = "within windows"
CHUNK = 500  # resamples or permutations that are worked on at once
LEEWAY = 1e-9  # between sums that are equal but for rounding


@dataclass(frozen=True, kw_only=True)
class Estimate:
    """A coefficient with its 95 % bootstrap interval and its two-sided p; NaN where there is none.

    p is of permuted truths, since the usual formula for Spearman's rho gives 0 for four networks in order.
    """

    value: float
    low: float
    high: float
    p: float


NOTHING = Estimate(value=np.nan, low=np.nan, high=np.nan, p=np.nan)


@dataclass(frozen=True, kw_only=True)
class RankCorrelation:
    """How alike a prediction and the truth rank some networks.

    Attributes:
        group: `ALL`, a window's name, or `WITHIN`, which compares pairs of the same window alone.
        networks: how many there are: those without truth, or without a prediction, are left out.
        kendall: Kendall's tau (b).
        spearman: Spearman's rho; NaN for `WITHIN`, where ranks have no common scale.
        by_prediction: tau of each of the P predictions, whose mean `kendall` is.
    """

    group: str
    networks: int
    kendall: Estimate
    spearman: Estimate
    by_prediction: tuple[float, ...]


def rank_correlations(
    truth: np.ndarray, predictions: np.ndarray, windows: Sequence[str], seed: int = 0
) -> list[RankCorrelation]:
    """Return the correlation over all networks, within the windows, and in each window alone.

    Several predictions give the mean of their coefficients, whose interval resamples networks and takes the predictions
    as given; it has no p.

    Args:
        truth: shape (A,); NaN where there is none.
        predictions: shape (P, A).
        windows: name of each network's window, length A.
        seed: of resamples and permutations.
    """
    there = np.isfinite(truth) & np.isfinite(predictions).all(0)
    truth, predictions = truth[there], predictions[:, there]
    of = np.array(windows, dtype=object)[there]
    names = list(dict.fromkeys(windows))
    groups = [(ALL, np.full(len(truth), ALL, dtype=object), np.ones(len(truth), bool))]
    if len(names) > 1:
        groups += [(WITHIN, of, np.ones(len(truth), bool)), *((name, of, of == name) for name in names)]
    return [_correlation(group, truth[m], predictions[:, m], blocks[m], seed) for group, blocks, m in groups]


def _correlation(
    group: str, truth: np.ndarray, predictions: np.ndarray, blocks: np.ndarray, seed: int
) -> RankCorrelation:
    """Return one row; only pairs of networks in the same block are compared."""
    same = blocks[:, None] == blocks[None, :]
    if len(truth) < FEWEST_RANKED:
        nothing = (float("nan"),) * len(predictions)
        return RankCorrelation(
            group=group, networks=len(truth), kendall=NOTHING, spearman=NOTHING, by_prediction=nothing
        )
    weights = _resamples(blocks, seed)
    once = np.ones((1, len(truth)))
    by_prediction = np.array([_taus(truth, values, same, once)[0] for values in predictions])
    taus = np.mean([_taus(truth, values, same, weights) for values in predictions], axis=0)
    tau_p = rho_p = float("nan")
    if len(predictions) == 1 and np.isfinite(by_prediction[0]):
        tau_p, rho_p = _permuted_ps(truth, predictions[0], blocks, seed)
    spearman = NOTHING
    if group != WITHIN:
        rhos, resampled = (np.mean([_rhos(truth, v, w) for v in predictions], axis=0) for w in (once, weights))
        spearman = _estimate(rhos[0], resampled, rho_p)
    return RankCorrelation(
        group=group,
        networks=len(truth),
        kendall=_estimate(by_prediction.mean(), taus, tau_p),
        spearman=spearman,
        by_prediction=tuple(by_prediction.tolist()),
    )


def _estimate(value: float, resampled: np.ndarray, p: float) -> Estimate:
    low, high = percentiles(resampled[:, None])
    return Estimate(value=float(value), low=float(low[0]), high=float(high[0]), p=float(p))


def _resamples(blocks: np.ndarray, seed: int) -> np.ndarray:
    """Return how often each network is drawn, with every block as large as it is, shape (R, A)."""
    weights = np.zeros((RESAMPLES, len(blocks)))
    for number, name in enumerate(dict.fromkeys(blocks)):
        members = np.flatnonzero(blocks == name)
        rng = rng_for(seed, "correlation bootstrap", number, len(members))
        drawn = rng.multinomial(len(members), np.full(len(members), 1 / len(members)), size=RESAMPLES)
        weights[:, members] = drawn
    return weights


def _taus(truth: np.ndarray, values: np.ndarray, same: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """Return Kendall's tau-b of each resample, shape (R,); NaN where all pairs are tied.

    A pair of networks counts as often as it is among the resample's pairs. Two drawings of one network are tied in both
    rankings and so count in neither of tau-b's two numbers of pairs that are not tied.
    """
    of_truth, of_values = (np.sign(v[:, None] - v[None, :]) * same for v in (truth, values))
    concordant = _sums(weights, of_truth * of_values)
    untied = _sums(weights, np.abs(of_truth)) * _sums(weights, np.abs(of_values))
    with np.errstate(invalid="ignore", divide="ignore"):
        return np.where(untied > 0, concordant / np.sqrt(untied), np.nan)


def _sums(weights: np.ndarray, pairs: np.ndarray) -> np.ndarray:
    return ((weights @ pairs) * weights).sum(1)


def _rhos(truth: np.ndarray, values: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """Return Spearman's rho of each resample, shape (R,); NaN where one of both has a single rank."""
    a, b = (_centred_ranks(v, weights) for v in (truth, values))
    covariance, of_a, of_b = ((weights * x * y).sum(1) for x, y in ((a, b), (a, a), (b, b)))
    with np.errstate(invalid="ignore", divide="ignore"):
        return np.where(of_a * of_b > LEEWAY, covariance / np.sqrt(of_a * of_b), np.nan)


def _centred_ranks(values: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """Return the networks' average ranks in each resample, with mean 0 over the resample; shape (R, A)."""
    below = (values[None, :] < values[:, None]).astype(float)
    equal = (values[None, :] == values[:, None]).astype(float)
    ranks = weights @ below.T + (weights @ equal.T) / 2
    return ranks - (ranks * weights).sum(1, keepdims=True) / weights.sum(1, keepdims=True)


def _permuted_ps(truth: np.ndarray, values: np.ndarray, blocks: np.ndarray, seed: int) -> tuple[float, float]:
    """Return how often truths that are permuted within the blocks give a tau, and a rho, as far from 0; two-sided.

    Ties are the same in every permutation, so it is enough to compare what stands above the fraction: the concordant
    minus the discordant pairs, and the covariance of the ranks.
    """
    same = blocks[:, None] == blocks[None, :]
    of_truth, of_values = (np.sign(v[:, None] - v[None, :]) * same for v in (truth, values))
    once = np.ones((1, len(truth)))
    true_ranks, ranks = (_centred_ranks(v, once)[0] for v in (truth, values))
    pairs, covariance = abs((of_truth * of_values).sum()), abs(true_ranks @ ranks)
    as_far = np.zeros(2)
    for orders in _permutations(blocks, rng_for(seed, "correlation permutations", len(blocks))):
        permuted = of_truth[orders[:, :, None], orders[:, None, :]]
        as_far[0] += (np.abs((permuted * of_values).sum((1, 2))) >= pairs - LEEWAY).sum()
        as_far[1] += (np.abs(true_ranks[orders] @ ranks) >= covariance - LEEWAY).sum()
    of_tau, of_rho = (1 + as_far) / (1 + RESAMPLES)
    return float(of_tau), float(of_rho)


def _permutations(blocks: np.ndarray, rng: np.random.Generator) -> Iterator[np.ndarray]:
    """Yield orders of the networks that keep each in its block, shape (CHUNK, A), until there are RESAMPLES."""
    for _ in range(RESAMPLES // CHUNK):
        orders = np.empty((CHUNK, len(blocks)), int)
        for name in dict.fromkeys(blocks):
            members = np.flatnonzero(blocks == name)
            orders[:, members] = members[rng.random((CHUNK, len(members))).argsort(1)]
        yield orders
