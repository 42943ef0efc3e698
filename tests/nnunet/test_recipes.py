"""The paper's recipe: what it sets, what stands above it, and the plans it needs."""

import json

import pytest
from nnunetv2.utilities.get_network_from_plans import get_network_from_plans
from nnunetv2.utilities.plans_handling.plans_handler import PlansManager

from nnunet_hypersegnas.nnunet.recipes import RecipeError, departures_of_plans, paper_plans
from nnunet_hypersegnas.nnunet.schedule import Schedule
from nnunet_hypersegnas.nnunet.settings import SettingsError, SuperNetSettings
from tests.nnunet.test_network_costs import plans


def _settings(**block):
    return SuperNetSettings.from_configuration({"hypersegnas": block})


def test_the_papers_recipe_is_the_papers():
    settings = _settings(recipe="paper")
    schedule = Schedule.from_settings(settings)
    assert (schedule.main, schedule.annealing, schedule.warmup) == (160_000, 20_000, 0)
    assert (settings.man, settings.annealing) == ("image and architecture", "linear")
    assert (settings.optimizer, settings.base_lr) == ("SGD", 0.01)
    assert settings.fixed_scalar == 0.5 and settings.augmentation == "rotation and flip"
    assert not settings.deep_supervision and settings.oversample_foreground == 0 and settings.architecture_per_rank
    assert SuperNetSettings(**settings.to_json()) == settings


def test_what_the_block_says_stands_above_the_recipe():
    settings = _settings(recipe="paper", deep_supervision=True, epochs=9, relative_scalars=True)
    assert settings.deep_supervision and settings.epochs == 9 and settings.fixed_scalar == 1
    assert settings.augmentation == "rotation and flip"
    assert settings.shortened(3).augmentation == "rotation and flip"


def test_without_a_recipe_all_is_nnunets():
    settings = _settings()
    assert (settings.recipe, settings.augmentation) == ("nnunet", "nnunet") and settings == _settings(recipe="nnunet")
    assert settings.deep_supervision and settings.oversample_foreground is None and settings.fixed_scalar == 1


@pytest.mark.parametrize(
    ("block", "message"),
    [
        ({"recipe": "dints"}, "recipe is 'dints', allowed are 'nnunet', 'paper'"),
        ({"recipe": ["paper"]}, "recipe is \\['paper'\\], needed is one of 'nnunet', 'paper'"),
        ({"augmentation": "none"}, "augmentation is 'none', allowed are 'nnunet', 'rotation and flip'"),
        ({"oversample_foreground": 1.5}, "oversample_foreground is 1.5, needed is a number from 0 to 1"),
        ({"oversample_foreground": True}, "oversample_foreground is True"),
        ({"deep_supervision": 1}, "deep_supervision is 1, needed is true or false"),
        ({"relative_scalars": "no"}, "relative_scalars is 'no', needed is true or false"),
        ({"recipe": "paper", "scalar_position": "input"}, "relative_scalars is false, but scalar_position is 'input'"),
    ],
)
def test_wrong_blocks_are_refused(block, message):
    with pytest.raises(SettingsError, match=message):
        _settings(**block)


def test_plans_of_the_recipe_are_the_papers():
    original = plans()
    configuration = original["configurations"]["3d_fullres"]
    configuration |= {"median_image_size_in_voxels": [90.4, 80, 100], "normalization_schemes": ["CTNormalization"]}
    configuration["hypersegnas"] = {"seed": 4, "deep_supervision": True}
    before = json.dumps(original)
    described = PlansManager(original).get_configuration("3d_fullres")
    assert departures_of_plans(configuration)
    found = paper_plans(original, "3d_fullres", "Paper")
    assert json.dumps(original) == before and json.loads(json.dumps(found)) == found
    manager = PlansManager(found).get_configuration("3d_fullres")
    assert list(found["configurations"]) == ["3d_fullres"] and found["plans_name"] == "Paper"
    assert (manager.spacing, manager.patch_size, manager.batch_size) == ([1.0] * 3, [96] * 3, 8)
    assert manager.data_identifier == "Paper_3d_fullres" and not departures_of_plans(manager.configuration)
    assert manager.normalization_schemes == described.normalization_schemes
    mm = [n * s for n, s in zip(described.median_image_size_in_voxels, described.spacing, strict=True)]
    assert manager.median_image_size_in_voxels == [round(n) for n in mm]
    settings = SuperNetSettings.from_configuration(manager.configuration)
    assert settings.recipe == "paper" and settings.seed == 4 and not settings.deep_supervision
    space = settings.space(manager.configuration)
    assert space.channels == (32, 64, 128, 256) and space.layers == 12
    assert [s[0] for s in space.cumulative_strides] == [2, 4, 8, 16]
    get_network_from_plans(
        manager.network_arch_class_name,
        manager.network_arch_init_kwargs,
        manager.network_arch_init_kwargs_req_import,
        1,
        3,
        deep_supervision=True,
    )


@pytest.mark.parametrize(("name", "kind"), [("2d", "2D"), ("3d_cascade_fullres", "a cascade's second stage")])
def test_other_configurations_than_the_papers_are_refused(name, kind):
    original = plans()
    whole = original["configurations"]["3d_fullres"]
    original["configurations"] |= {
        "2d": {**whole, "spacing": [1.0, 1.0]},
        "3d_cascade_fullres": {"inherits_from": "3d_fullres", "previous_stage": "3d_lowres"},
    }
    with pytest.raises(RecipeError, match=f"{name} is {kind}; use 3d_fullres"):
        paper_plans(original, name, "Paper")
