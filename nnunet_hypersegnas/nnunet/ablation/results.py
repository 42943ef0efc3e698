"""An ablation's results: tables as text, every number as JSON and CSV, and the values of its figure."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from nnunet_hypersegnas.atomic import write_json, write_text
from nnunet_hypersegnas.evaluation.ablation import (
    ALL,
    GROUPS,
    AblationScores,
    Correlation,
    Difference,
    RankAgreement,
    ScoredSuperNet,
    VariantSummary,
    compare_variants,
    rank_agreement,
    summarize_variant,
)
from nnunet_hypersegnas.nnunet.ablation.folder import AblationFolder, AblationRecord
from nnunet_hypersegnas.nnunet.result_tables import Table, csv_text, finite, number
from nnunet_hypersegnas.nnunet.variants import KEEP_MAN, MAIN, NO_ANNEAL, PUBLISHED_SOURCE, VANILLA, Variant


@dataclass(frozen=True, kw_only=True, eq=False)
class AblationResults:
    """What is known so far.

    Attributes:
        record: what was compared on.
        variants: in the order of the tables.
        iterations: of each training, the longer ones left out.
        scores: of the super-nets that are there.
    """

    record: AblationRecord
    variants: tuple[Variant, ...]
    iterations: int
    scores: AblationScores

    @classmethod
    def of(
        cls,
        record: AblationRecord,
        variants: Sequence[Variant],
        iterations: int,
        labels: Sequence[str],
        super_nets: Sequence[ScoredSuperNet],
    ) -> AblationResults:
        """Put results together."""
        scores = AblationScores(
            labels=tuple(labels),
            memory_bytes=np.array([net.memory_bytes for net in record.sub_nets]),
            parameters=np.array([net.parameters for net in record.sub_nets]),
            super_nets=tuple(super_nets),
        )
        there = tuple(variant for variant in variants if variant.key in scores.variants)
        return cls(record=record, variants=there, iterations=iterations, scores=scores)

    @property
    def bases(self) -> list[Variant]:
        """What the others are compared with: vanilla at equal iterations, and the longer vanilla at equal time.

        Where there is no vanilla, it is the first variant.
        """
        return [variant for variant in self.variants if variant.settings == VANILLA.settings] or [self.variants[0]]

    @property
    def summaries(self) -> list[VariantSummary]:
        return [summarize_variant(self.scores, variant.key) for variant in self.variants]

    @property
    def differences(self) -> list[Difference]:
        """Every other variant against every base, for each group of sub-nets."""
        return [
            found
            for base in self.bases
            for variant in self.variants
            if variant not in self.bases
            for group in GROUPS
            if (found := compare_variants(self.scores, variant.key, base.key, group))
        ]

    @property
    def agreements(self) -> list[RankAgreement]:
        return [
            rank_agreement(self.scores, variant.key, self.bases[0].key, group)
            for variant in self.variants
            for group in GROUPS
        ]

    def tables(self) -> list[Table]:
        """Return all tables, as text."""
        return [self._table_1(), *self._published(), *self._differences(), self._agreement()]

    def _title(self, key: str) -> str:
        return next(variant.title for variant in self.variants if variant.key == key)

    def _group(self, group: str) -> str:
        return f"{group} ({int(self.scores.members(group).sum())})"

    def _table_1(self) -> Table:
        rows = []
        for summary in self.summaries:
            row = {"variant": self._title(summary.variant), "seeds": " ".join(map(str, summary.seeds))}
            row |= {f"DSC {name}": number(dsc) for name, dsc in summary.dsc_by_label.items()}
            row |= {"DSC mean": number(summary.dsc), "sd over seeds": number(summary.sd_over_seeds)}
            row |= {"s/volume": number(summary.seconds_per_volume, 3)}
            row |= {"s/iteration": number(summary.seconds_per_iteration, 3)}
            rows.append(row)
        notes = [
            "DSC with the super-net's shared weights, mean over the sub-nets: it ranks sub-nets, and is no network's "
            "quality. Patch-wise, on crops around the foreground of the fold's validation cases; s/volume is the time "
            f"of such a crop, on {self.record.device}.",
            f"Every variant trains {self.iterations:,} iterations with the same sub-nets, learning rates and seeds, "
            "but for what its name says otherwise; with nnUNet_n_proc_DA=0 the batches are the same ones, too. "
            "s/iteration is of training, the median over epochs.",
        ]
        if KEEP_MAN in self.variants and NO_ANNEAL in self.variants:
            notes.append("C and D are one training, which predicts with MAN and without.")
        if (ratio := self._time_ratio()) is not None:
            notes.append(
                f"An iteration of {MAIN.title} takes {ratio:.2f} times as long as one of {VANILLA.title}; "
                f"--longer-vanilla {ratio:.2f} adds the comparison at equal time."
            )
        return Table(heading="Ways to train a super-net (Table 1)", rows=rows, notes=tuple(notes))

    def _time_ratio(self) -> float | None:
        seconds = {summary.variant: summary.seconds_per_iteration for summary in self.summaries}
        ratio = seconds.get(MAIN.key, math.nan) / seconds.get(VANILLA.key, math.nan)
        return ratio if math.isfinite(ratio) else None

    def _published(self) -> list[Table]:
        rows = [
            {
                "variant": f"{variant.title} [published]",
                "DSC pancreas": number(variant.published.pancreas),
                "DSC tumour": number(variant.published.tumour),
                "DSC mean": number(variant.published.mean),
                "s/volume": number(variant.published.seconds_per_volume, 2),
            }
            for variant in self.variants
            if variant.published
        ]
        source = f"Not measured here: {PUBLISHED_SOURCE}."
        return [Table(heading="Published, for comparison", rows=rows, notes=(source,))] if rows else []

    def _differences(self) -> list[Table]:
        tables = []
        for base in self.bases:
            rows = [
                {
                    "variant": self._title(found.variant),
                    "sub-nets": self._group(found.group),
                    "DSC difference": _interval(found),
                    "p": number(found.test.p, 2, ".2g"),
                    "by seed": " ".join(f"{seed}: {d:+.4f}" for seed, d in found.by_seed.items()),
                    "better": f"{found.better:.0%}",
                }
                for found in self.differences
                if found.base == base.key
            ]
            if rows:
                notes = (
                    "Over sub-nets, each the mean over the seeds: mean with its 95% bootstrap interval, and p of "
                    "Wilcoxon's signed-rank test. Both take the seeds as given; what another seed would change, the "
                    "seeds' own differences show. 'better' counts pairs of sub-net and seed. Halves are by predicted "
                    "memory.",
                )
                tables.append(Table(heading=f"Difference to {base.title}, paired", rows=rows, notes=notes))
        return tables

    def _agreement(self) -> Table:
        base = self.bases[0].title.split(":")[0]
        rows = [
            {
                "variant": self._title(found.variant),
                "sub-nets": self._group(found.group),
                "between seeds": _correlation(found.between_seeds),
                "lowest pair": _correlation(found.lowest_between_seeds),
                "with parameters": _correlation(found.with_parameters),
                "with memory": _correlation(found.with_memory),
                f"with {base}, same seed": "-" if found.with_base is None else _correlation(found.with_base),
            }
            for found in self.agreements
        ]
        note = (
            "Kendall's tau / Spearman's rho of the sub-nets' DSC, means over (pairs of) seeds. Parameters and "
            "predicted memory are the control: what size alone would rank."
        )
        return Table(heading="Rank agreement", rows=rows, notes=(note,))

    def figure_dsc(self) -> dict[str, dict[int, list[float]]]:
        """Return the DSC of each sub-net by variant's title and seed."""
        return {
            variant.title: {seed: net.dsc.tolist() for seed, net in self.scores.of(variant.key).items()}
            for variant in self.variants
        }

    def write(self, folder: AblationFolder) -> None:
        """Write every number as JSON, and a row for each sub-net of each super-net as CSV."""
        write_json(folder.json, self.to_json())
        write_text(folder.csv, csv_text(self._sub_net_rows()))

    def to_json(self) -> dict[str, Any]:
        return finite(
            {
                "record": self.record.to_json(),
                "iterations": self.iterations,
                "variants": {v.key: {"title": v.title, "settings": {**v.settings, **v.changes}} for v in self.variants},
                "super_nets": [
                    {"variant": n.variant, "seed": n.seed, "seconds_per_iteration": n.seconds_per_iteration}
                    for n in self.scores.super_nets
                ],
                "scores": self._sub_net_rows(),
                "summaries": [asdict(found) for found in self.summaries],
                "differences": [asdict(found) for found in self.differences],
                "rank_agreement": [asdict(found) for found in self.agreements],
            }
        )

    def _sub_net_rows(self) -> list[dict[str, Any]]:
        """Return a row for each sub-net of each super-net: DSC in 0 to 1, bytes, seconds."""
        groups = {group: self.scores.members(group) for group in GROUPS if group != ALL}
        return [
            {
                "variant": net.variant,
                "seed": net.seed,
                "architecture": sub_net.architecture.id,
                "half": next(group for group, members in groups.items() if members[i]),
                "predicted_memory_bytes": sub_net.memory_bytes,
                "parameters": sub_net.parameters,
                **{f"dsc_{name}": float(net.dsc_by_label[i, k]) for k, name in enumerate(self.scores.labels)},
                "dsc_mean": float(net.dsc[i]),
                "seconds_per_volume": float(net.seconds_per_volume[i]),
            }
            for net in self.scores.super_nets
            for i, sub_net in enumerate(self.record.sub_nets)
        ]


def _interval(found: Difference) -> str:
    d = found.test.difference
    return "-" if math.isnan(d.mean) else f"{d.mean:+.4f} ({d.low:+.4f} to {d.high:+.4f})"


def _correlation(value: Correlation) -> str:
    return f"{number(value.kendall, 2)} / {number(value.spearman, 2)}" if not math.isnan(value.kendall) else "-"
