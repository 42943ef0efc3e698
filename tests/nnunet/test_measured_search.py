"""A search that measures, on a made-up device where networks need twice what is predicted and 100 KB more."""

import contextlib
import json

import pytest

from nnunet_hypersegnas.cli.search import main
from nnunet_hypersegnas.cost import Calibration, Conditions, Quantity
from nnunet_hypersegnas.cost.measuring import MeasuredMemory, MemoryMetric
from nnunet_hypersegnas.nnunet import checked_budgets, device_measuring
from nnunet_hypersegnas.nnunet.calibrating import networks_to_measure
from nnunet_hypersegnas.nnunet.cost_models import cost_model
from nnunet_hypersegnas.nnunet.crews import LocalCrew
from nnunet_hypersegnas.nnunet.dataset import PreprocessedDataset
from nnunet_hypersegnas.nnunet.device_measuring import Measuring
from nnunet_hypersegnas.nnunet.memory_counting import MemoryCounting
from nnunet_hypersegnas.nnunet.metering import LoggedMeter, MeasuredCosts
from nnunet_hypersegnas.search import MeasurementLog, possible_range
from nnunet_hypersegnas.space import named_architecture, names_of_architectures

PLANS = "HyperSegNASDemoSupernet"


class Device:
    def __init__(self, model):
        self.model, self.in_one_process, self.in_own_process = model, [], []
        self.free_bytes = 0

    def memory_bytes(self, architecture):
        """One network in four needs a tenth more than the others."""
        usual = 2 * int(self.model.predict_one(architecture).memory_bytes[0]) + 100_000
        return usual * 11 // 10 if int(architecture.id, 16) % 4 == 0 else usual

    def costs(self, architecture):
        size = self.memory_bytes(architecture)
        memory = MeasuredMemory(allocated_bytes=size // 4, reserved_bytes=size // 2, nvml_bytes=size)
        return MeasuredCosts(memory=memory, latency_ms=5)

    def measure(self, architecture):
        self.in_one_process.append(architecture)
        return self.costs(architecture)

    def measure_afresh(self, architecture):
        self.in_own_process.append(architecture)
        return self.costs(architecture)


@pytest.fixture
def device(demo_environment, monkeypatch, tmp_path):
    dataset = PreprocessedDataset.find("999", PLANS, "3d_fullres")
    model = cost_model(dataset, "cpu")
    made_up = Device(model)

    @contextlib.contextmanager
    def measuring_on(device, dataset, model, *, metric, latency, folder, progress):
        conditions = Conditions(device="made up", driver="1", torch="2", plans=model.digest)
        predicted = model.predict_all(networks_to_measure(model, 12, 0))
        calibration = Calibration.fitted(
            conditions, predicted, {"nvml": 2 * predicted.memory_bytes + 100_000}, [5.0] * 12
        )
        log = MeasurementLog(tmp_path / "measurements.jsonl", "costs", MeasuredCosts.from_json)
        yield Measuring(
            note="measured on a made-up device",
            metric=MemoryMetric.NVML,
            calibration=calibration,
            candidates=LoggedMeter(log, "one process", MemoryMetric.NVML, made_up.measure),
            finalists=LoggedMeter(log, "own process", MemoryMetric.NVML, made_up.measure_afresh),
            free_bytes=lambda: made_up.free_bytes,
        )

    monkeypatch.setattr(device_measuring, "measuring_on", measuring_on)
    counting = MemoryCounting(offset_bytes=100_000, factor=2, origin="made up")
    monkeypatch.setattr(checked_budgets, "memory_counting", lambda *_: counting)
    return made_up


def test_budgets_hold_for_what_is_measured(device, demo_environment, capsys):
    space = device.model.space
    possible = possible_range(space, device.model.predict, Quantity.MEMORY)
    budget_mb = round((2 * (0.6 * possible.low + 0.4 * possible.high) + 100_000) / 1e6, 1)
    budget_bytes, tolerance_bytes = budget_mb * 1e6, 3e6
    command = ["999", "3d_fullres", "0", "-p", PLANS, "--device", "cpu", "--memory", f"{budget_mb}MB"]
    command += ["--tolerance", "3MB", "--candidates", "8", "--finalists", "2", "--finetune-iterations", "1"]
    command += ["--validation-cases", "1", "--seed", "5", "--run", "measured", "--refinements", "0"]
    assert main(command) == 0
    printed = capsys.readouterr().out
    assert "measured on a made-up device" in printed and "8 candidates" in printed

    label = f"{budget_mb}MB".replace(".", "p")
    record = json.loads((demo_environment.supernet_fold / "search" / "measured" / f"no_plans_{label}.json").read_text())
    assert record["memory_metric"] == "nvml" and record["calibrated_on"]["device"] == "made up"
    assert len(record["candidates"]) == 8
    for candidate in record["candidates"]:
        assert budget_bytes - tolerance_bytes <= candidate["measured_memory_bytes"] <= budget_bytes
        assert candidate["fits_device"] and candidate["measured_latency_ms"] == 5
    # Nothing was measured that is no candidate or was not one until it was measured, and only finalists twice.
    assert len(device.in_one_process) == len(set(device.in_one_process)) >= 8
    fitting = [name for name, named in record["named"].items() if named["place"]]
    assert {named_architecture(name, space) for name in fitting} <= set(device.in_own_process)
    assert 2 <= len(device.in_own_process) == len(set(device.in_own_process)) <= 2 + len(fitting)

    before = [*device.in_one_process], [*device.in_own_process]
    assert main(command) == 0  # again: all is in the logs
    assert (device.in_one_process, device.in_own_process) == before


def test_without_a_limit_to_measure_only_finalists_are_measured(device, capsys):
    command = ["999", "3d_fullres", "0", "-p", PLANS, "--device", "cpu", "--max-params", "1G", "--candidates", "5"]
    command += ["--finalists", "1", "--finetune-iterations", "1", "--validation-cases", "1"]
    command += ["--run", "counted", "--refinements", "0"]
    assert main(command) == 0
    named = {named_architecture(name, device.model.space) for name in names_of_architectures()}
    assert not device.in_one_process and named <= set(device.in_own_process)  # they are finalists in any case
    assert len(device.in_own_process) == len(set(device.in_own_process)) <= 1 + len(named)
    assert "measured memory" in capsys.readouterr().out


def test_a_budget_that_only_holds_as_predicted_is_refused(device, capsys):
    possible = possible_range(device.model.space, device.model.predict, Quantity.MEMORY)
    budget = f"{possible.low / 1e6:.0f}MB"  # of the predictions; the device needs twice as much
    command = ["999", "3d_fullres", "0", "-p", PLANS, "--device", "cpu", "--memory", budget, "--candidates", "2"]
    command += ["--run", "refused"]
    assert main(command) == 1
    assert "in this search space it is" in capsys.readouterr().err


@pytest.mark.parametrize(("budgets_free", "ended"), [(1.9, True), (2.1, False)])
def test_workers_end_for_measuring_where_there_is_no_room_for_both(device, monkeypatch, budgets_free, ended):
    possible = possible_range(device.model.space, device.model.predict, Quantity.MEMORY)
    budget_mb = round((2 * possible.high + 100_000) / 1e6)
    device.free_bytes = budgets_free * budget_mb * 1e6 + 2e9
    made_room = []
    make_room = LocalCrew.make_room
    monkeypatch.setattr(LocalCrew, "make_room", lambda crew: made_room.append(make_room(crew)) or made_room[-1])
    command = ["999", "3d_fullres", "0", "-p", PLANS, "--device", "cpu", "--memory", f"{budget_mb}MB"]
    command += ["--tolerance", f"{budget_mb}MB", "--candidates", "6", "--finalists", "1", "--finetune-iterations", "1"]
    command += ["--validation-cases", "1", "--workers", "1", "--run", f"room_{ended}", "--refinements", "0"]
    assert main(command) == 0
    assert any(made_room) == ended
    assert len(device.in_one_process) >= 6 and 1 <= len(device.in_own_process) <= 1 + len(names_of_architectures())
