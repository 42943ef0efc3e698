"""Measured costs of a space's networks, kept in a log, so that nothing is measured twice."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from typing_extensions import TypedDict  # pydantic needs it before Python 3.12

from nnunet_hypersegnas.cost import Quantity
from nnunet_hypersegnas.cost.measuring import MeasuredMemory, MeasuringError, MemoryMetric
from nnunet_hypersegnas.json_files import check
from nnunet_hypersegnas.search import MeasurementLog
from nnunet_hypersegnas.space import Architecture


class _MemoryRecord(TypedDict):
    fits: bool
    allocated_bytes: int | None
    reserved_bytes: int | None
    nvml_bytes: int | None


class _CostsRecord(TypedDict):
    memory: _MemoryRecord | None
    latency_ms: float | None


@dataclass(frozen=True, kw_only=True)
class MeasuredCosts:
    """What was measured of one network.

    Attributes:
        memory: of its training; None on a CPU.
        latency_ms: of one patch's forward pass; None where the network does not fit the device.
    """

    memory: MeasuredMemory | None
    latency_ms: float | None

    def by_quantity(self, metric: MemoryMetric | None) -> dict[Quantity, float]:
        """Return what there is, memory by the metric; both are infinite where the network does not fit.

        Raises:
            MeasuringError: the metric could not be read.
        """
        costs = {Quantity.LATENCY: math.inf if self.latency_ms is None else self.latency_ms}
        if metric and self.memory:
            memory_bytes = self.memory.bytes(metric)
            if memory_bytes is None and self.memory.fits:
                raise MeasuringError(f"memory by {metric.value} could not be read; choose another --memory-metric")
            costs[Quantity.MEMORY] = math.inf if memory_bytes is None else memory_bytes
        return costs

    def to_json(self) -> dict[str, Any]:
        return {"memory": self.memory.to_json() if self.memory else None, "latency_ms": self.latency_ms}

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> MeasuredCosts:
        """Read what `to_json` gives.

        Raises:
            JsonFileError: it is something else.
        """
        check(value, _CostsRecord, "they are not costs")
        memory = value["memory"]
        return cls(memory=MeasuredMemory.from_json(memory) if memory else None, latency_ms=value["latency_ms"])


class LoggedMeter:
    """The search's meter: measures what the log does not know yet.

    Args:
        log: where measurements are kept.
        stage: names the way and the conditions of measuring.
        metric: of memory.
        measure: measures one network.
    """

    def __init__(
        self,
        log: MeasurementLog[MeasuredCosts],
        stage: str,
        metric: MemoryMetric | None,
        measure: Callable[[Architecture], MeasuredCosts],
    ) -> None:
        self.log, self.stage, self.metric, self._measure = log, stage, metric, measure

    def costs(self, architecture: Architecture) -> MeasuredCosts:
        if known := self.log.get(self.stage, architecture):
            return known
        costs = self._measure(architecture)
        self.log.add(self.stage, architecture, costs)
        return costs

    def measure(self, architecture: Architecture) -> Mapping[Quantity, float]:
        return self.costs(architecture).by_quantity(self.metric)
