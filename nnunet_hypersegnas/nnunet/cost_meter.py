"""Measured costs of a search space's networks, trained as nnU-Net trains them."""

from __future__ import annotations

import multiprocessing
import os
import sys
import tempfile
import threading
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from multiprocessing.context import BaseContext
from pathlib import Path
from types import TracebackType
from typing import Any

import torch
from torch import Tensor

from nnunet_hypersegnas.architectures import SearchedNet, searched_net_kwargs
from nnunet_hypersegnas.cost.measuring import (
    CudaGauge,
    MeasuredMemory,
    MeasuringError,
    MemoryGauge,
    measure_latency_ms,
    measure_training_memory,
)
from nnunet_hypersegnas.nnunet.dataset import PreprocessedDataset
from nnunet_hypersegnas.nnunet.fine_tuning import sgd, sub_net_trainer
from nnunet_hypersegnas.nnunet.metering import MeasuredCosts
from nnunet_hypersegnas.space import Architecture, SearchSpace


class CostMeter:
    """Measures networks in this process, one after the other.

    Args:
        dataset: gives patch, batch size, channels and labels.
        space: the networks' search space.
        device: where they are measured; on a CPU only latency is.
        gauge: reads the device's memory.
    """

    def __init__(
        self, dataset: PreprocessedDataset, space: SearchSpace, device: torch.device, gauge: MemoryGauge | None = None
    ) -> None:
        self.dataset, self.space, self.device = dataset, space, device
        self.gauge = CudaGauge(device) if gauge is None and device.type == "cuda" else gauge
        with tempfile.TemporaryDirectory() as folder:  # of the log that every trainer of nnU-Net opens
            self.trainer = sub_net_trainer(dataset, space, 0, device, Path(folder))

    def measure(self, architecture: Architecture) -> MeasuredCosts:
        """Return training memory, where the device has a gauge, and latency."""
        with torch.backends.cudnn.flags(
            enabled=True, benchmark=True, deterministic=False
        ):  # as nnU-Net trains and predicts
            memory = self.training_memory(architecture) if self.gauge else None
            fits = memory is None or memory.fits
            return MeasuredCosts(memory=memory, latency_ms=self.latency_ms(architecture) if fits else None)

    def training_memory(self, architecture: Architecture) -> MeasuredMemory:
        """Return the peak memory of nnU-Net's training steps.

        Raises:
            MeasuringError: the device is a CPU.
        """
        if self.gauge is None:
            raise MeasuringError(f"training memory is measured on a GPU, not on {self.device.type}")
        measured = measure_training_memory(lambda: self.training_step(architecture), self.gauge)
        self.trainer.network = self.trainer.optimizer = None
        return measured

    def latency_ms(self, architecture: Architecture) -> float | None:
        """Return the time of one patch's forward pass; None where it does not fit."""
        network = self.network(architecture, deep_supervision=False).eval()
        shape = (1, self.dataset.input_channels, *self.dataset.configuration.patch_size)
        return measure_latency_ms(network, shape, self.device)

    def network(self, architecture: Architecture, *, deep_supervision: bool = False) -> SearchedNet:
        return SearchedNet(
            self.dataset.input_channels,
            self.dataset.label_manager.num_segmentation_heads,
            deep_supervision,
            **searched_net_kwargs(self.space, architecture),
        ).to(self.device)

    def training_step(self, architecture: Architecture) -> Callable[[], None]:
        """Return what trains a network for one more step, on a batch of noise."""
        trainer = self.trainer
        trainer.network = self.network(architecture, deep_supervision=True).train()
        trainer.optimizer = sgd(trainer, trainer.initial_lr)
        if trainer.grad_scaler is not None:
            # From nnU-Net's 65536 the first steps can overflow; they are then skipped, and no momentum appears. A new
            # one each time, since one that was interrupted for want of memory takes no further step.
            trainer.grad_scaler = type(trainer.grad_scaler)(init_scale=1.0)
        batch = self.noise()
        return lambda: trainer.train_step(batch)

    def noise(self) -> dict[str, Any]:
        """Return a batch of nnU-Net's form."""
        return {"data": self._image(), "target": self._targets()}

    def _image(self) -> Tensor:
        batch_size, patch = self.trainer.batch_size, self.dataset.configuration.patch_size
        return torch.rand(batch_size, self.dataset.input_channels, *patch)

    def _targets(self) -> list[Tensor]:
        """Return random labels as nnU-Net's loaders give them, one tensor for each scale of deep supervision."""
        labels, patch = self.dataset.label_manager, self.dataset.configuration.patch_size
        sizes = [
            [round(size * factor) for size, factor in zip(patch, scale, strict=True)]
            for scale in self.trainer._get_deep_supervision_scales() or []
        ]
        batch_size = self.trainer.batch_size
        if labels.has_regions:
            channels = len(labels.foreground_regions) + labels.has_ignore_label
            return [torch.rand(batch_size, channels, *size) < 0.5 for size in sizes]
        values = torch.tensor(labels.all_labels, dtype=torch.int16)
        return [values[torch.randint(len(values), (batch_size, 1, *size))] for size in sizes]


