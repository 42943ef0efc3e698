"""What NVIDIA's management library (NVML) says of this process' GPU memory: the figure that nvidia-smi shows."""

from __future__ import annotations

import os
from importlib import import_module
from types import ModuleType
from typing import Any

import torch

from nnunet_hypersegnas.errors import HyperSegNASError


class NvmlError(HyperSegNASError):
    """NVML cannot be read here; the message says why."""


class ProcessMemory:
    """Reads the GPU memory of a process on one CUDA device.

    The device is found by its UUID, so CUDA_VISIBLE_DEVICES, several GPUs and MIG slices lead to the right one.

    Args:
        device: a CUDA device of torch.
        pid: the process; this one by default.
        nvml: the pynvml module; imported where None.

    Raises:
        NvmlError: no pynvml, no driver, or no such device.
    """

    def __init__(self, device: torch.device, *, pid: int | None = None, nvml: ModuleType | None = None) -> None:
        self._nvml = _initialized(nvml)
        self._pid = os.getpid() if pid is None else pid
        self._handle = self._find(device)

    def used_bytes(self) -> int:
        """Return what the process holds on the device, context and libraries included.

        Raises:
            NvmlError: NVML does not list the process, or not its memory.
        """
        try:
            processes = self._nvml.nvmlDeviceGetComputeRunningProcesses(self._handle)
        except self._nvml.NVMLError as error:
            raise NvmlError(f"NVML lists no processes ({error})") from error
        # A process has several entries where it works on several MIG slices of a GPU.
        mine = [process.usedGpuMemory for process in processes if process.pid == self._pid]
        if not mine:
            raise NvmlError(
                f"NVML lists {len(processes)} processes on the GPU, but not this one ({self._pid}); in a container it "
                "needs the host's process ids (docker run --pid=host)"
            )
        if None in mine:
            raise NvmlError("NVML gives no memory by process here, as with Windows display drivers")
        return sum(mine)

    def _find(self, device: torch.device) -> Any:
        uuid = getattr(torch.cuda.get_device_properties(device), "uuid", None)
        if uuid is None:
            raise NvmlError(f"torch {torch.__version__} names no UUID of the GPU; update torch")
        reasons = []
        for kind in ("GPU", "MIG"):  # torch leaves out which one it is
            try:
                return self._nvml.nvmlDeviceGetHandleByUUID(f"{kind}-{uuid}")
            except self._nvml.NVMLError as error:
                reasons.append(f"{kind}-{uuid}: {error}")
        raise NvmlError(f"NVML does not know torch's device ({'; '.join(reasons)})")


def driver_version(nvml: ModuleType | None = None) -> str:
    """Return the version of NVIDIA's driver, or "unknown" where NVML cannot be read."""
    try:
        return str(_initialized(nvml).nvmlSystemGetDriverVersion())
    except NvmlError:
        return "unknown"


def _initialized(given: ModuleType | None) -> Any:
    nvml: Any = given
    if nvml is None:
        try:
            nvml = import_module("pynvml")
        except ImportError as error:
            raise NvmlError("pynvml is missing; pip install nvidia-ml-py") from error
    try:
        nvml.nvmlInit()
    except nvml.NVMLError as error:
        raise NvmlError(f"NVML does not start ({error})") from error
    return nvml
