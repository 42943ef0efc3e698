"""Files and folders that are either there whole or not at all: written under a temporary name, then renamed.

A temporary name is NAME.TOKEN.tmp, with a token of this machine's start and a random part, since process ids repeat in
containers. Whoever writes under it holds an flock on it until it is done, and the system releases that when the process
ends, however it ends. So what nobody holds was left by a process that was killed. Whoever writes the same file next
removes it, as does `sweep`. Some cluster file systems keep such locks on each machine apart, so files of another
machine count as left over only when they are a day old. Where there are no locks, nothing counts as left over.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import secrets
import shutil
import socket
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from functools import cache
from pathlib import Path
from typing import Any

try:
    import fcntl
except ImportError:  # Windows: nothing is held, and nothing swept
    fcntl = None  # type: ignore[assignment]

_TEMPORARY = re.compile(r"(?P<name>.+)\.(?P<machine>[0-9a-f]{8})[0-9a-f]{16}\.tmp", re.DOTALL)
DAY_S = 86_400


@contextmanager
def written_atomically(path: Path) -> Iterator[Path]:
    """Yield a temporary file beside `path`; it takes `path`'s place on success and is removed on error."""
    sweep(path.parent, path.name)
    temporary, held = _claim(path, _make_file)
    try:
        yield temporary
        _flush(temporary)
        os.replace(temporary, path)
        _flush(path.parent)
    finally:
        temporary.unlink(missing_ok=True)
        os.close(held)


@contextmanager
def temporary_folder(path: Path) -> Iterator[Path]:
    """Yield a new folder beside `path`, for whoever fills it to rename; it is removed where it was not renamed."""
    path.parent.mkdir(parents=True, exist_ok=True)
    sweep(path.parent, path.name)
    temporary, held = _claim(path, _make_folder)
    try:
        yield temporary
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
        os.close(held)


def temporary_name(path: Path) -> Path:
    """Return a name beside `path` that nothing has."""
    return path.with_name(f"{path.name}.{_machine()}{secrets.token_hex(8)}.tmp")


def sweep(folder: Path, name: str | None = None) -> None:
    """Remove what killed processes have left under temporary names, and nothing that a living one writes.

    Args:
        folder: in which they lie, not below it; it need not exist.
        name: of the file or folder that was to be written; None for any.
    """
    with suppress(FileNotFoundError):
        for entry in list(os.scandir(folder)):
            match = _TEMPORARY.fullmatch(entry.name)
            if match and name in (None, match["name"]) and _may_be_left_over(entry, match["machine"]):
                _remove_unless_held(Path(entry.path))


def _may_be_left_over(entry: os.DirEntry[str], machine: str) -> bool:
    try:
        return machine == _machine() or time.time() - entry.stat().st_mtime > DAY_S
    except OSError:  # removed meanwhile
        return False


@cache
def _machine() -> str:
    """Return a short name of this machine since its last start; the containers that it runs have the same one."""
    boot = Path("/proc/sys/kernel/random/boot_id")
    text = boot.read_text() if boot.exists() else socket.gethostname()
    return hashlib.sha256(text.encode()).hexdigest()[:8]


def _flush(path: Path) -> None:
    """Have the system write a file or folder to the disk, so that a power cut finds all of it or nothing."""
    with suppress(OSError):  # some file systems do not flush folders
        handle = os.open(path, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)


def is_temporary(path: Path) -> bool:
    """Whether a file or folder has a temporary name."""
    return _TEMPORARY.fullmatch(path.name) is not None


def check_writable(folder: Path) -> None:
    """Make a folder, if need be, and a file in it that is removed at once.

    Raises:
        OSError: why that cannot be done, for example PermissionError.
    """
    folder.mkdir(parents=True, exist_ok=True)
    temporary, held = _claim(folder / "writable", _make_file)
    temporary.unlink()
    os.close(held)


def _claim(path: Path, make: Callable[[Path], int]) -> tuple[Path, int]:
    """Make a temporary file or folder beside `path`, and return it with the descriptor that holds it."""
    while True:
        temporary = temporary_name(path)
        held = make(temporary)
        with suppress(OSError):  # a file system without locks
            if fcntl:
                fcntl.flock(held, fcntl.LOCK_EX)
        # Another process may have swept it before it was held.
        with suppress(FileNotFoundError):
            if os.path.samestat(os.stat(temporary), os.fstat(held)):
                return temporary, held
        os.close(held)


def _make_file(path: Path) -> int:
    return os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o666)


def _make_folder(path: Path) -> int:
    while True:
        path.mkdir()
        with suppress(FileNotFoundError):  # swept already
            return os.open(path, os.O_RDONLY)


def _remove_unless_held(path: Path) -> None:
    if not fcntl:
        return
    try:
        held = os.open(path, os.O_RDONLY if path.is_dir() else os.O_RDWR)
    except OSError:  # removed meanwhile, or not ours to remove
        return
    try:
        fcntl.flock(held, fcntl.LOCK_EX | fcntl.LOCK_NB)
        if path.is_dir():
            shutil.rmtree(path, ignore_errors=True)
        else:
            path.unlink(missing_ok=True)
    except OSError:  # held by whoever writes it, no locks here, or not ours to remove
        pass
    finally:
        os.close(held)


def write_text(path: Path, text: str) -> None:
    """Write text atomically, creating the folder."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with written_atomically(path) as temporary:
        temporary.write_text(text)


def write_json(path: Path, value: Any) -> None:
    """Write JSON atomically, creating the folder."""
    write_text(path, json.dumps(value, indent=2) + "\n")
