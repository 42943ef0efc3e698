"""Step 1 of the search: candidates that fit a memory budget."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from nnunet_hypersegnas.cost import format_bytes
from nnunet_hypersegnas.errors import HyperSegNASError
from nnunet_hypersegnas.space import Architecture, SearchSpace, rng_for, sample, sample_distinct, skip_path

DRAWS_PER_CANDIDATE = 50
MIN_DRAWS = 20_000


class BudgetError(HyperSegNASError):
    """No architecture was found within a memory budget."""


@dataclass(frozen=True)
class MemoryWindow:
    """Training memory from `low_bytes` to `high_bytes`, both included."""

    low_bytes: int
    high_bytes: int

    @classmethod
    def below(cls, budget_bytes: int, tolerance_bytes: int) -> MemoryWindow:
        """What a budget allows: the budget itself, and at most `tolerance_bytes` less."""
        return cls(max(0, budget_bytes - tolerance_bytes), budget_bytes)

    @classmethod
    def around(cls, budget_bytes: int, tolerance_bytes: int) -> MemoryWindow:
        """The paper's window, within the tolerance on both sides (section 4: 300 MB)."""
        return cls(max(0, budget_bytes - tolerance_bytes), budget_bytes + tolerance_bytes)

    def __contains__(self, memory_bytes: int) -> bool:
        return self.low_bytes <= memory_bytes <= self.high_bytes

    def __str__(self) -> str:
        return f"{format_bytes(self.low_bytes)} to {format_bytes(self.high_bytes)}"


def draw_candidates(
    space: SearchSpace,
    memory_bytes: Callable[[Architecture], int],
    window: MemoryWindow,
    count: int,
    seed: int,
) -> list[Architecture]:
    """Draw up to `count` distinct architectures whose training memory lies in the window.

    The i-th draw depends on the seed and i alone, so two budgets see the same stream and share what both accept. The
    number of draws is bounded; where the window holds few architectures, fewer than `count` come back.

    Raises:
        BudgetError: none was found; the message gives the smallest memory possible and the closest one seen.
    """
    seen: list[int] = []

    def accept(architecture: Architecture) -> bool:
        seen.append(memory_bytes(architecture))
        return seen[-1] in window

    found, draws = sample_distinct(
        lambda i: sample(space, rng_for(seed, "candidate", i)),
        count,
        accept=accept,
        max_draws=max(MIN_DRAWS, DRAWS_PER_CANDIDATE * count),
    )
    if not found:
        least = min(memory_bytes(skip_path(space, s, t)) for s in range(space.n_scales) for t in range(s + 1))
        nearest = min(seen, key=lambda b: max(window.low_bytes - b, b - window.high_bytes))
        raise BudgetError(
            f"none of {draws} sampled architectures has a training memory of {window}; the smallest possible needs "
            f"{format_bytes(least)}, the closest one seen {format_bytes(nearest)}. Choose another --memory, or a wider "
            "--tolerance"
        )
    return found
