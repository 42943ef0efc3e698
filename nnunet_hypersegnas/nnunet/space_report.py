"""What the log of a super-net's training says of its search space and of its budgets, before anything is trained."""

from __future__ import annotations

from nnunet_hypersegnas.cost import CostModel
from nnunet_hypersegnas.nnunet.checked_budgets import surely_unmet, unmet_as_counted
from nnunet_hypersegnas.nnunet.dataset import PreprocessedDataset
from nnunet_hypersegnas.nnunet.memory_budgets import MemoryBudgets
from nnunet_hypersegnas.nnunet.memory_counting import memory_counting
from nnunet_hypersegnas.nnunet.settings import SuperNetSettings
from nnunet_hypersegnas.nnunet.space_costs import SpaceCosts
from nnunet_hypersegnas.search import COMFORTABLE, OWN, BudgetError, quantile_of
from nnunet_hypersegnas.space import SearchSpace


def space_report(
    dataset: PreprocessedDataset, space: SearchSpace, settings: SuperNetSettings, device_type: str
) -> list[str]:
    """Return lines for the log: the range of the space, the plans' own network in it, and the block's budgets.

    Args:
        dataset: data set, plans and configuration.
        space: that is trained.
        settings: whose budgets are looked at.
        device_type: what networks are trained on.

    Raises:
        BudgetError: the block names budgets, and no network of the space meets any of them.
    """
    costs = SpaceCosts.of(dataset, space, device_type)
    lines = costs.lines()
    if not settings.memory:
        return lines
    model = CostModel(space, costs.setup)
    counting = memory_counting(dataset, model, device_type)
    known = {} if costs.own is None else {OWN: costs.own}
    found = MemoryBudgets.of(dataset, device_type, counting, settings.memory, known=known)
    unmet = unmet_as_counted(model, found)
    if len(surely := surely_unmet(model, found, unmet)) == len(found.budgets):
        raise BudgetError(
            f"the plans name budgets that no network of this search space meets: {'; '.join(surely.values())}; "
            "hsnas_space DATASET CONFIGURATION --memory BUDGET ... proposes a space that holds them"
        )
    for budget in found.budgets:
        quantile = quantile_of(budget.memory_bytes, counting.count(costs.drawn.memory_bytes))
        if budget.label in unmet:
            lines.append(f"WARNING: budget {budget.label} cannot be met: {unmet[budget.label]}")
        elif quantile in COMFORTABLE:
            lines.append(f"Budget {budget.label} is more than {quantile:.0%} of the networks drawn need.")
        else:
            lines.append(
                f"WARNING: budget {budget.label} is more than {quantile:.0%} of the networks drawn need, so few of "
                "that size are trained; hsnas_space proposes a space for it"
            )
    return lines
