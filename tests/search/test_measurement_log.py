import pytest
from hypothesis import given
from hypothesis import strategies as st

from nnunet_hypersegnas.search import MeasurementLog, Score
from nnunet_hypersegnas.space import rng_for, sample
from tests.mutations import FEW, bytes_mutated
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
    "line",
    [
        b"no JSON",
        b"[]",
        b'{"stage": "shared x"}',
        b'{"stage": "a", "architecture": {"id": "b"}, "score": {}}',
        b'{"stage": "a", "architecture": {"id": "b"}, "score": {"dsc_by_label": {"organ": "high"}}}',
        b'{"stage": [], "architecture": {"id": "b"}, "score": {"dsc_by_label": {"organ": 0.5}}}',
        b"\xff\xfe\x00",
        b"[" * 10_000,
    ],
)
def test_a_damaged_line_costs_nothing_but_its_own_value(tmp_path, caplog, line):
    log = _log(tmp_path / "log.jsonl")
    log.add("shared x", ARCHITECTURES[0], _score(0.5))
    before = log.path.read_bytes()
    log.add("shared x", ARCHITECTURES[1], _score(0.6))
    after = log.path.read_bytes()[len(before) :]
    log.path.write_bytes(before + line + b"\n" + after)

    resumed = _log(log.path)

    assert [resumed.get("shared x", a) for a in ARCHITECTURES[:2]] == [_score(0.5), _score(0.6)]
    [message] = caplog.messages
    assert "1 damaged line(s), whose values are measured again (line 2: " in message and len(message) < 500
    assert log.path.read_bytes() == before + line + b"\n" + after


@given(data=st.data())
@FEW
def test_whatever_becomes_of_a_log_what_is_whole_is_read(tmp_path, data):
    log = _log(tmp_path / "whole.jsonl")
    if not log.path.exists():
        for i, architecture in enumerate(ARCHITECTURES):
            log.add("shared x", architecture, _score(i / 10))
    content = log.path.read_bytes()
    damaged = tmp_path / "damaged.jsonl"
    damaged.write_bytes(data.draw(bytes_mutated(content)))
    whole = set(content.splitlines()) & set(damaged.read_bytes().splitlines()[:-1])

    resumed = _log(damaged)

    known = sum(resumed.get("shared x", a) is not None for a in ARCHITECTURES)
    assert known >= len(whole)
