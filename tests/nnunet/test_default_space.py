"""The search space that follows from plans of typical data sets, and where nnU-Net's own network lies in it."""

from dataclasses import replace

import pytest

from benchmarks.typical_plans import TYPICAL
from nnunet_hypersegnas.cost import CostModel, Quantity, TrainingSetup
from nnunet_hypersegnas.nnunet.settings import SuperNetSettings, space_in_block
from nnunet_hypersegnas.nnunet.space_costs import SpaceCosts
from nnunet_hypersegnas.nnunet.stages import Stages
from nnunet_hypersegnas.search import COMFORTABLE
from nnunet_hypersegnas.space import SearchSpace, SearchSpaceError, to_codes, u_net

PLANS = {plans.name: plans for plans in TYPICAL}
FAST = {"Pancreas-like", "Hippocampus", "2d, 256 x 224"}
PLAIN = (32, 64, 128, 256, 320, 320, 320)
RESIDUAL = (48, 96, 192, 320, 320, 320, 320)


def configuration_of(plans, **block):
    found = dict(plans.dataset().configuration.configuration)
    return found | {"hypersegnas": block}


def space_of(plans, **block):
    configuration = configuration_of(plans, **block)
    return SuperNetSettings.from_configuration(configuration).space(configuration)


@pytest.mark.parametrize(
    ("name", "channels"),
    [
        ("128 cubed, one channel", PLAIN[:6]),
        ("Pancreas-like", PLAIN[:6]),
        ("Prostate-like, thick slices", PLAIN),
        ("Hippocampus", PLAIN[:4]),
        ("tiny images, three stages", PLAIN[:3]),
        ("2d, 512 x 512", (32, 64, 128, 256, 512, 512, 512)),  # of eight stages: 12 layers go six times down and up
        ("128 cubed, ResEnc M", RESIDUAL[:6]),
        ("Hippocampus, ResEnc M", RESIDUAL[:4]),
        ("Pancreas-like, ResEnc L", RESIDUAL),
        ("2d, 512 x 512, ResEnc M", (48, 96, 192, 384, 512, 512, 512)),
    ],
)
def test_scales_are_the_stages_and_channels_their_features(name, channels):
    configuration, space = configuration_of(PLANS[name]), space_of(PLANS[name])
    stages = configuration["architecture"]["arch_kwargs"]
    assert space.channels == channels and space.layers == 12 and space.finest_is_full_resolution
    assert [list(stride) for stride in space.strides] == stages["strides"][: len(channels)]
    assert [list(kernel) for kernel in space.kernel_sizes] == stages["kernel_sizes"][: len(channels)]


def test_thick_slices_keep_their_strides_and_kernels():
    space = space_of(PLANS["Pancreas-like"])
    assert space.strides[1] == (1, 2, 2) and space.kernel_sizes[0] == (1, 3, 3) and space.kernel_sizes[-1] == (3, 3, 3)
    assert space.cumulative_strides[-1] == (8, 32, 32)


@pytest.mark.parametrize("name", [pytest.param(n, marks=[] if n in FAST else [pytest.mark.slow]) for n in PLANS])
def test_nnunets_own_network_lies_among_the_networks_drawn(name):
    """So the budgets own and, mostly, 50% hold for typical plans without any setting."""
    found = SpaceCosts.of(PLANS[name].dataset(), space_of(PLANS[name]), "cuda")
    assert found.own_quantile in COMFORTABLE
    assert found.own.memory_bytes in found.ranges[Quantity.MEMORY]


@pytest.mark.parametrize(
    ("block", "strides", "channels"),
    [
        ({"channels": [32, 64, 128, 256]}, [(1, 2, 2), (2, 2, 2), (2, 2, 2), (2, 2, 2)], (32, 64, 128, 256)),
        ({"scales": 4}, [(1, 2, 2), (2, 2, 2), (2, 2, 2), (2, 2, 2)], PLAIN[:4]),
        ({"scales": 4, "full_resolution": True}, [(1, 1, 1), (1, 2, 2), (2, 2, 2), (2, 2, 2)], PLAIN[:4]),
        ({"full_resolution": False}, [(1, 2, 2), (2, 2, 2), (2, 2, 2), (2, 2, 2), (1, 2, 2)], PLAIN[:5]),
        ({"layers": 4}, [(1, 1, 1), (1, 2, 2), (2, 2, 2)], PLAIN[:3]),
    ],
    ids=lambda value: str(value) if isinstance(value, dict) else "",
)
def test_what_a_block_names_keeps_its_meaning(block, strides, channels):
    """Fewer scales than stages start at half resolution, as in all earlier versions."""
    space = space_of(PLANS["Pancreas-like"], **block)
    assert space.strides == tuple(strides) and space.channels == channels


