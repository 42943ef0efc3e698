"""Means, intervals and tests over cases."""

from __future__ import annotations

import warnings
from dataclasses import dataclass

import numpy as np
from scipy.stats import wilcoxon

from nnunet_hypersegnas.space import rng_for

RESAMPLES = 10_000
LEVEL = 0.95


@dataclass(frozen=True)
class Interval:
    """A mean with its bootstrap interval (95 %, percentiles over resampled cases)."""

    mean: float
    low: float
    high: float


def mean_intervals(values: np.ndarray, seed: int = 0) -> list[Interval]:
    """Return the mean of each column and, last, the mean of these means.

    Args:
        values: shape (cases, structures); NaN where a case does not count.
        seed: of the resampled cases.
    """
    means, resampled = _means(values, np.ones((1, len(values)))), _means(values, _resamples(len(values), seed))
    low, high = percentiles(resampled)
    return [Interval(float(m), float(a), float(b)) for m, a, b in zip(means[0], low, high, strict=True)]


@dataclass(frozen=True)
class PairedTest:
    """How much better one model is than another on the same cases.

    Attributes:
        difference: mean over cases, with its bootstrap interval.
        p: of Wilcoxon's signed-rank test, two-sided; NaN where the cases do not differ.
        cases: how many.
    """

    difference: Interval
    p: float
    cases: int


def paired_test(better: np.ndarray, worse: np.ndarray, seed: int = 0) -> PairedTest:
    """Compare two models case by case.

    Args:
        better, worse: shape (cases,), in the same order; cases that are NaN in one of them are left out.
        seed: of the resampled cases.
    """
    differences = better - worse
    differences = differences[np.isfinite(differences)]
    if not len(differences):
        return PairedTest(Interval(np.nan, np.nan, np.nan), np.nan, 0)
    p = float(wilcoxon(differences).pvalue) if differences.any() else np.nan
    return PairedTest(mean_intervals(differences[:, None], seed)[0], p, len(differences))


def _resamples(cases: int, seed: int) -> np.ndarray:
    """Return how often each case is drawn, shape (RESAMPLES, cases)."""
    rng = rng_for(seed, "bootstrap", cases)
    return rng.multinomial(cases, np.full(cases, 1 / cases), size=RESAMPLES).astype(float)


def _means(values: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """Return weighted means of the columns, and the mean of these; shape (weights, structures + 1)."""
    there = np.isfinite(values)
    with warnings.catch_warnings(), np.errstate(invalid="ignore", divide="ignore"):
        warnings.simplefilter("ignore", RuntimeWarning)  # of structures that no case has
        means = (weights @ np.where(there, values, 0)) / (weights @ there)
        return np.column_stack([means, np.nanmean(means, axis=1)])


def percentiles(resampled: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the ends of the interval of each column; resamples that are NaN do not count."""
    outside = 100 * (1 - LEVEL) / 2
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)
        low, high = np.nanpercentile(resampled, [outside, 100 - outside], axis=0)
    return low, high
