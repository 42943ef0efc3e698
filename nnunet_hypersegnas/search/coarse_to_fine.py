"""Steps 2 and 3 of the search: score all candidates with shared weights, fine-tune the best, take the winner."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from typing import Protocol

from nnunet_hypersegnas.errors import HyperSegNASError
from nnunet_hypersegnas.search.candidates import Candidate, Meter
from nnunet_hypersegnas.search.limits import BudgetError, Limits
from nnunet_hypersegnas.search.progress import Progress
from nnunet_hypersegnas.search.score import Score
from nnunet_hypersegnas.space import Architecture

MOST_TRIED = 5  # times the finalists asked for, where finalists are measured and miss the budget


class Evaluator(Protocol):
    """Scores sub-nets; how is not the search's business."""

    def score_shared(self, architecture: Architecture) -> Score:
        """Score with the super-net's shared weights (Eq. 3)."""

    def score_fine_tuned(self, architecture: Architecture) -> Score:
        """Fine-tune the shared weights for this architecture, then score."""


def coarse_to_fine(
    candidates: Sequence[Candidate],
    evaluator: Evaluator,
    finalists: int,
    progress: Progress,
    limits: Limits,
    meter: Meter | None = None,
) -> list[Candidate]:
    """Return all candidates, best first: the fine-tuned finalists, then the others by their shared-weight score.

    Equal scores are ordered by memory, then by id, so the result does not depend on the candidates' order.

    Args:
        candidates: what is searched, one at least.
        evaluator: scores them.
        finalists: how many are fine-tuned.
        progress: makes a bar for each stage.
        limits: the budget's.
        meter: measures the finalists; one that misses the limits gives its place to the next best.

    Raises:
        HyperSegNASError: no candidate could be scored, since no validation crop holds a foreground label.
        BudgetError: no finalist meets the limits when measured.
    """
    scored: list[Candidate] = []
    best_dsc = -math.inf
    with progress("scoring with shared weights", len(candidates)) as bar:
        for candidate in candidates:
            score = evaluator.score_shared(candidate.architecture)
            scored.append(replace(candidate, shared=score))
            best_dsc = max(best_dsc, _dsc(score))
            bar.advance(best_dsc)
    if best_dsc == -math.inf:
        raise HyperSegNASError("no candidate could be scored: no validation crop holds a foreground label")
    scored.sort(key=lambda c: _order(c, c.shared))

    best: list[Candidate] = []
    others: list[Candidate] = []
    best_dsc = -math.inf
    with progress("fine-tuning", min(finalists, len(scored))) as bar:
        for place, candidate in enumerate(scored):
            if len(best) < finalists and place < MOST_TRIED * finalists:
                if meter:
                    candidate = candidate.measured_by(meter)
                if candidate.meets(limits):
                    score = evaluator.score_fine_tuned(candidate.architecture)
                    best.append(replace(candidate, fine_tuned=score))
                    best_dsc = max(best_dsc, _dsc(score))
                    bar.advance(best_dsc)
                    continue
            others.append(candidate)
    if not best:
        raise BudgetError(
            f"none of the {min(len(scored), MOST_TRIED * finalists)} best candidates has {limits} when measured in a "
            "process of its own; choose another budget or a wider --tolerance"
        )
    best.sort(key=lambda c: _order(c, c.fine_tuned))
    return best + others


def _dsc(score: Score | None) -> float:
    return -math.inf if score is None or math.isnan(score.dsc) else score.dsc


def _order(candidate: Candidate, score: Score | None) -> tuple[float, int, str]:
    return (-_dsc(score), candidate.predicted_memory_bytes, candidate.architecture.id)
