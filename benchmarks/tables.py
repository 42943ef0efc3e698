"""Markdown tables on stdout, and how long they took on stderr."""

from __future__ import annotations

import statistics
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager


@contextmanager
def section(title: str) -> Iterator[None]:
    """Print a heading, and at the end the time that what stands below it took."""
    print(f"\n### {title}\n", flush=True)
    start = time.perf_counter()
    yield
    print(f"{title}: {time.perf_counter() - start:.0f} s", file=sys.stderr, flush=True)


def table(rows: Sequence[Mapping[str, str]]) -> None:
    """Print rows that have the same columns."""
    print("| " + " | ".join(rows[0]) + " |")
    print("|" + " --- |" * len(rows[0]))
    for row in rows:
        print("| " + " | ".join(row.values()) + " |")
    sys.stdout.flush()


def median_of(values: Sequence[float]) -> str:
    """Return the median as text."""
    return f"{statistics.median(values):,.1f}"


def ratios(values: Sequence[float]) -> str:
    """Return the median as text and, of several, the lowest and the highest."""
    median = f"{statistics.median(values):.2f}"
    return median if len(values) == 1 else f"{median} ({min(values):.2f} to {max(values):.2f})"
