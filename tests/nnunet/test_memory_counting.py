"""How a device counts memory: by its calibration, or by an estimate."""

import numpy as np
import pytest

from nnunet_hypersegnas.cost import CostModel, Fit
from nnunet_hypersegnas.cost.measuring import MemoryMetric
from nnunet_hypersegnas.nnunet.dataset import PreprocessedDataset
from nnunet_hypersegnas.nnunet.memory_counting import MemoryCounting, memory_counting
from nnunet_hypersegnas.space import largest, smallest, to_codes
from tests.cost.truth import setup_for
from tests.nnunet.test_network_costs import DATASET_JSON, plans
from tests.spaces import FULL_RESOLUTION

MODEL = CostModel(FULL_RESOLUTION, setup_for((16, 24, 16)))
CODES = to_codes([smallest(FULL_RESOLUTION), largest(FULL_RESOLUTION)])


def dataset():
    return PreprocessedDataset(
        name="Dataset123_Test", plans=plans(), configuration_name="3d_fullres", dataset_json=DATASET_JSON
    )


def test_without_a_device_that_adds_anything_memory_is_that_of_tensors():
    counting = memory_counting(dataset(), MODEL, "cpu")
    assert counting == MemoryCounting() and counting.origin == "" and not counting.is_estimate
    assert counting.expected(MODEL.predict) == MODEL.predict
    assert counting.count(5.0) == counting.tensors(5.0) == 5


@pytest.mark.parametrize("metric", MemoryMetric)
def test_a_gpu_that_is_not_calibrated_is_estimated(metric, monkeypatch):
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    counting = memory_counting(dataset(), MODEL, "cuda", metric)
    assert counting == MemoryCounting.estimated(metric) and counting.is_estimate
    assert "as measured on an NVIDIA H200: an estimate here" in counting.origin
    assert counting.count(1e9) >= 1e9  # tensors are part of what is counted
    assert counting.tensors(counting.count(1e9)) == pytest.approx(1e9)
    assert memory_counting(dataset(), MODEL, "cuda") == MemoryCounting.estimated(MemoryMetric.NVML)


def test_predictions_are_counted_and_nothing_else_changes():
    counting = MemoryCounting(offset_bytes=1e6, factor=1.5)
    plain, counted = MODEL.predict(CODES), counting.expected(MODEL.predict)(CODES)
    assert np.array_equal(counted.memory_bytes, 1e6 + 1.5 * plain.memory_bytes)
    assert np.array_equal(counted.parameters, plain.parameters)
    assert np.array_equal(counted.multiply_adds, plain.multiply_adds)


def test_a_calibration_is_taken_as_it_is():
    predicted, measured = np.array([1e9, 2e9, 3e9]), np.array([1.6e9, 2.7e9, 3.8e9])
    counting = MemoryCounting.of_fit(Fit.to(measured, predicted), "calibrated by a file")
    assert counting.count(predicted) == pytest.approx(measured)
    assert counting.origin == "calibrated by a file" and not counting.is_estimate
