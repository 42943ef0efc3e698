"""Work in pieces: steps by real commands, run until a time is over, and continued by the next call."""

from __future__ import annotations

import fcntl
import json
import os
import time
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from enum import Enum
from pathlib import Path

from nnunet_hypersegnas.atomic import write_json
from nnunet_hypersegnas.demo.loop import Commands
from nnunet_hypersegnas.errors import HyperSegNASError
from nnunet_hypersegnas.nnunet.msd_steps import Step
from nnunet_hypersegnas.nnunet.stock_commands import SECONDS_TO_END, OutOfTimeError, run_limited, shown

SLICE_S = 60.0  # a step that goes on where it stood is not started for less: half of that is imports


class PiecesError(HyperSegNASError):
    """Work that another process is at, or steps that do not exist."""


class Printed(Enum):
    """What a report shows of what a step prints."""

    NOTHING = "nothing"
    TEXT = "text"
    MARKDOWN = "markdown"


@dataclass(frozen=True, kw_only=True)
class Piece:
    """A step with what a plan of time has to know of it.

    Attributes:
        step: what is run.
        seconds: about how long it takes.
        resumes: whether it goes on where it stood when it was ended; else it begins anew.
        needs: titles of the steps that have to be done before.
        printed: what the report shows.
    """

    step: Step
    seconds: float
    resumes: bool = False
    needs: tuple[str, ...] = ()
    printed: Printed = Printed.NOTHING

    @property
    def title(self) -> str:
        return self.step.title


class State(Enum):
    """How a piece stands after a call."""

    DONE = "done"
    ENDED = "begun, ended when the time was over"
    LATER = "not begun, too long for the time that was left"
    WAITING = "waits for others"
    SKIPPED = "skipped"
    FAILED = "failed"


@dataclass(kw_only=True)
class Effort:
    """What a piece has taken over all calls.

    Attributes:
        seconds: in all.
        calls: how many have worked on it.
        longest_s: that it was given without coming to its end.
        command: the last one, as it can be typed.
    """

    seconds: float = 0.0
    calls: int = 0
    longest_s: float = 0.0
    command: str = ""


@dataclass
class Efforts:
    """The efforts of all pieces, kept in a file."""

    path: Path
    by_title: dict[str, Effort] = field(default_factory=dict)

    @classmethod
    def read(cls, path: Path) -> Efforts:
        content = json.loads(path.read_text()) if path.exists() else {}
        return cls(path, {title: Effort(**values) for title, values in content.items()})

    def of(self, title: str) -> Effort:
        return self.by_title.setdefault(title, Effort())

    def write(self) -> None:
        write_json(self.path, {title: asdict(effort) for title, effort in self.by_title.items()})


class Clock:
    """Tells how much of a call's time is left.

    Args:
        seconds: of the whole call, with what it takes to end a command and to report.
    """

    def __init__(self, seconds: float) -> None:
        self._over = time.monotonic() + seconds - SECONDS_TO_END - 5.0

    @property
    def left_s(self) -> float:
        return max(0.0, self._over - time.monotonic())


class LimitedCommands(Commands):
    """The demo's commands, each ended when the clock says so. Standard output goes into a file of its own, for reports.

    Args:
        folder, device, trainers: as `Commands`.
        clock: of this call.
        lock: open file that commands hold while they run.
    """

    def __init__(self, folder: Path, device: str, trainers: Path, clock: Clock, lock: int) -> None:
        super().__init__(folder, device, trainers)
        self.clock, self.lock = clock, lock

    def execute(self, words: Sequence[str], log: Path, variables: Mapping[str, str]) -> None:
        output = log.with_suffix(".out")
        run_limited(words, self.clock.left_s, output=output, log=log, variables=variables, hold=[self.lock])

    def output(self, title: str) -> Path:
        """Return the file of a step's standard output."""
        return self.log(title).with_suffix(".out")


@contextmanager
def locked(folder: Path) -> Iterator[int]:
    """Have a folder for this process and the commands that it starts, and yield the file that these have to hold.

    Raises:
        PiecesError: another call, or a command that a killed one has left behind, still works there.
    """
    file = os.open(folder / "lock", os.O_RDWR | os.O_CREAT)
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        raise PiecesError(f"{folder}: another call, or a command of one that was killed, still works here") from None
    else:
        yield file
    finally:
        os.close(file)


def run_pieces(
    pieces: Sequence[Piece], commands: LimitedCommands, efforts: Efforts, skipped: Collection[str] = ()
) -> dict[str, State]:
    """Run what is left of some pieces, in their order, as far as the time reaches, and say how each one stands.

    A piece that does not fit into what is left of the time is passed over, but for the first that is run in a call:
    given more than that it cannot be. One that fails keeps no others from running but those that need it.

    Raises:
        PiecesError: no piece has the name of one that is to be skipped.
    """
    if unknown := set(skipped) - {piece.title for piece in pieces}:
        known = ", ".join(piece.title for piece in pieces)
        raise PiecesError(f"no step is called {', '.join(sorted(unknown))}; they are: {known}")
    states: dict[str, State] = {}
    first = True
    for piece in pieces:
        if is_done(piece, commands):
            states[piece.title] = State.DONE
        elif piece.title in skipped:
            states[piece.title] = State.SKIPPED
        elif any(states[title] is not State.DONE for title in piece.needs):
            states[piece.title] = State.WAITING
        elif not first and commands.clock.left_s < seconds_to_begin(piece, efforts):
            states[piece.title] = State.LATER
        else:
            states[piece.title] = _run(piece, commands, efforts)
            first = False
    return states


def is_done(piece: Piece, commands: Commands) -> bool:
    """Whether nothing of a piece is left to do."""
    return commands.has_run(piece.title) and (piece.step.repeats or piece.step.done())


def seconds_to_begin(piece: Piece, efforts: Efforts) -> float:
    """Return how much time has to be left for a piece to be worth beginning."""
    if piece.resumes:
        return min(piece.seconds, SLICE_S)
    return max(piece.seconds, efforts.of(piece.title).longest_s)


def _run(piece: Piece, commands: LimitedCommands, efforts: Efforts) -> State:
    step, effort = piece.step, efforts.of(piece.title)
    started = time.monotonic()
    state = State.FAILED
    try:
        step.prepare()
        command = step.command()
        effort.command = shown(command, step.variables)
        commands.run(piece.title, *command, **step.variables)
        step.finish()
        if is_done(piece, commands):
            state = State.DONE
        else:
            print(f"  {command[0]} ended without an error, but {piece.title} is not complete", flush=True)
    except OutOfTimeError as error:
        effort.longest_s = max(effort.longest_s, time.monotonic() - started)
        how = "the next call goes on from what it has saved" if piece.resumes else "it has to begin anew, in more time"
        print(f"  {error}; {how}", flush=True)
        state = State.ENDED
    except HyperSegNASError as error:  # others may go well
        print(f"  {error}", flush=True)
    finally:
        effort.seconds += time.monotonic() - started
        effort.calls += 1
        efforts.write()
    return state
