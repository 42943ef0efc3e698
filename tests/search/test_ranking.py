"""Scores that rank nothing are told from those that do."""

import math

import pytest

from nnunet_hypersegnas.search import Score, ranking_fault

NAN = math.nan


def scores(*rows):
    return [Score(dsc_by_label=dict(zip(("liver", "tumour"), row, strict=True))) for row in rows]


@pytest.mark.parametrize(
    ("found", "labels", "fault"),
    [
        (scores((0, 0), (0, 0)), ["liver"], "DSC is 0 for all 2 candidates"),
        (scores((0, 0)), ["liver"], "DSC is 0 for the only candidate"),
        (scores((0, NAN), (NAN, NAN)), ["liver"], "DSC is 0 for the only candidate"),
        (scores((0.5, 0.1), (0.5, 0.1)), ["liver"], "DSC is the same, 0.3000, for all 2 candidates"),
        (scores((0.5, 0.1), (0.1, 0.5)), ["liver"], "DSC is the same, 0.3000, for all 2 candidates"),
        (scores((0.5, 0), (0.6, 0)), ["liver", "tumour"], "DSC of tumour is 0 for all 2 candidates"),
        (scores((0.5, 0)), ["liver", "tumour"], "DSC of tumour is 0 for the only candidate"),
        (scores((0.5, 0), (NAN, NAN), (0.6, 0)), ["liver", "tumour"], "DSC of tumour is 0 for all 2 candidates"),
        # One is not alike, a label that is not shown was only predicted, and what has no score says nothing.
        (scores((0.5, 0.1)), ["liver", "tumour"], None),
        (scores((0.5, 0), (0.6, 0)), ["liver"], None),
        (scores((0.5, 0), (0.6, 0.1)), ["liver", "tumour"], None),
        (scores((0.5, NAN), (0.6, NAN)), ["liver"], None),
        (scores((NAN, NAN)), ["liver"], None),
        ([], ["liver"], None),
    ],
)
def test_what_ranks_nothing(found, labels, fault):
    assert ranking_fault(found, labels) == fault


def test_many_labels_are_not_all_named():
    names = [f"label {i}" for i in range(100)]
    found = [Score(dsc_by_label={"organ": dsc, **dict.fromkeys(names, 0.0)}) for dsc in (0.1, 0.2)]
    assert ranking_fault(found, ["organ", *names]) == (
        "DSC of label 0, label 1, label 2, label 3, label 4 and 95 more is 0 for all 2 candidates"
    )
