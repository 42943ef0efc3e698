import sys
from types import SimpleNamespace

import pytest
import torch

from nnunet_hypersegnas.cost.nvml import NvmlError, ProcessMemory, driver_version


class NVMLError(Exception):
    pass


class Nvml:
    """The part of pynvml that is used, with a GPU of two processes."""

    NVMLError = NVMLError

    def __init__(self, processes=((7, 100), (8, 300)), known=("GPU-abc",), driver=True):
        self.processes, self.known, self.driver = processes, known, driver

    def nvmlInit(self):  # noqa: N802
        if not self.driver:
            raise NVMLError("Driver Not Loaded")

    def nvmlDeviceGetHandleByUUID(self, uuid):  # noqa: N802
        if uuid not in self.known:
            raise NVMLError("Not Found")
        return uuid

    def nvmlDeviceGetComputeRunningProcesses(self, handle):  # noqa: N802
        assert handle in self.known
        if self.processes is None:
            raise NVMLError("Not Supported")
        return [SimpleNamespace(pid=pid, usedGpuMemory=used) for pid, used in self.processes]

    def nvmlSystemGetDriverVersion(self):  # noqa: N802
        return "570.1"


@pytest.fixture(autouse=True)
def a_gpu(monkeypatch):
    """torch sees two GPUs; the second one is called abc."""
    names = {0: "other", 1: "abc"}
    monkeypatch.setattr(
        torch.cuda, "get_device_properties", lambda device: SimpleNamespace(uuid=names[torch.device(device).index])
    )


def used(nvml, pid=8):
    return ProcessMemory(torch.device("cuda", 1), pid=pid, nvml=nvml).used_bytes()


def test_the_process_memory_on_torchs_own_device():
    assert used(Nvml()) == 300
    assert used(Nvml(known=("GPU-abc", "GPU-other"))) == 300


def test_a_mig_slice():
    assert used(Nvml(known=("MIG-abc",))) == 300


def test_several_entries_of_one_process_add_up():
    assert used(Nvml(processes=((8, 300), (7, 100), (8, 20)))) == 320


@pytest.mark.parametrize(
    ("nvml", "reason"),
    [
        (Nvml(driver=False), r"NVML does not start \(Driver Not Loaded\)"),
        (Nvml(known=()), r"NVML does not know torch's device \(GPU-abc: Not Found; MIG-abc: Not Found\)"),
        (Nvml(processes=((1, 5),)), r"lists 1 processes on the GPU, but not this one \(8\).*--pid=host"),
        (Nvml(processes=((8, None),)), "no memory by process"),
        (Nvml(processes=None), r"lists no processes \(Not Supported\)"),
    ],
)
def test_what_cannot_be_read_is_said(nvml, reason):
    with pytest.raises(NvmlError, match=reason):
        used(nvml)


def test_a_missing_library_is_said(monkeypatch):
    monkeypatch.setitem(sys.modules, "pynvml", None)
    with pytest.raises(NvmlError, match="pip install nvidia-ml-py"):
        used(None)


def test_a_torch_that_names_no_uuid(monkeypatch):
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda device: SimpleNamespace())
    with pytest.raises(NvmlError, match="update torch"):
        used(Nvml())


def test_the_drivers_version():
    assert driver_version(Nvml()) == "570.1"
    assert driver_version(Nvml(driver=False)) == "unknown"