class MeasuringProcess:
    """Measures networks in one long-lived process of its own, so that nothing else counts in its memory.

    It starts with the first measurement, and lives until it is ended or, as a context, left.
    """

    def __init__(self, dataset: PreprocessedDataset, space: SearchSpace, device: torch.device) -> None:
        self._arguments = dataset, space, device
        self._pool: ProcessPoolExecutor | None = None

    def measure(self, architecture: Architecture) -> MeasuredCosts:
        """Measure one network.

        Raises:
            MeasuringError: the process died, for example killed by the system for want of memory.
        """
        if self._pool is None:
            self._pool = ProcessPoolExecutor(1, _processes(), initializer=_start, initargs=self._arguments)
        try:
            try:
                measuring = self._pool.submit(_measure, architecture)  # starts the process, the first time
            except (EOFError, OSError) as error:  # of the server that forks
                raise BrokenProcessPool from error
            return measuring.result()
        except BrokenProcessPool as error:
            raise MeasuringError(
                f"the process that measured architecture {architecture.id} died (killed for want of main memory?); "
                "what was measured before is kept: run the command again"
            ) from error

    def measure_afresh(self, architecture: Architecture) -> MeasuredCosts:
        """Measure one network in a further process that measures nothing else.

        Raises:
            MeasuringError: as `measure`.
        """
        if torch.cuda.is_initialized():
            torch.cuda.empty_cache()  # what this process only holds back is there for the other one
        with MeasuringProcess(*self._arguments) as other:
            return other.measure(architecture)

    def end(self) -> None:
        """End the process, which gives the device's memory back; a further measurement starts another one."""
        if self._pool is not None:
            self._pool.shutdown(cancel_futures=True)
            self._pool = None

    def __enter__(self) -> MeasuringProcess:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.end()


def _processes() -> BaseContext:
    """Return what starts processes that have never touched a GPU.

    On Linux they are forked from a server that has only imported this module, with the environment of its start:
    importing takes several times as long as measuring, and a calibration starts a process for each network. Elsewhere
    processes are not safely forked once libraries are loaded, or not at all.
    """
    if sys.platform != "linux":
        return multiprocessing.get_context("spawn")
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload([__name__])
    return context


_meter: CostMeter  # of a measuring process, which has one


def _start(dataset: PreprocessedDataset, space: SearchSpace, device: torch.device) -> None:
    global _meter
    threading.Thread(target=_end_with_parent, daemon=True).start()
    _meter = CostMeter(dataset, space, device)


def _end_with_parent() -> None:
    """A pool's process waits for work for ever where the one that gives it was killed, and holds its GPU memory."""
    parent = multiprocessing.parent_process()
    if parent is not None:
        parent.join()
        os._exit(1)


def _measure(architecture: Architecture) -> MeasuredCosts:
    return _meter.measure(architecture)
