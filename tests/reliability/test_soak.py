"""Long runs hold no more memory, files or processes at their end than in their middle."""

import pytest

from nnunet_hypersegnas.nnunet.discovery import external_trainer_folder
from tests.nnunet.test_workers import BASE, Runs
from tests.reliability.kills import program
from tests.reliability.usage import watched

pytestmark = [pytest.mark.slow, pytest.mark.timeout(7200)]

BLOCK = {"layers": 2, "channels": [4, 6], "epochs": 20, "iterations_per_epoch": 100, "man": "image and architecture"}
MIDDLE, END = (0.4, 0.6), (0.8, 0.98)
MOST_GROWTH_BYTES = 16e6  # over 800 iterations or evaluations, so 20 kB for each


def check_flat(watch, record_property, name):
    """Compare the end of a run with its middle, where every part of it has been used."""
    for what, allowed in (("bytes", MOST_GROWTH_BYTES), ("files", 3), ("processes", 0)):
        middle, end = (watch.most(*part, lambda usage, what=what: getattr(usage, what)) for part in (MIDDLE, END))
        record_property(f"{name}_{what}", f"{middle} in the middle, {end} at the end")
        print(f"{name}: {what} {middle:,} in the middle, {end:,} at the end")
        assert end <= middle + allowed, what


def test_two_thousand_iterations_of_a_super_net(short_training, tmp_path, monkeypatch, record_property):
    monkeypatch.setenv("nnUNet_extTrainer", str(external_trainer_folder()))
    monkeypatch.setenv("nnUNet_results", str(tmp_path))
    monkeypatch.setenv("HSNAS_NO_VALIDATION", "1")
    watch, code = watched(short_training("Soak", BLOCK), 3600)
    assert code == 0
    check_flat(watch, record_property, "super-net")


def test_two_thousand_evaluations_of_a_search(demo_environment, record_property):
    """Candidates are drawn, not bred, and scored in one rung, so that the whole run is of one kind."""
    sizes = ["--max-params", "1G", "--candidates", "2000", "--finalists", "1", "--finetune-iterations", "1"]
    more = ["--strategy", "random", "--no-halving", "--validation-cases", "1", "--workers", "1", "--run", "soak"]
    watch, code = watched([program("hsnas_search"), *BASE, *sizes, *more], 3600)
    assert code == 0
    assert Runs(demo_environment.supernet_fold).evaluations("soak") >= 2000
    check_flat(watch, record_property, "search")
