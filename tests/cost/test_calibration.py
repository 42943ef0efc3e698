import dataclasses
import json

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from nnunet_hypersegnas.cost import Calibration, Conditions, CostError, CostModel, Fit, Quantity
from nnunet_hypersegnas.errors import HyperSegNASError
from nnunet_hypersegnas.space import SearchSpace, rng_for, sample_codes
from tests.cost.truth import setup_for
from tests.mutations import FEW, MANY, json_mutated

HERE = Conditions(device="GPU", driver="570.1", torch="2.13.0", plans="abc")
MODEL = CostModel(SearchSpace.paper(), setup_for((96, 96, 96), autocast=True))
RNG = rng_for(0, "calibration")
MEASURED = MODEL.predict(sample_codes(MODEL.space, 24, RNG, RNG.random(24), RNG.random(24)))
OTHERS = MODEL.predict(sample_codes(MODEL.space, 200, RNG))


def device(costs, noise):
    """What a device with an offset, a scale and noise says."""
    noise = 1 + noise * RNG.standard_normal((2, len(costs.parameters)))
    memory = (520e6 + 1.07 * costs.memory_bytes) * noise[0]
    latency_ms = (2 + costs.multiply_adds / 8e9 + costs.activation_bytes / 400e6) * noise[1]
    return memory, latency_ms


def calibration(noise=0.0):
    memory, latency_ms = device(MEASURED, noise)
    return Calibration.fitted(HERE, MEASURED, {"nvml": memory, "allocated": MEASURED.memory_bytes}, latency_ms)


def test_offset_and_scale_are_found_and_hold_for_other_networks():
    found = calibration()
    assert found.memory["nvml"].coefficients == pytest.approx((520e6, 1.07))
    assert found.memory["nvml"].worst_error < 1e-9 and found.networks == 24
    memory, latency_ms = device(OTHERS, 0)
    applied = found.apply(OTHERS, "nvml")
    assert applied.of(Quantity.MEMORY) == pytest.approx(memory)
    assert applied.of(Quantity.LATENCY) == pytest.approx(latency_ms)
    assert (applied.of(Quantity.PARAMETERS) == OTHERS.parameters).all()


def test_errors_of_the_fit_are_those_of_the_measurements():
    found = calibration(noise=0.02)
    assert 0.002 < found.memory["nvml"].median_error < 0.02 < found.memory["nvml"].worst_error < 0.1
    memory, latency_ms = device(OTHERS, 0)
    assert np.abs(found.apply(OTHERS, "nvml").memory_bytes / memory - 1).max() < 0.05
    assert np.median(np.abs(found.apply(OTHERS, None).latency_ms / latency_ms - 1)) < 0.05


def test_latency_never_falls_with_work():
    """Two terms that go along with each other: plain least squares would give one of them a negative weight."""
    work = np.linspace(1, 2, 24)
    noise = np.where(np.arange(24) % 2, 0.97, 1.03)
    fit = Fit.to(work * noise, work, work**1.01, non_negative=True)
    assert min(fit.coefficients) >= 0 and fit.median_error < 0.05


def test_without_a_metric_memory_stays_as_predicted():
    assert (calibration().apply(OTHERS, None).memory_bytes == OTHERS.memory_bytes).all()


def test_latency_needs_a_calibration():
    with pytest.raises(CostError, match="hsnas_calibrate"):
        OTHERS.of(Quantity.LATENCY)


def test_too_few_networks_are_no_calibration():
    few = MODEL.predict(sample_codes(MODEL.space, 3, RNG))
    with pytest.raises(CostError, match="3 networks could be measured; a calibration needs 6"):
        Calibration.fitted(HERE, few, {}, [1.0, 2.0, 3.0])


def test_it_survives_a_file():
    found = calibration()
    assert Calibration.from_json(json.loads(json.dumps(found.to_json()))) == found


def test_other_conditions_are_named():
    assert HERE.differences(HERE) == []
    now = dataclasses.replace(HERE, driver="580.2", plans="xyz")
    assert HERE.differences(now) == ["driver 570.1 then, 580.2 now", "plans abc then, xyz now"]


def test_the_digest_names_space_and_setup():
    same = CostModel(SearchSpace.paper(), setup_for((96, 96, 96), autocast=True))
    assert same.digest == MODEL.digest
    assert CostModel(SearchSpace.paper(), setup_for((96, 96, 96))).digest != MODEL.digest


CONTENT = json.loads(json.dumps(calibration().to_json()))


def check_read_or_refused(content):
    try:
        found = Calibration.from_json(content)
    except HyperSegNASError as error:
        assert len(str(error)) < 1500
    else:
        for metric in (*found.memory, None):
            assert np.isfinite(found.apply(OTHERS, metric).memory_bytes).all()


@given(data=st.data())
@FEW
def test_any_change_is_read_or_refused(data):
    check_read_or_refused(data.draw(json_mutated(CONTENT)))


@pytest.mark.slow
@pytest.mark.timeout(3600)
@given(data=st.data())
@MANY
def test_many_changes_are_read_or_refused(data):
    check_read_or_refused(data.draw(json_mutated(CONTENT)))
