"""Means, intervals and summaries."""

import csv
import json
import math

import numpy as np
import pytest

from nnunet_hypersegnas.evaluation import (
    Score,
    Scoring,
    describe,
    describe_folds,
    mean_intervals,
    paired_test,
    summarize,
    write_csv,
    write_summary,
)

RNG = np.random.default_rng(0)
NORMAL = RNG.normal(0.8, 0.1, size=(200, 2))


def test_the_interval_is_that_of_a_mean():
    """Of normal values: 1.96 standard errors on both sides."""
    found = mean_intervals(NORMAL)
    for interval, column in zip(found, [*NORMAL.T, NORMAL.mean(1)], strict=True):
        error = 1.96 * column.std(ddof=1) / math.sqrt(len(column))
        assert interval.mean == pytest.approx(column.mean())
        assert interval.low == pytest.approx(column.mean() - error, abs=0.0015)
        assert interval.high == pytest.approx(column.mean() + error, abs=0.0015)
    assert mean_intervals(NORMAL) == found and mean_intervals(NORMAL, seed=1) != found


def test_cases_that_do_not_count_are_left_out():
    values = np.array([[0.5, np.nan], [0.7, 0.2], [np.nan, np.nan]])
    first, second, mean = mean_intervals(values)
    assert first.mean == pytest.approx(0.6) and second.mean == pytest.approx(0.2) and mean.mean == pytest.approx(0.4)
    assert math.isnan(mean_intervals(np.full((3, 1), np.nan))[0].mean)


def test_a_paired_test_sees_a_small_steady_difference():
    worse = NORMAL[:, 0]
    better = worse + RNG.normal(0.01, 0.02, size=200)
    found = paired_test(better, worse)
    assert found.p < 1e-5 and found.difference.low > 0 and found.cases == 200
    assert paired_test(worse, better).difference.mean == pytest.approx(-found.difference.mean)
    shuffled = paired_test(RNG.permutation(worse), worse)
    assert shuffled.p > 0.01 and shuffled.difference.low < 0 < shuffled.difference.high
    assert math.isnan(paired_test(worse, worse).p)
    assert paired_test(np.array([np.nan]), np.array([0.5])).cases == 0


def score(fold, case, structure, dsc, nsd=math.nan):
    return Score(fold=fold, case=case, structure=structure, dsc=dsc, nsd=nsd, reference_ml=1.0, predicted_ml=1.5)


SCORES = [
    *(score(0, "a", "x", 0.5), score(0, "a", "y", 0.25)),
    *(score(0, "b", "x", 0.7), score(0, "b", "y", math.nan)),
    *(score(1, "c", "x", 0.9), score(1, "c", "y", 0.75)),
]


def test_summaries_over_cases_and_folds(tmp_path):
    x, y, mean = summarize(SCORES)
    assert (x.cases, x.left_out, y.cases, y.left_out) == (3, 0, 2, 1)
    assert x.dsc.mean == pytest.approx(0.7) and mean.dsc.mean == pytest.approx(0.6)
    assert x.dsc_of_folds == pytest.approx({0: 0.6, 1: 0.9}) and mean.dsc_of_folds[0] == pytest.approx(0.425)
    rows = describe([x, y, mean])
    assert "NSD" not in rows[0] and rows[1]["left out"] == "1" and rows[0]["DSC sd over folds"] == "0.2121"
    assert [row["fold"] for row in describe_folds([x, y, mean], 1)] == ["0", "1*"]
    write_csv(tmp_path / "s.csv", SCORES)
    lines = list(csv.DictReader((tmp_path / "s.csv").open()))
    assert len(lines) == 6 and lines[3]["dsc"] == "" and float(lines[5]["dsc"]) == 0.75
    write_summary(
        tmp_path / "s.json", SCORES, [x, y, mean], Scoring(labels=None, tolerance_mm=None), {"evaluated": "n"}
    )
    written = json.loads((tmp_path / "s.json").read_text())
    assert written["cases"][3]["dsc"] is None and written["summary"][0]["dsc_of_folds"] == {"0": 0.6, "1": 0.9}


def test_nsd_has_columns_where_there_is_one():
    rows = describe(summarize([score(None, "a", "x", 0.5, 0.9), score(None, "b", "x", 0.7, 0.7)]))
    assert rows[0]["NSD"] == "0.8000" and "DSC sd over folds" not in rows[0]
