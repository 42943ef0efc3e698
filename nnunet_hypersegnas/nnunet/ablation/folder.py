"""The folder of an ablation: what it compares on, and the scores that are there."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from nnunet_hypersegnas.nnunet.ablation.entries import Entry
from nnunet_hypersegnas.nnunet.ablation.errors import AblationError
from nnunet_hypersegnas.nnunet.ablation.sub_nets import SubNet
from nnunet_hypersegnas.nnunet.comparison_records import begin_or_go_on
from nnunet_hypersegnas.search import MeasurementLog, Score


@dataclass(frozen=True, kw_only=True)
class AblationRecord:
    """What all super-nets of a folder are compared on; variants and seeds may be added later.

    Attributes:
        dataset, configuration, plans, fold: where they are trained.
        device: type of the device that scores, for which memory is predicted too.
        validation_cases: at most so many of the fold; None for all.
        sub_nets: that are scored.
    """

    dataset: str
    configuration: str
    plans: str
    fold: int
    device: str
    validation_cases: int | None
    sub_nets: tuple[SubNet, ...]

    def to_json(self) -> dict[str, Any]:
        return {**vars(self), "sub_nets": [sub_net.to_json() for sub_net in self.sub_nets]}


@dataclass(frozen=True, kw_only=True)
class SubNetScore:
    """What one sub-net of one super-net scores, and how long its prediction takes, in seconds per volume."""

    score: Score
    seconds_per_volume: float

    def to_json(self) -> dict[str, Any]:
        return {**self.score.to_json(), "seconds_per_volume": self.seconds_per_volume}

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> SubNetScore:
        score, seconds = Score.from_json(value), value["seconds_per_volume"]
        if not isinstance(seconds, int | float):
            raise TypeError(f"seconds_per_volume is {seconds!r}, needed is a number")
        return cls(score=score, seconds_per_volume=seconds)


class AblationFolder:
    """The files of one ablation.

    Args:
        path: the folder, which need not exist.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.record_file = path / "ablation.json"
        self.json, self.csv = path / "results.json", path / "scores.csv"
        self.tables, self.figure = path / "tables.md", path / "dsc_over_memory.png"

    def begin(self, record: AblationRecord) -> None:
        """Begin an ablation here, or go on with it.

        Raises:
            AblationError: the folder holds another one.
        """
        begin_or_go_on(self.record_file, record.to_json(), "an ablation", AblationError)

    def scores(self, entry: Entry) -> MeasurementLog[SubNetScore]:
        """Return the log of a super-net's scores, each in the file as soon as it is known."""
        path = self.path / "scores" / f"{entry.variant.key}_seed{entry.seed}.jsonl"
        return MeasurementLog(path, "score", SubNetScore.from_json)
