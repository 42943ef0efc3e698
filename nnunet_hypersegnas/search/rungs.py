"""The rungs of successive halving: from a few patches for every candidate to a full fine-tuning for the best few.

The paper scores every candidate on all validation crops and fine-tunes ten (section 4). Here each rung is several times
dearer than the one below, and only the best of each budget climb to it.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from enum import Enum
from typing import Any

from nnunet_hypersegnas.search_settings import SearchSettings

REDUCTION = 4  # of candidates from one rung of scoring to the next
TUNED_REDUCTION = 2  # of finalists from the short to the full fine-tuning, which agree less: see docs/performance.md
PATCH_SHARES = (32, 8)  # the first rungs score on a 32nd and on an eighth of all patches
FEWEST_PATCHES = 2
SHORT_TUNING = 8  # times fewer iterations than the full fine-tuning
TRAINED_PATCH = 3  # a trained patch costs as much as so many scored ones: forward once, backward about twice


class Way(str, Enum):
    """How a rung evaluates."""

    PATCHES = "patches"  # shared weights, on the first few patches of a fixed random order
    CROPS = "crops"  # shared weights, on whole crops
    FINE_TUNING = "fine-tuning"  # weights fine-tuned for this architecture, on whole crops


@dataclass(frozen=True, kw_only=True)
class Rung:
    """One rung.

    Attributes:
        way: see `Way`.
        amount: patches, crops or iterations.
        keep: how many candidates of each budget are evaluated on it, at most.
        cost_patches: of one candidate: scored patches, plus three times the trained ones.
    """

    way: Way
    amount: int
    keep: int
    cost_patches: int

    @property
    def name(self) -> str:
        """What results are filed under: candidates that are kept or not do not change a result."""
        return f"{self.way.value} {self.amount}"

    @property
    def title(self) -> str:
        match self.way:
            case Way.PATCHES:
                return f"scoring on {self.amount} patches"
            case Way.CROPS:
                return f"scoring on {self.amount} crops"
            case Way.FINE_TUNING:
                return f"fine-tuning for {self.amount} iterations"

    def to_json(self) -> dict[str, Any]:
        return {"way": self.way.value, "amount": self.amount, "keep": self.keep, "cost_patches": self.cost_patches}

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> Rung:
        return cls(**{**value, "way": Way(value["way"])})


def rungs_of(settings: SearchSettings, *, crops: int, patches: int, batch_size: int) -> list[Rung]:
    """Return a search's rungs, the cheapest first; without halving only the paper's two.

    Args:
        settings: how many candidates, finalists and iterations.
        crops: number of validation crops.
        patches: number of patches that the sliding window lays over them.
        batch_size: of the fine-tuning.
    """
    crops_rung = Rung(way=Way.CROPS, amount=crops, keep=settings.candidates, cost_patches=patches)
    if not settings.halving:
        return [crops_rung, _tuning(settings.finetune_iterations, settings.finalists, patches, batch_size)]
    amounts = [max(FEWEST_PATCHES, math.ceil(patches / share)) for share in PATCH_SHARES]
    # Where there are few patches at all, a rung that is hardly cheaper than the next is left out.
    amounts = [n for n, following in zip(amounts, [*amounts[1:], patches], strict=True) if 2 * n <= following]
    keep, rungs = settings.candidates, []
    for amount in amounts:
        rungs.append(Rung(way=Way.PATCHES, amount=amount, keep=keep, cost_patches=amount))
        keep = max(settings.finalists, math.ceil(keep / REDUCTION))
    rungs.append(Rung(way=Way.CROPS, amount=crops, keep=keep, cost_patches=patches))
    keep = settings.finalists
    short = settings.finetune_iterations // SHORT_TUNING
    if short and keep > 1:
        rungs.append(_tuning(short, keep, patches, batch_size))
        keep = math.ceil(keep / TUNED_REDUCTION)
    return [*rungs, _tuning(settings.finetune_iterations, keep, patches, batch_size)]


def _tuning(iterations: int, keep: int, patches: int, batch_size: int) -> Rung:
    cost = TRAINED_PATCH * iterations * batch_size + patches
    return Rung(way=Way.FINE_TUNING, amount=iterations, keep=keep, cost_patches=cost)
