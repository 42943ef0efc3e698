"""What a search found, as files: plans, weights and records."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import nnunet_hypersegnas
from nnunet_hypersegnas.atomic import check_writable, write_json, written_atomically
from nnunet_hypersegnas.cost import Quantity, format_bytes
from nnunet_hypersegnas.nnunet.dataset import PreprocessedDataset, read_plans
from nnunet_hypersegnas.nnunet.device_measuring import Measuring
from nnunet_hypersegnas.nnunet.digests import digest
from nnunet_hypersegnas.nnunet.plans import PROVENANCE, PlansError, searched_plans
from nnunet_hypersegnas.nnunet.run_folder import RunError, RunFolder, RunRecord
from nnunet_hypersegnas.nnunet.settings import SuperNetSettings
from nnunet_hypersegnas.search import Candidate, Contest, Distribution, Rung, pareto_front, winner
from nnunet_hypersegnas.space import SearchSpace, named_architecture, names_of_architectures

BIAS_NOTE = "selection-biased: this fold's validation cases chose the architecture"
CONTENT = "content"  # key of the provenance that tells whether plans were edited since they were written


@dataclass(frozen=True, kw_only=True)
class FoundNetwork:
    """A network that was found, and the files that were written for it.

    Attributes:
        label: of its budget, or of its memory where it is one of the Pareto front.
    """

    label: str
    network: Candidate
    record: Path
    plans: Path | None
    weights: Path


class Findings:
    """Writes what one search found.

    Args:
        dataset: of the super-net.
        space: its search space.
        folder: the search's.
        record: what the search was started with.
        plans_name: of the plans that are written; None writes none.
        overwrite: replace plans of these names that this search did not write, or that were edited since.
        plans_folder: where plans are written; None for the data set's, where nnU-Net finds them.
    """

    def __init__(
        self,
        dataset: PreprocessedDataset,
        space: SearchSpace,
        folder: RunFolder,
        record: RunRecord,
        plans_name: str | None,
        overwrite: bool,
        plans_folder: Path | None = None,
    ) -> None:
        self.dataset, self.space, self.folder, self.record = dataset, space, folder, record
        self.plans_name, self.overwrite = plans_name, overwrite
        self.plans_folder = plans_folder or dataset.folder

    def check_plans_folder(self) -> None:
        """Raise PlansError where plans are to be written and cannot be."""
        if self.plans_name is None:
            return
        try:
            check_writable(self.plans_folder)
        except OSError as error:
            raise PlansError(
                f"plans cannot be written to {self.plans_folder} ({error.strerror}); name another folder with "
                f"--plans-folder, and copy them to {self.dataset.folder} afterwards"
            ) from error

    def check_plans_names(self, labels: Sequence[str]) -> None:
        """Refuse to replace plans that this very search did not write, or that were edited since.

        Raises:
            PlansError: naming every file that is in the way.
            CascadeError: so are predictions of a cascade's first stage.
        """
        if self.plans_name is None or self.overwrite:
            return
        # Where they are written, and where nnU-Net finds them once they are copied.
        folders = dict.fromkeys([self.plans_folder, self.dataset.folder])
        taken = [self._path(label, folder) for folder in folders for label in labels if self._is_taken(label, folder)]
        if taken:
            raise PlansError(
                f"{', '.join(map(str, taken))} exist already; choose another name with --plans, or replace them with "
                "--overwrite"
            )
        if self.dataset.first_stage:
            for label in labels:
                self.dataset.first_stage.check_hand_on(self._name(label))

    def _is_taken(self, label: str, folder: Path) -> bool:
        if not self._path(label, folder).exists():
            return False
        found = read_plans(folder, self._name(label))
        provenance = found.get(PROVENANCE, {})
        content = provenance.pop(CONTENT, None)
        return bool(provenance.get("search") != self._identity(label) or content != digest(found))

    def _path(self, label: str, folder: Path) -> Path:
        return folder / f"{self._name(label)}.json"

    def write_winners(self, contests: Sequence[Contest], last: Rung, measuring: Measuring) -> list[FoundNetwork]:
        """Write the best network of each budget: record, inherited weights and, where named, plans.

        Raises:
            BudgetError: no finalist meets a budget.
            RunError: a finalist's weights are gone.
        """
        return [
            self._write(
                contest.budget.label,
                winner(contest.budget, contests, last),
                last,
                {
                    **measuring.to_json(),
                    "limits": {q.value: [limit.low, limit.high] for q, limit in contest.budget.limits},
                },
                self._candidates(contest),
            )
            for contest in contests
        ]

    def write_front(self, contests: Sequence[Contest], last: Rung, measuring: Measuring) -> list[FoundNetwork]:
        """Write the networks of the Pareto front, which no other one beats in both DSC and memory.

        Raises:
            PlansError: plans of their names are there already.
            RunError: a finalist's weights are gone.
        """
        front: dict[str, Candidate] = {}
        for network in pareto_front(contests, last):
            label = f"pareto_{_label(network)}"
            front[label if label not in front else f"{label}-{network.architecture.id}"] = network
        self.check_plans_names(list(front))
        return [self._write(label, network, last, measuring.to_json(), {}) for label, network in front.items()]

    def _candidates(self, contest: Contest) -> dict[str, Any]:
        ranked = sorted(contest.candidates, key=lambda c: c.standing)
        return {
            "strategy": contest.strategy.report,
            "distribution": Distribution.of(ranked, self.space).to_json(),
            "named": named_among(ranked, self.space),
            "candidates": [candidate.to_json() for candidate in ranked],
        }

    def _write(
        self, label: str, network: Candidate, last: Rung, more: dict[str, Any], candidates: dict[str, Any]
    ) -> FoundNetwork:
        name = self._name(label)
        weights = self.folder.path / f"{name}_weights_fold{self.record.fold}.pth"
        kept = self.folder.finalists.weights(last, network.architecture)
        if not kept.exists():
            raise RunError(
                f"the fine-tuned weights {kept} are gone; choose another --run, or delete {self.folder.path}"
            )
        with written_atomically(weights) as temporary:
            shutil.copyfile(kept, temporary)
        provenance = {**self._provenance(label, network, weights), **more}
        record = self.folder.path / f"{name}.json"
        write_json(record, {**provenance, **candidates})
        plans = self._path(label, self.plans_folder) if self.plans_name else None
        if plans:
            self.check_plans_names([label])  # again: hours have passed
            self._write_plans(plans, network, provenance)
        return FoundNetwork(label=label, network=network, record=record, plans=plans, weights=weights)

    def _write_plans(self, path: Path, network: Candidate, provenance: dict[str, Any]) -> None:
        plans = searched_plans(
            self.dataset.plans,
            self.dataset.configuration_name,
            path.stem,
            self.space,
            network.architecture,
            provenance,
            SuperNetSettings.from_configuration(self.dataset.configuration.configuration).fixed_scalar,
        )
        plans[PROVENANCE][CONTENT] = digest(plans)
        if self.dataset.first_stage:
            self.dataset.first_stage.hand_on(path.stem)
        write_json(path, plans)

    def _name(self, label: str) -> str:
        return f"{self.plans_name or 'no_plans'}_{label}"

    def _identity(self, label: str) -> str:
        """Name this search and budget: equal arguments on an equal super-net give equal names."""
        return digest(self.record.digest, label)

    def _provenance(self, label: str, network: Candidate, weights: Path) -> dict[str, Any]:
        record = self.record
        return {
            "package_version": nnunet_hypersegnas.__version__,
            "search": self._identity(label),
            "run": str(self.folder.path),
            "dataset": record.dataset,
            "configuration": record.configuration,
            "supernet_plans": record.plans,
            "selected_on_fold": record.fold,
            "note": BIAS_NOTE,
            "device": record.device,
            "settings": record.settings.to_json(),
            "winner": network.to_json(),
            "inherited_weights": str(weights),
            "inherited_weights_note": f"use them for fold {record.fold} only: they have seen the other folds' cases",
        }


def named_among(ranked: Sequence[Candidate], space: SearchSpace) -> dict[str, Any]:
    """Say where the architectures with names ended.

    Args:
        ranked: a budget's candidates, the best first.
        space: the search space.

    Returns:
        For each name the place among the candidates, counted from 1, and the scores by rung; the place is None where
        the architecture does not fit the budget.
    """
    places = {candidate.architecture: place for place, candidate in enumerate(ranked, 1)}
    found: dict[str, Any] = {}
    for name in names_of_architectures():
        architecture = named_architecture(name, space)
        place = places.get(architecture)
        scores = {} if place is None else ranked[place - 1].to_json()["dsc_by_rung"]
        found[name] = {"id": architecture.id, "place": place, "of": len(ranked), "dsc_by_rung": scores}
    return found


def describe(found: Sequence[FoundNetwork]) -> list[dict[str, str]]:
    """Return one row for each network found, as text; measured costs have columns of their own."""

    def text(quantity: Quantity, value: float | None) -> str:
        return "-" if value is None else quantity.format(value)

    rows = []
    for one in found:
        network = one.network
        assert network.shared is not None and network.fine_tuned is not None
        rows.append(
            {
                "budget": one.label,
                "predicted memory": text(Quantity.MEMORY, network.predicted_memory_bytes),
                "measured memory": text(Quantity.MEMORY, network.measured.get(Quantity.MEMORY)),
                "parameters": text(Quantity.PARAMETERS, network.parameters),
                "multiply-adds": text(Quantity.MULTIPLY_ADDS, network.multiply_adds),
                "predicted latency": text(Quantity.LATENCY, network.predicted_latency_ms),
                "measured latency": text(Quantity.LATENCY, network.measured.get(Quantity.LATENCY)),
                "edges (convs)": f"{network.architecture.n_edges} ({network.architecture.n_convolutions})",
                "DSC shared": f"{network.shared.dsc:.4f}",
                "DSC fine-tuned": f"{network.fine_tuned.dsc:.4f}",
                "plans": one.plans.stem if one.plans else "-",
            }
        )
    unknown = [key for key in rows[0] if all(row[key] == "-" for row in rows) and key != "measured memory"]
    return [{key: text for key, text in row.items() if key not in unknown} for row in rows]


def _label(network: Candidate) -> str:
    return format_bytes(round(network.memory_bytes)).replace(" ", "").replace(".", "p")
