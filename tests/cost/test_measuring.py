import gc
import re
import weakref

import pytest
import torch
from torch import nn

from nnunet_hypersegnas.cost.measuring import (
    STEPS,
    WARMUP_STEPS,
    CudaGauge,
    MeasuredMemory,
    MeasuringError,
    MemoryMetric,
    choose_metric,
    is_out_of_memory,
    measure_latency_ms,
    measure_training_memory,
)

CPU, CUDA = torch.device("cpu"), torch.device("cuda")


class Gauge:
    """Counts steps in place of bytes; what is alive when it clears is what a device could not give back."""

    def __init__(self):
        self.steps, self.since_reset, self.networks, self.alive_at_clear = 0, 0, [], []

    def clear(self):
        gc.collect()
        self.alive_at_clear.append(sum(reference() is not None for reference in self.networks))

    def reset_peak(self):
        self.since_reset = 0

    def peak(self):
        return MeasuredMemory(allocated_bytes=self.since_reset, reserved_bytes=self.steps, nvml_bytes=None)

    def make_step(self, fails_at=None):
        network = nn.Linear(2, 2)
        self.networks.append(weakref.ref(network))
        if fails_at == 0:
            raise torch.cuda.OutOfMemoryError("CUDA out of memory")
        own = 0

        def step():
            nonlocal own
            own += 1
            self.steps += 1
            self.since_reset += 1
            if own == fails_at:
                raise torch.cuda.OutOfMemoryError("CUDA out of memory")
            network(torch.ones(1, 2))

        return step


def test_the_peak_is_that_of_the_steps_after_the_warm_up():
    gauge = Gauge()
    measured = measure_training_memory(gauge.make_step, gauge)
    assert measured.allocated_bytes == STEPS and measured.reserved_bytes == WARMUP_STEPS + STEPS
    assert measured.fits and measured.bytes(MemoryMetric.ALLOCATED) == STEPS


@pytest.mark.parametrize("fails_at", [0, 1, WARMUP_STEPS + 1])
def test_running_out_of_memory_is_a_result_and_gives_everything_back(fails_at):
    gauge = Gauge()
    measured = measure_training_memory(lambda: gauge.make_step(fails_at), gauge)
    assert not measured.fits and measured.bytes(MemoryMetric.NVML) is None
    assert measure_training_memory(gauge.make_step, gauge).fits  # the next network is measured as if nothing was
    assert gauge.alive_at_clear == [0, 0, 0, 0]


def test_other_errors_are_not_taken_for_it():
    with pytest.raises(RuntimeError, match="shapes"):
        measure_training_memory(lambda: (_ for _ in ()).throw(RuntimeError("shapes do not match")), Gauge())
    assert is_out_of_memory(RuntimeError("cuDNN error: CUDNN_STATUS_ALLOC_FAILED"))
    assert not is_out_of_memory(RuntimeError("an illegal memory access was encountered"))


def test_a_measurement_survives_a_file():
    for measured in (MeasuredMemory(), MeasuredMemory(allocated_bytes=1, reserved_bytes=2, nvml_bytes=3)):
        assert MeasuredMemory.from_json(measured.to_json()) == measured


class _Gauge:
    def __init__(self, why_no_nvml):
        self.why_no_nvml = why_no_nvml


@pytest.mark.parametrize(
    ("asked", "why_not", "metric", "note"),
    [
        (None, None, MemoryMetric.NVML, "as nvidia-smi shows it"),
        (None, "no driver", MemoryMetric.RESERVED, r"torch reserves \(no driver; so not NVML's\)"),
        (MemoryMetric.ALLOCATED, "no driver", MemoryMetric.ALLOCATED, "torch allocates to tensors.$"),
        (MemoryMetric.NVML, None, MemoryMetric.NVML, "nvidia-smi"),
    ],
)
def test_the_metric_on_a_gpu(asked, why_not, metric, note):
    found, text = choose_metric(asked, CUDA, gauge=lambda device: _Gauge(why_not))
    assert found is metric and re.search(note, text)


def test_a_metric_that_cannot_be_read_is_refused_where_it_was_asked_for():
    with pytest.raises(MeasuringError, match="cannot be read: no driver; use --memory-metric reserved"):
        choose_metric(MemoryMetric.NVML, CUDA, gauge=lambda device: _Gauge("no driver"))
    with pytest.raises(MeasuringError, match="is measured on a GPU, the device is cpu"):
        choose_metric(MemoryMetric.ALLOCATED, CPU)


def test_on_a_cpu_memory_is_predicted_and_said_so():
    assert choose_metric(None, CPU) == (
        None,
        "Memory is predicted for training on cpu; there is no GPU to measure on.",
    )


def test_latency_is_the_median_of_passes_after_the_warm_up(monkeypatch):
    clock = iter(range(10_000))
    durations = iter([1000, 1000, 1000, *range(1, 16)])
    times = [0.0]

    def now(device):
        if next(clock) % 2:
            times[0] += next(durations) / 1e3
        return times[0]

    monkeypatch.setattr("nnunet_hypersegnas.cost.measuring._now", now)
    network = nn.Conv3d(1, 2, 3).eval()
    assert measure_latency_ms(network, (1, 1, 4, 4, 4), CPU) == pytest.approx(8)


def test_more_work_takes_longer():
    small, large = nn.Conv3d(1, 8, 3).eval(), nn.Conv3d(1, 256, 3).eval()
    shape = (1, 1, 32, 32, 32)
    assert 0 < measure_latency_ms(small, shape, CPU) < measure_latency_ms(large, shape, CPU)


@pytest.mark.gpu
def test_what_torch_and_nvml_say_of_one_convolution():
    device = torch.device("cuda", 0)
    gauge = CudaGauge(device)

    def make_step():
        network, image = nn.Conv3d(1, 32, 3, padding=1).to(device), torch.rand(2, 1, 96, 96, 96, device=device)
        return lambda: network(image).sum().backward()

    first, second = (measure_training_memory(make_step, gauge) for _ in range(2))
    output_bytes = 4 * 2 * 32 * 96**3
    assert output_bytes < first.allocated_bytes <= first.reserved_bytes
    assert first.nvml_bytes is None or first.reserved_bytes < first.nvml_bytes
    assert second.allocated_bytes == first.allocated_bytes
