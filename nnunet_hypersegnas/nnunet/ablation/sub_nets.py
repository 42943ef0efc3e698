"""The sub-nets on which an ablation compares super-nets: drawn as in training, spread over small and large."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from nnunet_hypersegnas.cost import PredictedCosts
from nnunet_hypersegnas.nnunet.ablation.errors import AblationError
from nnunet_hypersegnas.space import Architecture, SearchSpace, rng_for, sample_codes, to_architectures

DRAWS_EACH = 200  # draws for each sub-net that is wanted
SEED = 0  # of the draws; not that of a training, so that all super-nets of a space get the same sub-nets


@dataclass(frozen=True, kw_only=True)
class SubNet:
    """A sub-net with its predicted costs: training memory and number of parameters."""

    architecture: Architecture
    memory_bytes: int
    parameters: int

    def to_json(self) -> dict[str, Any]:
        return {**self.architecture.to_json(), "memory_bytes": self.memory_bytes, "parameters": self.parameters}

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> SubNet:
        architecture = {key: value[key] for key in ("id", "codes")}
        return cls(
            architecture=Architecture.from_json(architecture),
            memory_bytes=value["memory_bytes"],
            parameters=value["parameters"],
        )


def spread_sub_nets(
    space: SearchSpace, predict: Callable[[np.ndarray], PredictedCosts], count: int
) -> tuple[SubNet, ...]:
    """Return distinct sub-nets, smallest first.

    Many are drawn with the paper's uniform likelihoods and cut, by memory, into as many equal parts as sub-nets are
    wanted, of which each gives the one drawn first. So they are a sample of what super-nets are trained on, and never
    all small or all large by chance.

    Args:
        space: the search space.
        predict: costs of codes of shape (n, L, E).
        count: how many.

    Raises:
        AblationError: the space has not so many.
    """
    drawn = sample_codes(space, DRAWS_EACH * count, rng_for(SEED, "ablation sub-nets"))
    codes = drawn[np.sort(np.unique(drawn, axis=0, return_index=True)[1])]  # in the order of the draws
    if len(codes) < count:
        raise AblationError(f"{len(drawn)} draws from this search space gave {len(codes)} sub-nets; ask for as many")
    costs = predict(codes)
    parts = np.array_split(np.argsort(costs.memory_bytes, kind="stable"), count)
    chosen = [int(part.min()) for part in parts]
    return tuple(
        SubNet(
            architecture=architecture,
            memory_bytes=int(costs.memory_bytes[i]),
            parameters=int(costs.parameters[i]),
        )
        for i, architecture in zip(chosen, to_architectures(codes[chosen]), strict=True)
    )