def test_the_papers_recipe_has_the_papers_space_on_any_plans():
    space = space_of(PLANS["128 cubed, one channel"], recipe="paper")
    assert space == SearchSpace.paper()
    assert space.n_man_outputs == 27_648 and space.channels == (32, 64, 128, 256) and space.strides[0] == (2, 2, 2)
    residual = space_of(PLANS["128 cubed, ResEnc M"], recipe="paper")
    assert residual == SearchSpace.paper()
    assert space_of(PLANS["128 cubed, one channel"], recipe="paper", scales=3).channels == PLAIN[:3]


@pytest.mark.parametrize("name", ["Pancreas-like", "2d, 512 x 512", "Hippocampus, ResEnc M"])
@pytest.mark.parametrize(
    "block", [{}, {"scales": 3}, {"scales": 3, "full_resolution": True}, {"recipe": "paper"}], ids=str
)
def test_a_space_written_into_a_block_is_that_space(name, block):
    if "recipe" in block and name.startswith("Hippocampus"):
        pytest.skip("four stages: the paper's scales are all of them")
    space = space_of(PLANS[name], **block)
    assert space_of(PLANS[name], **space_in_block(space)) == space
    assert not SuperNetSettings.from_configuration({"hypersegnas": space_in_block(space)}).leaves_open(space)


@pytest.mark.parametrize(
    ("block", "is_open"),
    [
        ({}, True),
        ({"epochs": 5, "memory": ["own"]}, True),
        ({"layers": 12, "scales": 4}, True),
        ({"layers": 6}, False),
        ({"scales": 3}, False),
        ({"full_resolution": True}, False),
        ({"channels": [32, 64, 128, 256]}, False),
        ({"recipe": "paper"}, False),
    ],
    ids=str,
)
def test_whether_a_block_leaves_the_papers_space_open(block, is_open):
    assert SuperNetSettings.from_configuration({"hypersegnas": block}).leaves_open(SearchSpace.paper()) is is_open


def changed(name, **kwargs):
    configuration = configuration_of(PLANS[name])
    configuration["architecture"]["arch_kwargs"] |= kwargs
    return configuration


def test_more_features_than_nnunets_planners_give_are_kept_for_a_residual_encoder():
    features = [64, 128, 256, 512, 512, 512]
    stages = Stages.of(changed("128 cubed, ResEnc M", features_per_stage=features))
    assert stages.features == (96, 192, 384, 512, 512, 512)
    assert Stages.of(changed("128 cubed, one channel", features_per_stage=features)).features == tuple(features)


def test_plans_without_features_need_channels():
    configuration = changed("Hippocampus")
    del configuration["architecture"]["arch_kwargs"]["features_per_stage"]
    with pytest.raises(SearchSpaceError, match=r"names no features_per_stage.*name them with --channels"):
        SuperNetSettings().space(configuration)
    assert SuperNetSettings(channels=(4, 6, 8, 10)).space(configuration).channels == (4, 6, 8, 10)


@pytest.mark.parametrize(
    "kwargs", [{"strides": None}, {"kernel_sizes": [["a"]]}, {"features_per_stage": [None]}], ids=str
)
def test_stages_that_are_no_numbers_are_refused(kwargs):
    with pytest.raises(SearchSpaceError, match="have to be lists of whole numbers"):
        Stages.of(changed("Hippocampus", **kwargs))


def test_the_spaces_u_net_computes_about_as_much_as_nnunets():
    """The same channels at the same scales; one convolution where nnU-Net has two."""
    plans = replace(PLANS["Hippocampus"], batch_size=2)
    found = SpaceCosts.of(plans.dataset(), space_of(plans), "cuda")
    setup = TrainingSetup(patch_size=plans.patch_size, batch_size=2, input_channels=1, num_classes=3, autocast=True)
    costs = CostModel(found.space, setup).predict(to_codes([u_net(found.space)]))
    assert 0.1 < costs.multiply_adds[0] / found.own.multiply_adds < 1
