"""What an evaluation of a sub-net says."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from typing_extensions import Required, TypedDict  # pydantic needs these before Python 3.12

from nnunet_hypersegnas.json_files import JsonFileError, check

Dsc = Mapping[str, float]  # by label or region


class _ScoreRecord(TypedDict, total=False):
    dsc_by_label: Required[dict[str, float | None]]
    dsc_by_case: dict[str, dict[str, float | None]]


@dataclass(frozen=True, kw_only=True)
class Score:
    """Dice-Sorensen coefficients in 0 to 1 by label or region name.

    A label that is nowhere and was not predicted either has NaN and does not count in a mean.

    Attributes:
        dsc_by_label: on whole crops the mean over the cases; on patches of all their voxels together.
        dsc_by_case: by case, then label; empty where patches were scored.
    """

    dsc_by_label: Dsc
    dsc_by_case: Mapping[str, Dsc] = field(default_factory=dict)

    @classmethod
    def of_cases(cls, dsc_by_case: Mapping[str, Dsc]) -> Score:
        """Return the mean over one or more cases."""
        names = next(iter(dsc_by_case.values()))
        means = {name: _mean(case[name] for case in dsc_by_case.values()) for name in names}
        return cls(dsc_by_label=means, dsc_by_case=dsc_by_case)

    @property
    def dsc(self) -> float:
        """Mean over the labels; NaN where none could be scored."""
        return _mean(self.dsc_by_label.values())

    def to_json(self) -> dict[str, Any]:
        return {
            "dsc": _to_json(self.dsc),
            "dsc_by_label": _all_to_json(self.dsc_by_label),
            "dsc_by_case": {case: _all_to_json(values) for case, values in self.dsc_by_case.items()},
        }

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> Score:
        """Read what `to_json` gives.

        Raises:
            JsonFileError: it is something else.
        """
        check(value, _ScoreRecord, "it is not a score")
        of_cases = value.get("dsc_by_case", {}).values()
        if not all(
            dsc is None or 0 <= dsc <= 1 for scores in (value["dsc_by_label"], *of_cases) for dsc in scores.values()
        ):
            raise JsonFileError("it is not a score: a DSC is not between 0 and 1")
        return cls(
            dsc_by_label=_all_from_json(value["dsc_by_label"]),
            dsc_by_case={case: _all_from_json(values) for case, values in value.get("dsc_by_case", {}).items()},
        )


def _mean(values: Any) -> float:
    known = [value for value in values if not math.isnan(value)]
    return sum(known) / len(known) if known else math.nan


def _to_json(value: float) -> float | None:
    return None if math.isnan(value) else value


def _all_to_json(values: Dsc) -> dict[str, float | None]:
    return {name: _to_json(value) for name, value in values.items()}


def _all_from_json(values: Mapping[str, float | None]) -> dict[str, float]:
    return {name: math.nan if value is None else value for name, value in values.items()}
