import pytest

from nnunet_hypersegnas.search import LogError, MeasurementLog, Score
from nnunet_hypersegnas.space import rng_for, sample
from tests.spaces import TINY

ARCHITECTURES = list({sample(TINY, rng_for(0, "t", i)) for i in range(40)})[:6]


def _score(value):
    return Score(dsc_by_label={"organ": value})


def _log(path):
    return MeasurementLog(path, "score", Score.from_json)


def test_the_evaluation_log_survives_a_kill_at_every_byte(tmp_path):
    log = _log(tmp_path / "a" / "log.jsonl")
    for i, architecture in enumerate(ARCHITECTURES[:3]):
        log.add("shared x", architecture, _score(i / 10))
    content = log.path.read_bytes()
    for cut in range(len(content) + 1):
        path = tmp_path / "cut.jsonl"
        path.write_bytes(content[:cut])
        resumed = _log(path)
        whole = content[:cut].count(b"\n")
        known = [resumed.get("shared x", a) is not None for a in ARCHITECTURES[:3]]
        assert known == [i < whole for i in range(3)]
        resumed.add("shared x", ARCHITECTURES[5], _score(0.9))  # what is appended after a torn line is not lost
        assert _log(path).get("shared x", ARCHITECTURES[5]) == _score(0.9)
    assert _log(log.path).get("other stage", ARCHITECTURES[0]) is None


@pytest.mark.parametrize(
    "line", ["no JSON", "[]", '{"stage": "shared x"}', '{"stage": "a", "architecture": {"id": "b"}, "score": {}}']
)
def test_a_line_that_is_no_evaluation_is_named(tmp_path, line):
    log = _log(tmp_path / "log.jsonl")
    log.add("shared x", ARCHITECTURES[0], _score(0.5))
    content = log.path.read_text() + line + "\n"
    log.path.write_text(content)
    with pytest.raises(LogError, match=r"line 2 of .*log.jsonl holds no score.*delete that line"):
        _log(log.path)
    assert log.path.read_text() == content
