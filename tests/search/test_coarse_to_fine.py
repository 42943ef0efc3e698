import json
import math

import pytest

from nnunet_hypersegnas.errors import HyperSegNASError
from nnunet_hypersegnas.search import Candidate, EvaluationLog, Score, coarse_to_fine
from nnunet_hypersegnas.space import rng_for, sample
from tests.spaces import TINY

ARCHITECTURES = list({sample(TINY, rng_for(0, "t", i)) for i in range(40)})[:12]
CANDIDATES = [
    Candidate(architecture=a, predicted_memory_bytes=100 - i, parameters=1) for i, a in enumerate(ARCHITECTURES)
]


def _score(value):
    return Score(dsc_by_label={"organ": value, "lesion": value})


class _Bar:
    def __init__(self, seen):
        self.seen = seen

    def __enter__(self):
        return self

    def __exit__(self, *exception):
        pass

    def advance(self, best_dsc):
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


def _run(candidates, shared, finalists=3):
    evaluator, seen = _Evaluator(shared), {}
    ranked = coarse_to_fine(candidates, evaluator, finalists, lambda stage, c: _Bar(seen.setdefault(stage, [])))
    return ranked, evaluator, seen


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


def test_the_evaluation_log_survives_a_kill_at_every_byte(tmp_path):
    log = EvaluationLog(tmp_path / "a" / "log.jsonl")
    for i, architecture in enumerate(ARCHITECTURES[:3]):
        log.add("shared x", architecture, _score(i / 10))
    content = log.path.read_bytes()
    for cut in range(len(content) + 1):
        path = tmp_path / "cut.jsonl"
        path.write_bytes(content[:cut])
        resumed = EvaluationLog(path)
        whole = content[:cut].count(b"\n")
        known = [resumed.get("shared x", a) is not None for a in ARCHITECTURES[:3]]
        assert known == [i < whole for i in range(3)]
        resumed.add("shared x", ARCHITECTURES[5], _score(0.9))  # what is appended after a torn line is not lost
        assert EvaluationLog(path).get("shared x", ARCHITECTURES[5]) == _score(0.9)
    assert EvaluationLog(log.path).get("other stage", ARCHITECTURES[0]) is None
