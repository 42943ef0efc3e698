"""Budgets that a data set's search space can meet, checked before anything is spent on them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from nnunet_hypersegnas.cost import CostModel, Quantity
from nnunet_hypersegnas.cost.measuring import MemoryMetric
from nnunet_hypersegnas.nnunet.dataset import PreprocessedDataset
from nnunet_hypersegnas.nnunet.memory_budgets import MemoryBudgets
from nnunet_hypersegnas.nnunet.memory_counting import memory_counting
from nnunet_hypersegnas.nnunet.settings import SuperNetSettings
from nnunet_hypersegnas.search import DEFAULT_MEMORY, BudgetError, unmet_budgets


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
    if surely := surely_unmet(model, found, unmet_as_counted(model, found)):
        raise BudgetError(
            f"{'; '.join(f'budget {label}: {reason}' for label, reason in surely.items())}. Choose other budgets, or a "
            "space that holds them: hsnas_space DATASET CONFIGURATION --memory BUDGET ... proposes one"
        )
    return found


def unmet_as_counted(model: CostModel, found: MemoryBudgets) -> dict[str, str]:
    """Return the budgets that no network of a space meets as memory is counted, by label, each with the reason."""
    return unmet_budgets(model.space, found.counting.expected(model.predict), found.budgets)


def surely_unmet(model: CostModel, found: MemoryBudgets, unmet: Mapping[str, str]) -> dict[str, str]:
    """Return those of the unmet budgets that no counting could save.

    Where memory is counted by an estimate of what a device adds to the tensors, these are the ones that cannot be met
    on any device.
    """
    if not unmet or not found.counting.is_estimate:
        return dict(unmet)
    again = unmet_as_counted(model, found.counted_by(found.counting.at_least()))
    return {label: reason for label, reason in unmet.items() if label in again}
