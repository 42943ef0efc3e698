"""How much a search does."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class SearchSettings:
    """What a search does; the defaults are the paper's (section 4).

    Attributes:
        candidates: architectures sampled under each budget.
        finalists: N, how many of them are fine-tuned.
        finetune_iterations: iterations of each fine-tuning.
        finetune_lr: its initial learning rate.
        validation_cases: score on at most so many of the fold's validation cases; all where None.
        seed: seed of sampling and fine-tuning.
    """

    candidates: int = 2000
    finalists: int = 10
    finetune_iterations: int = 5000
    finetune_lr: float = 0.01
    validation_cases: int | None = None
    seed: int = 0
