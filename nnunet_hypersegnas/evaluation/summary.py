"""Scores of many cases, summed up for people and for programs."""

from __future__ import annotations

import csv
import io
import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

import numpy as np

from nnunet_hypersegnas.atomic import write_json, write_text
from nnunet_hypersegnas.evaluation.scoring import Score, Scoring
from nnunet_hypersegnas.evaluation.statistics import LEVEL, Interval, mean_intervals

MEAN = "mean"  # of the structures' means


@dataclass(frozen=True, kw_only=True)
class StructureSummary:
    """A structure over all cases, or the mean of all structures.

    Attributes:
        structure: its name, or `MEAN`.
        cases: how many count; of the mean, how many there are.
        left_out: how many do not count, because they lack the structure.
        dsc, nsd: mean over cases; NSD's is NaN without a tolerance.
        dsc_of_folds, nsd_of_folds: mean over each fold's cases.
    """

    structure: str
    cases: int
    left_out: int
    dsc: Interval
    nsd: Interval
    dsc_of_folds: Mapping[int, float]
    nsd_of_folds: Mapping[int, float]


def table_of(scores: Sequence[Score], metric: str) -> tuple[list[str], list[str], np.ndarray]:
    """Return cases, structures and the metric of each; NaN where a case does not count."""
    cases = list(dict.fromkeys(score.case for score in scores))
    structures = list(dict.fromkeys(score.structure for score in scores))
    row, column = ({name: i for i, name in enumerate(names)} for names in (cases, structures))
    table = np.full((len(cases), len(structures)), np.nan)
    for score in scores:
        table[row[score.case], column[score.structure]] = getattr(score, metric)
    return cases, structures, table


def summarize(scores: Sequence[Score]) -> list[StructureSummary]:
    """Sum scores up, structure by structure and, last, their mean."""
    cases, structures, dsc = table_of(scores, "dsc")
    nsd = table_of(scores, "nsd")[2]
    fold_of = {score.case: score.fold for score in scores}
    folds = sorted({fold for fold in fold_of.values() if fold is not None})
    counted = np.isfinite(dsc).sum(0)
    of_folds: dict[str, dict[int, list[float]]] = {"dsc": {}, "nsd": {}}
    for fold in folds:
        chosen = [fold_of[case] == fold for case in cases]
        for metric, table in (("dsc", dsc), ("nsd", nsd)):
            of_folds[metric][fold] = _means(table[chosen])
    intervals = {"dsc": mean_intervals(dsc), "nsd": mean_intervals(nsd)}
    return [
        StructureSummary(
            structure=name,
            cases=len(cases) if name is MEAN else int(counted[i]),
            left_out=0 if name is MEAN else len(cases) - int(counted[i]),
            dsc=intervals["dsc"][i],
            nsd=intervals["nsd"][i],
            dsc_of_folds={fold: of_folds["dsc"][fold][i] for fold in folds},
            nsd_of_folds={fold: of_folds["nsd"][fold][i] for fold in folds},
        )
        for i, name in enumerate([*structures, MEAN])
    ]


def _means(table: np.ndarray) -> list[float]:
    columns = [
        float(column[np.isfinite(column)].mean()) if np.isfinite(column).any() else math.nan for column in table.T
    ]
    there = [value for value in columns if not math.isnan(value)]
    return [*columns, sum(there) / len(there) if there else math.nan]


def describe(summaries: Sequence[StructureSummary]) -> list[dict[str, str]]:
    """Return one row of text for each structure and, last, their mean."""
    with_nsd = any(not math.isnan(summary.nsd.mean) for summary in summaries)
    folds = list(summaries[0].dsc_of_folds)
    rows = []
    for summary in summaries:
        row = {"structure": summary.structure, "cases": str(summary.cases)}
        if any(s.left_out for s in summaries):
            row["left out"] = str(summary.left_out)
        for name, interval, of_folds in (
            ("DSC", summary.dsc, summary.dsc_of_folds),
            *([("NSD", summary.nsd, summary.nsd_of_folds)] if with_nsd else []),
        ):
            row[name] = f"{interval.mean:.4f}"
            row[f"{name} {LEVEL:.0%} interval"] = f"{interval.low:.4f} - {interval.high:.4f}"
            if len(folds) > 1:
                row[f"{name} sd over folds"] = f"{np.std(list(of_folds.values()), ddof=1):.4f}"
        rows.append(row)
    return rows


def describe_folds(summaries: Sequence[StructureSummary], marked: int | None) -> list[dict[str, str]]:
    """Return one row of text for each fold: the mean of its structures.

    Args:
        summaries: of all structures.
        marked: the fold whose validation cases chose the architecture.
    """
    mean = summaries[-1]
    rows = []
    for fold, dsc in mean.dsc_of_folds.items():
        row = {"fold": f"{fold}*" if fold == marked else str(fold)}
        row |= {f"DSC {s.structure}": f"{s.dsc_of_folds[fold]:.4f}" for s in summaries[:-1]} | {
            "DSC mean": f"{dsc:.4f}"
        }
        if not math.isnan(mean.nsd.mean):
            row["NSD mean"] = f"{mean.nsd_of_folds[fold]:.4f}"
        rows.append(row)
    return rows


def write_csv(path: Path, scores: Sequence[Score]) -> None:
    """Write one line for each structure of each case; a score that is left out is an empty field."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow([field.name for field in fields(Score)])
    for score in scores:
        writer.writerow(["" if _absent(value) else value for value in asdict(score).values()])
    write_text(path, text.getvalue())


def write_summary(
    path: Path,
    scores: Sequence[Score],
    summaries: Sequence[StructureSummary],
    scoring: Scoring,
    about: Mapping[str, Any],
) -> None:
    """Write scores and summaries as JSON; a score that is left out is null."""
    write_json(
        path,
        {
            **about,
            "nsd_tolerance_mm": scoring.tolerance_mm,
            "empty_reference": scoring.empty_reference.value,
            "interval": f"bootstrap over cases, {LEVEL:.0%}",
            "summary": [_without_nan(asdict(summary)) for summary in summaries],
            "cases": [_without_nan(asdict(score)) for score in scores],
        },
    )


def _without_nan(value: Any) -> Any:
    if isinstance(value, dict):
        return {str(key): _without_nan(inner) for key, inner in value.items()}
    return None if _absent(value) else value


def _absent(value: Any) -> bool:
    return value is None or (isinstance(value, float) and math.isnan(value))
