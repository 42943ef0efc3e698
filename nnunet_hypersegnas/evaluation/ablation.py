"""What an ablation says: ways to train a super-net, compared on the same sub-nets and seeds (paper section 4.1).

Shapes: A sub-nets, K labels, S seeds. DSC lies in 0 to 1; NaN stands for what could not be scored.
"""

from __future__ import annotations

import itertools
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from scipy.stats import kendalltau, spearmanr

from nnunet_hypersegnas.evaluation.statistics import PairedTest, paired_test

ALL, SMALLER, LARGER = "all", "smaller half", "larger half"
GROUPS = (ALL, SMALLER, LARGER)
FEWEST_RANKED = 3  # sub-nets; a ranking of two says nothing


@dataclass(frozen=True, kw_only=True, eq=False)
class ScoredSuperNet:
    """A trained super-net, and what its sub-nets score.

    Attributes:
        variant: how it was trained.
        seed: of its training.
        dsc_by_label: shape (A, K).
        seconds_per_volume: shape (A,), of the prediction.
        seconds_per_iteration: of the training, the median over its epochs; NaN where it is not known.
    """

    variant: str
    seed: int
    dsc_by_label: np.ndarray
    seconds_per_volume: np.ndarray
    seconds_per_iteration: float

    @cached_property
    def dsc(self) -> np.ndarray:
        """Mean over the labels, shape (A,)."""
        return _nanmean(self.dsc_by_label, axis=1)


@dataclass(frozen=True, kw_only=True, eq=False)
class AblationScores:
    """All super-nets of an ablation, on the same sub-nets.

    Attributes:
        labels: names of the K labels.
        memory_bytes: predicted training memory of each sub-net, shape (A,).
        parameters: of each sub-net, shape (A,).
        super_nets: one for each variant and seed that is there.
    """

    labels: tuple[str, ...]
    memory_bytes: np.ndarray
    parameters: np.ndarray
    super_nets: tuple[ScoredSuperNet, ...]

    @property
    def variants(self) -> list[str]:
        """Variants that are there, in order."""
        return list(dict.fromkeys(net.variant for net in self.super_nets))

    def of(self, variant: str) -> dict[int, ScoredSuperNet]:
        """Return a variant's super-nets by seed."""
        return {net.seed: net for net in self.super_nets if net.variant == variant}

    def members(self, group: str) -> np.ndarray:
        """Return which sub-nets belong to a group of `GROUPS`, shape (A,), bool.

        Halves are by memory; of an odd number the larger half gets one more.
        """
        rank = np.argsort(np.argsort(self.memory_bytes, kind="stable"), kind="stable")
        half = len(rank) // 2
        return {ALL: rank >= 0, SMALLER: rank < half, LARGER: rank >= half}[group]


@dataclass(frozen=True, kw_only=True)
class VariantSummary:
    """A row of the paper's Table 1.

    Attributes:
        variant: which.
        seeds: of its super-nets.
        dsc_by_label: means over seeds and sub-nets.
        dsc: mean over the labels, too.
        sd_over_seeds: standard deviation (n - 1) of the seeds' mean DSC; NaN with one seed.
        seconds_per_volume, seconds_per_iteration: means over the seeds.
    """

    variant: str
    seeds: tuple[int, ...]
    dsc_by_label: dict[str, float]
    dsc: float
    sd_over_seeds: float
    seconds_per_volume: float
    seconds_per_iteration: float


def summarize_variant(scores: AblationScores, variant: str) -> VariantSummary:
    """Return a variant's row."""
    nets = scores.of(variant)
    labels = _nanmean(np.concatenate([net.dsc_by_label for net in nets.values()]), axis=0)
    of_seeds = np.array([_nanmean(net.dsc, axis=0) for net in nets.values()])
    return VariantSummary(
        variant=variant,
        seeds=tuple(nets),
        dsc_by_label=dict(zip(scores.labels, labels.tolist(), strict=True)),
        dsc=float(of_seeds.mean()),
        sd_over_seeds=float(of_seeds.std(ddof=1)) if len(of_seeds) > 1 else float("nan"),
        seconds_per_volume=float(np.mean([_nanmean(net.seconds_per_volume, axis=0) for net in nets.values()])),
        seconds_per_iteration=float(np.mean([net.seconds_per_iteration for net in nets.values()])),
    )


