"""What a search measures on its device, and the calibration that its predictions go through."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from nnunet_hypersegnas.atomic import write_json
from nnunet_hypersegnas.cost import Calibration, CostModel, PredictedCosts
from nnunet_hypersegnas.cost.measuring import MemoryMetric, choose_metric
from nnunet_hypersegnas.nnunet.calibrating import (
    calibrate,
    calibration_file,
    conditions_of,
    networks_to_measure,
    read_calibration,
)
from nnunet_hypersegnas.nnunet.cost_meter import MeasuringProcess
from nnunet_hypersegnas.nnunet.dataset import PreprocessedDataset
from nnunet_hypersegnas.nnunet.digests import digest
from nnunet_hypersegnas.nnunet.memory_counting import MemoryCounting
from nnunet_hypersegnas.nnunet.metering import LoggedMeter, MeasuredCosts
from nnunet_hypersegnas.search import MeasurementLog, Meter, Progress

CALIBRATION_NETWORKS = 24


@dataclass(frozen=True, kw_only=True)
class Measuring:
    """How costs are measured while a search runs; without a GPU, memory is only predicted.

    Attributes:
        note: tells the user.
        metric: of training memory; None where it is predicted.
        calibration: turns predictions into what is to be expected on the device.
        candidates: measures many networks, one after the other in one process.
        finalists: measures each network in a process of its own.
        release: gives back what measuring candidates holds on the device, when they are all measured.
        free_bytes: tells how much of the device's memory nobody holds.
    """

    note: str
    metric: MemoryMetric | None = None
    calibration: Calibration | None = None
    candidates: Meter | None = None
    finalists: Meter | None = None
    release: Callable[[], None] = lambda: None
    free_bytes: Callable[[], int] = lambda: 0

    @property
    def counting(self) -> MemoryCounting:
        """How memory is counted here."""
        if self.calibration is None or self.metric is None:
            return MemoryCounting()
        return MemoryCounting.of_fit(self.calibration.memory[self.metric.value], "as calibrated on this device")

    def to_json(self) -> dict[str, Any]:
        """Return how memory was measured, and on what."""
        return {
            "memory_metric": self.metric.value if self.metric else "predicted",
            "calibrated_on": vars(self.calibration.conditions) if self.calibration else None,
        }

    def expected(self, predict: Callable[[np.ndarray], PredictedCosts]) -> Callable[[np.ndarray], PredictedCosts]:
        """Return predictions as they are expected on the device."""
        calibration, metric = self.calibration, self.metric.value if self.metric else None
        if calibration is None:
            return predict
        return lambda codes: calibration.apply(predict(codes), metric)


@contextmanager
def measuring_on(
    device: torch.device,
    dataset: PreprocessedDataset,
    model: CostModel,
    *,
    metric: MemoryMetric | None,
    latency: bool,
    folder: Path,
    progress: Progress,
) -> Iterator[Measuring]:
    """Give a search what it measures with; a calibration that is needed and not there is made first.

    Args:
        device: the search's.
        dataset: data set and configuration.
        model: predicts the costs.
        metric: the user's choice; None takes the best one there is.
        latency: whether the search is limited by latency.
        folder: where measurements are kept.
        progress: makes the bar of a calibration.

    Raises:
        MeasuringError: the metric cannot be read.
        CalibrationError: there is a calibration made under other conditions.
    """
    chosen, note = choose_metric(metric, device)
    if chosen is None and not latency:
        yield Measuring(note=note)
        return
    now, path = conditions_of(model, device), calibration_file(dataset, device)
    if path.exists():
        calibration = read_calibration(path, now, chosen)
        origin = "calibrated by"
    else:
        calibration = calibrate_device(device, dataset, model, CALIBRATION_NETWORKS, seed=0, progress=progress)
        origin = "calibrated now, see"
    log, stage = _log(folder / "measurements.jsonl"), digest(vars(now))
    with MeasuringProcess(dataset, model.space, device) as process:
        yield Measuring(
            note=f"{note} Predictions are {origin} {path}.",
            metric=chosen,
            calibration=calibration,
            candidates=LoggedMeter(log, f"one process {stage}", chosen, process.measure),
            finalists=LoggedMeter(log, f"own process {stage}", chosen, process.measure_afresh),
            release=process.end,
            free_bytes=lambda: torch.cuda.mem_get_info(device.index)[0] if device.type == "cuda" else 0,
        )


def calibrate_device(
    device: torch.device,
    dataset: PreprocessedDataset,
    model: CostModel,
    networks: int,
    *,
    seed: int,
    progress: Progress,
) -> Calibration:
    """Make the calibration of a device and keep it; an interrupted one goes on where it stood.

    Raises:
        CostError: too few networks fit the device.
        MeasuringError: a measuring process died.
    """
    now, path = conditions_of(model, device), calibration_file(dataset, device)
    unfinished = path.with_suffix(".jsonl")
    with MeasuringProcess(dataset, model.space, device) as process:
        # Latency, which is all that a CPU has, is the same in one process and in many.
        measure = process.measure_afresh if device.type == "cuda" else process.measure
        meter = LoggedMeter(_log(unfinished), f"own process {digest(vars(now))}", None, measure)
        calibration = calibrate(model, networks_to_measure(model, networks, seed), meter, now, progress)
    write_json(path, calibration.to_json())
    unfinished.unlink()
    return calibration


def _log(path: Path) -> MeasurementLog[MeasuredCosts]:
    return MeasurementLog(path, "costs", MeasuredCosts.from_json)
