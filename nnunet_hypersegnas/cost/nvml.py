"""What NVML says of this process' memory on a GPU: the number that nvidia-smi shows, CUDA's context included."""

from __future__ import annotations

import contextlib
import os
from typing import Any

import torch

from nnunet_hypersegnas.cost.sizes import format_bytes
from nnunet_hypersegnas.errors import HyperSegNASError


class NvmlError(HyperSegNASError):
    """NVML cannot tell this process' memory; the message is the reason."""


def process_bytes(device: torch.device, *, nvml: Any = None) -> int:
    """Return the bytes that this process uses on a CUDA device; it is listed once it has a context there.

    Args:
        device: the device as torch counts it; NVML is asked for its UUID, as CUDA_VISIBLE_DEVICES may have renumbered.
        nvml: the module `pynvml`; imported where None.

    Raises:
        NvmlError: for whatever reason.
    """
    nvml = nvml or _import_pynvml()
    uuid, pid = _uuid(device), os.getpid()
    try:
        nvml.nvmlInit()
        try:
            # By version: the name without one fails with drivers of other versions than the module's.
            listed = [
                process
                for handle in _handles(nvml, uuid)
                for process in nvml.nvmlDeviceGetComputeRunningProcesses_v3(handle)
                if process.pid == pid
            ]
        finally:
            nvml.nvmlShutdown()
    except nvml.NVMLError as error:
        raise NvmlError(f"NVML cannot be asked for GPU {uuid}: {error}") from error
    if not listed:
        raise NvmlError(
            f"NVML does not list process {pid} on GPU {uuid}; in a container it may list it by its number on the host "
            "(start it with --pid=host)"
        )
    used = listed[0].usedGpuMemory
    if used is None:
        raise NvmlError(f"NVML does not tell the memory of single processes on GPU {uuid} (Windows does not)")
    reserved = torch.cuda.memory_reserved(device)
    if used < reserved:
        raise NvmlError(
            f"NVML says {format_bytes(used)} of process {pid} on GPU {uuid}, but PyTorch alone holds "
            f"{format_bytes(reserved)}: that number is another process' on the host"
        )
    return int(used)


def driver_version(*, nvml: Any = None) -> str:
    """Return the version of NVIDIA's driver, or "unknown" where NVML cannot be asked."""
    try:
        nvml = nvml or _import_pynvml()
    except NvmlError:
        return "unknown"
    try:
        nvml.nvmlInit()
        try:
            return str(nvml.nvmlSystemGetDriverVersion())
        finally:
            nvml.nvmlShutdown()
    except nvml.NVMLError:
        return "unknown"


def _import_pynvml() -> Any:
    try:
        import pynvml
    except ImportError as error:
        raise NvmlError("pynvml is not installed (pip install nvidia-ml-py)") from error
    return pynvml


def _uuid(device: torch.device) -> str:
    try:
        return str(torch.cuda.get_device_properties(device).uuid)
    except AttributeError as error:
        raise NvmlError(f"torch {torch.__version__} does not tell a GPU's UUID; NVML needs it") from error


def _handles(nvml: Any, uuid: str) -> list[Any]:
    """Return the GPU's handle or, where it is partitioned (MIG), those on which the process may be.

    CUDA gives the UUID of the instance or of the whole GPU, depending on its version; the whole GPU's list of processes
    needs privileges then. A process is on one instance only, so looking at all of them finds the right one.
    """
    try:
        gpu = nvml.nvmlDeviceGetHandleByUUID(f"GPU-{uuid}")
    except nvml.NVMLError_NotFound:
        return [nvml.nvmlDeviceGetHandleByUUID(f"MIG-{uuid}")]
    try:
        partitioned = nvml.nvmlDeviceGetMigMode(gpu)[0] == nvml.NVML_DEVICE_MIG_ENABLE
    except nvml.NVMLError_NotSupported:
        partitioned = False
    if not partitioned:
        return [gpu]
    instances = []
    for index in range(nvml.nvmlDeviceGetMaxMigDeviceCount(gpu)):
        with contextlib.suppress(nvml.NVMLError_NotFound):  # not all places for an instance are taken
            instances.append(nvml.nvmlDeviceGetMigDeviceHandleByIndex(gpu, index))
    return instances
