"""nnU-Net's own commands and ours, run as a user would run them, and shown so that a user can."""

from __future__ import annotations

import os
import shlex
import shutil
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

from nnunet_hypersegnas.errors import HyperSegNASError


class CommandError(HyperSegNASError):
    """A command that is not installed, or failed."""


def shown(command: Sequence[str], variables: Mapping[str, str] | None = None) -> str:
    """Return a command as it can be typed."""
    words = [f"{name}={shlex.quote(value)}" for name, value in (variables or {}).items()]
    return " ".join([*words, shlex.join(command)])


def program_of(command: Sequence[str]) -> list[str]:
    """Return a command with the path of its program, the one beside this Python first.

    Raises:
        CommandError: there is none.
    """
    found = shutil.which(command[0], path=str(Path(sys.executable).parent)) or shutil.which(command[0])
    if found is None:
        raise CommandError(f"no command {command[0]} beside {sys.executable} or on PATH; install the package with pip")
    return [found, *command[1:]]


def run_stock(command: Sequence[str], log: Path | None = None, variables: Mapping[str, str] | None = None) -> None:
    """Run a command to its end.

    Args:
        command: its words.
        log: file for what it prints; None prints it.
        variables: of the environment, besides those of this process.

    Raises:
        CommandError: it is not installed, or it failed; the message ends with the last line of its log.
    """
    words, environment = program_of(command), {**os.environ, **(variables or {})}
    if log is None:
        status = subprocess.run(words, env=environment).returncode
    else:
        log.parent.mkdir(parents=True, exist_ok=True)
        with log.open("w") as output:
            status = subprocess.run(words, env=environment, stdout=output, stderr=subprocess.STDOUT).returncode
    if status:
        raise CommandError(failure(command, status, log))


def failure(command: Sequence[str], status: int, log: Path | None) -> str:
    """Say how a command failed."""
    if log is None:
        return f"{command[0]} failed with exit code {status}; what it printed says why"
    lines = [line for line in log.read_text(errors="replace").splitlines() if line.strip()]
    return f"{command[0]} failed with exit code {status}: {lines[-1] if lines else ''} (log: {log})"
