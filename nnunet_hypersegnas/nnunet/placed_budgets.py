"""Where budgets lie in a data set's search space, and what to change where they lie badly."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

from nnunet_hypersegnas.cost import Quantity, format_bytes, format_count
from nnunet_hypersegnas.nnunet.dataset import PreprocessedDataset
from nnunet_hypersegnas.nnunet.memory_budgets import MemoryBudgets
from nnunet_hypersegnas.nnunet.settings import SuperNetSettings
from nnunet_hypersegnas.nnunet.space_description import SpaceDescription
from nnunet_hypersegnas.nnunet.space_proposals import Proposal, Reference, best_for, groups_that_fit, spaces_for
from nnunet_hypersegnas.search import COMFORTABLE, DEFAULT_MEMORY, OWN, Placement


@dataclass(frozen=True, kw_only=True)
class PlacedBudgets:
    """Memory budgets in a search space.

    Attributes:
        memory: as the user wrote them.
        budgets: in bytes, with the networks that they are relative to.
        placements: where each lies.
        proposal: a space that holds them all, where this one does not and there is one.
        groups: labels of budgets that one space can hold, each group; one group where a space holds all.
    """

    memory: tuple[str, ...]
    budgets: MemoryBudgets
    placements: tuple[Placement, ...]
    proposal: Proposal | None = None
    groups: tuple[tuple[str, ...], ...] = ()

    @classmethod
    def of(
        cls,
        found: SpaceDescription,
        dataset: PreprocessedDataset,
        settings: SuperNetSettings,
        device_type: str,
        memory: Sequence[str] | None,
        *,
        tolerance: str | None,
        candidates: int,
    ) -> PlacedBudgets | None:
        """Place budgets in the space that was described; None where there are none.

        Args:
            found: the description.
            dataset, settings, device_type: of the description.
            memory: budgets; None for those of the plans' block, else for what the plans' own network takes, and half.
            tolerance: how far below a budget candidates may lie, see `budgets_of`.
            candidates: how many the sampler is asked for under each.

        Raises:
            SizeError, BudgetError, DatasetError, NetworkError: as `MemoryBudgets.of`.
        """
        if memory is None:
            memory = settings.memory or (DEFAULT_MEMORY if found.costs.own is not None else ())
        if not memory:
            return None
        known = {} if found.costs.own is None else {OWN: found.costs.own}
        resolved = MemoryBudgets.of(dataset, device_type, found.counting, memory, tolerance=tolerance, known=known)
        placements = tuple(found.placements(resolved.budgets, candidates))
        placed = cls(memory=tuple(memory), budgets=resolved, placements=placements)
        if all(placement.is_comfortable for placement in placements):
            return placed
        own = found.costs.own
        proposals = spaces_for(
            dataset.configuration.configuration,
            settings,
            found.costs.setup,
            found.counting,
            resolved.budgets,
            Reference(memory_bytes=own.memory_bytes, multiply_adds=own.multiply_adds) if own else None,
        )
        groups = tuple(tuple(group) for group in groups_that_fit(proposals, resolved.budgets))
        return replace(
            placed, proposal=best_for(proposals, [budget.label for budget in resolved.budgets]), groups=groups
        )

    def settings_to_write(self, settings: SuperNetSettings, *, with_proposal: bool) -> SuperNetSettings:
        """Return the settings with these budgets, and with the space that is proposed for them, if it is wanted."""
        space = self.proposal.settings if self.proposal and with_proposal else settings
        return replace(space, memory=self.memory)

    def table(self) -> list[dict[str, str]]:
        """Return one row of text for each budget."""
        counting = self.budgets.counting
        rows = []
        for placement in self.placements:
            interval = placement.budget.limits.intervals[Quantity.MEMORY]
            row = {"budget": placement.budget.label, "candidates from": format_bytes(round(interval.low))}
            row["to"] = format_bytes(round(interval.high))
            if counting.origin:
                row["= tensors"] = format_bytes(round(max(0.0, counting.tensors(interval.high))))
            row["networks drawn that need less"] = f"{placement.quantile:.0%}"
            more = " or more" if placement.found == placement.asked else ""
            row["candidates found"] = f"{placement.found}{more}"
            rows.append(row)
        return rows

    def lines(self) -> list[str]:
        """Say what budgets are relative to, which of them lie badly, and what helps."""
        lines = self.budgets.notes()
        badly = [placement.budget.label for placement in self.placements if not placement.is_comfortable]
        low, high = f"{COMFORTABLE.low:.0%}", f"{COMFORTABLE.high:.0%}"
        if not badly:
            return [*lines, f"All budgets lie between {low} and {high} of the networks drawn: this space holds them."]
        lines.append(
            f"{', '.join(badly)} {'lies' if len(badly) == 1 else 'lie'} outside the range of {low} to {high} of the "
            "networks drawn, so the super-net trains few networks of that size."
        )
        if self.proposal:
            return [*lines, *self._proposed(self.proposal)]
        if len(self.groups) > 1:
            apart = " | ".join(", ".join(group) for group in self.groups)
            return [*lines, f"No single space holds all of them; train one super-net for each group: {apart}."]
        return [*lines, "No space of these plans holds them; another patch or batch size moves its range."]

    def _proposed(self, proposal: Proposal) -> list[str]:
        places = ", ".join(f"{label} at {quantile:.0%}" for label, quantile in proposal.quantiles.items())
        channels = " ".join(map(str, proposal.space.channels))
        lines = [
            f"Proposed: --layers {proposal.settings.layers} --channels {channels} --full-resolution, with {places}. "
            "--write NAME writes it with the budgets."
        ]
        if proposal.multiply_adds is not None:
            computed = format_count(proposal.multiply_adds)
            lines.append(f"Its networks with the memory of the plans' own compute {computed} multiply-adds.")
        return lines

    def to_json(self) -> dict[str, Any]:
        proposal = None
        if self.proposal:
            proposal = {"space": self.proposal.space.to_json(), "quantiles": dict(self.proposal.quantiles)}
        return {
            "budgets": [placement.to_json() for placement in self.placements],
            "proposal": proposal,
            "groups": [list(group) for group in self.groups],
        }
