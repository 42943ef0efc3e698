"""A budget's candidates: drawn by predicted costs and, where a device can measure, kept by measured ones."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Protocol

import numpy as np

from nnunet_hypersegnas.cost import Quantity
from nnunet_hypersegnas.search.budget_sampling import Predict
from nnunet_hypersegnas.search.limits import BudgetError, Limits
from nnunet_hypersegnas.search.progress import ProgressBar
from nnunet_hypersegnas.search.rungs import Rung, Way
from nnunet_hypersegnas.search.score import Score
from nnunet_hypersegnas.space import Architecture, rng_for, to_architectures

HOPELESS = 64  # so many measured misses in a row say that the predictions do not hold on this device
MOST_MEASURED = 10  # times the candidates asked for


class Meter(Protocol):
    """Measures networks on a device."""

    def measure(self, architecture: Architecture) -> Mapping[Quantity, float]:
        """Return measured costs; infinite memory where the network does not fit the device."""


class Source(Protocol):
    """Gives architectures that meet limits as predicted, each one once."""

    predict: Predict
    limits: Limits
    seed: int

    def take(self, count: int) -> np.ndarray:
        """Return the codes of `count` further architectures, or of fewer, where there are no more."""


@dataclass(frozen=True, kw_only=True)
class Candidate:
    """An architecture within a budget, and what is known of it so far.

    Attributes:
        measured: costs by quantity, those that were measured.
        scores: by rung, the cheapest first.
    """

    architecture: Architecture
    predicted_memory_bytes: int
    parameters: int
    multiply_adds: int
    predicted_latency_ms: float | None = None
    measured: Mapping[Quantity, float] = field(default_factory=dict)
    scores: Mapping[Rung, Score] = field(default_factory=dict)

    @property
    def shared(self) -> Score | None:
        """The score on whole crops with the super-net's shared weights (Eq. 3)."""
        return next((score for rung, score in self.scores.items() if rung.way is Way.CROPS), None)

    @property
    def fine_tuned(self) -> Score | None:
        """The score after the longest fine-tuning."""
        tuned = [score for rung, score in self.scores.items() if rung.way is Way.FINE_TUNING]
        return tuned[-1] if tuned else None

    @property
    def memory_bytes(self) -> float:
        """Measured where it was, else predicted."""
        return self.measured.get(Quantity.MEMORY, self.predicted_memory_bytes)

    def cost(self, quantity: Quantity) -> float:
        """Return a cost, measured where it was, else predicted."""
        predicted = {
            Quantity.MEMORY: self.predicted_memory_bytes,
            Quantity.PARAMETERS: self.parameters,
            Quantity.MULTIPLY_ADDS: self.multiply_adds,
            Quantity.LATENCY: math.inf if self.predicted_latency_ms is None else self.predicted_latency_ms,
        }
        return self.measured.get(quantity, predicted[quantity])

    @property
    def standing(self) -> tuple[float, float, int, str]:
        """What candidates are ordered by, the best first: how far they came, and how good they were there.

        Equal ones are ordered by memory, then by id, so that nothing depends on their order before.
        """
        best = math.inf
        if self.scores:
            last = list(self.scores.values())[-1]
            best = math.inf if math.isnan(last.dsc) else -last.dsc
        return -len(self.scores), best, self.predicted_memory_bytes, self.architecture.id

    def scored(self, rung: Rung, score: Score) -> Candidate:
        return replace(self, scores={**self.scores, rung: score})

    def measured_by(self, meter: Meter) -> Candidate:
        return replace(self, measured=meter.measure(self.architecture))

    def meets(self, limits: Limits) -> bool:
        """Whether all measured costs lie within the limits."""
        return all(self.measured[quantity] in limit for quantity, limit in limits if quantity in self.measured)

    def to_json(self) -> dict[str, Any]:
        memory, latency = self.measured.get(Quantity.MEMORY), self.measured.get(Quantity.LATENCY)
        return {
            "architecture": self.architecture.to_json(),
            "parameters": self.parameters,
            "multiply_adds": self.multiply_adds,
            "predicted_memory_bytes": self.predicted_memory_bytes,
            "measured_memory_bytes": None if memory == math.inf else memory,
            "fits_device": None if memory is None else memory < math.inf,
            "predicted_latency_ms": self.predicted_latency_ms,
            "measured_latency_ms": None if latency == math.inf else latency,
            "dsc_by_rung": {rung.name: score.to_json()["dsc"] for rung, score in self.scores.items()},
            "shared": self.shared.to_json() if self.shared else None,
            "fine_tuned": self.fine_tuned.to_json() if self.fine_tuned else None,
        }


def predicted_candidates(source: Source, count: int) -> list[Candidate]:
    """Draw candidates whose predicted costs meet the source's limits; fewer than `count` where there are no more.

    Raises:
        BudgetError: none was found.
    """
    codes = source.take(count)
    if not len(codes):
        return []
    costs = source.predict(codes)
    latencies = [None] * len(codes) if costs.latency_ms is None else costs.latency_ms.tolist()
    return [
        Candidate(
            architecture=architecture,
            predicted_memory_bytes=round(memory),
            parameters=int(parameters),
            multiply_adds=int(multiply_adds),
            predicted_latency_ms=latency,
        )
        for architecture, memory, parameters, multiply_adds, latency in zip(
            to_architectures(codes), costs.memory_bytes, costs.parameters, costs.multiply_adds, latencies, strict=True
        )
    ]


def measured_candidates(source: Source, count: int, meter: Meter, bar: ProgressBar) -> list[Candidate]:
    """Draw candidates whose measured costs meet the source's limits: those that miss are replaced by others.

    Fewer than `count` come back where there are no more, or where nearly all of them miss.

    Raises:
        BudgetError: no network meets the limits, neither predicted nor measured.
    """
    kept: list[Candidate] = []
    missed: list[Candidate] = []
    in_a_row = 0
    while drawn := predicted_candidates(source, count - len(kept)):
        # In random order, so that a row of misses speaks of the whole window and not of its lower end.
        rng_for(source.seed, "measuring", len(kept) + len(missed)).shuffle(drawn)
        for candidate in drawn:
            candidate = candidate.measured_by(meter)
            if candidate.meets(source.limits):
                kept.append(candidate)
                in_a_row = 0
                bar.advance()
            else:
                missed.append(candidate)
                in_a_row += 1
            if in_a_row == HOPELESS or len(kept) + len(missed) == MOST_MEASURED * count:
                return _some(kept, missed, source.limits)
        if len(kept) == count:
            break
    return _some(kept, missed, source.limits)


def _some(kept: list[Candidate], missed: list[Candidate], limits: Limits) -> list[Candidate]:
    if kept:
        return kept
    found = []
    for quantity, _ in limits:
        if values := [c.measured[quantity] for c in missed if math.isfinite(c.measured.get(quantity, math.inf))]:
            found.append(f"{quantity.value} {quantity.format(min(values))} to {quantity.format(max(values))}")
    raise BudgetError(
        f"none of {len(missed)} networks predicted to have {limits} has it measured: "
        f"{', '.join(found) or 'none fits the device'}. Calibrate this device anew (hsnas_calibrate --overwrite), or "
        "choose other limits or a wider --tolerance"
    )
