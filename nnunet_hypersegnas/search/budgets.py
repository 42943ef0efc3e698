"""Budgets as users write them: a name for files and tables, and the limits that it stands for."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from nnunet_hypersegnas.cost import Quantity, parse_bytes
from nnunet_hypersegnas.search.limits import BudgetError, Interval, Limits

# How a limit that is a budget of its own is named in plans: HyperSegNASPlans_5Mparams.
_SUFFIXES = {Quantity.PARAMETERS: "params", Quantity.MULTIPLY_ADDS: "flops", Quantity.LATENCY: ""}


@dataclass(frozen=True)
class Budget:
    """One network is searched for it."""

    label: str
    limits: Limits

    def plans_name(self, name: str) -> str:
        return f"{name}_{self.label}"


def budgets_of(
    memory: Sequence[str], at_most: dict[Quantity, str], *, tolerance: str = "300MB", around: bool = False
) -> list[Budget]:
    """Return one budget for each memory size, or a single one where only other limits are given.

    Args:
        memory: training-memory sizes such as "5GB".
        at_most: further limits, each as the user wrote it; they hold for all budgets.
        tolerance: how far below a memory size candidates may lie.
        around: let them lie as far above it too, as in the paper.

    Raises:
        SizeError: a size, number or time that cannot be read.
        BudgetError: no limit at all, or one memory size twice.
    """
    limits = {quantity: Interval.at_most(quantity.parse(text)) for quantity, text in at_most.items()}
    if not memory:
        if not limits:
            raise BudgetError("no budget: give --memory, --max-params, --max-flops or --max-latency")
        label = "_".join(_label(text) + _SUFFIXES[quantity] for quantity, text in at_most.items())
        return [Budget(label, Limits(limits))]
    sizes = {text: parse_bytes(text) for text in memory}
    make = Interval.around if around else Interval.below
    if len(set(sizes.values())) < len(memory):
        raise BudgetError(f"--memory {' '.join(memory)} names a size twice; give each budget once")
    return [
        Budget(_label(text), Limits({Quantity.MEMORY: make(size, parse_bytes(tolerance)), **limits}))
        for text, size in sizes.items()
    ]


def _label(text: str) -> str:
    return text.replace(" ", "").replace(".", "p")