@dataclass(frozen=True, kw_only=True)
class Difference:
    """How much better a variant's sub-nets score than the base's, sub-net by sub-net and seed by seed.

    Attributes:
        variant, base: which.
        group: of sub-nets, one of `GROUPS`.
        test: over sub-nets, each the mean over the seeds: the interval resamples sub-nets, and takes seeds as given.
        by_seed: mean difference of each seed, which shows how much of it another seed would change.
        better: share of the pairs of sub-net and seed in which the variant scores higher.
    """

    variant: str
    base: str
    group: str
    test: PairedTest
    by_seed: dict[int, float]
    better: float


def compare_variants(scores: AblationScores, variant: str, base: str, group: str) -> Difference | None:
    """Compare two variants on the seeds that both have; None where there is none."""
    mine, theirs, members = scores.of(variant), scores.of(base), scores.members(group)
    seeds = [seed for seed in mine if seed in theirs]
    if not seeds:
        return None
    better = np.array([mine[seed].dsc[members] for seed in seeds])  # shape (S, A)
    worse = np.array([theirs[seed].dsc[members] for seed in seeds])
    # A sub-net that one super-net could not score is left out of all of them, so that every seed has the same.
    usable = np.isfinite(better - worse).all(0)
    better, worse = better[:, usable], worse[:, usable]
    return Difference(
        variant=variant,
        base=base,
        group=group,
        test=paired_test(better.mean(0), worse.mean(0)),
        by_seed=dict(zip(seeds, _nanmean(better - worse, axis=1).tolist(), strict=True)),
        better=float(_nanmean((better > worse).astype(float).ravel(), axis=0)),
    )


@dataclass(frozen=True)
class Correlation:
    """Kendall's tau (b) and Spearman's rho; NaN where they are not defined."""

    kendall: float
    spearman: float


@dataclass(frozen=True, kw_only=True)
class RankAgreement:
    """How far a variant's super-nets rank the sub-nets alike, and what else ranks them so.

    Attributes:
        variant: which.
        group: of sub-nets, one of `GROUPS`.
        between_seeds: mean over all pairs of seeds; NaN with one seed.
        lowest_between_seeds: of these pairs' tau and rho.
        with_parameters, with_memory: mean over the seeds; what size alone explains, as a control.
        with_base: with the base variant's ranking under the same seed, mean over the seeds; None for the base itself.
    """

    variant: str
    group: str
    between_seeds: Correlation
    lowest_between_seeds: Correlation
    with_parameters: Correlation
    with_memory: Correlation
    with_base: Correlation | None


def rank_agreement(scores: AblationScores, variant: str, base: str, group: str) -> RankAgreement:
    """Return how well a variant's rankings agree."""
    members, nets, others = scores.members(group), scores.of(variant), scores.of(base)
    dsc = {seed: net.dsc[members] for seed, net in nets.items()}
    pairs = [correlation(dsc[a], dsc[b]) for a, b in itertools.combinations(dsc, 2)]
    common = [seed for seed in dsc if seed in others]
    return RankAgreement(
        variant=variant,
        group=group,
        between_seeds=_mean(pairs),
        lowest_between_seeds=_lowest(pairs),
        with_parameters=_mean([correlation(values, scores.parameters[members]) for values in dsc.values()]),
        with_memory=_mean([correlation(values, scores.memory_bytes[members]) for values in dsc.values()]),
        with_base=None
        if variant == base
        else _mean([correlation(dsc[seed], others[seed].dsc[members]) for seed in common]),
    )


def correlation(a: np.ndarray, b: np.ndarray) -> Correlation:
    """Return how alike two lists rank the same things; those that are NaN in one of them are left out.

    Args:
        a, b: shape (A,).
    """
    there = np.isfinite(a) & np.isfinite(b)
    a, b = a[there], b[there]
    if len(a) < FEWEST_RANKED or np.ptp(a) == 0 or np.ptp(b) == 0:
        return Correlation(float("nan"), float("nan"))
    return Correlation(float(kendalltau(a, b).statistic), float(spearmanr(a, b).statistic))


def _mean(found: Sequence[Correlation]) -> Correlation:
    return Correlation(
        float(_nanmean(np.array([c.kendall for c in found]), axis=0)),
        float(_nanmean(np.array([c.spearman for c in found]), axis=0)),
    )


def _lowest(found: Sequence[Correlation]) -> Correlation:
    nothing = float("nan")
    return Correlation(
        min((c.kendall for c in found), default=nothing), min((c.spearman for c in found), default=nothing)
    )


def _nanmean(values: np.ndarray, axis: int) -> np.ndarray:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)  # of what nobody could score
        return np.nanmean(values, axis=axis)
