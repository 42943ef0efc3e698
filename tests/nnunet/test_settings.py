from dataclasses import replace

import pytest

from nnunet_hypersegnas.cost import SetupError
from nnunet_hypersegnas.nnunet.schedule import Schedule
from nnunet_hypersegnas.nnunet.settings import SettingsError, SuperNetSettings
from nnunet_hypersegnas.space import SearchSpaceError


def _settings(**block):
    return SuperNetSettings.from_configuration({"hypersegnas": block})


def test_without_a_block_the_schedule_is_the_papers_after_a_warm_up():
    schedule = Schedule.from_settings(SuperNetSettings.from_configuration({}))
    assert (schedule.main, schedule.annealing, schedule.warmup) == (160_000, 20_000, 500)


def test_every_fault_of_the_block_is_named_at_once():
    with pytest.raises(SettingsError) as error:
        _settings(layers=0, channels=[8, "x"], epochs=1.5, optimizer=3, initial_lr=-1, seed=-1, warmup_epochs=True)
    for name in ("layers", "channels", "epochs", "optimizer", "initial_lr", "seed", "warmup_epochs"):
        assert f"{name} is" in str(error.value)


@pytest.mark.parametrize(
    ("block", "message"),
    [
        ({"layer": 3, "chanels": 1}, r"unknown keys \['chanels', 'layer'\]; known are \['recipe', 'layers'"),
        ({"optimizer": "Adam"}, "optimizer is 'Adam', allowed are 'AdamW', 'SGD'"),
        ({"scales": 3, "channels": [8, 16]}, "scales is 3, but channels names 2"),
        ({"epochs": 10, "annealing_epochs": 8, "warmup_epochs": 3}, r"\(8 \+ 3\) exceed epochs \(10\)"),
        ({"epochs": 9, "warmup_epochs": 8.5}, r"\(1 \+ 8.5\) exceed epochs \(9\)"),  # a ninth by default
        ({"initial_lr": float("nan")}, "initial_lr is nan"),
        ({"weight_decay": float("inf")}, "weight_decay is inf"),
        (
            {"man": "topology"},
            "man is 'topology', allowed are 'image and architecture', 'image', 'architecture', 'none'",
        ),
        ({"scalar_position": "node"}, "scalar_position is 'node', allowed are 'output', 'input'"),
        ({"scalar_position": True}, "scalar_position is True, needed is one of 'output', 'input'"),
        ({"sampler": "greedy"}, "sampler is 'greedy', allowed are 'uniform', 'strictly fair', 'important paths'"),
        ({"path_candidates": 0}, "path_candidates is 0, needed is a positive whole number"),
        ({"sandwich_every": -1}, "sandwich_every is -1, needed is a whole number, 0 or more"),
        ({"sandwich_every": 1.5}, "sandwich_every is 1.5"),
        ({"annealing": 1}, "annealing is 1, needed is one of 'linear', 'none', 'at once'"),
    ],
)
def test_wrong_blocks_are_refused(block, message):
    with pytest.raises(SettingsError, match=message):
        _settings(**block)


def test_a_block_that_is_no_object_is_refused():
    with pytest.raises(SettingsError, match="is a list; an object is needed"):
        SuperNetSettings.from_configuration({"hypersegnas": []})


def test_settings_survive_json():
    settings = _settings(channels=[8, 16], epochs=10, annealing_epochs=2.5, optimizer="SGD", man="image")
    assert SuperNetSettings(**settings.to_json()) == settings
    assert settings.base_lr == 0.01 and settings.man_base_lr == 0.001
    assert _settings(man_optimizer="SGD").man_base_lr == 0.001


@pytest.mark.parametrize("epochs", [1, 5, 50, 720])
@pytest.mark.parametrize("block", [{}, {"epochs": 40, "annealing_epochs": 8, "warmup_epochs": 4}])
def test_every_schedule_ends_at_lambda_one_with_a_learning_rate_left(epochs, block):
    settings = _settings(man="image and architecture", **block).shortened(epochs)
    schedule = Schedule.from_settings(settings)
    last = epochs * settings.iterations_per_epoch - 1
    assert schedule.annealing_lambda(last) == 1
    assert schedule.annealing_lambda(round(schedule.main + 0.4 * schedule.annealing)) < 1
    assert schedule.annealing_lambda(round(schedule.main + 0.5 * schedule.annealing)) == 1
    assert schedule.annealing_lambda(schedule.main - 1) == 0
    assert schedule.annealing_lambda(schedule.main) == pytest.approx(2 / schedule.annealing)
    share = 8 / 40 if block else 1 / 9
    assert schedule.annealing == pytest.approx(share * (last + 1), rel=0.01)
    assert schedule.lr_factor(last) > 0.04  # not zero just as MAN's influence ends
    assert schedule.lr_factor(schedule.main) > 10 * schedule.lr_factor(schedule.main - 1)  # it restarts
    assert schedule.warmup == (epochs * 25 if block else min(500, round(epochs * 250 / 14)))


