"""What is written appears whole or not at all, and nothing stays behind of processes that were killed."""

import os
import signal
import subprocess
import sys

import pytest

from nnunet_hypersegnas import atomic
from nnunet_hypersegnas.atomic import (
    check_writable,
    sweep,
    temporary_folder,
    write_json,
    written_atomically,
)

WRITER = """
import sys, time
from pathlib import Path
from nnunet_hypersegnas.atomic import {how}
with {how}(Path(sys.argv[1])) as temporary:
    {begin}
    print(temporary.name, flush=True)
    time.sleep(600)
"""
FILE = WRITER.format(how="written_atomically", begin="temporary.write_text('half')")
FOLDER = WRITER.format(how="temporary_folder", begin="(temporary / 'a').write_text('half')")


@pytest.fixture
def start():
    """Start a process that writes, and return it with the name that it writes under."""
    processes = []

    def run(code, path):
        process = subprocess.Popen([sys.executable, "-c", code, str(path)], stdout=subprocess.PIPE, text=True)
        processes.append(process)
        return process, process.stdout.readline().strip()

    yield run
    for process in processes:
        process.kill()
        process.wait()
        process.stdout.close()


def names(folder):
    return sorted(path.name for path in folder.iterdir())


def kill(process):
    process.send_signal(signal.SIGKILL)
    process.wait()


@pytest.mark.parametrize("code", [FILE, FOLDER], ids=["file", "folder"])
def test_what_a_living_process_writes_is_never_swept_and_what_a_killed_one_left_is(start, tmp_path, code):
    living, its = start(code, tmp_path / "a.pth")
    killed, left = start(code, tmp_path / "a.pth")
    kill(killed)
    assert names(tmp_path) == sorted([its, left])  # two processes never share a name
    sweep(tmp_path)
    assert names(tmp_path) == [its]
    write_json(tmp_path / "a.pth", 1)  # nor when the same file is written
    assert names(tmp_path) == ["a.pth", its]
    kill(living)
    sweep(tmp_path)
    assert names(tmp_path) == ["a.pth"]


def test_who_writes_a_file_next_removes_what_was_left_of_it_and_nothing_else(start, tmp_path):
    for name in ("a.json", "a.json.json"):
        kill(start(FILE, tmp_path / name)[0])
    for other in ("a.json.tmp", "a.json.notes.tmp", "a.json.12345678.tmp.txt"):
        (tmp_path / other).touch()
    write_json(tmp_path / "a.json", [1])
    assert [n for n in names(tmp_path) if not n.startswith("a.json.json.")] == [
        "a.json",
        "a.json.12345678.tmp.txt",
        "a.json.notes.tmp",
        "a.json.tmp",
    ]
    assert len(names(tmp_path)) == 5  # what was left of the other file stays until that one is written


def test_what_another_machine_writes_is_left_alone_for_a_day(start, tmp_path):
    """Cluster file systems may keep locks on each machine apart."""
    killed, left = start(FILE, tmp_path / "a.pth")
    kill(killed)
    path = tmp_path / left
    token = left.removeprefix("a.pth.")
    elsewhere = path.rename(tmp_path / f"a.pth.{'0' * 8}{token[8:]}")
    sweep(tmp_path)
    assert names(tmp_path) == [elsewhere.name]
    os.utime(elsewhere, (0, 0))
    sweep(tmp_path)
    assert names(tmp_path) == []


def test_an_error_leaves_the_old_file_and_no_other(tmp_path):
    write_json(tmp_path / "a.json", "old")
    with pytest.raises(OSError, match="full"), written_atomically(tmp_path / "a.json") as temporary:
        temporary.write_text("new")
        raise OSError("full")
    with pytest.raises(OSError, match="full"), temporary_folder(tmp_path / "b") as folder:
        (folder / "c").touch()
        raise OSError("full")
    assert names(tmp_path) == ["a.json"] and (tmp_path / "a.json").read_text() == '"old"\n'


def test_files_have_the_permissions_that_the_user_asks_for(tmp_path):
    before = os.umask(0o027)
    try:
        write_json(tmp_path / "a.json", 1)
    finally:
        os.umask(before)
    assert (tmp_path / "a.json").stat().st_mode & 0o777 == 0o640


def test_what_is_swept_before_it_is_held_is_made_anew(tmp_path, monkeypatch):
    """Another process may sweep between the making of a temporary file and the lock on it."""
    swept = []

    def unlucky(make):
        def made(path):
            held = make(path)
            if len(swept) % 3 < 2:  # twice for each
                sweep(tmp_path)
            swept.append(not path.exists())
            return held

        return made

    monkeypatch.setattr(atomic, "_make_file", unlucky(atomic._make_file))
    monkeypatch.setattr(atomic, "_make_folder", unlucky(atomic._make_folder))
    write_json(tmp_path / "a.json", 1)
    with temporary_folder(tmp_path / "b") as folder:
        (folder / "c").touch()
        folder.rename(tmp_path / "b")
    assert swept == [True, True, False] * 2
    assert names(tmp_path) == ["a.json", "b"] and names(tmp_path / "b") == ["c"]


def test_whether_a_folder_can_be_written_to(tmp_path):
    check_writable(tmp_path / "new" / "folder")
    assert not list((tmp_path / "new" / "folder").iterdir())
    (tmp_path / "file").touch()
    with pytest.raises(OSError):
        check_writable(tmp_path / "file")
    with pytest.raises(OSError):
        check_writable(tmp_path / "file" / "below")
