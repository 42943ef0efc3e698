"""What a table says of a trained model: its scores over some folds, what it costs, and how fast it predicts."""

from __future__ import annotations

import itertools
import re
import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime

import numpy as np

from nnunet_hypersegnas.cost import format_bytes, format_count
from nnunet_hypersegnas.evaluation import (
    MEAN,
    MsdTask,
    PairedTest,
    Score,
    StructureSummary,
    paired_test,
    published_models,
    summarize,
    table_of,
)
from nnunet_hypersegnas.nnunet.cross_validation import CrossValidation
from nnunet_hypersegnas.nnunet.network_costs import NetworkCosts, PlannedNetwork, network_costs
from nnunet_hypersegnas.nnunet.plans import PROVENANCE

PREDICTING = re.compile(r"^(\d{4}-\d\d-\d\d \d\d:\d\d:\d\d\.\d+): predicting ", re.MULTILINE)
BIASED = "*"


@dataclass(frozen=True, kw_only=True)
class ModelReport:
    """A trained model in figures.

    Attributes:
        model: which one.
        folds: that were scored.
        scores: of their validation cases.
        costs: predicted.
        measured_memory_bytes: that a search measured for its network; None where nothing was measured.
        seconds_per_case: of nnU-Net's validation, mirroring included, on the machine it ran on; None without a log.
    """

    model: CrossValidation
    folds: tuple[int, ...]
    scores: tuple[Score, ...]
    costs: NetworkCosts
    measured_memory_bytes: int | None
    seconds_per_case: float | None

    @classmethod
    def of(cls, model: CrossValidation, folds: Sequence[int], scores: Sequence[Score], *, cuda: bool) -> ModelReport:
        """Put a report together.

        Args:
            model: which one.
            folds, scores: what was scored.
            cuda: whether memory is predicted for training on a GPU, in fp16 autocast; else on a CPU, in fp32.

        Raises:
            NetworkError, UntrustedPlansError: the plans' network cannot, or may not be built.
        """
        dataset = model.dataset
        network = PlannedNetwork(
            name=dataset.plans["plans_name"],
            plans=dataset.plans,
            dataset_json=dataset.dataset_json,
            configuration=dataset.configuration_name,
            trust=dataset.trust_plans,
        )
        measured = dataset.plans.get(PROVENANCE, {}).get("winner", {}).get("measured_memory_bytes")
        return cls(
            model=model,
            folds=tuple(folds),
            scores=tuple(scores),
            costs=network_costs(network, cuda=cuda),
            measured_memory_bytes=measured,
            seconds_per_case=seconds_per_case(model, folds),
        )

    @property
    def summaries(self) -> list[StructureSummary]:
        return summarize(self.scores)

    @property
    def biased(self) -> bool:
        """Whether one of the folds chose the architecture."""
        return self.model.biased_fold in self.folds

    def case_means(self, metric: str) -> dict[str, float]:
        """Return the mean of each case's structures; NaN where none counts."""
        cases, _, table = table_of(self.scores, metric)
        counted = np.isfinite(table)
        sums = np.where(counted, table, 0).sum(1)
        return {
            case: float(total / n) if n else float("nan")
            for case, total, n in zip(cases, sums, counted.sum(1), strict=True)
        }

    def against(self, other: ModelReport, metric: str) -> PairedTest:
        """Compare this model with another one on the cases that both have."""
        mine, theirs = self.case_means(metric), other.case_means(metric)
        cases = [case for case in mine if case in theirs]
        return paired_test(np.array([mine[c] for c in cases]), np.array([theirs[c] for c in cases]))


def seconds_per_case(model: CrossValidation, folds: Sequence[int]) -> float | None:
    """Return the median time from one validation case to the next, by nnU-Net's logs; None where they do not tell."""
    seconds = []
    for fold in folds:
        logs = sorted(model.fold_folder(fold).glob("training_log_*.txt"), key=lambda path: path.stat().st_mtime)
        for log in reversed(logs):
            times = [datetime.fromisoformat(t) for t in PREDICTING.findall(log.read_text(errors="replace"))]
            if len(times) > 1:
                seconds += [(b - a).total_seconds() for a, b in itertools.pairwise(times)]
                break
    return statistics.median(seconds) if seconds else None


