"""What the networks of a search space cost, beside what nnU-Net's own network in the same plans does."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from nnunet_hypersegnas.cost import CostModel, PredictedCosts, Quantity, TrainingSetup, format_bytes
from nnunet_hypersegnas.nnunet.cost_models import training_setup
from nnunet_hypersegnas.nnunet.dataset import PreprocessedDataset
from nnunet_hypersegnas.nnunet.memory_budgets import planned_costs
from nnunet_hypersegnas.nnunet.network_costs import NetworkCosts, NetworkError
from nnunet_hypersegnas.nnunet.trusted_plans import UntrustedPlansError
from nnunet_hypersegnas.search import (
    OWN,
    BudgetError,
    Interval,
    drawn_costs,
    possible_range,
    quantile_of,
    quantiles,
)
from nnunet_hypersegnas.space import SearchSpace

QUANTITIES = (Quantity.MEMORY, Quantity.PARAMETERS, Quantity.MULTIPLY_ADDS)


@dataclass(frozen=True, kw_only=True)
class SpaceCosts:
    """Predicted costs of a space's networks on a data set's configuration; memory is that of tensors.

    Attributes:
        space: the search space.
        setup: how its networks are trained.
        ranges: between what each cost lies.
        drawn: of networks that are drawn as in the super-net's training.
        own: of the plans' own network; None where it is none of nnU-Net's.
    """

    space: SearchSpace
    setup: TrainingSetup
    ranges: Mapping[Quantity, Interval]
    drawn: PredictedCosts
    own: NetworkCosts | None

    @classmethod
    def of(cls, dataset: PreprocessedDataset, space: SearchSpace, device_type: str) -> SpaceCosts:
        """Predict the costs of a space's networks, trained on a type of device.

        Raises:
            SetupError: the patch does not fit the space.
        """
        setup = training_setup(dataset, device_type)
        predict = CostModel(space, setup).predict
        try:
            own = planned_costs(dataset, OWN, device_type)
        except (BudgetError, NetworkError, UntrustedPlansError):
            own = None
        return cls(
            space=space,
            setup=setup,
            ranges={quantity: possible_range(space, predict, quantity) for quantity in QUANTITIES},
            drawn=drawn_costs(space, predict),
            own=own,
        )

    def of_own(self, quantity: Quantity) -> int | None:
        """Return a cost of the plans' own network."""
        if self.own is None:
            return None
        by_quantity = {
            Quantity.MEMORY: self.own.memory_bytes,
            Quantity.PARAMETERS: self.own.parameters,
            Quantity.MULTIPLY_ADDS: self.own.multiply_adds,
        }
        return by_quantity[quantity]

    @property
    def own_quantile(self) -> float | None:
        """Share of drawn networks that need less memory than the plans' own."""
        return None if self.own is None else quantile_of(self.own.memory_bytes, self.drawn.memory_bytes)

    def table(self) -> list[dict[str, str]]:
        """Return one row of text for each cost."""
        names = {Quantity.MEMORY: "training memory", Quantity.PARAMETERS: "parameters"}
        rows = []
        for quantity, interval in self.ranges.items():
            row = {"predicted": names.get(quantity, quantity.value), "smallest": quantity.format(interval.low)}
            for percent in (5, 50, 95):
                row[f"{percent} %"] = quantity.format(float(np.quantile(self.drawn.of(quantity), percent / 100)))
            own = self.of_own(quantity)
            row |= {"largest": quantity.format(interval.high), "own": "-" if own is None else quantity.format(own)}
            rows.append(row)
        return rows

    def lines(self) -> list[str]:
        """Say what networks of the space need, beside the plans' own."""
        memory, drawn = self.ranges[Quantity.MEMORY], self.drawn.memory_bytes
        low, high = (format_bytes(round(float(np.quantile(drawn, share)))) for share in (0.05, 0.95))
        lines = [
            f"Networks of this search space need {format_bytes(round(memory.low))} to "
            f"{format_bytes(round(memory.high))} of training memory (predicted, tensors alone); of those that are "
            f"drawn, nine in ten need {low} to {high}."
        ]
        if self.own is not None and self.own_quantile is not None:
            lines.append(
                f"nnU-Net's own network in these plans ({self.own.network_class}) needs "
                f"{format_bytes(self.own.memory_bytes)}, more than {self.own_quantile:.0%} of the networks drawn."
            )
        return lines

    def to_json(self) -> dict[str, Any]:
        """Return the costs as numbers, in bytes and multiply-adds."""

        def of(quantity: Quantity) -> dict[str, float]:
            interval = self.ranges[quantity]
            return {"smallest": interval.low, **quantiles(self.drawn.of(quantity)), "largest": interval.high}

        return {
            "memory_bytes": _rounded(of(Quantity.MEMORY)),
            "multiply_adds": _rounded(of(Quantity.MULTIPLY_ADDS)),
            "parameters": _rounded(of(Quantity.PARAMETERS)),
            "own_memory_bytes": self.of_own(Quantity.MEMORY),
            "own_multiply_adds": self.of_own(Quantity.MULTIPLY_ADDS),
            "own_parameters": self.of_own(Quantity.PARAMETERS),
            "own_quantile": self.own_quantile,
        }


def _rounded(values: Mapping[str, float]) -> dict[str, int]:
    return {name: round(float(value)) for name, value in values.items()}
