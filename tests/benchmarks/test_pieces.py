"""Work in pieces: what is run when, what an ended step leaves, and who else may be at it."""

import os
import signal
import subprocess
import sys
import time

import pytest

from benchmarks.pieces import SLICE_S, Clock, Efforts, LimitedCommands, Piece, PiecesError, State, locked, run_pieces
from nnunet_hypersegnas.nnunet.msd_steps import MsdError, Step
from nnunet_hypersegnas.nnunet.stock_commands import SECONDS_TO_END

CLOSING_S = SECONDS_TO_END + 5  # what a clock keeps back of a call

# Counts in a file to 60, ten a second, from where the file stands: it resumes.
COUNT = """
import pathlib, sys, time
path = pathlib.Path(sys.argv[1])
for n in range(int(path.read_text()) if path.exists() else 0, 60):
    time.sleep(0.1)
    path.write_text(str(n + 1))
    with open(f"{path}.lines", "a") as lines:
        print(n + 1, file=lines)
"""


@pytest.fixture
def call(tmp_path, monkeypatch):
    """Run pieces as one call with so many seconds for them, and return their states."""
    for name in ("nnUNet_raw", "nnUNet_preprocessed", "nnUNet_results", "nnUNet_extTrainer", "OMP_WAIT_POLICY"):
        monkeypatch.setenv(name, "")  # restored after the test, whatever Commands sets

    def run(pieces, seconds, skipped=()):
        with locked(tmp_path) as lock:
            commands = LimitedCommands(tmp_path, "cpu", tmp_path, Clock(seconds + CLOSING_S), lock)
            return run_pieces(pieces, commands, Efforts.read(tmp_path / "efforts.json"), skipped)

    return run


def step(title, *command, done=lambda: True, **more):
    return Step(title=title, command=lambda: list(command), done=done, **more)


def touching(path):
    return "python", "-c", f"import sys; open({str(path)!r}, 'x')"  # fails where it has run before


def test_a_step_that_resumes_is_ended_and_goes_on_where_it_stood(call, tmp_path):
    count = tmp_path / "count"
    piece = Piece(step=step("count", "python", "-c", COUNT, str(count)), seconds=2, resumes=True)
    assert call([piece], 4) == {"count": State.ENDED}
    reached = int(count.read_text())
    assert 0 < reached < 60
    assert call([piece], 30) == {"count": State.DONE}
    assert (tmp_path / "count.lines").read_text().split() == [str(n) for n in range(1, 61)]  # none of them twice
    effort = Efforts.read(tmp_path / "efforts.json").of("count")
    assert effort.calls == 2 and effort.seconds > 6 and effort.command.startswith("python -c")
    assert call([piece], 30) == {"count": State.DONE}
    assert Efforts.read(tmp_path / "efforts.json").of("count").calls == 2  # nothing was left to do


def test_what_does_not_fit_into_the_time_is_left_to_the_next_call(call, tmp_path):
    short = Piece(step=step("short", *touching(tmp_path / "short")), seconds=5)
    long = Piece(step=step("long", *touching(tmp_path / "long")), seconds=100)
    also_short = Piece(step=step("also short", *touching(tmp_path / "also")), seconds=5)
    states = call([short, long, also_short], 30)
    assert states == {"short": State.DONE, "long": State.LATER, "also short": State.DONE}
    assert not (tmp_path / "long").exists()
    assert call([short, long, also_short], 30)["long"] is State.DONE  # the first of a call, so it is tried


def test_a_step_that_resumes_needs_a_slice_of_time_only(call, tmp_path):
    first = Piece(step=step("first", "true"), seconds=1)
    training = Piece(step=step("training", "true"), seconds=10_000, resumes=True)
    assert call([first, training], SLICE_S - 10)["training"] is State.LATER
    (tmp_path / "finished" / "first").unlink()
    assert call([first, training], SLICE_S + 10)["training"] is State.DONE


def test_a_step_that_was_ended_is_not_begun_again_for_less_time(call, tmp_path):
    first = Piece(step=step("first", "true"), seconds=0)
    slow = Piece(step=step("slow", "sleep", "30"), seconds=1)
    assert call([first, slow], 3)["slow"] is State.ENDED
    (tmp_path / "finished" / "first").unlink()
    assert call([first, slow], 2.5)["slow"] is State.LATER


def test_a_failure_stops_only_what_needs_it(call, tmp_path, capsys):
    def refuse():
        raise MsdError("data are in the way")

    pieces = [
        Piece(step=step("fails", "false"), seconds=1),
        Piece(step=step("refuses", "true", prepare=refuse), seconds=1),
        Piece(step=step("does nothing", "true", done=lambda: False), seconds=1),
        Piece(step=step("repeats", "true", done=lambda: False, repeats=True), seconds=1),
        Piece(step=step("needs it", *touching(tmp_path / "needs")), seconds=1, needs=("fails",)),
        Piece(step=step("needs that", "true"), seconds=1, needs=("needs it",)),
    ]
    assert list(call(pieces, 60).values()) == [*[State.FAILED] * 3, State.DONE, *[State.WAITING] * 2]
    assert not (tmp_path / "needs").exists()
    printed = capsys.readouterr().out
    assert "false failed with exit code 1" in printed and "data are in the way" in printed
    assert "true ended without an error, but does nothing is not complete" in printed


def test_steps_can_be_skipped(call, tmp_path):
    pieces = [
        Piece(step=step("one", *touching(tmp_path / "one")), seconds=1),
        Piece(step=step("two", "true"), seconds=1),
    ]
    assert call(pieces, 60, ["one"]) == {"one": State.SKIPPED, "two": State.DONE}
    assert not (tmp_path / "one").exists()
    with pytest.raises(PiecesError, match="no step is called three; they are: one, two"):
        call(pieces, 60, ["three"])


def test_a_command_that_a_killed_call_leaves_behind_holds_the_folder(tmp_path):
    """It would write into the same folders as the next call's."""
    code = (
        "import sys\n"
        "from pathlib import Path\n"
        "from benchmarks.pieces import locked\n"
        "from nnunet_hypersegnas.nnunet.stock_commands import run_limited\n"
        "folder = Path(sys.argv[1])\n"
        "with locked(folder) as lock:\n"
        "    words = ['python', '-c', 'import os, time; print(os.getpid(), flush=True); time.sleep(120)']\n"
        "    run_limited(words, 120, output=folder / 'out', log=folder / 'log', hold=[lock])\n"
    )
    process = subprocess.Popen([sys.executable, "-c", code, str(tmp_path)])
    until = time.monotonic() + 60
    while not ((tmp_path / "out").exists() and (tmp_path / "out").read_text().endswith("\n")):
        assert time.monotonic() < until and process.poll() is None
        time.sleep(0.05)
    left_behind = int((tmp_path / "out").read_text())
    process.kill()
    process.wait()
    try:
        with pytest.raises(PiecesError, match="another call, or a command of one that was killed"), locked(tmp_path):
            pass
    finally:
        os.kill(left_behind, signal.SIGKILL)
    until = time.monotonic() + 20
    while True:
        try:
            with locked(tmp_path):
                break
        except PiecesError:
            assert time.monotonic() < until
            time.sleep(0.05)
