"""nnU-Net's own commands and ours, run as a user would run them, and shown so that a user can."""

from __future__ import annotations

import contextlib
import os
import shlex
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from importlib.metadata import entry_points
from pathlib import Path
from typing import Any

from nnunet_hypersegnas.errors import HyperSegNASError

SECONDS_TO_END = 10.0


class CommandError(HyperSegNASError):
    """A command that is not installed, or failed."""


class OutOfTimeError(HyperSegNASError):
    """A command that was ended because its time was over."""


def shown(command: Sequence[str], variables: Mapping[str, str] | None = None) -> str:
    """Return a command as it can be typed."""
    words = [f"{name}={shlex.quote(value)}" for name, value in (variables or {}).items()]
    return " ".join([*words, shlex.join(command)])


def program_of(command: Sequence[str]) -> list[str]:
    """Return a command with the path of its program, the one beside this Python first; "python" is this Python.

    Packages that were installed without their scripts being on PATH, as by `pip install --target`, still name their
    commands; these are then started by this Python.

    Raises:
        CommandError: there is none.
    """
    name, *arguments = command
    if name == "python":
        return [sys.executable, *arguments]
    found = shutil.which(name, path=str(Path(sys.executable).parent)) or shutil.which(name)
    if found is not None:
        return [found, *arguments]
    for entry in entry_points(group="console_scripts", name=name):
        # As in a script, the working directory is not searched for modules.
        code = (
            f"import sys; sys.path[:] = [p for p in sys.path if p]; sys.argv[0] = {name!r}; "
            f"from {entry.module} import {entry.attr} as main; sys.exit(main())"
        )
        return [sys.executable, "-c", code, *arguments]
    raise CommandError(f"no command {name} beside {sys.executable} or on PATH; install the package with pip")


def run_stock(command: Sequence[str], log: Path | None = None, variables: Mapping[str, str] | None = None) -> None:
    """Run a command to its end.

    Args:
        command: its words.
        log: file for what it prints; None prints it.
        variables: of the environment, besides those of this process.

    Raises:
        CommandError: it is not installed, or it failed; the message ends with the last line of its log.
    """
    if log is not None:
        log.parent.mkdir(parents=True, exist_ok=True)
        log.write_bytes(b"")
    status = _wait(start(command, log=log, variables=variables, own_group=False))
    if status:
        raise CommandError(failure(command, status, log))


def run_limited(
    command: Sequence[str],
    seconds: float,
    *,
    output: Path,
    log: Path,
    variables: Mapping[str, str] | None = None,
    hold: Sequence[int] = (),
) -> None:
    """Run a command that is ended, with all processes that it has started, when its time is over.

    Args:
        command: its words.
        seconds: that it has.
        output: file for its standard output, written anew.
        log: file that its standard error is added to.
        variables: of the environment, besides those of this process.
        hold: open files that it inherits, such as a lock that lasts as long as it runs.

    Raises:
        OutOfTimeError: its time was over.
        CommandError: as `run_stock`.
    """
    process = start(command, log=log, output=output, variables=variables, hold=hold)
    try:
        status = process.wait(seconds)
    except subprocess.TimeoutExpired:
        raise OutOfTimeError(f"{command[0]} was ended after {seconds:.0f} s, when its time was over") from None
    finally:
        end_groups([process])
    if status:
        raise CommandError(failure(command, status, log))


def start(
    command: Sequence[str],
    *,
    log: Path | None,
    output: Path | None = None,
    variables: Mapping[str, str] | None = None,
    hold: Sequence[int] = (),
    own_group: bool = True,
) -> subprocess.Popen:
    """Start a command.

    Args:
        command: its words.
        log: file that what it prints is added to; None prints it.
        output: file for its standard output, written anew, where that is not to go into the log.
        variables: of the environment, besides those of this process.
        hold: open files that it inherits.
        own_group: whether it leads a group of its own, as `end_groups` needs; a terminal's Ctrl-C does not reach it.

    Raises:
        CommandError: it is not installed.
    """
    streams: dict[str, Any] = {}
    with contextlib.ExitStack() as files:
        if log is not None:
            for path in (log, output or log):
                path.parent.mkdir(parents=True, exist_ok=True)
            err = files.enter_context(log.open("ab"))
            out = files.enter_context(output.open("wb")) if output else err
            streams = {"stdin": subprocess.DEVNULL, "stdout": out, "stderr": err}
        return subprocess.Popen(
            program_of(command),
            env={**os.environ, **(variables or {})},
            start_new_session=own_group,
            pass_fds=hold,
            **streams,
        )


def _wait(process: subprocess.Popen) -> int:
    """Return a command's status; interrupted, let it end what it has started, then end it."""
    try:
        return process.wait()
    except KeyboardInterrupt:
        # Ctrl-C has reached it as well; commands of ours need up to SECONDS_TO_END for groups that they have started.
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(2 * SECONDS_TO_END)
        raise
    finally:
        if process.poll() is None:
            process.terminate()
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(SECONDS_TO_END)
            process.kill()
            process.wait()


def end_groups(processes: Sequence[subprocess.Popen]) -> None:
    """End processes that lead groups of their own, with all of the group, such as those that prepare batches."""
    for process in processes:
        _signal(process, signal.SIGTERM)
    until = time.monotonic() + SECONDS_TO_END
    for process in processes:
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(max(0.0, until - time.monotonic()))
        _signal(process, signal.SIGKILL)
        process.wait()


def _signal(process: subprocess.Popen, number: signal.Signals) -> None:
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(process.pid, number)


def failure(command: Sequence[str], status: int, log: Path | None) -> str:
    """Say how a command failed."""
    if log is None:
        return f"{command[0]} failed with exit code {status}; what it printed says why"
    lines = [line for line in log.read_text(errors="replace").splitlines() if line.strip()]
    return f"{command[0]} failed with exit code {status}: {lines[-1] if lines else ''} (log: {log})"
