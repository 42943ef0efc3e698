import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

from nnunet_hypersegnas.cost.measuring import MeasuredMemory, MeasuringError
from nnunet_hypersegnas.nnunet.cost_meter import CostMeter, MeasuringProcess
from nnunet_hypersegnas.nnunet.cost_models import cost_model, search_space
from nnunet_hypersegnas.nnunet.dataset import PreprocessedDataset
from nnunet_hypersegnas.space import largest, skip_path

PLANS = "HyperSegNASDemoSupernet"
CPU = torch.device("cpu")


@pytest.fixture
def dataset(demo_environment):
    return PreprocessedDataset.find("999", PLANS, "3d_fullres")


class Gauge:
    """Stands for a GPU's memory: counts the bytes of gradients, which only a real training step makes."""

    def __init__(self, trainer=None):
        self.trainer = trainer

    def clear(self):
        pass

    def reset_peak(self):
        pass

    def peak(self):
        gradients = sum(p.grad.nbytes for p in self.trainer.network.parameters() if p.grad is not None)
        momentum = sum(s["momentum_buffer"].nbytes for s in self.trainer.optimizer.state.values())
        return MeasuredMemory(allocated_bytes=gradients, reserved_bytes=gradients + momentum)


def test_training_memory_is_that_of_nnunets_own_steps(dataset):
    space = search_space(dataset)
    meter = CostMeter(dataset, space, CPU, Gauge())
    meter.gauge.trainer = meter.trainer
    for architecture in (largest(space), skip_path(space, 1, 0)):
        parameters = cost_model(dataset, "cpu").predict_one(architecture).parameters[0]
        measured = meter.measure(architecture)
        # All but those of the last head, which nnU-Net's loss gives no weight.
        assert 0.8 * 4 * parameters < measured.memory.allocated_bytes <= 4 * parameters
        assert measured.memory.reserved_bytes == 2 * measured.memory.allocated_bytes
        assert measured.latency_ms > 0
    assert not torch.backends.cudnn.benchmark  # as it was before


def test_on_a_cpu_there_is_only_latency(dataset):
    space = search_space(dataset)
    meter = CostMeter(dataset, space, CPU)
    measured = meter.measure(largest(space))
    assert measured.memory is None and measured.latency_ms > 0
    with pytest.raises(MeasuringError, match="measured on a GPU, not on cpu"):
        meter.training_memory(largest(space))


def test_a_measuring_process_that_is_killed_is_an_error_that_says_so(dataset):
    space = search_space(dataset)
    with MeasuringProcess(dataset, space, CPU) as process:
        assert process.measure(skip_path(space, 0, 0)).latency_ms > 0
        (pid,) = process._pool._processes
        os.kill(pid, signal.SIGKILL)
        time.sleep(0.5)
        with pytest.raises(MeasuringError, match=r"died.*run the command again"):
            process.measure(largest(space))


def test_a_measuring_process_ends_with_the_one_that_started_it(dataset, tmp_path):
    """Also where that one is killed: on a GPU it would hold its memory for ever."""
    script = tmp_path / "script.py"
    script.write_text(
        "import os, signal, torch\n"
        "from nnunet_hypersegnas.nnunet.cost_meter import MeasuringProcess\n"
        "from nnunet_hypersegnas.nnunet.cost_models import search_space\n"
        "from nnunet_hypersegnas.nnunet.dataset import PreprocessedDataset\n"
        "from nnunet_hypersegnas.space import skip_path\n"
        "if __name__ == '__main__':\n"
        f"    dataset = PreprocessedDataset.find('999', '{PLANS}', '3d_fullres')\n"
        "    process = MeasuringProcess(dataset, search_space(dataset), torch.device('cpu'))\n"
        "    process.measure(skip_path(search_space(dataset), 0, 0))\n"
        "    print(*process._pool._processes, flush=True)\n"
        "    os.kill(os.getpid(), signal.SIGKILL)\n"
    )
    killed = subprocess.run([sys.executable, script], capture_output=True, text=True, timeout=120)
    assert killed.returncode == -signal.SIGKILL, killed.stderr
    for _ in range(100):
        if not Path(f"/proc/{int(killed.stdout)}").exists():
            break
        time.sleep(0.1)
    else:
        pytest.fail("the measuring process lives on")


@pytest.mark.gpu
def test_memory_on_a_gpu_is_what_was_predicted(dataset):
    device, space = torch.device("cuda", 0), search_space(dataset)
    meter, model = CostMeter(dataset, space, device), cost_model(dataset, "cuda")
    for architecture in (largest(space), skip_path(space, 0, 0), largest(space)):
        memory = meter.measure(architecture).memory
        predicted = model.predict_one(architecture).memory_bytes[0]
        assert predicted < memory.allocated_bytes <= memory.reserved_bytes
        assert memory.nvml_bytes is None or memory.reserved_bytes < memory.nvml_bytes


@pytest.mark.gpu
def test_what_does_not_fit_a_gpu_is_recorded_and_the_next_one_measured(dataset):
    device, space = torch.device("cuda", 0), search_space(dataset)
    meter = CostMeter(dataset, space, device)
    # Less than 4 MB, two of the allocator's blocks, on any card.
    torch.cuda.set_per_process_memory_fraction(1e-5, device)
    try:
        measured = meter.measure(largest(space))
    finally:
        torch.cuda.set_per_process_memory_fraction(1.0, device)
    assert not measured.memory.fits and measured.latency_ms is None
    assert meter.measure(largest(space)).memory.fits
