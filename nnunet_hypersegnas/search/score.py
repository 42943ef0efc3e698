"""What an evaluation of a sub-net says."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True, kw_only=True)
class Score:
    """Dice-Sorensen coefficients in 0 to 1 on the validation crops, by label or region name.

    A label that no crop holds and that was not predicted either has NaN and does not count in the mean.
    """

    dsc_by_label: Mapping[str, float]

    @property
    def dsc(self) -> float:
        """Mean over the labels; NaN where none could be scored."""
        values = [value for value in self.dsc_by_label.values() if not math.isnan(value)]
        return sum(values) / len(values) if values else math.nan

    def to_json(self) -> dict[str, Any]:
        labels = {name: None if math.isnan(value) else value for name, value in self.dsc_by_label.items()}
        return {"dsc": None if math.isnan(self.dsc) else self.dsc, "dsc_by_label": labels}

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> Score:
        return cls(dsc_by_label={k: math.nan if v is None else v for k, v in value["dsc_by_label"].items()})
