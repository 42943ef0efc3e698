"""How a budget's candidates are spread over the window and over topologies."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np

from nnunet_hypersegnas.cost import format_bytes
from nnunet_hypersegnas.search.candidates import Candidate
from nnunet_hypersegnas.space import Operation, SearchSpace, to_codes


class Spread(NamedTuple):
    """Smallest, median and largest of some numbers."""

    smallest: float
    median: float
    largest: float

    @classmethod
    def of(cls, values: np.ndarray) -> Spread:
        return cls(*np.quantile(values, [0, 0.5, 1]).tolist())

    def __str__(self) -> str:
        return f"{self.smallest:.0f} to {self.largest:.0f} (median {self.median:.0f})"


@dataclass(frozen=True, kw_only=True)
class Distribution:
    """What a budget's candidates are like.

    Attributes:
        candidates: how many there are.
        memory_bytes: predicted training memory.
        edges, convolutions: active ones of an architecture.
        scales: for each scale, finest first, the share of candidates that use it.
    """

    candidates: int
    memory_bytes: Spread
    edges: Spread
    convolutions: Spread
    scales: tuple[float, ...]

    @classmethod
    def of(cls, candidates: Sequence[Candidate], space: SearchSpace) -> Distribution:
        """Describe one or more candidates."""
        codes = to_codes([candidate.architecture for candidate in candidates])
        on = (codes > 0).any(axis=1)
        touches = np.array([[s in edge for edge in space.edges] for s in range(space.n_scales)])
        return cls(
            candidates=len(codes),
            memory_bytes=Spread.of(np.array([candidate.predicted_memory_bytes for candidate in candidates])),
            edges=Spread.of((codes > 0).sum((1, 2))),
            convolutions=Spread.of((codes == Operation.CONV).sum((1, 2))),
            scales=tuple(float((on & edges).any(axis=1).mean()) for edges in touches),
        )

    def __str__(self) -> str:
        memory = (
            f"{format_bytes(round(self.memory_bytes.smallest))} to {format_bytes(round(self.memory_bytes.largest))}"
        )
        scales = ", ".join(f"{share:.0%}" for share in self.scales)
        return (
            f"{self.candidates} candidates of {memory} predicted, with {self.edges} edges, {self.convolutions} of them "
            f"convolutions; scales from fine to coarse are used by {scales}"
        )

    def to_json(self) -> dict[str, Any]:
        return {
            "candidates": self.candidates,
            "predicted_memory_bytes": self.memory_bytes._asdict(),
            "edges": self.edges._asdict(),
            "convolutions": self.convolutions._asdict(),
            "share_that_uses_scale": list(self.scales),
        }
