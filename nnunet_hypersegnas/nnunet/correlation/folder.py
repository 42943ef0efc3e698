"""The folder of a correlation: what it compares on, and the scores that are there."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from nnunet_hypersegnas.nnunet.comparison_records import begin_or_go_on
from nnunet_hypersegnas.nnunet.correlation.errors import CorrelationError
from nnunet_hypersegnas.nnunet.correlation.sub_nets import RankedNet
from nnunet_hypersegnas.search import MeasurementLog, Score


@dataclass(frozen=True, kw_only=True)
class CorrelationRecord:
    """What all super-nets of a folder are compared on; super-nets and fine-tunings may be added later.

    Attributes:
        dataset, configuration, plans, fold: of the networks that are trained from scratch.
        trainer: that trains them.
        device: type of the device that trains and scores, for which memory is predicted too.
        validation_cases: at most so many of the fold score predictions; None for all. The truth is of all.
        sub_nets: that are trained.
    """

    dataset: str
    configuration: str
    plans: str
    fold: int
    trainer: str
    device: str
    validation_cases: int | None
    sub_nets: tuple[RankedNet, ...]

    def to_json(self) -> dict[str, Any]:
        return {**vars(self), "sub_nets": [net.to_json() for net in self.sub_nets]}


class CorrelationFolder:
    """The files of one correlation.

    Args:
        path: the folder, which need not exist.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.record_file = path / "correlation.json"
        self.json, self.csv = path / "results.json", path / "scores.csv"
        self.tables, self.figure = path / "tables.md", path / "correlation.png"

    def begin(self, record: CorrelationRecord) -> None:
        """Begin a correlation here, or go on with it.

        Raises:
            CorrelationError: the folder holds another one.
        """
        begin_or_go_on(self.record_file, record.to_json(), "a correlation", CorrelationError)

    def scores(self, trainer: str, plans: str) -> MeasurementLog[Score]:
        """Return the log of what a super-net predicts, each score in the file as soon as it is known."""
        return MeasurementLog(self.path / "scores" / f"{trainer}__{plans}.jsonl", "score", Score.from_json)
