"""Measuring what networks need on a device: memory of real training steps, time of a forward pass."""

from __future__ import annotations

import gc
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from enum import Enum
from typing import Any, Protocol

import torch
from torch import nn

from nnunet_hypersegnas.cost.nvml import NvmlError, process_bytes
from nnunet_hypersegnas.errors import HyperSegNASError

# The first step brings the momentum, and cuDNN tries its algorithms; the second one is like all later ones.
WARMUP_STEPS = 2
STEPS = 3
WARMUP_PASSES = 3
PASSES = 15

# What is raised where memory that torch's allocator does not manage runs out: handles and modules of the libraries, or
# cuDNN left without any algorithm whose workspace has room.
_OUT_OF_MEMORY = (
    "CUDA error: out of memory",
    "STATUS_ALLOC_FAILED",
    "unable to find an engine to execute this computation",
    "Unable to find a valid cuDNN algorithm",
)


class MeasuringError(HyperSegNASError):
    """Something that cannot be measured here."""


class MemoryMetric(str, Enum):
    """What is read as a training's memory."""

    NVML = "nvml"  # of the process, as nvidia-smi shows it: the paper's
    RESERVED = "reserved"  # by torch's caching allocator
    ALLOCATED = "allocated"  # to tensors


@dataclass(frozen=True, kw_only=True)
class MeasuredMemory:
    """Peak training memory of one network.

    Attributes:
        allocated_bytes, reserved_bytes: by torch; None where the network does not fit the device.
        nvml_bytes: of the whole process; None too where NVML cannot be read.
    """

    allocated_bytes: int | None = None
    reserved_bytes: int | None = None
    nvml_bytes: int | None = None

    @property
    def fits(self) -> bool:
        return self.allocated_bytes is not None

    def bytes(self, metric: MemoryMetric) -> int | None:
        by_metric = {
            MemoryMetric.NVML: self.nvml_bytes,
            MemoryMetric.RESERVED: self.reserved_bytes,
            MemoryMetric.ALLOCATED: self.allocated_bytes,
        }
        return by_metric[metric]

    def to_json(self) -> dict[str, Any]:
        return {"fits": self.fits, **asdict(self)}

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> MeasuredMemory:
        return cls(**{key: amount for key, amount in value.items() if key != "fits"})


class MemoryGauge(Protocol):
    """Reads a device's memory."""

    def clear(self) -> None:
        """Give back whatever is held for nothing."""

    def reset_peak(self) -> None:
        """Count peaks from here."""

    def peak(self) -> MeasuredMemory:
        """Return the peaks since `reset_peak`."""


class CudaGauge:
    """Reads torch and NVML; without NVML, torch alone."""

    def __init__(self, device: torch.device) -> None:
        self.device = device
        torch.cuda.init()
        torch.zeros(1, device=device)  # NVML lists a process once it has a context
        self.why_no_nvml: str | None = None
        try:
            process_bytes(device)
        except NvmlError as error:
            self.why_no_nvml = str(error)

    def clear(self) -> None:
        torch.cuda.synchronize(self.device)
        gc.collect()
        torch.cuda.empty_cache()

    def reset_peak(self) -> None:
        torch.cuda.synchronize(self.device)
        torch.cuda.reset_peak_memory_stats(self.device)

    def peak(self) -> MeasuredMemory:
        torch.cuda.synchronize(self.device)
        return MeasuredMemory(
            allocated_bytes=torch.cuda.max_memory_allocated(self.device),
            reserved_bytes=torch.cuda.max_memory_reserved(self.device),
            # The allocator keeps what it has reserved, so the process' memory now is its peak.
            nvml_bytes=None if self.why_no_nvml else process_bytes(self.device),
        )


def choose_metric(
    asked: MemoryMetric | None, device: torch.device, *, gauge: Callable[[torch.device], CudaGauge] = CudaGauge
) -> tuple[MemoryMetric | None, str]:
    """Return the metric of a budget's memory on a device, and a line that says why it is that one.

    Raises:
        MeasuringError: the metric asked for cannot be read here.
    """
    if device.type != "cuda":
        if asked:
            raise MeasuringError(
                f"--memory-metric {asked.value} is measured on a GPU, the device is {device.type}; leave it out, and "
                "memory is predicted"
            )
        return None, f"Memory is predicted for training on {device.type}; there is no GPU to measure on."
    why_not = gauge(device).why_no_nvml
    if asked is MemoryMetric.NVML and why_not:
        raise MeasuringError(f"--memory-metric nvml cannot be read: {why_not}; use --memory-metric reserved")
    metric = asked or (MemoryMetric.RESERVED if why_not else MemoryMetric.NVML)
    meaning = {
        MemoryMetric.NVML: "NVML gives for the process, as nvidia-smi shows it",
        MemoryMetric.RESERVED: "torch reserves",
        MemoryMetric.ALLOCATED: "torch allocates to tensors",
    }
    instead = f" ({why_not}; so not NVML's)" if why_not and not asked else ""
    return metric, f"Memory is measured in training steps: what {meaning[metric]}{instead}."


def measure_training_memory(make_step: Callable[[], Callable[[], None]], gauge: MemoryGauge) -> MeasuredMemory:
    """Measure the peak memory of training steps, after steps that warm up.

    What the allocator holds on to since the warm-up, such as blocks that cuDNN used to try its algorithms, counts in
    reserved memory and NVML's, as it does in a training. Afterwards everything is given back, so that many networks
    can be measured in one process.

    Args:
        make_step: builds network and optimizer on the device and returns what does one training step.
        gauge: reads the device.

    Returns:
        The peaks, or a memory that does not fit where the device ran out of it.
    """
    gauge.clear()
    measured = _peak_of_steps(make_step, gauge)  # of its own, so that its frame lets go of the network
    gauge.clear()
    return measured


def _peak_of_steps(make_step: Callable[[], Callable[[], None]], gauge: MemoryGauge) -> MeasuredMemory:
    try:
        step = make_step()
        for _ in range(WARMUP_STEPS):
            step()
        gauge.reset_peak()
        for _ in range(STEPS):
            step()
        return gauge.peak()
    except RuntimeError as error:  # of which torch's OutOfMemoryError is one; cuDNN and cuBLAS have their own
        if is_out_of_memory(error):
            return MeasuredMemory()
        raise


def is_out_of_memory(error: RuntimeError) -> bool:
    """Whether an error says that the device has no memory left."""
    return isinstance(error, torch.cuda.OutOfMemoryError) or any(text in str(error) for text in _OUT_OF_MEMORY)


@torch.inference_mode()
def measure_latency_ms(network: nn.Module, image_shape: Sequence[int], device: torch.device) -> float | None:
    """Return the median time of one patch's forward pass, after passes that warm up.

    As in nnU-Net's predictor: inference mode, and fp16 autocast on CUDA.

    Args:
        network: on the device, in evaluation mode.
        image_shape: (1, C, X, Y, Z) or (1, C, X, Y).
        device: where it runs.

    Returns:
        Milliseconds, or None where the device runs out of memory.
    """
    try:
        image = torch.rand(tuple(image_shape), device=device)
        times_ms = []
        with torch.autocast(device.type, enabled=device.type == "cuda"):
            for _ in range(WARMUP_PASSES + PASSES):
                start = _now(device)
                network(image)
                times_ms.append(1e3 * (_now(device) - start))
        return statistics.median(times_ms[WARMUP_PASSES:])
    except RuntimeError as error:
        if is_out_of_memory(error):
            return None
        raise


def _now(device: torch.device) -> float:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter()
