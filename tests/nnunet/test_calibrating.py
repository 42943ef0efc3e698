import json
import math
import shutil

import pytest
import torch

from nnunet_hypersegnas.cli.calibrate import main
from nnunet_hypersegnas.cli.search import main as search_main
from nnunet_hypersegnas.cost import Quantity
from nnunet_hypersegnas.cost.measuring import MeasuredMemory, MeasuringError, MemoryMetric
from nnunet_hypersegnas.nnunet.calibrating import (
    CalibrationError,
    calibrate,
    calibration_file,
    conditions_of,
    networks_to_measure,
    read_calibration,
)
from nnunet_hypersegnas.nnunet.cost_models import cost_model
from nnunet_hypersegnas.nnunet.dataset import PreprocessedDataset
from nnunet_hypersegnas.nnunet.metering import LoggedMeter, MeasuredCosts
from nnunet_hypersegnas.search import MeasurementLog

PLANS = "HyperSegNASDemoSupernet"
CPU = torch.device("cpu")
COMMAND = ["999", "3d_fullres", "-p", PLANS, "--device", "cpu", "--architectures", "6"]
SEARCH = ["999", "3d_fullres", "0", "-p", PLANS, "--device", "cpu", "--candidates", "3", "--finalists", "1"]
SEARCH += ["--finetune-iterations", "1", "--validation-cases", "1"]


@pytest.fixture
def dataset(demo_environment):
    found = PreprocessedDataset.find("999", PLANS, "3d_fullres")
    yield found
    shutil.rmtree(calibration_file(found, CPU).parent, ignore_errors=True)


class Bar:
    def __enter__(self):
        return self

    def __exit__(self, *exception):
        pass

    def advance(self, best_dsc=None):
        pass


class Device:
    """A GPU of limited size, whose NVML cannot be read."""

    def __init__(self, model, capacity_bytes):
        self.model, self.capacity_bytes, self.asked = model, capacity_bytes, []

    def measure(self, architecture):
        self.asked.append(architecture)
        memory_bytes = int(self.model.predict_one(architecture).memory_bytes[0])
        if memory_bytes > self.capacity_bytes:
            return MeasuredCosts(memory=MeasuredMemory(), latency_ms=None)
        memory = MeasuredMemory(allocated_bytes=memory_bytes, reserved_bytes=2 * memory_bytes + 1000)
        return MeasuredCosts(memory=memory, latency_ms=1 + memory_bytes / 1e6)


def fitted(dataset, path, device, networks):
    model = cost_model(dataset, "cuda")
    meter = LoggedMeter(MeasurementLog(path, "costs", MeasuredCosts.from_json), "x", None, device.measure)
    return calibrate(model, networks, meter, conditions_of(model, CPU), lambda stage, total: Bar())


def test_what_was_measured_before_a_kill_is_not_measured_again(dataset, tmp_path):
    model = cost_model(dataset, "cuda")
    networks = networks_to_measure(model, 12, 0)
    first, second, third = (Device(model, 1e12) for _ in range(3))
    whole = fitted(dataset, tmp_path / "whole.jsonl", first, networks)
    fitted(dataset, tmp_path / "broken.jsonl", second, networks[:7])
    assert fitted(dataset, tmp_path / "broken.jsonl", third, networks) == whole
    assert first.asked == networks == second.asked + third.asked
    assert whole.memory["reserved"].coefficients == pytest.approx((1000, 2), rel=1e-3)
    assert set(whole.memory) == {"reserved", "allocated"}  # what could not be read is not there


def test_a_metric_that_cannot_be_read_is_not_taken_for_a_network_that_does_not_fit():
    fits = MeasuredCosts(memory=MeasuredMemory(allocated_bytes=5, reserved_bytes=6), latency_ms=7)
    assert fits.by_quantity(MemoryMetric.RESERVED) == {Quantity.MEMORY: 6, Quantity.LATENCY: 7}
    with pytest.raises(MeasuringError, match="memory by nvml could not be read"):
        fits.by_quantity(MemoryMetric.NVML)
    too_large = MeasuredCosts(memory=MeasuredMemory(), latency_ms=None)
    assert too_large.by_quantity(MemoryMetric.NVML) == {Quantity.MEMORY: math.inf, Quantity.LATENCY: math.inf}
    assert MeasuredCosts.from_json(json.loads(json.dumps(too_large.to_json()))) == too_large


def test_networks_that_do_not_fit_are_left_out(dataset, tmp_path):
    model = cost_model(dataset, "cuda")
    networks = networks_to_measure(model, 16, 0)
    sizes = sorted(model.predict_all(networks).memory_bytes)
    calibration = fitted(dataset, tmp_path / "log.jsonl", Device(model, sizes[9]), networks)
    assert calibration.networks == 10


def test_measured_networks_span_all_memory_that_the_space_has(dataset):
    model = cost_model(dataset, "cuda")
    memory = model.predict_all(networks_to_measure(model, 16, 0)).memory_bytes
    drawn = model.predict_all(networks_to_measure(model, 200, 1)).memory_bytes
    assert memory.min() < 1.3 * drawn.min() and memory.max() > 0.9 * drawn.max()


def test_the_command_on_this_machine_and_a_search_that_uses_it(dataset, capsys):
    assert main(COMMAND) == 0
    printed = capsys.readouterr().out
    path = calibration_file(dataset, CPU)
    assert "ms/G multiply-adds" in printed and "6 networks measured" in printed and str(path) in printed
    assert list(path.parent.iterdir()) == [path]  # its log is gone

    assert main(COMMAND) == 1
    assert "there is a calibration already" in capsys.readouterr().err

    assert search_main([*SEARCH, "--run", "calibrated", "--max-latency", "10s"]) == 0
    printed = capsys.readouterr().out
    assert f"calibrated by {path}" in printed
    assert "predicted latency" in printed and "measured latency" in printed

    calibration = json.loads(path.read_text())
    calibration["conditions"]["torch"] = "1.0"
    path.write_text(json.dumps(calibration))
    assert search_main([*SEARCH, "--max-latency", "10s"]) == 1
    error = capsys.readouterr().err
    assert "is stale: torch 1.0 then" in error and "hsnas_calibrate --overwrite" in error
    assert search_main([*SEARCH, "--run", "uncalibrated", "--max-params", "1G"]) == 0  # which needs no calibration
    assert "predicted latency" not in capsys.readouterr().out


def test_a_file_that_is_no_calibration(dataset):
    model = cost_model(dataset, "cpu")
    path = calibration_file(dataset, CPU)
    path.parent.mkdir()
    path.write_text('{"conditions": {}}')
    with pytest.raises(CalibrationError, match=r"is no calibration.*hsnas_calibrate --overwrite"):
        read_calibration(path, conditions_of(model, CPU), None)


def test_a_metric_that_was_not_measured(dataset, tmp_path):
    model = cost_model(dataset, "cuda")
    calibration = fitted(dataset, tmp_path / "log.jsonl", Device(model, 1e12), networks_to_measure(model, 8, 0))
    path = tmp_path / "calibration.json"
    path.write_text(json.dumps(calibration.to_json()))
    now = conditions_of(model, CPU)
    assert read_calibration(path, now, MemoryMetric.RESERVED) == calibration
    with pytest.raises(CalibrationError, match="has memory by reserved, allocated, not by nvml"):
        read_calibration(path, now, MemoryMetric.NVML)


def test_too_few_networks_are_refused_at_once(dataset, capsys):
    assert main([*COMMAND[:-1], "3"]) == 1
    assert "--architectures 3 is too few, at least 6 are needed" in capsys.readouterr().err
