"""What disks, networks and interrupted programs make of a file: strategies of hypothesis for all readers' tests."""

from __future__ import annotations

import os
from copy import deepcopy

from hypothesis import HealthCheck, settings
from hypothesis import strategies as st

EDGE = 512  # bytes; headers stand at the start of a file, directories of archives at its end
LONGEST_RUN = 64
SLOW = (HealthCheck.too_slow, HealthCheck.function_scoped_fixture, HealthCheck.data_too_large)

# A small number of the same examples each time, and as many others as a person has patience for.
FEW = settings(max_examples=50, derandomize=True, deadline=None, database=None, suppress_health_check=SLOW)
MANY = settings(
    max_examples=int(os.environ.get("HSNAS_FUZZ_EXAMPLES", "5000")),
    deadline=None,
    database=None,
    suppress_health_check=SLOW,
)


def positions(size: int) -> st.SearchStrategy[int]:
    """Return places between the bytes of a file, half of them near one of its ends."""
    near, far = min(EDGE, size), max(0, size - EDGE)
    return st.one_of(st.integers(0, near), st.integers(far, size), st.integers(0, size))


@st.composite
def bytes_mutated(draw: st.DrawFn, data: bytes, most: int = 4) -> bytes:
    """Return a file's bytes after one to `most` changes: flips, cuts, inserts, repeats and overwritten runs."""
    for _ in range(draw(st.integers(1, most))):
        data = draw(st.sampled_from(CHANGES))(draw, data)
    return data


def _flipped(draw: st.DrawFn, data: bytes) -> bytes:
    if not data:
        return data
    at = min(draw(positions(len(data))), len(data) - 1)
    return data[:at] + bytes([data[at] ^ 1 << draw(st.integers(0, 7))]) + data[at + 1 :]


def _cut_off(draw: st.DrawFn, data: bytes) -> bytes:
    return data[: draw(positions(len(data)))]


def _cut_out(draw: st.DrawFn, data: bytes) -> bytes:
    start, length = draw(positions(len(data))), draw(st.integers(1, LONGEST_RUN))
    return data[:start] + data[start + length :]


def _inserted(draw: st.DrawFn, data: bytes) -> bytes:
    at = draw(positions(len(data)))
    return data[:at] + draw(st.binary(min_size=1, max_size=LONGEST_RUN)) + data[at:]


def _repeated(draw: st.DrawFn, data: bytes) -> bytes:
    start, length = draw(positions(len(data))), draw(st.integers(1, LONGEST_RUN))
    return data[: start + length] + data[start:]


def _overwritten(draw: st.DrawFn, data: bytes) -> bytes:
    """With any bytes, or with numbers that mean "huge", "negative" or "nothing" in most formats."""
    at = draw(positions(len(data)))
    byte = st.sampled_from([b"\x00", b"\x7f", b"\x80", b"\xff"])
    run = draw(
        st.one_of(st.binary(min_size=1, max_size=8), st.builds(bytes.__mul__, byte, st.sampled_from([1, 2, 4, 8])))
    )
    return data[:at] + run + data[at + len(run) :]


CHANGES = (_flipped, _cut_off, _cut_out, _inserted, _repeated, _overwritten)


ODD_VALUES = (None, True, -1, 0, 2.5, 1e308, float("nan"), 10**20, "", "x", "a" * 10_000, [], {}, [[]], [None], {"": 0})


@st.composite
def json_mutated(draw: st.DrawFn, value: object, most: int = 3) -> object:
    """Return what a JSON file holds after up to `most` of its values, wherever they are, were replaced or removed."""
    value = deepcopy(value)
    for _ in range(draw(st.integers(1, most))):
        holder, key = value, draw(st.sampled_from(_keys(value)))
        while (inner := _keys(holder[key])) and draw(st.integers(0, 3)):
            holder, key = holder[key], draw(st.sampled_from(inner))
        if draw(st.integers(0, 4)):
            holder[key] = deepcopy(draw(st.sampled_from(ODD_VALUES)))
        else:
            del holder[key]
        if not _keys(value):
            break
    return value


def _keys(value: object) -> list:
    return list(value) if isinstance(value, dict) else list(range(len(value))) if isinstance(value, list) else []
