"""What training a super-net takes: the sub-net of a step, and weights and optimizer states of all of them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np

from nnunet_hypersegnas.cost import CostModel, TrainingSetup, format_bytes
from nnunet_hypersegnas.errors import HyperSegNASError
from nnunet_hypersegnas.nnunet.memory_counting import MemoryCounting
from nnunet_hypersegnas.nnunet.optimizers import STATES
from nnunet_hypersegnas.space import SearchSpace, largest, rng_for, sample_all_edges, sample_codes, to_codes

FP32 = 4  # bytes
DRAWN = 2000
FEWEST_FITTING = 0.1  # share of drawn sub-nets below which a limit would train another space than the one that is named


class MemoryLimitError(HyperSegNASError):
    """A limit under which the super-net cannot be trained."""


@dataclass(frozen=True, kw_only=True)
class SuperNetMemory:
    """Predicts the memory of a super-net's training steps.

    Attributes:
        space: the search space.
        setup: how its sub-nets are trained.
        parameters: of super-net and MAN together.
        optimizer: the super-net's, "AdamW" or "SGD".
        counting: how the device counts what tensors need.
        ranks: how many GPUs train together; with several of them, gradients are exchanged in buffers of all weights.

    Of MAN the weights are counted; its activations are few.
    """

    space: SearchSpace
    setup: TrainingSetup
    parameters: int
    optimizer: str
    counting: MemoryCounting
    ranks: int = 1

    @cached_property
    def _model(self) -> CostModel:
        return CostModel(self.space, replace(self.setup, optimizer_states=STATES[self.optimizer]))

    @property
    def fixed_bytes(self) -> int:
        """Weights and optimizer states of all sub-nets together, which are there in every step."""
        copies = 1 + STATES[self.optimizer] + (self.ranks > 1)
        return FP32 * self.parameters * copies

    def tensor_bytes(self, codes: np.ndarray) -> np.ndarray:
        """Return what the tensors of steps need that train these sub-nets, shape (n,)."""
        costs = self._model.predict(codes)
        of_sub_net = FP32 * costs.parameters * (1 + STATES[self.optimizer])
        return np.asarray(costs.memory_bytes - of_sub_net + self.fixed_bytes)

    def counted_bytes(self, codes: np.ndarray) -> np.ndarray:
        """Return what the device counts in such steps, shape (n,)."""
        return np.asarray(self.counting.count(self.tensor_bytes(codes)))

    def fits(self, limit_bytes: float) -> Callable[[np.ndarray], np.ndarray]:
        """Return what says of codes whether their steps stay within a limit."""
        return lambda codes: self.counted_bytes(codes) <= limit_bytes

    @cached_property
    def drawn_bytes(self) -> np.ndarray:
        """What the device counts in steps of drawn sub-nets, shape (DRAWN,)."""
        return self.counted_bytes(sample_codes(self.space, DRAWN, rng_for(0, "memory of the super-net")))

    def drawn_quantiles(self, *shares: float) -> list[float]:
        """Return what the device counts at most for these shares of drawn sub-nets."""
        return [float(value) for value in np.quantile(self.drawn_bytes, shares)]

    @cached_property
    def warmup_bytes(self) -> float:
        """What the device counts at most in steps with every edge active."""
        every_edge = [sample_all_edges(self.space, rng_for(0, "memory of the warm-up", i)) for i in range(16)]
        return float(self.counted_bytes(to_codes([*every_edge, largest(self.space)])).max())

    def fitting(self, limit_bytes: float) -> float:
        """Return the share of drawn sub-nets whose steps stay within a limit."""
        return float((self.drawn_bytes <= limit_bytes).mean())

    def check(self, limit_bytes: float) -> None:
        """Raise MemoryLimitError where too few sub-nets can be trained within a limit."""
        if (share := self.fitting(limit_bytes)) < FEWEST_FITTING:
            smallest, middle = np.quantile(self.drawn_bytes, [0, 0.5])
            raise MemoryLimitError(
                f"training this super-net within {format_bytes(round(limit_bytes))} leaves {share:.0%} of the sub-nets "
                f"that are drawn: their steps take {format_bytes(round(smallest))} and more, half of them more than "
                f"{format_bytes(round(middle))}. Take a smaller patch or batch, fewer channels or layers (hsnas_space "
                "shows them), or recompute: true; or raise memory_limit in the hypersegnas block of the plans"
            )
