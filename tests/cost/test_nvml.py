"""NVML's number for this process: the right device in every arrangement, and a reason where there is none."""

from __future__ import annotations

import os
import sys
from types import SimpleNamespace

import pynvml
import pytest
import torch

from nnunet_hypersegnas.cost.nvml import NvmlError, driver_version, process_bytes

UUID = "8932f937-d72c-4106-c12f-20bd9faed9f6"
DEVICE = torch.device("cuda", 0)
MB = 10**6


class FakeNvml:
    """As much of pynvml as is used: devices by handle, each with the processes (pid, bytes) that run there."""

    NVMLError = pynvml.NVMLError
    NVMLError_NotFound = pynvml.NVMLError_NotFound
    NVMLError_NotSupported = pynvml.NVMLError_NotSupported
    NVML_DEVICE_MIG_ENABLE = pynvml.NVML_DEVICE_MIG_ENABLE

    def __init__(self, processes, *, init_error=None, instances=None, knows_mig=True):
        self.processes, self.init_error = processes, init_error
        self.instances, self.knows_mig = instances, knows_mig
        self.open = 0

    def nvmlInit(self):  # noqa: N802
        if self.init_error:
            raise self.init_error()
        self.open += 1

    def nvmlShutdown(self):  # noqa: N802
        self.open -= 1

    def nvmlSystemGetDriverVersion(self):  # noqa: N802
        return "570.1"

    def nvmlDeviceGetHandleByUUID(self, uuid):  # noqa: N802
        if uuid not in self.processes:
            raise pynvml.NVMLError_NotFound()
        return uuid

    def nvmlDeviceGetMigMode(self, handle):  # noqa: N802
        if not self.knows_mig:
            raise pynvml.NVMLError_NotSupported()
        return [int(self.instances is not None)] * 2

    def nvmlDeviceGetMaxMigDeviceCount(self, handle):  # noqa: N802
        return len(self.instances)

    def nvmlDeviceGetMigDeviceHandleByIndex(self, handle, index):  # noqa: N802
        if self.instances[index] is None:
            raise pynvml.NVMLError_NotFound()
        return self.instances[index]

    def nvmlDeviceGetComputeRunningProcesses_v3(self, handle):  # noqa: N802
        if self.processes[handle] is None:
            raise pynvml.NVMLError_NoPermission()
        return [SimpleNamespace(pid=pid, usedGpuMemory=used) for pid, used in self.processes[handle]]


@pytest.fixture(autouse=True)
def device(monkeypatch):
    """What torch says of the device: its UUID, and 100 MB reserved."""
    properties = SimpleNamespace(uuid=UUID)
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda device: properties)
    monkeypatch.setattr(torch.cuda, "memory_reserved", lambda device: 100 * MB)
    return properties


@pytest.mark.parametrize("knows_mig", [True, False], ids=["data centre", "no MIG at all"])
def test_the_device_is_found_by_uuid_and_the_process_by_pid(knows_mig):
    nvml = FakeNvml(
        {"GPU-other": [(os.getpid(), 900 * MB)], f"GPU-{UUID}": [(1, 500 * MB), (os.getpid(), 700 * MB)]},
        knows_mig=knows_mig,
    )
    assert process_bytes(DEVICE, nvml=nvml) == 700 * MB
    assert nvml.open == 0


def test_torchs_uuid_is_that_of_a_mig_instance():
    nvml = FakeNvml({f"MIG-{UUID}": [(os.getpid(), 300 * MB)], "GPU-whole": None})
    assert process_bytes(DEVICE, nvml=nvml) == 300 * MB


def test_torchs_uuid_is_that_of_the_gpu_that_is_partitioned():
    """The whole GPU's list needs privileges; of its instances one holds the process, and one place is empty."""
    nvml = FakeNvml(
        {f"GPU-{UUID}": None, "first": [(1, 200 * MB)], "third": [(os.getpid(), 400 * MB)]},
        instances=["first", None, "third"],
    )
    assert process_bytes(DEVICE, nvml=nvml) == 400 * MB


def test_pynvml_is_not_installed(monkeypatch):
    monkeypatch.setitem(sys.modules, "pynvml", None)
    with pytest.raises(NvmlError, match="pip install nvidia-ml-py"):
        process_bytes(DEVICE)


@pytest.mark.parametrize(
    ("error", "text"),
    [
        (pynvml.NVMLError_LibraryNotFound, "NVML Shared Library Not Found"),
        (pynvml.NVMLError_DriverNotLoaded, "Driver Not Loaded"),
    ],
)
def test_there_is_no_driver(error, text):
    with pytest.raises(NvmlError, match=text):
        process_bytes(DEVICE, nvml=FakeNvml({}, init_error=error))


def test_the_real_module_without_a_driver():
    try:
        pynvml.nvmlInit()
    except pynvml.NVMLError:
        with pytest.raises(NvmlError, match=f"cannot be asked for GPU {UUID}"):
            process_bytes(DEVICE)
    else:
        pynvml.nvmlShutdown()
        pytest.skip("there is a driver")


def test_nvml_does_not_know_the_device():
    nvml = FakeNvml({"GPU-other": []})
    with pytest.raises(NvmlError, match=f"GPU {UUID}: Not Found"):
        process_bytes(DEVICE, nvml=nvml)
    assert nvml.open == 0


def test_the_process_is_not_listed():
    with pytest.raises(NvmlError, match=rf"does not list process {os.getpid()} .*--pid=host"):
        process_bytes(DEVICE, nvml=FakeNvml({f"GPU-{UUID}": [(1, 500 * MB)]}))


def test_memory_of_processes_is_not_told():
    with pytest.raises(NvmlError, match="does not tell the memory of single processes"):
        process_bytes(DEVICE, nvml=FakeNvml({f"GPU-{UUID}": [(os.getpid(), None)]}))


def test_another_process_of_the_same_number_on_the_host():
    with pytest.raises(NvmlError, match=r"says 50\.0 MB .* PyTorch alone holds 100 MB"):
        process_bytes(DEVICE, nvml=FakeNvml({f"GPU-{UUID}": [(os.getpid(), 50 * MB)]}))


def test_a_torch_that_does_not_tell_uuids(device):
    del device.uuid
    with pytest.raises(NvmlError, match="does not tell a GPU's UUID"):
        process_bytes(DEVICE, nvml=FakeNvml({}))


def test_the_drivers_version():
    nvml = FakeNvml({})
    assert driver_version(nvml=nvml) == "570.1" and nvml.open == 0
    assert driver_version(nvml=FakeNvml({}, init_error=pynvml.NVMLError_DriverNotLoaded)) == "unknown"
