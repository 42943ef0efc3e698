import math

import pytest

from nnunet_hypersegnas.cost import Quantity
from nnunet_hypersegnas.errors import HyperSegNASError
from nnunet_hypersegnas.search import (
    Budget,
    BudgetError,
    Candidate,
    Contest,
    Interval,
    Limits,
    Rung,
    Score,
    Way,
    climb,
    gather,
    pareto_front,
    refine,
    winner,
)
from nnunet_hypersegnas.space import rng_for, sample
from tests.spaces import FULL_RESOLUTION

ARCHITECTURES = list(dict.fromkeys(sample(FULL_RESOLUTION, rng_for(0, "t", i)) for i in range(60)))[:24]
RANK = {architecture: i for i, architecture in enumerate(ARCHITECTURES)}
RUNGS = [
    Rung(way=Way.PATCHES, amount=3, keep=16, cost_patches=3),
    Rung(way=Way.CROPS, amount=2, keep=6, cost_patches=20),
    Rung(way=Way.FINE_TUNING, amount=5, keep=4, cost_patches=40),
    Rung(way=Way.FINE_TUNING, amount=40, keep=2, cost_patches=260),
]
WIDE = Limits({Quantity.MEMORY: Interval(0, 1000)})


def candidate(architecture):
    """The larger the rank, the smaller the network."""
    memory = 100 - RANK[architecture]
    return Candidate(architecture=architecture, predicted_memory_bytes=memory, parameters=1, multiply_adds=1)


class Fixed:
    """A strategy that gives one list of candidates, in as many generations."""

    report = ()

    def __init__(self, *generations):
        self.given, self.seen, self.near = generations, [], {}

    def generations(self):
        return [len(generation) for generation in self.given]

    def source(self, generation, candidates):
        self.seen.append([c.standing for c in candidates])
        return self.given[generation]

    def neighbours(self, number, candidates):
        return self.near.get(number)


def contest(label, *generations, limits=WIDE):
    return Contest(Budget(label, limits), Fixed(*generations), [])


class Evaluations:
    def __init__(self, dsc):
        self.dsc, self.asked = dsc, []

    def __call__(self, rung, architectures):
        assert len(set(architectures)) == len(architectures)
        self.asked.append((rung.name, set(architectures)))
        return {a: Score(dsc_by_label={"organ": self.dsc(rung, a)}) for a in architectures}


def draw(source, count):
    assert len(source) == count
    return [candidate(architecture) for architecture in source]


def by_rank(rung, architecture):
    """Fine-tuning turns the order round."""
    value = RANK[architecture] / 100
    return 1 - value if rung.way is Way.FINE_TUNING else value


def search(contests, dsc=by_rank, rungs=RUNGS, meter=None):
    evaluations = Evaluations(dsc)
    gather(contests, rungs[0], draw, evaluations)
    climb(contests, rungs, evaluations, meter)
    return evaluations


def test_the_best_of_each_rung_climb():
    only = contest("b", ARCHITECTURES[:16])
    evaluations = search([only])
    assert evaluations.asked == [
        ("patches 3", set(ARCHITECTURES[:16])),
        ("crops 2", set(ARCHITECTURES[10:16])),
        ("fine-tuning 5", set(ARCHITECTURES[12:16])),
        ("fine-tuning 40", set(ARCHITECTURES[12:14])),  # best when fine-tuned, though not before
    ]
    best = winner(only.budget, [only], RUNGS[-1])
    assert best.architecture == ARCHITECTURES[12]
    assert best.shared.dsc == 0.12 and best.fine_tuned.dsc == 0.88
    ranked = sorted(only.candidates, key=lambda c: c.standing)
    assert [RANK[c.architecture] for c in ranked] == [12, 13, 14, 15, 11, 10, *range(9, -1, -1)]
    assert len(ranked) == 16


def test_seeded_candidates_climb_whatever_their_scores():
    only = contest("b", ARCHITECTURES[:16])
    only.seeded = frozenset({ARCHITECTURES[0], ARCHITECTURES[15], ARCHITECTURES[20]})  # the worst, the best, and none
    evaluations = search([only])
    seeded = {ARCHITECTURES[0]}
    assert evaluations.asked == [
        ("patches 3", set(ARCHITECTURES[:16])),
        ("crops 2", set(ARCHITECTURES[10:16]) | seeded),
        ("fine-tuning 5", set(ARCHITECTURES[12:16]) | seeded),
        ("fine-tuning 40", {ARCHITECTURES[12], ARCHITECTURES[15]} | seeded),
    ]
    assert winner(only.budget, [only], RUNGS[-1]).architecture == ARCHITECTURES[0]


def test_neighbours_of_the_best_are_fine_tuned_round_by_round():
    only, without = contest("b", ARCHITECTURES[:8]), contest("c", ARCHITECTURES[8:16])
    only.strategy.near = {1: ARCHITECTURES[16:20], 2: ARCHITECTURES[20:24]}
    evaluations = search([only, without])
    refine([only, without], RUNGS, 0, draw, evaluations)
    assert len(evaluations.asked) == len(RUNGS)
    refine([only, without], RUNGS, 1, draw, evaluations)
    first = set(ARCHITECTURES[16:20])
    assert evaluations.asked[len(RUNGS) :] == [
        *[(rung.name, first) for rung in RUNGS[:3]],
        ("fine-tuning 40", {ARCHITECTURES[16], ARCHITECTURES[17]}),  # the best of them when fine-tuned
    ]
    assert len(only.candidates) == 12 and len(without.candidates) == 8
    meter = Meter(lambda rank: 2000 if rank == 22 else 90)
    only.strategy.near = {1: ARCHITECTURES[20:24]}
    refine([only], RUNGS, 1, draw, evaluations, meter)
    assert evaluations.asked[-4][1] == {ARCHITECTURES[i] for i in (20, 21, 23)} and meter.measured == [20, 21, 22, 23]


