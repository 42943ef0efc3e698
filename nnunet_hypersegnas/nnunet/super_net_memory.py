"""What training a super-net takes: the sub-net of a step, and weights and optimizer states of all of them."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np
import torch

from nnunet_hypersegnas.architectures import OneShotNetwork
from nnunet_hypersegnas.cost import CostModel, TrainingSetup, format_bytes
from nnunet_hypersegnas.errors import HyperSegNASError
from nnunet_hypersegnas.nnunet.dataset import PreprocessedDataset
from nnunet_hypersegnas.nnunet.memory_counting import MemoryCounting
from nnunet_hypersegnas.nnunet.optimizers import STATES
from nnunet_hypersegnas.nnunet.settings import SuperNetSettings
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
        parameters: of the super-net.
        man_bytes: weights, gradients and optimizer states of MAN.
        optimizer: the super-net's, "AdamW" or "SGD".
        counting: how the device counts what tensors need.
        ranks: how many GPUs train together; with several of them, gradients are exchanged in buffers of all weights.

    MAN's activations are few, and not counted.
    """

    space: SearchSpace
    setup: TrainingSetup
    parameters: int
    optimizer: str
    counting: MemoryCounting
    man_bytes: int = 0
    ranks: int = 1

    @classmethod
    def of(
        cls,
        dataset: PreprocessedDataset,
        space: SearchSpace,
        settings: SuperNetSettings,
        setup: TrainingSetup,
        counting: MemoryCounting,
        ranks: int = 1,
    ) -> SuperNetMemory:
        """Return what predicts a data set's super-net; its batch is shared by the ranks."""
        parameters, of_man = super_net_parameters(dataset, space, settings)
        return cls(
            space=space,
            setup=replace(setup, batch_size=math.ceil(setup.batch_size / ranks)),
            parameters=parameters,
            optimizer=settings.optimizer,
            counting=counting,
            man_bytes=FP32 * of_man * (2 + STATES[settings.man_optimizer]),
            ranks=ranks,
        )

    @cached_property
    def _model(self) -> CostModel:
        return CostModel(self.space, replace(self.setup, optimizer_states=STATES[self.optimizer]))

    @property
    def fixed_bytes(self) -> int:
        """Weights and optimizer states of all sub-nets together, which are there in every step."""
        copies = 1 + STATES[self.optimizer] + (self.ranks > 1)
        return FP32 * self.parameters * copies + self.man_bytes

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
                f"only {share:.0%} of the sub-nets drawn can be trained within {format_bytes(round(limit_bytes))}: a "
                f"step takes at least {format_bytes(round(smallest))}, and half of the steps take more than "
                f"{format_bytes(round(middle))}. Take a smaller patch or batch, fewer channels or layers (hsnas_space "
                "shows them), or recompute: true; or raise memory_limit in the hypersegnas block of the plans"
            )


def super_net_parameters(
    dataset: PreprocessedDataset, space: SearchSpace, settings: SuperNetSettings
) -> tuple[int, int]:
    """Return the number of parameters of a super-net, and of its MAN."""
    with torch.device("meta"):  # shapes alone
        network = OneShotNetwork(
            space,
            dataset.input_channels,
            dataset.label_manager.num_segmentation_heads,
            dataset.configuration.patch_size,
            man=settings.man,
            scalar_position=settings.scalar_position,
        )
    of_man = 0 if network.man is None else sum(p.numel() for p in network.man.parameters())
    return sum(p.numel() for p in network.super_net.parameters()), of_man
