"""Steps 2 and 3 of the search: score all candidates with shared weights, fine-tune the best, take the winner."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any, Protocol

from nnunet_hypersegnas.errors import HyperSegNASError
from nnunet_hypersegnas.search.score import Score
from nnunet_hypersegnas.space import Architecture


class Evaluator(Protocol):
    """Scores sub-nets; how is not the search's business."""

    def score_shared(self, architecture: Architecture) -> Score:
        """Score with the super-net's shared weights (Eq. 3)."""

    def score_fine_tuned(self, architecture: Architecture) -> Score:
        """Fine-tune the shared weights for this architecture, then score."""


@dataclass(frozen=True, kw_only=True)
class Candidate:
    """An architecture within the budget, and what is known of it so far."""

    architecture: Architecture
    predicted_memory_bytes: int
    parameters: int
    shared: Score | None = None
    fine_tuned: Score | None = None

    def to_json(self) -> dict[str, Any]:
        return {
            "architecture": self.architecture.to_json(),
            "predicted_memory_bytes": self.predicted_memory_bytes,
            "parameters": self.parameters,
            "shared": self.shared.to_json() if self.shared else None,
            "fine_tuned": self.fine_tuned.to_json() if self.fine_tuned else None,
        }


class ProgressBar(Protocol):
    """Shows a stage's progress while it is open."""

    def __enter__(self) -> ProgressBar: ...

    def __exit__(self, *exception: object) -> None: ...

    def advance(self, best_dsc: float) -> None:
        """One more candidate is done; `best_dsc` is the stage's best so far, in 0 to 1."""


def coarse_to_fine(
    candidates: Sequence[Candidate],
    evaluator: Evaluator,
    finalists: int,
    progress: Callable[[str, Sequence[Candidate]], ProgressBar],
) -> list[Candidate]:
    """Return all candidates, best first: the fine-tuned finalists, then the others by their shared-weight score.

    Equal scores are ordered by memory, then by id, so the result does not depend on the candidates' order.

    Raises:
        HyperSegNASError: no candidate could be scored, since no validation crop holds a foreground label.
    """
    scored = []
    with progress("scoring with shared weights", candidates) as bar:
        for candidate in candidates:
            scored.append(replace(candidate, shared=evaluator.score_shared(candidate.architecture)))
            bar.advance(max(_dsc(c.shared) for c in scored))
    scored.sort(key=lambda c: _order(c, c.shared))
    if _dsc(scored[0].shared) == -math.inf:
        raise HyperSegNASError("no candidate could be scored: no validation crop holds a foreground label")
    best = []
    with progress("fine-tuning", scored[:finalists]) as bar:
        for candidate in scored[:finalists]:
            best.append(replace(candidate, fine_tuned=evaluator.score_fine_tuned(candidate.architecture)))
            bar.advance(max(_dsc(c.fine_tuned) for c in best))
    best.sort(key=lambda c: _order(c, c.fine_tuned))
    return best + scored[finalists:]


def _dsc(score: Score | None) -> float:
    return -math.inf if score is None or math.isnan(score.dsc) else score.dsc


def _order(candidate: Candidate, score: Score | None) -> tuple[float, int, str]:
    return (-_dsc(score), candidate.predicted_memory_bytes, candidate.architecture.id)
