"""Plain-text tables for stdout."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from nnunet_hypersegnas.nnunet.result_tables import Table


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


def headed_markdown(heading: str, tables: Sequence[Table]) -> str:
    """Return tables with their headings and notes as a Markdown page."""
    lines = [f"# {heading}", ""]
    for table in tables:
        lines += [f"## {table.heading}", "", markdown_table(table.rows), "", *[f"- {note}" for note in table.notes], ""]
    return "\n".join(lines)


def print_tables(heading: str, tables: Sequence[Table]) -> None:
    """Print tables with their headings and notes."""
    print(f"\n{heading}")
    for table in tables:
        print(f"\n{table.heading}:\n{format_table(table.rows)}")
        print("\n".join(table.notes))
