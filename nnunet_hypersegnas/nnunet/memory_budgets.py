"""Budgets relative to networks that plans name: what nnU-Net's own network takes, or that of any other plans."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

from nnunet_hypersegnas.cost import Quantity, format_bytes, format_count
from nnunet_hypersegnas.nnunet.dataset import PreprocessedDataset, read_plans
from nnunet_hypersegnas.nnunet.memory_counting import MemoryCounting
from nnunet_hypersegnas.nnunet.network_costs import NetworkCosts, PlannedNetwork, network_costs
from nnunet_hypersegnas.search import OWN, Budget, BudgetError, budgets_of, networks_in

NNUNETS = ("dynamic_network_architectures.", "nnunetv2.")  # where the classes of nnU-Net's own networks are


@dataclass(frozen=True, kw_only=True)
class MemoryBudgets:
    """Budgets, and what they are relative to.

    Attributes:
        budgets: in bytes, as the device counts them.
        networks: costs of the networks that budgets are relative to, by name; memory is that of tensors.
        counting: of the device.
        resolve: gives the budgets under another counting.
    """

    budgets: tuple[Budget, ...]
    networks: Mapping[str, NetworkCosts]
    counting: MemoryCounting
    resolve: Callable[[MemoryCounting], tuple[Budget, ...]]

    @classmethod
    def of(
        cls,
        dataset: PreprocessedDataset,
        device_type: str,
        counting: MemoryCounting,
        memory: Sequence[str],
        at_most: Mapping[Quantity, str] | None = None,
        *,
        tolerance: str | None = None,
        around: bool = False,
        known: Mapping[str, NetworkCosts] | None = None,
    ) -> MemoryBudgets:
        """Read budgets as users write them, and look up the networks that they name.

        Args:
            dataset: data set, plans and configuration that are searched.
            device_type: what networks are trained on.
            counting: how its memory is counted.
            memory, at_most, tolerance, around: see `budgets_of`.
            known: networks whose costs are known already.

        Raises:
            SizeError, BudgetError: a budget cannot be read, or is there twice.
            DatasetError, NetworkError, UntrustedPlansError: there are no such plans, or their network cannot or may not
                be built.
        """
        known = known or {}
        networks = {
            name: known[name] if name in known else planned_costs(dataset, name, device_type)
            for name in networks_in(memory)
        }

        def resolve(counting: MemoryCounting) -> tuple[Budget, ...]:
            taken = {name: float(costs.memory_bytes) for name, costs in networks.items()}
            return tuple(
                budgets_of(
                    memory, at_most or {}, tolerance=tolerance, around=around, networks=taken, count=counting.count
                )
            )

        return cls(budgets=resolve(counting), networks=networks, counting=counting, resolve=resolve)

    def counted_by(self, counting: MemoryCounting) -> MemoryBudgets:
        """Return the same budgets where memory is counted otherwise: those relative to networks follow."""
        return replace(self, budgets=self.resolve(counting), counting=counting)

    def lines(self) -> list[str]:
        """Say what was asked for in bytes, and what it is relative to."""
        windows = [f"Budget {budget.label}: {budget.limits}" for budget in self.budgets]
        return [*self.notes(), *windows]

    def notes(self) -> list[str]:
        """Say what the networks take that budgets are relative to."""
        return [describe_network(name, costs, self.counting) for name, costs in self.networks.items()]


def describe_network(name: str, costs: NetworkCosts, counting: MemoryCounting) -> str:
    """Say in one line what a network takes that budgets may be relative to."""
    counted = ""
    if counting.origin:
        counted = f", counted as {format_bytes(round(counting.count(costs.memory_bytes)))}"
    title = f"own ({costs.network_class} of plans {costs.name})" if name == OWN else f"{name} ({costs.network_class})"
    return (
        f"{title}: {format_bytes(costs.memory_bytes)} of tensors ({costs.memory_bytes:,} bytes){counted}; "
        f"{format_count(costs.multiply_adds)} multiply-adds, {format_count(costs.parameters)} parameters"
    )


def planned_costs(dataset: PreprocessedDataset, name: str, device_type: str) -> NetworkCosts:
    """Return what a network takes that a budget names, from a training step on fake tensors.

    Args:
        dataset: data set, plans and configuration that are searched.
        name: "own" for the network of these plans, or the name of other plans of the data set.
        device_type: what it is trained on.

    Raises:
        BudgetError: "own", and the plans' network is none of nnU-Net's.
        DatasetError, NetworkError, UntrustedPlansError: there are no such plans, or their network cannot or may not be
            built.
    """
    plans = dataset.plans if name == OWN else read_plans(dataset.folder, name)
    network = PlannedNetwork(
        name=plans["plans_name"],
        plans=plans,
        dataset_json=dataset.dataset_json,
        configuration=dataset.configuration_name,
        trust=dataset.trust_plans,
    )
    if dataset.configuration_name not in plans["configurations"]:
        raise BudgetError(f"the budget {name!r} names plans that have no configuration {dataset.configuration_name}")
    described = dataset.configuration.network_arch_class_name
    if name == OWN and not described.startswith(NNUNETS):
        raise BudgetError(
            f"the budget 'own' is what nnU-Net's own network takes, but the network of plans {network.name} is a "
            f"{described}; name the plans to compare with, such as --memory nnUNetPlans, or give a size"
        )
    return network_costs(network, cuda=device_type == "cuda")
