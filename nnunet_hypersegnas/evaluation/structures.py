"""What a segmentation is scored on: labels, and regions that unite several of them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from nnunet_hypersegnas.errors import HyperSegNASError, abbreviated


class LabelsError(HyperSegNASError):
    """A dataset.json whose labels cannot be understood."""


@dataclass(frozen=True)
class Structure:
    """A label, or a region of several."""

    name: str
    values: tuple[int, ...]

    def mask(self, labels: np.ndarray) -> np.ndarray:
        """Return where the structure is, bool."""
        mask = labels == self.values[0]
        for value in self.values[1:]:
            mask |= labels == value
        return np.asarray(mask)


@dataclass(frozen=True, kw_only=True)
class LabelSet:
    """The structures of a data set, the values that its segmentations may hold, and the one to ignore."""

    structures: tuple[Structure, ...]
    values: frozenset[int]
    ignored: int | None = None

    @classmethod
    def from_json(cls, labels: Mapping[str, Any]) -> LabelSet:
        """Read the `labels` of a dataset.json, nnU-Net's (name: value or values) or the challenge's (value: name).

        Raises:
            LabelsError: they are neither.
        """
        try:
            named = {str(name): _values(value) for name, value in labels.items()}
        except (TypeError, ValueError):
            try:
                named = {str(name): (int(value),) for value, name in labels.items()}
            except (TypeError, ValueError):
                raise LabelsError(
                    f"labels are {abbreviated(labels)}; needed is an object of names with a whole number each, or a "
                    "list of them"
                ) from None
        ignored = named.pop("ignore", (None,))[0]
        structures = tuple(Structure(name, values) for name, values in named.items() if set(values) != {0})
        if not structures:
            raise LabelsError(f"labels are {abbreviated(labels)}, with nothing but background in them")
        return cls(structures=structures, values=frozenset({0}.union(*(s.values for s in structures))), ignored=ignored)


def _values(value: Any) -> tuple[int, ...]:
    values = value if isinstance(value, list | tuple) else [value]
    if not values or not all(isinstance(v, int) and not isinstance(v, bool) for v in values):
        raise ValueError(value)
    return tuple(values)
