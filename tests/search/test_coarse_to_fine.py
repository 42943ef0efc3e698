import json
import math

import pytest

from nnunet_hypersegnas.cost import Quantity
from nnunet_hypersegnas.errors import HyperSegNASError
from nnunet_hypersegnas.search import BudgetError, Candidate, Interval, Limits, Score, coarse_to_fine
from nnunet_hypersegnas.space import rng_for, sample
from tests.spaces import TINY

ARCHITECTURES = list({sample(TINY, rng_for(0, "t", i)) for i in range(40)})[:12]
CANDIDATES = [
    Candidate(architecture=a, predicted_memory_bytes=100 - i, parameters=1, multiply_adds=1)
    for i, a in enumerate(ARCHITECTURES)
]
LIMITS = Limits({Quantity.MEMORY: Interval(80, 100)})


def _score(value):
    return Score(dsc_by_label={"organ": value, "lesion": value})


class _Bar:
    def __init__(self, seen):
        self.seen = seen

    def __enter__(self):
        return self

    def __exit__(self, *exception):
        pass

    def advance(self, best_dsc=None):
        self.seen.append(best_dsc)


class _Evaluator:
    """Shared weights rank by position, fine-tuning turns the finalists' order round."""

    def __init__(self, shared):
        self.shared, self.fine_tuned = shared, []

    def score_shared(self, architecture):
        return _score(self.shared[architecture])

    def score_fine_tuned(self, architecture):
        self.fine_tuned.append(architecture)
        return _score(1 - self.shared[architecture])


def _run(candidates, shared, finalists=3, meter=None):
    evaluator, seen = _Evaluator(shared), {}

    def progress(stage, total):
        return _Bar(seen.setdefault(stage, []))

    return coarse_to_fine(candidates, evaluator, finalists, progress, LIMITS, meter), evaluator, seen


def test_the_best_by_shared_weights_are_fine_tuned_and_the_best_of_them_wins():
    shared = {a: i / 20 for i, a in enumerate(ARCHITECTURES)}
    ranked, evaluator, seen = _run(CANDIDATES, shared)
    assert evaluator.fine_tuned == ARCHITECTURES[:-4:-1]  # top 3, best first
    assert ranked[0].architecture == ARCHITECTURES[-3]  # fine-tuned best, though third by shared weights
    assert [c.fine_tuned is not None for c in ranked] == [True] * 3 + [False] * 9
    assert len({c.architecture for c in ranked}) == len(ARCHITECTURES)
    assert [len(values) for values in seen.values()] == [12, 3]
    assert all(values == sorted(values) for values in seen.values())  # "best so far" only rises


def test_the_order_of_candidates_does_not_change_the_result():
    shared = dict.fromkeys(ARCHITECTURES, 0.5)
    first, _, _ = _run(CANDIDATES, shared)
    second, _, _ = _run(CANDIDATES[::-1], shared)
    assert [c.architecture for c in first] == [c.architecture for c in second]
    assert first[0].predicted_memory_bytes == min(c.predicted_memory_bytes for c in CANDIDATES)  # ties: the smaller


def test_scores_that_do_not_exist_rank_last():
    shared = {a: math.nan if i else 0.1 for i, a in enumerate(ARCHITECTURES)}
    ranked, _, _ = _run(CANDIDATES, shared, finalists=1)
    assert ranked[0].architecture == ARCHITECTURES[0]
    with pytest.raises(HyperSegNASError, match="no validation crop holds a foreground label"):
        _run(CANDIDATES, dict.fromkeys(ARCHITECTURES, math.nan))


def test_labels_that_never_occur_do_not_count_in_the_mean():
    score = Score(dsc_by_label={"a": 0.5, "b": math.nan, "c": 0.7})
    assert score.dsc == pytest.approx(0.6)
    again = Score.from_json(json.loads(json.dumps(score.to_json())))
    assert again.dsc == score.dsc and math.isnan(again.dsc_by_label["b"])


class _Meter:
    def __init__(self, memory):
        self.memory, self.measured = memory, []

    def measure(self, architecture):
        self.measured.append(architecture)
        return {Quantity.MEMORY: self.memory(architecture)}


def test_a_finalist_that_misses_the_budget_gives_its_place_to_the_next():
    shared = {a: i / 20 for i, a in enumerate(ARCHITECTURES)}
    meter = _Meter(lambda a: math.inf if a == ARCHITECTURES[-1] else 120 if a == ARCHITECTURES[-3] else 90)
    ranked, evaluator, _ = _run(CANDIDATES, shared, meter=meter)
    assert evaluator.fine_tuned == [ARCHITECTURES[i] for i in (-2, -4, -5)]
    assert meter.measured == ARCHITECTURES[:-6:-1]  # nothing is measured that is not to be fine-tuned
    assert ranked[0].measured == {Quantity.MEMORY: 90}
    missed = ranked[3].to_json()  # the others stand by their shared score
    assert missed["measured_memory_bytes"] is None and missed["fits_device"] is False
    assert len({c.architecture for c in ranked}) == len(ARCHITECTURES)


def test_no_finalist_within_the_budget_is_an_error_after_a_bounded_number():
    meter = _Meter(lambda a: 120)
    with pytest.raises(BudgetError, match="none of the 5 best candidates has memory 80 B to 100 B when measured"):
        _run(CANDIDATES, dict.fromkeys(ARCHITECTURES, 0.5), finalists=1, meter=meter)
    assert len(meter.measured) == 5
