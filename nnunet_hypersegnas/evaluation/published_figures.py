"""Published five-fold cross-validations of the challenge's tasks, to be read beside one's own and never among them."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.resources import files

from nnunet_hypersegnas.evaluation.msd import MsdTask


@dataclass(frozen=True, kw_only=True)
class PublishedModel:
    """What somebody published of a model; none of it was measured here.

    Attributes:
        model: its name.
        dsc: of each label, in the order of the task's labels; between 0 and 1.
        fold_dsc: mean of each fold, where it was published.
        memory_mb: of training, where it was published.
        source: who published it, and what it is.
    """

    model: str
    dsc: tuple[float, ...]
    fold_dsc: tuple[float, ...]
    memory_mb: float | None
    source: str

    @property
    def mean_dsc(self) -> float:
        return sum(self.dsc) / len(self.dsc)


def published_models(task: MsdTask) -> list[PublishedModel]:
    """Return what is known of a task."""
    content = json.loads((files(__package__) / "published" / "msd.json").read_text(encoding="utf-8"))

    def fractions(percent: Sequence[float]) -> tuple[float, ...]:
        return tuple(value / 100 for value in percent)

    return [
        PublishedModel(
            model=row["model"],
            dsc=fractions(row["dsc_percent"]),
            fold_dsc=fractions(row.get("fold_dsc_percent", ())),
            memory_mb=row.get("memory_mb"),
            source=content["sources"][row["source"]],
        )
        for row in content["cross_validation"][task.folder]
    ]
