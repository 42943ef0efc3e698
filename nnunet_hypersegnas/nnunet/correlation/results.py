"""A correlation's results: tables as text, every number as JSON and CSV, and the values of its figure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import cached_property
from typing import Any

import numpy as np

from nnunet_hypersegnas.atomic import write_json, write_text
from nnunet_hypersegnas.cost import format_bytes, format_count
from nnunet_hypersegnas.evaluation.ablation import ALL
from nnunet_hypersegnas.evaluation.correlation import WITHIN, Estimate, RankCorrelation, rank_correlations
from nnunet_hypersegnas.nnunet.correlation.folder import CorrelationFolder, CorrelationRecord
from nnunet_hypersegnas.nnunet.correlation.sub_nets import RankedNet
from nnunet_hypersegnas.nnunet.correlation.super_nets import SuperNetPredictions
from nnunet_hypersegnas.nnunet.result_tables import Table, csv_text, finite, number
from nnunet_hypersegnas.search import Score, SearchSettings

PUBLISHED = {"shared weights": (0.22, 0.4), "fine-tuned weights": (0.55, 0.7)}  # tau and rho of Fig. 4
PUBLISHED_SOURCE = "Peng et al., HyperSegNAS, CVPR 2022, Figure 4: MSD Pancreas"
NO_SUPER_NET = "-"  # in its column, of what needs none


@dataclass(frozen=True, kw_only=True, eq=False)
class Prediction:
    """What is held against the truth.

    Attributes:
        super_net: name of its plans; `NO_SUPER_NET` for costs.
        title: what it is.
        values: of the sub-nets, shape (A,), or (P, A) for the mean of several super-nets.
    """

    super_net: str
    title: str
    values: np.ndarray


@dataclass(frozen=True, kw_only=True)
class JudgedPrediction:
    """A prediction's name with its correlations, see `rank_correlations`."""

    super_net: str
    title: str
    correlations: tuple[RankCorrelation, ...]