@pytest.mark.parametrize(
    ("block", "during", "after"),
    [
        ({}, 1, 1),
        ({"man": "image and architecture", "annealing": "none"}, 0, 0),
        ({"man": "image", "annealing": "none"}, 0, 0),
        ({"man": "image and architecture", "annealing": "at once"}, 0, 1),
        ({"man": "image and architecture"}, None, 1),
    ],
)
def test_what_becomes_of_man_leaves_learning_rates_alone(block, during, after):
    sizes = {"epochs": 4, "iterations_per_epoch": 5, "annealing_epochs": 1, "warmup_epochs": 1}
    settings = _settings(**sizes, **block)
    schedule, usual = (
        Schedule.from_settings(one) for one in (settings, replace(settings, man="image", annealing="linear"))
    )
    assert settings.final_lambda == after and schedule.warmup == usual.warmup
    for i in range(20):
        assert schedule.lr_factor(i) == usual.lr_factor(i)
        expected = 1 if i < schedule.warmup else usual.annealing_lambda(i) if during is None else during
        assert schedule.annealing_lambda(i) == expected


def test_without_a_block_a_super_net_is_what_works():
    """docs/experiments.md says why."""
    settings = _settings()
    assert (settings.man, settings.optimizer, settings.base_lr) == ("none", "AdamW", 0.003)
    assert settings.final_lambda == 1 and not settings.has_man


def test_a_warm_up_that_is_not_asked_for_gives_way():
    assert _settings(epochs=3, annealing_epochs=3).warmup_phase == 0
    assert _settings(epochs=28).warmup_phase == _settings(epochs=56).warmup_phase == 2
    assert _settings(epochs=56, warmup_epochs=0).warmup_phase == 0


def test_annealing_is_linear():
    schedule = Schedule(iterations=20, annealing=10)
    assert [round(schedule.annealing_lambda(i), 3) for i in (9, 10, 14, 19, 25)] == [0, 0.1, 0.5, 1, 1]


def test_the_main_phase_follows_nnunets_polynomial_decay():
    schedule = Schedule(iterations=110, annealing=10)
    assert schedule.lr_factor(0) == 1
    assert schedule.lr_factor(50) == pytest.approx(0.5**0.9)


def test_the_space_comes_from_the_plans():
    kwargs = {"strides": [[1] * 3] + [[2] * 3] * 3, "kernel_sizes": [[3] * 3] * 4}
    configuration = {"architecture": {"arch_kwargs": kwargs}, "patch_size": [32, 32, 32]}
    space = _settings(layers=6, channels=[8, 16, 32, 64]).space(configuration)
    assert (space.layers, space.channels, space.n_scales) == (6, (8, 16, 32, 64), 4)
    with pytest.raises(SearchSpaceError, match="use plans that nnU-Net's own planners wrote"):
        _settings().space({"architecture": {"arch_kwargs": {}}})


def test_a_patch_that_the_scales_do_not_divide_is_refused_before_training():
    kwargs = {"strides": [[1] * 3] + [[2] * 3] * 3, "kernel_sizes": [[3] * 3] * 4, "features_per_stage": [4] * 4}
    configuration = {"architecture": {"arch_kwargs": kwargs}, "patch_size": [32, 36, 32]}
    with pytest.raises(SetupError, match=r"is not divisible by \[8, 8, 8\].*\[32, 40, 32\]"):
        _settings().space(configuration)
    assert _settings().space(configuration | {"patch_size": [32, 40, 32]}).n_scales == 4


def test_mans_learning_rate_goes_with_its_influence():
    schedule = Schedule(iterations=20, annealing=10, annealing_share=0.5)
    assert [round(schedule.annealing_lambda(i), 3) for i in (9, 10, 12, 14, 19)] == [0, 0.2, 0.6, 1, 1]
    assert schedule.man_lr_factor(3) == schedule.lr_factor(3)
    assert schedule.man_lr_factor(12) == pytest.approx(0.4 * schedule.lr_factor(12))
    assert schedule.man_lr_factor(14) == 0 < schedule.lr_factor(14)