def test_the_order_of_candidates_and_answers_does_not_change_the_result():
    def equal(rung, architecture):
        return 0.5

    first, second = contest("b", ARCHITECTURES[:16]), contest("b", ARCHITECTURES[15::-1])
    search([first], equal)
    search([second], equal)
    assert sorted(first.candidates, key=lambda c: c.standing) == sorted(second.candidates, key=lambda c: c.standing)
    # Equal ones are ordered by memory: the smallest wins.
    assert winner(first.budget, [first], RUNGS[-1]).architecture == ARCHITECTURES[15]


def test_budgets_share_what_both_evaluate_and_compete_by_themselves():
    one, other = contest("one", ARCHITECTURES[:10]), contest("other", ARCHITECTURES[6:20])
    evaluations = search([one, other])
    assert [len(asked) for _, asked in evaluations.asked] == [20, 12 - 0, 8, 4]
    assert {RANK[c.architecture] for c in one.candidates if len(c.scores) == 4} == {6, 7}
    # A candidate of both counts in each as far as it climbed there.
    assert {len(c.scores) for c in other.candidates if RANK[c.architecture] in (6, 7)} == {1}


def test_a_network_of_a_smaller_budget_wins_where_it_is_better():
    small = contest("small", ARCHITECTURES[12:24], limits=Limits({Quantity.MEMORY: Interval(70, 88)}))
    large = contest("large", ARCHITECTURES[:12], limits=Limits({Quantity.MEMORY: Interval(89, 100)}))
    search([small, large], lambda rung, a: RANK[a] / 100)
    assert RANK[winner(large.budget, [small, large], RUNGS[-1]).architecture] == 23
    assert RANK[winner(small.budget, [small, large], RUNGS[-1]).architecture] == 23
    assert [RANK[c.architecture] for c in pareto_front([small, large], RUNGS[-1])] == [23]
    small, large = contest("small", ARCHITECTURES[12:24], limits=small.budget.limits), contest("l", ARCHITECTURES[:12])
    search([small, large], lambda rung, a: 1 - RANK[a] / 100)
    assert [RANK[c.architecture] for c in pareto_front([small, large], RUNGS[-1])] == [13, 12, 1, 0]  # by memory
    assert RANK[winner(small.budget, [small, large], RUNGS[-1]).architecture] == 12  # the large ones do not fit


def test_generations_see_the_scores_of_those_before():
    bred = contest("b", ARCHITECTURES[:4], ARCHITECTURES[4:6], ARCHITECTURES[6:16])
    search([bred, contest("c", ARCHITECTURES[16:20])])
    assert [len(seen) for seen in bred.strategy.seen] == [0, 4, 6]
    assert all(standing[0] == -1 for standing in bred.strategy.seen[2])


def test_what_cannot_be_scored_ranks_last_and_nothing_at_all_is_an_error():
    partly = contest("b", ARCHITECTURES[:16])
    search([partly], lambda rung, a: 0.1 if a == ARCHITECTURES[3] else math.nan)
    assert winner(partly.budget, [partly], RUNGS[-1]).architecture == ARCHITECTURES[3]
    with pytest.raises(HyperSegNASError, match="no validation crop holds a foreground label"):
        search([contest("b", ARCHITECTURES[:16])], lambda rung, a: math.nan)


class Meter:
    def __init__(self, memory):
        self.memory, self.measured = memory, []

    def measure(self, architecture):
        self.measured.append(RANK[architecture])
        return {Quantity.MEMORY: self.memory(RANK[architecture])}


def test_a_finalist_that_misses_the_budget_when_measured_gives_its_place_to_the_next():
    limits = Limits({Quantity.MEMORY: Interval(0, 100)})
    only = contest("b", ARCHITECTURES[:16], limits=limits)
    meter = Meter(lambda rank: math.inf if rank == 15 else 120 if rank == 13 else 90)
    evaluations = search([only], meter=meter)
    assert evaluations.asked[2][1] == {ARCHITECTURES[i] for i in (14, 12, 11, 10)}
    assert meter.measured == [15, 14, 13, 12, 11, 10]  # nothing is measured that is not to be fine-tuned
    assert winner(only.budget, [only], RUNGS[-1]).measured == {Quantity.MEMORY: 90}
    missed = next(c for c in only.candidates if c.architecture == ARCHITECTURES[15]).to_json()
    assert missed["measured_memory_bytes"] is None and missed["fits_device"] is False


def test_no_finalist_within_the_budget_is_an_error_after_a_bounded_number():
    meter = Meter(lambda rank: 120)
    rungs = [RUNGS[0], RUNGS[1], Rung(way=Way.FINE_TUNING, amount=5, keep=1, cost_patches=40)]
    limits = Limits({Quantity.MEMORY: Interval(0, 100)})
    with pytest.raises(BudgetError, match="none of the 5 best candidates has memory at most 100 B when measured"):
        search([contest("b", ARCHITECTURES[:16], limits=limits)], rungs=rungs, meter=meter)
    assert len(meter.measured) == 5
