"""Plain-text tables for stdout."""

from __future__ import annotations

from collections.abc import Mapping, Sequence


def markdown_table(rows: Sequence[Mapping[str, str]]) -> str:
    """Return the same table in Markdown."""
    header = list(rows[0])
    lines = [header, ["---"] * len(header), *[[row[key] for key in header] for row in rows]]
    return "\n".join(f"| {' | '.join(cell.replace('|', '/') for cell in line)} |" for line in lines)


def format_table(rows: Sequence[Mapping[str, str]]) -> str:
    """Return aligned columns under the keys of the first row."""
    header = list(rows[0])
    lines = [header, *[[row[key] for key in header] for row in rows]]
    widths = [max(len(line[i]) for line in lines) for i in range(len(header))]
    text = ["  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip() for line in lines]
    text.insert(1, "  ".join("-" * width for width in widths))
    return "\n".join(text)
