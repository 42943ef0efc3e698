"""Commands that are killed: at a rename of theirs, or after a while."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import count
from pathlib import Path

SECONDS = 600  # for a command to end
# Python imports a module of this name before anything else runs.
SITECUSTOMIZE = """
import os, signal, sys

ONCE, MOMENT, NUMBER, ROLE, WHOM = os.environ["HSNAS_TEST_KILL"].split("|")
seen = 0


def die():
    try:
        os.open(ONCE, os.O_CREAT | os.O_EXCL)
    except FileExistsError:
        return
    if WHOM == "group":
        os.killpg(os.getpgrp(), signal.SIGKILL)
    os.kill(os.getpid(), signal.SIGKILL)


def killing(rename):
    def renaming(*args, **kwargs):
        global seen
        seen += 1
        number = seen
        if number == int(NUMBER) and MOMENT == "before":
            die()
        result = rename(*args, **kwargs)
        if number == int(NUMBER) and MOMENT == "after":
            die()
        return result

    return renaming


if ROLE in " ".join(sys.orig_argv):
    os.rename, os.replace = killing(os.rename), killing(os.replace)
"""


@dataclass(frozen=True)
class KillAtRename:
    """One kill in a command's life.

    Attributes:
        number: at which rename of a process, from 1.
        moment: "before" or "after" it.
        role: words in the command line of the process.
        whom: "group" for the command and all that it started, "self" for the process that renames.
    """

    number: int
    moment: str
    role: str = ""
    whom: str = "group"

    def __str__(self) -> str:
        return f"{self.role or 'any'}-{self.whom}-{self.number}-{self.moment}"


def kills(role: str = "", whom: str = "group") -> Iterator[KillAtRename]:
    """Yield one kill before, and one after, each of as many renames as are asked for."""
    for number in count(1):
        for moment in ("before", "after"):
            yield KillAtRename(number, moment, role, whom)


def attempt(command: Sequence[str | Path], **variables: str) -> subprocess.CompletedProcess:
    """Run a command to its end, however it ends."""
    return subprocess.run(
        list(map(str, command)),
        env={**os.environ, **variables},
        capture_output=True,
        text=True,
        timeout=SECONDS,
        start_new_session=True,
    )


def run(command: Sequence[str | Path], **variables: str) -> subprocess.CompletedProcess:
    """Run a command that has to succeed."""
    result = attempt(command, **variables)
    assert result.returncode == 0, f"{command}\n{result.stdout[-2000:]}\n{result.stderr[-2000:]}"
    return result


def is_killed(command: Sequence[str | Path], kill: KillAtRename, folder: Path, **variables: str) -> bool:
    """Run a command with a kill in it; return whether there were so many renames that it took place.

    Args:
        command: its words.
        kill: what happens to it.
        folder: for files of the test's own.
        variables: of its environment.
    """
    hook, once = folder / "hook", folder / f"killed {kill}"
    hook.mkdir(exist_ok=True)
    (hook / "sitecustomize.py").write_text(SITECUSTOMIZE)
    spec = "|".join((str(once), kill.moment, str(kill.number), kill.role, kill.whom))
    path = os.pathsep.join(filter(None, (str(hook), os.environ.get("PYTHONPATH"))))
    process = subprocess.Popen(
        list(map(str, command)),
        env={**os.environ, **variables, "HSNAS_TEST_KILL": spec, "PYTHONPATH": path},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )
    code = process.wait(timeout=SECONDS)
    assert once.exists() or code == 0, f"{command} ended by itself with {code}"
    return once.exists()


def kill_after(command: Sequence[str | Path], seconds: float, **variables: str) -> bool:
    """Kill a command and all that it started after some seconds; return whether it was still running."""
    process = subprocess.Popen(
        list(map(str, command)),
        env={**os.environ, **variables},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )
    try:
        process.wait(timeout=seconds)
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()
        return True
    return False


def kill_at_random(command: Sequence[str | Path], times: int, seed: int, **variables: str) -> int:
    """Kill a command again and again, each time a few seconds later on average, until it ends or enough is done.

    Early kills find it still importing its libraries, so the last ones tell most.

    Returns:
        How often it was killed.
    """
    rng = random.Random(seed)
    for number in range(times):
        if not kill_after(command, rng.uniform(1.0, 6.0 + 1.5 * number), **variables):
            return number
    return times


def program(name: str) -> Path:
    """Return one of the installed commands."""
    return Path(sys.executable).parent / name


def each_kill(kills: Iterator[KillAtRename], attempt: Callable[[KillAtRename], bool]) -> int:
    """Try kills until there is no such rename any more; return how many took place."""
    for done, kill in enumerate(kills):
        if not attempt(kill):
            return done
    raise AssertionError("there is always another kill")
