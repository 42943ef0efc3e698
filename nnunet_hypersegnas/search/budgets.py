"""Budgets as users write them: a name for files and tables, and the limits that it stands for."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from nnunet_hypersegnas.cost import Quantity, SizeError, format_bytes, parse_bytes
from nnunet_hypersegnas.errors import abbreviated
from nnunet_hypersegnas.search.limits import BudgetError, Interval, Limits

OWN = "own"  # what the network takes that the plans name themselves: nnU-Net's own
DEFAULT_MEMORY = (OWN, "50%")
# The paper's tolerance, and its share of the paper's smallest budget, so that candidates lie close to small ones, too.
TOLERANCE_BYTES, TOLERANCE_SHARE = 300_000_000, 0.06
# How a limit that is a budget of its own is named in plans: HyperSegNASPlans_5Mparams.
_SUFFIXES = {Quantity.PARAMETERS: "params", Quantity.MULTIPLY_ADDS: "flops", Quantity.LATENCY: ""}
LONGEST = 60  # characters of a budget, which becomes part of files' names
EXAMPLES = (
    "write a size with its unit (5GB), 'own' for what the plans' own network takes, a percentage of that (50%), or the "
    "name of plans"
)

Count = Callable[[float], float]

_SHARE = re.compile(r"\s*([0-9]{1,9}(?:\.[0-9]{1,9})?)\s*%\s*")


@dataclass(frozen=True)
class MemoryTarget:
    """A training-memory budget as a user wrote it: a size, or a share of what a network takes that plans name.

    Attributes:
        text: as it was written.
        label: its name in files, such as 5GB, own, 50pct or nnUNetResEncUNetMPlans.
        bytes: of a size; else None.
        network: whose memory it is a share of: "own", or a name of plans; None where it is a size.
        share: of that network's memory.
    """

    text: str
    label: str
    bytes: int | None = None
    network: str | None = None
    share: float = 1.0

    @classmethod
    def parse(cls, text: str) -> MemoryTarget:
        """Read a budget such as "5GB", "own", "50%" (of own) or a name of plans.

        Raises:
            SizeError: it is none of these.
        """
        word = text.strip()
        if len(word) > LONGEST or re.search(r"[^\S ]", word):
            raise SizeError(f"{abbreviated(text)} is no memory budget; {EXAMPLES}")
        if word.lower() == OWN:
            return cls(word, OWN, network=OWN)
        if "%" in word:
            match = _SHARE.fullmatch(word)
            percent = float(match[1]) if match else 0.0
            if percent <= 0:
                raise SizeError(
                    f"{abbreviated(text)} is no share of a network's memory; write a percentage above 0, as in 50%, "
                    "which is half of what the plans' own network takes"
                )
            return cls(word, _label(word).replace("%", "pct"), network=OWN, share=percent / 100)
        if re.fullmatch(r"[A-Za-z][A-Za-z0-9_.-]*", word):
            return cls(word, word, network=word)
        try:
            return cls(word, _label(word), bytes=parse_bytes(word))
        except SizeError as error:
            raise SizeError(f"{abbreviated(text)} is no memory budget; {EXAMPLES}") from error

    def resolved(self, networks: Mapping[str, float], count: Count) -> float:
        """Return the budget in bytes.

        Args:
            networks: bytes of tensors that the networks take which budgets may name.
            count: what a device counts where tensors take so many bytes. A share is one of the tensors, since what the
                device adds, as CUDA's context, is the same for all networks.

        Raises:
            SizeError: it is relative to a network that is not among them.
        """
        if self.bytes is not None:
            return float(self.bytes)
        if self.network is None or self.network not in networks:
            raise SizeError(
                f"{abbreviated(self.text)} is no memory size, and no network of this name is known here; write "
                "a size with its unit, as in 5GB"
            )
        return count(self.share * networks[self.network])


def networks_in(memory: Sequence[str]) -> list[str]:
    """Return the networks that budgets are relative to, each once: "own", and names of plans.

    Raises:
        SizeError: a budget cannot be read.
    """
    named = [MemoryTarget.parse(text).network for text in memory]
    return list(dict.fromkeys(name for name in named if name is not None))


def labels_of(memory: Sequence[str]) -> list[str]:
    """Return the names that budgets give to plans.

    Raises:
        SizeError: a budget cannot be read.
        BudgetError: two have one name.
    """
    targets = [MemoryTarget.parse(text) for text in memory]
    _check_labels(targets)
    return [target.label for target in targets]


def memory_fault(memory: Sequence[str]) -> str | None:
    """Return what is wrong with the spelling of budgets, or None."""
    try:
        labels_of(memory)
    except (SizeError, BudgetError) as error:
        return str(error)
    return None


@dataclass(frozen=True)
class Budget:
    """One network is searched for it.

    Attributes:
        label: its name in files.
        limits: what candidates' costs must be.
        asked: what was asked for, where that says it better than the limits, which follow from how a device counts.
    """

    label: str
    limits: Limits
    asked: str = ""

    def __str__(self) -> str:
        return self.asked or str(self.limits)

    def plans_name(self, name: str) -> str:
        return f"{name}_{self.label}"

    @property
    def memory_bytes(self) -> float:
        """The most that training may take; infinity where memory is not limited."""
        return self.limits.highest(Quantity.MEMORY)


def budgets_of(
    memory: Sequence[str],
    at_most: Mapping[Quantity, str],
    *,
    tolerance: str | None = None,
    around: bool = False,
    networks: Mapping[str, float] | None = None,
    count: Count = float,
) -> list[Budget]:
    """Return one budget for each memory size, or a single one where only other limits are given.

    Args:
        memory: training-memory budgets, see `MemoryTarget`.
        at_most: further limits, each as the user wrote it; they hold for all budgets.
        tolerance: how far below a memory size candidates may lie; by default 300 MB, but 6% of it at most.
        around: let them lie as far above it too, as in the paper.
        networks: bytes of tensors that the networks take which budgets are relative to, see `networks_in`.
        count: what a device counts where tensors take so many bytes.

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
    targets = [MemoryTarget.parse(text) for text in memory]
    _check_labels(targets)
    sizes = [target.resolved(networks or {}, count) for target in targets]
    if len({round(size) for size in sizes}) < len(sizes):
        same = ", ".join(f"{t.text} is {format_bytes(round(s))}" for t, s in zip(targets, sizes, strict=True))
        raise BudgetError(f"--memory {' '.join(memory)} names a size twice ({same}); give each budget once")
    make = Interval.around if around else Interval.below
    found = []
    for target, size in zip(targets, sizes, strict=True):
        window = make(size, tolerance_bytes(size, tolerance))
        asked = ""
        if target.network is not None:
            further = [str(Limits(limits))] if limits else []
            asked = ", ".join(
                [f"memory {target.text}", f"tolerance {tolerance or 'default'}", *["around"] * around, *further]
            )
        found.append(Budget(target.label, Limits({Quantity.MEMORY: window, **limits}), asked))
    return found


def tolerance_bytes(size: float, tolerance: str | None) -> float:
    """Return how far below a memory size its candidates may lie: as the user wrote it, or the default."""
    return parse_bytes(tolerance) if tolerance else min(TOLERANCE_BYTES, TOLERANCE_SHARE * size)


def _check_labels(targets: Sequence[MemoryTarget]) -> None:
    labels = [target.label.lower() for target in targets]  # file systems exist that know no case
    if twice := sorted({target.text for target in targets if labels.count(target.label.lower()) > 1}):
        raise BudgetError(
            f"the budgets {', '.join(map(repr, twice))} would have one name in the plans; give each budget once"
        )


def _label(text: str) -> str:
    return text.replace(" ", "").replace(".", "p")
