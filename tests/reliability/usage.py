"""What a process and its children hold: memory, file handles and processes, read from /proc."""

from __future__ import annotations

import subprocess
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

PAGE_BYTES = 4096


@dataclass(frozen=True)
class Usage:
    """Of a process and all that it started: resident bytes, open files, and how many processes they are."""

    bytes: int
    files: int
    processes: int


def usage_of(pid: int) -> Usage:
    """Return what a process and its descendants hold now; those that end meanwhile do not count."""
    family, found = [pid], []
    for member in family:
        folder = Path("/proc") / str(member)
        try:
            family += [
                int(word) for task in (folder / "task").iterdir() for word in (task / "children").read_text().split()
            ]
            resident = int((folder / "statm").read_text().split()[1]) * PAGE_BYTES
            found.append((resident, sum(1 for _ in (folder / "fd").iterdir())))
        except (OSError, ValueError):
            continue
    return Usage(sum(size for size, _ in found), sum(files for _, files in found), len(found))


class Watch:
    """Takes the usage of a process again and again while something runs.

    Args:
        pid: the process.
        every_s: seconds between two samples.
    """

    def __init__(self, pid: int, every_s: float = 0.5) -> None:
        self.pid, self.every_s, self.samples = pid, every_s, list[Usage]()
        self._done = threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)

    def __enter__(self) -> Watch:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._done.set()
        self._thread.join()

    def _watch(self) -> None:
        while not self._done.wait(self.every_s):
            self.samples.append(usage_of(self.pid))

    def most(self, first: float, last: float, of: Callable[[Usage], int]) -> int:
        """Return the largest value of a part of the samples, given as shares of the time."""
        n = len(self.samples)
        return max(map(of, self.samples[int(first * n) : max(int(first * n) + 1, int(last * n))]))


def watched(command: Sequence[str | Path], seconds: float) -> tuple[Watch, int]:
    """Run a command to its end; return what it held meanwhile and its exit code."""
    process = subprocess.Popen(
        list(map(str, command)), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True
    )
    until = time.monotonic() + seconds
    with Watch(process.pid) as watch:
        while process.poll() is None and time.monotonic() < until:
            time.sleep(0.2)
    return watch, process.wait(timeout=5)
