"""Storages that disks, copies or strangers changed: a status or one line, soon, and never a traceback."""

import itertools
import shutil
from datetime import datetime
from pathlib import Path

import optuna
import pytest
from hypothesis import given
from hypothesis import strategies as st

from nnunet_hypersegnas.search import Lead, Rung, Score, StorageError, Way, open_storage, open_study, sqlite_url, work
from nnunet_hypersegnas.search.status import SearchStatus, read_status
from nnunet_hypersegnas.space import rng_for, sample
from tests.mutations import FEW, MANY, bytes_mutated
from tests.spaces import FULL_RESOLUTION

ARCHITECTURES = [sample(FULL_RESOLUTION, rng_for(0, "damaged", i)) for i in range(4)]
RUNG = Rung(way=Way.PATCHES, amount=3, keep=60, cost_patches=3)
NAME = "a search"
CONTENTS = [
    b"no database at all\n" * 100,
    b"\x00" * 4096 + b"\n\n",
    b'{"op_code": 4}\n',
    b"[1]\n[2]\n",
    b"[" * 99999 + b"\n\n",
]


@pytest.fixture(scope="module", params=["sqlite", "journal"])
def whole(request, tmp_path_factory):
    """Return how a file is addressed, and the bytes of one that a finished search wrote."""
    path = tmp_path_factory.mktemp("whole") / "file"
    address_of = sqlite_url if request.param == "sqlite" else "journal:{}".format
    lead = Lead(open_study(open_storage(address_of(path)), NAME, create=True))
    lead.announce({"rungs": [RUNG.to_json()], "budgets": 1, "totals": {RUNG.name: 4}, "now": "finished"})
    lead._enqueue(RUNG, ARCHITECTURES)
    study = open_study(open_storage(address_of(path)), NAME)
    work(study, lambda rung, architecture: Score(dsc_by_label={"organ": 0.5}), lambda idle: idle)
    return address_of, path.read_bytes()


def outcome(address_of, folder: Path, content: bytes) -> SearchStatus | StorageError:
    """Return what reading such a file ends in, and see that it leaves no other files but Optuna's."""
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir()
    (folder / "file").write_bytes(content)
    started = datetime.now()
    try:
        return read_status(address_of(folder / "file"), NAME)
    except StorageError as error:
        assert len(str(error).splitlines()) == 1 and str(folder) in str(error)
        return error
    finally:
        assert (datetime.now() - started).total_seconds() < 20


def test_a_whole_one_is_read(whole, tmp_path):
    status = outcome(whole[0], tmp_path / "a", whole[1])
    assert (status.now, status.rungs[0].done, status.rungs[0].best_dsc) == ("finished", 4, 0.5)


@pytest.mark.parametrize("content", CONTENTS)
def test_what_is_no_storage_is_one_line(whole, tmp_path, content):
    found = outcome(whole[0], tmp_path / "a", content)
    assert isinstance(found, StorageError) and "cannot be used: " in str(found)


def test_a_search_does_not_begin_on_what_is_no_storage(whole, tmp_path):
    (tmp_path / "file").write_bytes(b"nothing\n" * 1000)
    with pytest.raises(StorageError, match=r"cannot be used: .*; restore it from a copy, or move it away"):
        open_storage(whole[0](tmp_path / "file"))
    assert (tmp_path / "file").read_bytes() == b"nothing\n" * 1000


def test_an_empty_one_has_no_evaluations_yet(whole, tmp_path):
    assert "no evaluations of 'a search' in" in str(outcome(whole[0], tmp_path / "a", b""))


@pytest.mark.parametrize("value", [None, 3, "text", [], {"now": 1}, {"rungs": [1], "totals": {}, "budgets": 1}])
def test_what_no_search_writes_is_one_line(whole, tmp_path, value):
    (tmp_path / "file").write_bytes(whole[1])
    address = whole[0](tmp_path / "file")
    optuna.load_study(storage=open_storage(address), study_name=NAME).set_user_attr("stage", value)
    with pytest.raises(StorageError, match=r"cannot be used: .*Error: .*; restore it from a copy"):
        read_status(address, NAME)


def test_a_file_that_may_not_be_read_is_one_line(whole, tmp_path):
    (tmp_path / "file").mkdir()
    with pytest.raises(StorageError, match="cannot be used: "):
        read_status(whole[0](tmp_path / "file"), NAME)


counted = itertools.count()


@FEW
@given(st.data())
def test_a_damaged_one_is_read_or_is_one_line(whole, tmp_path, data):
    outcome(whole[0], tmp_path / str(next(counted)), data.draw(bytes_mutated(whole[1])))


@pytest.mark.slow
@MANY
@given(st.data())
def test_many_damaged_ones_are_read_or_are_one_line(whole, tmp_path, data):
    outcome(whole[0], tmp_path / "one", data.draw(bytes_mutated(whole[1])))
