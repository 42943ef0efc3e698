"""The most memory that a super-net's training may take, and steps for which there was none."""

import json
from dataclasses import replace

import pytest
import torch

from nnunet_hypersegnas.nnunet.dataset import PreprocessedDataset
from nnunet_hypersegnas.nnunet.memory_limit import MemoryLimit
from nnunet_hypersegnas.nnunet.settings import SuperNetSettings
from nnunet_hypersegnas.nnunet.super_net_memory import MemoryLimitError
from nnunet_hypersegnas.space import SearchSpace, largest, rng_for, sample_codes, smallest, to_codes
from tests.nnunet.test_network_costs import DATASET_JSON, plans

CPU = torch.device("cpu")
DATASET = PreprocessedDataset(
    name="Dataset123_Test", plans=plans(), configuration_name="3d_fullres", dataset_json=DATASET_JSON
)
SETTINGS = SuperNetSettings.from_configuration(DATASET.configuration.configuration)
SPACE: SearchSpace = SETTINGS.space(DATASET.configuration.configuration)


def limit(text, **more):
    return MemoryLimit.at_start(DATASET, SPACE, replace(SETTINGS, memory_limit=text, **more), CPU)


def middle():
    """A limit that half of the draws meet."""
    return f"{round(limit('9GB').memory.drawn_quantiles(0.5)[0] / 1e3)}KB"


def test_on_a_cpu_there_is_no_limit_unless_one_is_named():
    found = MemoryLimit.at_start(DATASET, SPACE, SETTINGS, CPU)
    assert found.fits is None and found.to_json() is None and "not limited: every sub-net may be drawn" in found.line()


def test_a_named_limit_says_which_sub_nets_may_be_drawn():
    found = limit(middle())
    codes = sample_codes(SPACE, 500, rng_for(0, "test"))
    assert 0.4 < found.fits(codes).mean() < 0.6
    assert not found.fits(to_codes([largest(SPACE)]))[0] and found.fits(to_codes([smallest(SPACE)]))[0]
    assert "(memory_limit of the settings): 50.0% of the sub-nets drawn fit" in found.line()
    assert "the warm-up trains the densest sub-nets that fit" in found.line()
    assert "the warm-up trains all edges" in limit("9GB").line()


@pytest.mark.parametrize("text", [None, "9GB"])
def test_a_limit_survives_json(text):
    found = limit(text)
    again = MemoryLimit.from_json(json.loads(json.dumps(found.to_json())), SPACE)
    assert again.to_json() == found.to_json() and again.line() == found.line()
    if text:
        codes = sample_codes(SPACE, 50, rng_for(0, "test"))
        assert (again.memory.counted_bytes(codes) == found.memory.counted_bytes(codes)).all()
        assert (again.limit_bytes, again.origin, again.memory.setup) == (9e9, found.origin, found.memory.setup)


def test_a_limit_that_hardly_any_sub_net_meets_is_refused():
    with pytest.raises(MemoryLimitError, match=r"only 0% of the sub-nets.*raise memory_limit in the hypersegnas"):
        limit("1KB")


def test_sandwich_steps_need_room_for_the_largest_network():
    assert limit(middle()).fits is not None
    with pytest.raises(MemoryLimitError, match="sandwich_every trains the largest network, which does not fit"):
        limit(middle(), sandwich_every=2)
    limit("9GB", sandwich_every=2)


def test_the_optimizer_counts():
    adam, sgd = (limit("9GB", optimizer=name).memory for name in ("AdamW", "SGD"))
    assert adam.fixed_bytes == pytest.approx(1.5 * sgd.fixed_bytes)
