"""The ablation's figures from scores that were made by hand."""

import numpy as np
import pytest

from nnunet_hypersegnas.evaluation.ablation import (
    ALL,
    LARGER,
    SMALLER,
    AblationScores,
    ScoredSuperNet,
    compare_variants,
    correlation,
    rank_agreement,
    summarize_variant,
)

NAN = float("nan")
MEMORY = np.array([30, 10, 50, 20, 40])  # the second sub-net is the smallest


def super_net(variant, seed, mean, *, spread=0.1, seconds=(1.0, 2.0)):
    """Sub-nets whose two labels lie `spread` below and above the given means."""
    mean = np.array(mean, float)
    return ScoredSuperNet(
        variant=variant,
        seed=seed,
        dsc_by_label=np.column_stack([mean - spread, mean + spread]),
        seconds_per_volume=np.full(len(mean), seconds[0]),
        seconds_per_iteration=seconds[1],
    )


def scores(*super_nets):
    return AblationScores(
        labels=("organ", "lesion"), memory_bytes=MEMORY, parameters=np.arange(5), super_nets=tuple(super_nets)
    )


def test_a_row_of_table_1():
    found = scores(
        super_net("vanilla", 0, [0.2, 0.3, 0.4, 0.5, 0.6]),
        super_net("vanilla", 1, [0.4, 0.5, 0.6, 0.7, 0.8], seconds=(3.0, 4.0)),
    )
    row = summarize_variant(found, "vanilla")
    assert row.seeds == (0, 1) and row.dsc == pytest.approx(0.5)
    assert row.dsc_by_label == pytest.approx({"organ": 0.4, "lesion": 0.6})
    assert row.sd_over_seeds == pytest.approx(np.std([0.4, 0.6], ddof=1))
    assert (row.seconds_per_volume, row.seconds_per_iteration) == (2.0, 3.0)
    assert np.isnan(summarize_variant(scores(super_net("vanilla", 0, [0.1] * 5)), "vanilla").sd_over_seeds)


def test_halves_are_by_memory():
    found = scores()
    assert found.members(ALL).all()
    assert found.members(SMALLER).tolist() == [False, True, False, True, False]
    assert found.members(LARGER).tolist() == [True, False, True, False, True]


def test_differences_are_paired_by_sub_net_and_seed():
    found = scores(
        super_net("vanilla", 0, [0.1, 0.2, 0.3, 0.4, 0.5]),
        super_net("vanilla", 1, [0.5, 0.4, 0.3, 0.2, 0.1]),
        super_net("main", 0, [0.2, 0.1, 0.4, 0.4, 0.6]),  # +0.1 on the larger, -0.1 and 0 on the smaller
        super_net("main", 1, [0.6, 0.3, 0.4, 0.2, 0.2]),
        super_net("main", 2, [0.9] * 5),  # vanilla has no such seed
    )
    larger, smaller = (compare_variants(found, "main", "vanilla", group) for group in (LARGER, SMALLER))
    assert larger.test.difference.mean == pytest.approx(0.1) and larger.test.cases == 3
    assert larger.test.difference.low == pytest.approx(0.1) and larger.better == 1
    assert larger.by_seed == pytest.approx({0: 0.1, 1: 0.1})
    assert smaller.test.difference.mean == pytest.approx(-0.05) and smaller.better == 0
    everything = compare_variants(found, "main", "vanilla", ALL)
    assert everything.test.difference.mean == pytest.approx(0.04)
    assert -0.11 < everything.test.difference.low < 0.04 < everything.test.difference.high < 0.11
    assert compare_variants(found, "main", "keep-man", ALL) is None


def test_seeds_are_no_further_cases():
    """Twice the seeds with the same differences leave the interval as wide as it was."""
    low, high = [0.1, 0.2, 0.3, 0.4, 0.5], [0.2, 0.2, 0.5, 0.3, 0.9]
    few = scores(super_net("a", 0, low), super_net("b", 0, high))
    many = scores(*(super_net(name, seed, dsc) for seed in range(4) for name, dsc in (("a", low), ("b", high))))
    one, other = (compare_variants(found, "b", "a", ALL).test for found in (few, many))
    assert one.cases == other.cases == 5
    assert (one.difference.low, one.difference.high) == pytest.approx((other.difference.low, other.difference.high))


def test_a_sub_net_that_could_not_be_scored_is_left_out_of_every_seed():
    found = scores(
        super_net("vanilla", 0, [0.1] * 5),
        super_net("vanilla", 1, [0.1] * 5),
        super_net("main", 0, [0.2, NAN, 0.2, 0.2, 0.2]),
        super_net("main", 1, [0.2, 0.9, 0.2, 0.2, 0.2]),
    )
    test = compare_variants(found, "main", "vanilla", ALL).test
    assert test.cases == 4 and test.difference.mean == pytest.approx(0.1)
    assert summarize_variant(found, "main").dsc > 0


def test_rank_agreement_between_seeds_and_with_size():
    up, down = [0.1, 0.2, 0.3, 0.4, 0.5], [0.5, 0.4, 0.3, 0.2, 0.1]
    found = scores(
        super_net("vanilla", 0, up),
        super_net("vanilla", 1, up),
        super_net("vanilla", 2, down),
        super_net("main", 0, down),
        super_net("main", 1, np.argsort(np.argsort(MEMORY)) / 10),
    )
    vanilla = rank_agreement(found, "vanilla", "vanilla", ALL)
    assert vanilla.between_seeds.kendall == pytest.approx((1 - 1 - 1) / 3)
    assert vanilla.lowest_between_seeds.kendall == pytest.approx(-1) and vanilla.with_base is None
    assert vanilla.with_parameters.spearman == pytest.approx((1 + 1 - 1) / 3)
    main = rank_agreement(found, "main", "vanilla", ALL)
    by_size = correlation(np.array(down), MEMORY)
    assert main.with_memory.kendall == pytest.approx((by_size.kendall + 1) / 2)
    against_up = correlation(MEMORY, np.array(up))
    assert main.with_base.spearman == pytest.approx((-1 + against_up.spearman) / 2)
    assert np.isnan(rank_agreement(found, "main", "vanilla", SMALLER).between_seeds.kendall)  # two rank nothing


@pytest.mark.parametrize("values", [[0.0] * 5, [0.1, NAN, NAN, NAN, 0.2]])
def test_what_ranks_nothing_has_no_correlation(values):
    assert np.isnan(correlation(np.array(values), MEMORY).kendall)
