"""How much a search does. Apart from the search, so that a command's --help need not wait for its libraries."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

STRATEGIES = ("random", "evolution")


@dataclass(frozen=True, kw_only=True)
class SearchSettings:
    """What a search does; the numbers are the paper's (section 4), rungs and evolution are ours.

    Attributes:
        candidates: architectures that are scored under each budget.
        strategy: where they come from: all drawn at random, as in the paper, or bred from the best ones so far.
        finalists: N, how many of them are fine-tuned.
        finetune_iterations: iterations of a full fine-tuning.
        finetune_lr: its initial learning rate.
        refinements: rounds in which neighbours of the best fine-tuned networks are fine-tuned, too; none where
            candidates are drawn at random, as in the paper.
        halving: score and fine-tune in rungs (`rungs_of`); else all candidates and finalists in full, as in the paper.
        validation_cases: score on at most so many of the fold's validation cases; all where None.
        seed: seed of sampling and fine-tuning.
    """

    candidates: int = 2000
    strategy: str = "evolution"
    finalists: int = 10
    finetune_iterations: int = 5000
    finetune_lr: float = 0.01
    refinements: int = 1
    halving: bool = True
    validation_cases: int | None = None
    seed: int = 0

    @property
    def refinement_rounds(self) -> int:
        """Rounds of refinement that take place: the strategy that draws at random has none."""
        return self.refinements if self.strategy == "evolution" else 0

    def to_json(self) -> dict[str, Any]:
        return asdict(self)
