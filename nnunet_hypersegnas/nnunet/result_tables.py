"""What the results of several commands have in common: tables of text, and numbers as JSON and CSV."""

from __future__ import annotations

import csv
import io
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True, kw_only=True)
class Table:
    """A heading, rows of text with the same keys, and notes below."""

    heading: str
    rows: list[dict[str, str]]
    notes: tuple[str, ...] = ()


def number(value: float, digits: int = 4, form: str | None = None) -> str:
    """Return a number as text; "-" where there is none."""
    return "-" if math.isnan(value) else format(value, form or f".{digits}f")


def csv_text(rows: Sequence[Mapping[str, Any]]) -> str:
    """Return rows with the same keys as CSV with a header."""
    text = io.StringIO()
    writer = csv.DictWriter(text, list(rows[0]), lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return text.getvalue()


def finite(value: Any) -> Any:
    """Return JSON-able content with None in place of numbers that JSON has not."""
    if isinstance(value, dict):
        return {key: finite(one) for key, one in value.items()}
    if isinstance(value, list | tuple):
        return [finite(one) for one in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
