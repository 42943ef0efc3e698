"""How a device counts training memory: what CUDA and its allocator add to the tensors, measured or estimated."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import TypeVar

import numpy as np
import torch

from nnunet_hypersegnas.cost import CostModel, Fit, PredictedCosts, format_bytes
from nnunet_hypersegnas.cost.measuring import MemoryMetric, choose_metric
from nnunet_hypersegnas.nnunet.calibrating import CalibrationError, calibration_file, conditions_of, read_calibration
from nnunet_hypersegnas.nnunet.dataset import PreprocessedDataset

Bytes = TypeVar("Bytes", float, np.ndarray)

# Offset in bytes and factor, of predicted bytes: fitted to networks that were measured on an NVIDIA H200
# (benchmarks/results/task04/calibration_h200.json). They stand in for a calibration where there is none.
H200 = {
    MemoryMetric.NVML: (774e6, 1.10),
    MemoryMetric.RESERVED: (73e6, 1.15),
    MemoryMetric.ALLOCATED: (0.0, 1.01),
}


@dataclass(frozen=True, kw_only=True)
class MemoryCounting:
    """What a device counts where tensors need so many bytes.

    Attributes:
        offset_bytes, factor: counted = offset + factor x tensors.
        origin: where these come from, for people; empty where memory is that of tensors.
        is_estimate: whether they were measured on another device.
    """

    offset_bytes: float = 0.0
    factor: float = 1.0
    origin: str = ""
    is_estimate: bool = False

    @classmethod
    def of_fit(cls, fit: Fit, origin: str) -> MemoryCounting:
        offset, factor = fit.coefficients
        return cls(offset_bytes=offset, factor=factor, origin=origin)

    @classmethod
    def estimated(cls, metric: MemoryMetric, why: str = "") -> MemoryCounting:
        """Return the figures of the H200 for a GPU that has no calibration, or none that holds."""
        offset, factor = H200[metric]
        formula = f"{format_bytes(round(offset))} + {factor:g} x predicted"
        origin = f"{formula}, as measured on an NVIDIA H200: an estimate here{f' ({why})' if why else ''}"
        return cls(offset_bytes=offset, factor=factor, origin=origin, is_estimate=True)

    def count(self, tensor_bytes: Bytes) -> Bytes:
        """Return the bytes that the device counts: of one amount, or of an array of them."""
        return self.offset_bytes + self.factor * tensor_bytes

    def at_least(self) -> MemoryCounting:
        """Return the least that a device is sure to count: of an estimate, half of what it adds to the tensors."""
        return replace(self, offset_bytes=self.offset_bytes / 2, factor=1.0) if self.is_estimate else self

    def tensors(self, counted_bytes: float) -> float:
        """Return the bytes of tensors that are counted so."""
        return (counted_bytes - self.offset_bytes) / self.factor

    def expected(self, predict: Callable[[np.ndarray], PredictedCosts]) -> Callable[[np.ndarray], PredictedCosts]:
        """Return predictions whose memory is as the device counts it."""
        if (self.offset_bytes, self.factor) == (0, 1):
            return predict

        def counted(codes: np.ndarray) -> PredictedCosts:
            costs = predict(codes)
            return replace(costs, memory_bytes=self.count(costs.memory_bytes))

        return counted


def memory_counting(
    dataset: PreprocessedDataset, model: CostModel, device_type: str, metric: MemoryMetric | None = None
) -> MemoryCounting:
    """Return how memory will be counted when networks of a data set are trained on this machine.

    A calibration of this machine's GPU is used where there is one that holds. Nothing is measured.

    Args:
        dataset: data set and configuration.
        model: predicts its networks' costs.
        device_type: "cuda" or "cpu"; on a CPU memory is that of tensors.
        metric: of a GPU's memory; NVML's where None.
    """
    if device_type != "cuda":
        return MemoryCounting()
    if torch.cuda.is_available():
        device = torch.device("cuda", 0)
        metric = metric or choose_metric(None, device)[0] or MemoryMetric.NVML
        path = calibration_file(dataset, device)
        if path.exists():
            try:
                calibration = read_calibration(path, conditions_of(model, device), metric)
            except CalibrationError as error:  # whoever measures refuses it; here an estimate does
                return MemoryCounting.estimated(metric, str(error))
            return MemoryCounting.of_fit(calibration.memory[metric.value], f"calibrated by {path}")
    return MemoryCounting.estimated(metric or MemoryMetric.NVML)