def short_names(reports: Sequence[ModelReport]) -> list[str]:
    """Name models by their plans; those that share them by nnU-Net's whole name, with trainer and configuration."""
    plans = [report.model.dataset.plans["plans_name"] for report in reports]
    return [name if plans.count(name) == 1 else report.model.name for name, report in zip(plans, reports, strict=True)]


def describe_model(report: ModelReport, name: str) -> dict[str, str]:
    """Return a model's row of a table, as text (the paper's Table 2, with more columns), under one of `short_names`."""
    costs, summaries = report.costs, report.summaries
    with_nsd = not np.isnan(summaries[-1].nsd.mean)
    row = {
        "model": name + (BIASED if report.biased else ""),
        "predicted memory": format_bytes(costs.memory_bytes),
        "measured memory": "-" if report.measured_memory_bytes is None else format_bytes(report.measured_memory_bytes),
        "parameters": format_count(costs.parameters),
        "s/case": "-" if report.seconds_per_case is None else f"{report.seconds_per_case:.1f}",
    }
    row |= {f"DSC {s.structure}": f"{s.dsc.mean:.4f}" for s in summaries}
    if len(report.folds) > 1:
        row["sd over folds"] = f"{np.std(list(summaries[-1].dsc_of_folds.values()), ddof=1):.4f}"
    if with_nsd:
        row |= {f"NSD {s.structure}": f"{s.nsd.mean:.4f}" for s in summaries if s.structure == MEAN}
    return row


def describe_difference(report: ModelReport, first: ModelReport) -> dict[str, str]:
    """Return, as text, how much better a model is than the first one, case by case."""
    row = {}
    for metric in ("dsc", "nsd"):
        test = report.against(first, metric)
        if test.cases:
            d = test.difference
            row[f"{metric.upper()} difference"] = f"{d.mean:+.4f} ({d.low:+.4f} to {d.high:+.4f})"
            row[f"p ({metric.upper()})"] = "-" if np.isnan(test.p) else f"{test.p:.2g}"
    return row


def difference_note(reports: Sequence[ModelReport]) -> str:
    """Say what differences from the first model are, and over how many cases: those without any score do not count."""
    counts = sorted({report.against(reports[0], "dsc").cases for report in reports[1:]})
    cases = " or ".join(map(str, counts))
    return (
        f"Differences are from {short_names(reports)[0]}, over {cases} cases, each the mean of its structures: mean "
        "with its 95% bootstrap interval, and p of Wilcoxon's signed-rank test."
    )


def footnotes(reports: Sequence[ModelReport], *, cuda: bool) -> list[str]:
    """Say what the figures of a table of models are."""
    precision = "fp16 autocast on CUDA" if cuda else "fp32 on a CPU"
    notes = [
        f"Memory is that of training ({precision} where it is predicted); s/case is of nnU-Net's validation with "
        "mirroring, on the machine that it ran on."
    ]
    for report, name in zip(reports, short_names(reports), strict=True):
        if report.biased:
            notes.append(
                f"{BIASED} {name}: the validation cases of fold "
                f"{report.model.biased_fold} chose this architecture, so its figures are biased."
            )
    return notes


def describe_published(task: MsdTask, report: ModelReport) -> tuple[list[dict[str, str]], list[str]]:
    """Return published models of a task as rows beside a report's, and where they come from."""
    structures = [summary.structure for summary in report.summaries[:-1]]
    rows, sources = [], []
    for known in published_models(task):
        if len(known.dsc) != len(structures):
            continue
        if known.source not in sources:
            sources.append(known.source)
        row = {"model": f"{known.model} [published {sources.index(known.source) + 1}]"}
        if known.memory_mb is not None:
            row["published memory"] = f"{known.memory_mb:g} MB"
        row |= {f"DSC {name}": f"{dsc:.4f}" for name, dsc in zip(structures, known.dsc, strict=True)}
        row[f"DSC {MEAN}"] = f"{known.mean_dsc:.4f}"
        if len(known.fold_dsc) > 1:
            row["sd over folds"] = f"{np.std(known.fold_dsc, ddof=1):.4f}"
        rows.append(row)
    notes = [
        f"[published {i}] not measured here, on all of the task's training data: {source}."
        for i, source in enumerate(sources, 1)
    ]
    return rows, notes
