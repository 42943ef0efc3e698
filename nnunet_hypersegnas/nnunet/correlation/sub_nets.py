"""The sub-nets that are ranked: spread over memory, or within budgets as a search has them; always the same ones."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from nnunet_hypersegnas.cost import CostModel, Quantity
from nnunet_hypersegnas.evaluation.ablation import LARGER, SMALLER
from nnunet_hypersegnas.nnunet.ablation.sub_nets import SEED, spread_sub_nets
from nnunet_hypersegnas.nnunet.correlation.errors import CorrelationError
from nnunet_hypersegnas.search import Budget, BudgetSampler
from nnunet_hypersegnas.space import Architecture, to_architectures


@dataclass(frozen=True, kw_only=True)
class RankedNet:
    """A sub-net with its predicted costs.

    Attributes:
        architecture: the sub-net.
        window: of memory that it is compared within: a budget's label, or the smaller or larger half.
        memory_bytes: of its training.
        parameters: how many.
        multiply_adds: of a patch's forward pass.
    """

    architecture: Architecture
    window: str
    memory_bytes: int
    parameters: int
    multiply_adds: int

    def to_json(self) -> dict[str, Any]:
        return {**vars(self), "architecture": self.architecture.to_json()}


def ranked_nets(costs: CostModel, count: int, budgets: Sequence[Budget]) -> tuple[RankedNet, ...]:
    """Return distinct sub-nets, smallest first within each window.

    Args:
        costs: of the search space.
        count: how many in all, or of each budget where there are budgets.
        budgets: windows of memory; without any, the sub-nets are those of an ablation, cut into two halves by memory.

    Raises:
        CorrelationError: budgets overlap, or one holds fewer sub-nets.
        AblationError: the space has not so many.
        BudgetError: no sub-net can meet a budget.
    """
    if not budgets:
        drawn = [net.architecture for net in spread_sub_nets(costs.space, costs.predict, count)]
        return _with_costs(costs, zip(drawn, [SMALLER] * (count // 2) + [LARGER] * (count - count // 2), strict=True))
    _check_apart(budgets)
    nets: list[RankedNet] = []
    for budget in budgets:
        codes = BudgetSampler(costs.space, costs.predict, budget.limits, SEED).take(count)
        if len(codes) < count:
            raise CorrelationError(
                f"{len(codes)} of {count} sub-nets were found with {budget.limits}; choose fewer --architectures, or a "
                "wider --tolerance"
            )
        found = _with_costs(costs, ((net, budget.label) for net in to_architectures(codes)))
        nets += sorted(found, key=lambda net: (net.memory_bytes, net.architecture.id))
    return tuple(nets)


def _with_costs(costs: CostModel, nets: Iterable[tuple[Architecture, str]]) -> tuple[RankedNet, ...]:
    architectures, windows = zip(*nets, strict=True)
    found = costs.predict_all(architectures)
    return tuple(
        RankedNet(
            architecture=architecture,
            window=window,
            memory_bytes=int(found.memory_bytes[i]),
            parameters=int(found.parameters[i]),
            multiply_adds=int(found.multiply_adds[i]),
        )
        for i, (architecture, window) in enumerate(zip(architectures, windows, strict=True))
    )


def _check_apart(budgets: Sequence[Budget]) -> None:
    """Raise CorrelationError where a sub-net could be of two windows."""
    ordered = sorted(budgets, key=lambda budget: budget.limits.intervals[Quantity.MEMORY].high)
    for smaller, larger in itertools.pairwise(ordered):
        if larger.limits.intervals[Quantity.MEMORY].low <= smaller.limits.intervals[Quantity.MEMORY].high:
            raise CorrelationError(
                f"the budgets {smaller.label} and {larger.label} overlap; choose a --tolerance smaller than what lies "
                "between them"
            )
