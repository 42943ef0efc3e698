"""The table of predicted and measured memory, from measurements that are made up."""

import re

import numpy as np
import pytest

from benchmarks.measured_cost import main, notes, unfitted_row
from nnunet_hypersegnas.cost import Calibration, Conditions, PredictedCosts
from nnunet_hypersegnas.cost.measuring import MeasuredMemory

PREDICTED = np.array([100e6, 200e6, 300e6, 400e6, 500e6, 600e6, 700e6])
CONDITIONS = Conditions(device="a GPU", driver="1", torch="2", plans="3")


def measured(scale, nvml_offset=None):
    """Return memory of tensors by a scale for each network; the last network does not fit."""
    found = []
    for predicted, factor in zip(PREDICTED[:-1], scale, strict=True):
        allocated = int(predicted * factor)
        reserved = int(1.1 * allocated)
        nvml = None if nvml_offset is None else reserved + nvml_offset
        found.append(MeasuredMemory(allocated_bytes=allocated, reserved_bytes=reserved, nvml_bytes=nvml))
    return [*found, MeasuredMemory()]


def calibration_of(memory):
    fitting = [m for m in memory if m.fits]
    known = PREDICTED[: len(fitting)]
    predicted = PredictedCosts(
        memory_bytes=known, parameters=known, multiply_adds=known, activation_bytes=known, weight_bytes=known
    )
    amounts = {"reserved": [m.reserved_bytes for m in fitting]}
    if fitting[0].nvml_bytes is not None:
        amounts["nvml"] = [m.nvml_bytes for m in fitting]
    return Calibration.fitted(CONDITIONS, predicted, amounts, [1.0] * len(fitting))


def test_errors_are_of_the_prediction_as_it_is():
    row = unfitted_row(PREDICTED, measured([1.0, 1.0, 1.0, 0.98, 1.02, 1.25]))
    assert row["worst error"] == "20.00%"  # 500 MB predicted, 625 MB measured
    assert row["median error"] == "0.98%"  # half of 0 and 1/1.02 - 1
    assert row["measured"] == "predicted x 0.9800 to 1.2500"


def test_nvmls_offset_is_fitted_and_stated():
    memory = measured([1.0] * 6, nvml_offset=500_000_000)
    first, second = notes(calibration_of(memory), memory, lambda: pytest.fail("NVML could be read"))
    assert "NVML's offset is 500 MB (scale 1.100)" in first
    assert "Beyond what torch reserves, NVML sees 500 MB (median; 500 MB to 500 MB)" in first
    assert second == "1 of 7 networks did not fit the device, and are left out."


def test_without_nvml_the_reason_is_stated():
    memory = measured([1.0] * 6)
    assert notes(calibration_of(memory), memory, lambda: "it lists no process")[0] == (
        "NVML's memory could not be read: it lists no process."
    )


def test_a_cpu_measures_nothing_and_says_so(demo_environment, tmp_path, capsys):
    words = ["999", "3d_fullres", "-p", "HyperSegNASDemoSupernet", "--device", "cpu", "--architectures", "3"]
    assert main([*words, "--log", str(tmp_path / "log.jsonl")]) == 0
    printed = capsys.readouterr().out
    assert re.search(r"Predicted: [\d.]+ MB to [\d.]+ MB. Measured: nothing, since this needs CUDA", printed)
    assert "3 architectures (Dataset999_Synthetic, plans HyperSegNASDemoSupernet, patch 32x32x32, batch 2" in printed
    assert not (tmp_path / "log.jsonl").exists()
