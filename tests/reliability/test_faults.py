"""A full disk, a folder that is read-only, and a clock that jumps."""

import os
import re
import shutil
import subprocess
from pathlib import Path

import pytest
import torch

from nnunet_hypersegnas.nnunet.discovery import external_trainer_folder
from tests.nnunet.test_workers import BASE, SIZES, Runs
from tests.reliability.kills import attempt, program, run

pytestmark = [pytest.mark.slow, pytest.mark.timeout(7200)]

BLOCK = {"layers": 2, "channels": [8, 12], "epochs": 3, "iterations_per_epoch": 3, "save_every": 1}
# Time as the process sees it: it jumps forwards by two hours after a while, and then back by a day.
CLOCK = """
import time

started, really = time.monotonic(), time.time
JUMPS = ((4, 7200), (8, -86400 - 7200))
time.time = lambda: really() + sum(seconds for after, seconds in JUMPS if time.monotonic() - started > after)
"""


def search(name, *more):
    return [program("hsnas_search"), *BASE, *SIZES, "--run", name, "--workers", "1", *more]


@pytest.fixture(autouse=True)
def trainers(demo_environment, monkeypatch):
    monkeypatch.setenv("nnUNet_extTrainer", str(external_trainer_folder()))


@pytest.fixture
def undisturbed(demo_environment):
    runs = Runs(demo_environment.supernet_fold)
    if not runs.path("faults_undisturbed").exists():
        run(search("faults_undisturbed"))
    return runs.result("faults_undisturbed")


class SmallDisk:
    """A disk of its own, on which little can be written."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        folder.mkdir()
        result = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=16k", "tmpfs", folder], capture_output=True)
        if result.returncode:
            pytest.skip("only root may mount a small disk here")

    def leave_free(self, kilobytes: int) -> None:
        used = (os.statvfs(self.folder).f_blocks - os.statvfs(self.folder).f_bfree) * 4
        subprocess.run(["mount", "-o", f"remount,size={used + kilobytes}k", self.folder], check=True)


@pytest.fixture
def small_disk(tmp_path):
    disk = SmallDisk(tmp_path / "disk")
    yield disk
    subprocess.run(["umount", disk.folder], check=True)


@pytest.mark.parametrize("kilobytes", [16, 64, 256])
def test_a_search_goes_on_once_there_is_room(demo_environment, undisturbed, small_disk, monkeypatch, kilobytes):
    name = demo_environment.supernet_fold.parent.parent.name
    model = demo_environment.supernet_fold.parent.name
    small_disk.leave_free(100_000)
    fold = small_disk.folder / name / model / "fold_0"
    ignored = shutil.ignore_patterns("search", "validation", "*.png")
    shutil.copytree(demo_environment.supernet_fold.parent, fold.parent, ignore=ignored)
    monkeypatch.setenv("nnUNet_results", str(small_disk.folder))
    small_disk.leave_free(kilobytes)
    full = attempt(search("full"))
    assert full.returncode == 1 and re.search("[Nn]o space left|disk is full|disk I/O error", full.stderr), full.stderr
    assert "Traceback" not in full.stderr and len(full.stderr.splitlines()) < 6, full.stderr
    small_disk.leave_free(100_000)
    run(search("full"))
    assert Runs(fold).result("full") == undisturbed


@pytest.mark.parametrize("kilobytes", [100, 300, 600])
def test_a_training_goes_on_once_there_is_room(short_training, small_disk, tmp_path, kilobytes):
    command = [*short_training("Full", BLOCK), "--c"]

    def weights(results):
        (checkpoint,) = results.glob("*/*/fold_0/checkpoint_final.pth")
        return torch.load(checkpoint, weights_only=False)["network_weights"]

    silent = {"HSNAS_NO_VALIDATION": "1"}
    run(command, nnUNet_results=str(tmp_path / "undisturbed"), **silent)
    small_disk.leave_free(kilobytes)
    assert attempt(command, nnUNet_results=str(small_disk.folder), **silent).returncode
    small_disk.leave_free(100_000)
    run(command, nnUNet_results=str(small_disk.folder), **silent)
    expected = weights(tmp_path / "undisturbed")
    assert all(torch.equal(value, expected[name]) for name, value in weights(small_disk.folder).items())


@pytest.fixture
def read_only(demo_environment, tmp_path):
    """The demo's preprocessed data, mounted so that nobody can write there."""
    folder = tmp_path / "shared"
    shutil.copytree(demo_environment.preprocessed.parent, folder)
    for options in (["--bind", folder, folder], ["-o", "remount,ro,bind", folder]):
        if subprocess.run(["mount", *options], capture_output=True).returncode:
            pytest.skip("only root may mount a folder here")
    yield folder
    subprocess.run(["umount", folder], check=True)


def test_a_data_set_that_is_read_only(read_only, tmp_path):
    """Shared data sets are; whoever searches has results of their own."""
    variables = {"nnUNet_preprocessed": str(read_only)}
    refused = attempt(search("shared", "--plans", "Shared"), **variables)
    assert refused.returncode == 1 and "--plans-folder" in refused.stderr and len(refused.stderr.splitlines()) < 4
    run(search("shared", "--plans", "Shared", "--plans-folder", tmp_path / "plans"), **variables)
    assert list((tmp_path / "plans").glob("Shared_*.json"))


def test_a_clock_that_jumps(demo_environment, undisturbed, tmp_path):
    (tmp_path / "sitecustomize.py").write_text(CLOCK)
    run(search("clock"), PYTHONPATH=str(tmp_path))
    assert Runs(demo_environment.supernet_fold).result("clock") == undisturbed
