"""Budgets that a data set's search space can meet, checked before anything is spent on them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from nnunet_hypersegnas.cost import CostModel, Quantity
from nnunet_hypersegnas.cost.measuring import MemoryMetric
from nnunet_hypersegnas.nnunet.dataset import PreprocessedDataset
from nnunet_hypersegnas.nnunet.memory_budgets import MemoryBudgets
from nnunet_hypersegnas.nnunet.memory_counting import memory_counting
from nnunet_hypersegnas.nnunet.settings import SuperNetSettings
from nnunet_hypersegnas.search import DEFAULT_MEMORY, check_budgets, unmet_budgets


def default_memory(dataset: PreprocessedDataset) -> tuple[str, ...]:
    """Return the budgets of the plans' block, else what the plans' own network takes, and half of it."""
    return SuperNetSettings.from_configuration(dataset.configuration.configuration).memory or DEFAULT_MEMORY


def checked_budgets(
    dataset: PreprocessedDataset,
    model: CostModel,
    device_type: str,
    memory: Sequence[str],
    at_most: Mapping[Quantity, str] | None = None,
    *,
    tolerance: str | None = None,
    around: bool = False,
    metric: MemoryMetric | None = None,
) -> MemoryBudgets:
    """Return budgets as this machine counts them, by its calibration or by an estimate.

    Args:
        dataset: data set, plans and configuration that are searched.
        model: of the search space.
        device_type: what networks are trained on.
        memory, at_most, tolerance, around: see `budgets_of`.
        metric: of a GPU's memory; NVML's where None.

    Raises:
        SizeError, BudgetError: a budget cannot be read, is there twice, or no network of the space can meet it.
        DatasetError, NetworkError: there are no such plans, or their network cannot be built.
    """
    counting = memory_counting(dataset, model, device_type, metric)
    found = MemoryBudgets.of(dataset, device_type, counting, memory, at_most, tolerance=tolerance, around=around)
    unmet = unmet_budgets(model.space, counting.expected(model.predict), found.budgets)
    if unmet:  # by an estimate, a budget is refused where it cannot be met on any device
        surely = [budget for budget in found.budgets if budget.label in unmet]
        check_budgets(model.space, counting.at_least().expected(model.predict), surely)
    return found