@dataclass(frozen=True, kw_only=True, eq=False)
class CorrelationResults:
    """What is known so far.

    Attributes:
        record: what was compared on.
        settings: of fine-tuning.
        labels: names of the labels.
        super_nets: what each predicts.
        truth: scores of the networks that are trained, by the architecture's id.
    """

    record: CorrelationRecord
    settings: SearchSettings
    labels: tuple[str, ...]
    super_nets: tuple[SuperNetPredictions, ...]
    truth: Mapping[str, Score]

    @property
    def nets(self) -> tuple[RankedNet, ...]:
        return self.record.sub_nets

    @property
    def windows(self) -> list[str]:
        """The window of each sub-net."""
        return [net.window for net in self.nets]

    @property
    def window_names(self) -> list[str]:
        return list(dict.fromkeys(self.windows))

    @cached_property
    def true_dsc(self) -> np.ndarray:
        """Mean over the labels, shape (A,); NaN where a network is not trained."""
        return np.array([self.truth[id].dsc if id in self.truth else np.nan for id in self._ids()])

    def _ids(self) -> list[str]:
        return [net.architecture.id for net in self.nets]

    @property
    def fine_tuned_title(self) -> str:
        return f"DSC after {self.settings.finetune_iterations:,} iterations"

    @cached_property
    def predictions(self) -> list[Prediction]:
        """Everything that is held against the truth; costs are the controls, which need no super-net."""
        found = self._of_super_nets("DSC, shared weights", [one.shared for one in self.super_nets])
        tuned = [one.fine_tuned for one in self.super_nets if one.fine_tuned is not None]
        if len(tuned) == len(self.super_nets):
            found += self._of_super_nets(self.fine_tuned_title, tuned)
        costs = {
            "parameters": [net.parameters for net in self.nets],
            "multiply-adds": [net.multiply_adds for net in self.nets],
            "training memory": [net.memory_bytes for net in self.nets],
        }
        return found + [
            Prediction(super_net=NO_SUPER_NET, title=f"{name} (control)", values=np.array(values, float))
            for name, values in costs.items()
        ]

    def _of_super_nets(self, title: str, scores: Sequence[Sequence[Score]]) -> list[Prediction]:
        values = np.array([[score.dsc for score in of_one] for of_one in scores])
        found = [
            Prediction(super_net=one.super_net.plans, title=title, values=row)
            for one, row in zip(self.super_nets, values, strict=True)
        ]
        if len(found) > 1:
            found.append(Prediction(super_net=f"mean of {len(found)}", title=title, values=values))
        return found

    @cached_property
    def judged(self) -> list[JudgedPrediction]:
        return [
            JudgedPrediction(
                super_net=one.super_net,
                title=one.title,
                correlations=tuple(rank_correlations(self.true_dsc, np.atleast_2d(one.values), self.windows)),
            )
            for one in self.predictions
        ]

    def tables(self) -> list[Table]:
        """Return all tables, as text."""
        windows = self.window_names
        tables = [self._networks(), self._ranks(f"Rank correlation with training from scratch, {ALL} sub-nets", [ALL])]
        if len(windows) > 1:
            tables.append(self._ranks(f"{WITHIN.capitalize()} of memory, pairs of the same window alone", [WITHIN]))
            tables.append(self._ranks("Each window of memory alone", windows))
        return [*tables, self._published()]

    def _networks(self) -> Table:
        rows = []
        for i, net in enumerate(self.nets):
            row = {"sub-net": net.architecture.id, "window": net.window}
            row |= {"memory": format_bytes(net.memory_bytes)}
            row |= {"parameters": format_count(net.parameters)}
            row |= {"multiply-adds": format_count(net.multiply_adds)}
            for one in self.super_nets:
                of = f" ({one.super_net.plans})" if len(self.super_nets) > 1 else ""
                row[f"DSC shared{of}"] = number(one.shared[i].dsc)
                if one.fine_tuned is not None:
                    row[f"DSC fine-tuned{of}"] = number(one.fine_tuned[i].dsc)
            rows.append(row | {"DSC trained": number(self.true_dsc[i])})
        trained, record = len(self.truth), self.record
        notes = [
            f"DSC trained: {trained} of {len(self.nets)} networks are trained from scratch by {record.trainer}, with "
            "one seed each; mean over labels and cases of nnU-Net's own validation of full volumes.",
            f"The other ones are of crops around the foreground of {self._cases()} of the same validation cases. "
            "Memory is of training, predicted.",
        ]
        if lost := int(np.isnan([score.dsc for score in self.truth.values()]).sum()):
            notes.append(f"{lost} of the trained networks have no DSC and are left out.")
        return Table(heading="Networks", rows=rows, notes=tuple(notes))

    def _cases(self) -> str:
        count = self.record.validation_cases
        return "all" if count is None else f"at most {count}"

    def _ranks(self, heading: str, groups: Sequence[str]) -> Table:
        rows = []
        for one in self.judged:
            for group in groups:
                found = next(c for c in one.correlations if c.group == group)
                row = {"super-net": one.super_net, "predicted by": one.title}
                if len(groups) > 1:
                    row["window"] = group
                row |= {"networks": str(found.networks), "Kendall's tau (95%)": _interval(found.kendall)}
                row["p"] = number(found.kendall.p, form=".2g")
                if group != WITHIN:
                    row |= {
                        "Spearman's rho (95%)": _interval(found.spearman),
                        "p ": number(found.spearman.p, form=".2g"),
                    }
                if len(self.super_nets) > 1:
                    sd = np.std(found.by_prediction, ddof=1) if len(found.by_prediction) > 1 else np.nan
                    row["sd of tau over super-nets"] = number(float(sd), 2)
                rows.append(row)
        return Table(heading=heading, rows=rows, notes=tuple(self._notes(groups)))

    def _notes(self, groups: Sequence[str]) -> list[str]:
        if groups == [ALL]:
            notes = [
                "Intervals come from resampled sub-nets, and take super-net and trainings as given. Networks that are "
                "trained with one seed each are ranked with that seed's noise, which no prediction can foresee. "
                "p is of permuted trainings, two-sided.",
            ]
            if len(self.super_nets) > 1:
                notes.append("The mean of several super-nets has an interval of resampled sub-nets too, and no p.")
            if len(self.window_names) > 1:
                notes.append(
                    "All sub-nets together differ in size more than those that a search compares, and larger ones tend "
                    "to be better: this flatters every row. What a search needs is the rank within a window, below."
                )
            return notes
        if groups == [WITHIN]:
            return [
                f"Windows: {', '.join(self._window(name) for name in self.window_names)}. p is of trainings permuted "
                "within the windows; intervals resample within them."
            ]
        return ["Few networks each: read the intervals."]

    def _window(self, name: str) -> str:
        memory = [net.memory_bytes for net in self.nets if net.window == name]
        return f"{name} ({format_bytes(min(memory))} to {format_bytes(max(memory))})"

    def _published(self) -> Table:
        rows = [
            {"predicted by": f"{title} [published]", "Kendall's tau": f"{tau:.2f}", "Spearman's rho": f"{rho:.1f}"}
            for title, (tau, rho) in PUBLISHED.items()
        ]
        return Table(heading="Published, for comparison", rows=rows, notes=(f"Not measured here: {PUBLISHED_SOURCE}.",))

    def panels(self) -> dict[str, dict[str, list[float]]]:
        """Return what the figure shows: the sub-nets' values by prediction and super-net, "" for the controls."""
        panels: dict[str, dict[str, list[float]]] = {}
        for one in self.predictions:
            if one.values.ndim == 1:
                name = "" if one.super_net == NO_SUPER_NET else one.super_net
                panels.setdefault(one.title, {})[name] = one.values.tolist()
        return panels

    def write(self, folder: CorrelationFolder) -> None:
        """Write every number as JSON, and a row for each sub-net of each super-net as CSV."""
        write_json(folder.json, self.to_json())
        write_text(folder.csv, csv_text(finite(self._sub_net_rows())))

    def to_json(self) -> dict[str, Any]:
        content = {
            "record": self.record.to_json(),
            "finetune_iterations": self.settings.finetune_iterations,
            "finetune_lr": self.settings.finetune_lr,
            "super_nets": [
                {"plans": s.plans, "trainer": s.trainer, "checkpoint": s.digest}
                for s in (one.super_net for one in self.super_nets)
            ],
            "scores": self._sub_net_rows(),
            "correlations": [asdict(one) for one in self.judged],
            "published": {
                "source": PUBLISHED_SOURCE,
                **{title: {"kendall": tau, "spearman": rho} for title, (tau, rho) in PUBLISHED.items()},
            },
        }
        return dict(finite(content))

    def _sub_net_rows(self) -> list[dict[str, Any]]:
        """Return a row for each sub-net of each super-net: DSC in 0 to 1, bytes; NaN where there is none."""
        nothing = Score(dsc_by_label={})
        rows = []
        for one in self.super_nets:
            for i, net in enumerate(self.nets):
                scores = {"shared": one.shared[i]}
                if one.fine_tuned is not None:
                    scores["fine_tuned"] = one.fine_tuned[i]
                scores["trained"] = self.truth.get(net.architecture.id, nothing)
                row: dict[str, Any] = {
                    "super_net": one.super_net.plans,
                    "architecture": net.architecture.id,
                    "window": net.window,
                    "predicted_memory_bytes": net.memory_bytes,
                    "parameters": net.parameters,
                    "multiply_adds": net.multiply_adds,
                }
                for way, score in scores.items():
                    row |= {f"dsc_{way}_{name}": score.dsc_by_label.get(name, np.nan) for name in self.labels}
                    row[f"dsc_{way}_mean"] = score.dsc
                rows.append(row)
        return rows


def _interval(found: Estimate) -> str:
    if np.isnan(found.value):
        return "-"
    return f"{found.value:+.2f} ({number(found.low, form='+.2f')} to {number(found.high, form='+.2f')})"
