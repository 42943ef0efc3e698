import pytest

from nnunet_hypersegnas.search import Rung, SearchSettings, Way, rungs_of

PAPER = SearchSettings()


def amounts(rungs):
    return [(rung.way.value, rung.amount, rung.keep) for rung in rungs]


def test_the_papers_search_by_rungs_costs_an_eighth_of_full_evaluation():
    rungs = rungs_of(PAPER, crops=50, patches=640, batch_size=2)
    assert amounts(rungs) == [
        ("patches", 20, 2000),
        ("patches", 80, 500),
        ("crops", 50, 125),
        ("fine-tuning", 625, 10),
        ("fine-tuning", 5000, 5),
    ]
    scoring = sum(rung.keep * rung.cost_patches for rung in rungs if rung.way is not Way.FINE_TUNING)
    assert scoring == 2000 * 640 / 8
    assert [rung.cost_patches for rung in rungs[-2:]] == [3 * 625 * 2 + 640, 3 * 5000 * 2 + 640]


def test_without_halving_all_are_evaluated_in_full_as_in_the_paper():
    settings = SearchSettings(halving=False)
    assert amounts(rungs_of(settings, crops=50, patches=640, batch_size=2)) == [
        ("crops", 50, 2000),
        ("fine-tuning", 5000, 10),
    ]


@pytest.mark.parametrize(("patches", "expected"), [(87, [3, 11]), (24, [3]), (5, [2]), (4, [2]), (3, []), (1, [])])
def test_rungs_that_are_hardly_cheaper_than_the_next_are_left_out(patches, expected):
    rungs = rungs_of(PAPER, crops=4, patches=patches, batch_size=2)
    assert [rung.amount for rung in rungs if rung.way is Way.PATCHES] == expected
    costs = [rung.cost_patches for rung in rungs]
    assert costs == sorted(set(costs))
    assert rungs[0].keep == 2000


def test_never_fewer_than_the_finalists_climb():
    rungs = rungs_of(SearchSettings(candidates=8, finalists=4), crops=4, patches=640, batch_size=2)
    assert [rung.keep for rung in rungs] == [8, 4, 4, 4, 2]
    assert rungs_of(SearchSettings(finalists=1), crops=4, patches=64, batch_size=2)[-1].keep == 1


def test_a_rung_is_read_as_it_was_written():
    for rung in rungs_of(PAPER, crops=50, patches=640, batch_size=2):
        assert Rung.from_json(rung.to_json()) == rung
        assert rung.name in ("patches 20", "patches 80", "crops 50", "fine-tuning 625", "fine-tuning 5000")
