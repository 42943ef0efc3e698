"""Commands that are killed at every rename and at random moments end as if nothing had happened, once started again."""

import json
import shutil
from itertools import count
from pathlib import Path

import pytest
import torch

from nnunet_hypersegnas.nnunet.discovery import external_trainer_folder
from tests.nnunet.test_workers import BASE, SIZES, Runs
from tests.reliability.kills import (
    KillAtRename,
    each_kill,
    is_killed,
    kill_after,
    kill_at_random,
    kills,
    program,
    run,
)

pytestmark = [pytest.mark.slow, pytest.mark.timeout(7200)]

BLOCK = {"layers": 2, "channels": [4, 6], "epochs": 3, "annealing_epochs": 1.5, "warmup_epochs": 0.5}
BLOCK |= {"iterations_per_epoch": 3, "save_every": 1, "man": "image and architecture"}


@pytest.fixture(autouse=True)
def trainers(demo_environment, monkeypatch):
    monkeypatch.setenv("nnUNet_extTrainer", str(external_trainer_folder()))


@pytest.fixture
def report(record_property, request):
    """Say how many kills there were."""

    def count(kills):
        record_property("kills", kills)
        print(f"{request.node.name}: {kills} kills")

    return count


# -- super-net training ----------------------------------------------------------------------------------------------


def trained(results):
    """The weights and the record of a training that has ended, and whether it left anything behind."""
    (fold,) = results.glob("*/*/fold_0")
    assert not list(fold.glob("*.tmp"))
    checkpoint = torch.load(fold / "checkpoint_final.pth", weights_only=False)
    return checkpoint["network_weights"], checkpoint["hypersegnas"]


def test_super_net_training(short_training, tmp_path, report):
    training = short_training("Killed", BLOCK)
    silent = {"HSNAS_NO_VALIDATION": "1"}
    run(training, nnUNet_results=str(tmp_path / "undisturbed"), **silent)
    weights, record = trained(tmp_path / "undisturbed")

    def check(results):
        run([*training, "--c"], nnUNet_results=str(results), **silent)
        found, its_record = trained(results)
        assert its_record == record
        assert all(torch.equal(found[name], value) for name, value in weights.items())
        shutil.rmtree(results)

    def attempt(kill):
        results = tmp_path / str(kill)
        if not is_killed(training, kill, tmp_path, nnUNet_results=str(results), **silent):
            return False
        check(results)
        return True

    at_renames = each_kill(kills(), attempt)
    random = kill_at_random([*training, "--c"], 10, 0, nnUNet_results=str(tmp_path / "random"), **silent)
    check(tmp_path / "random")
    report(at_renames + random)
    assert at_renames >= 2 * 4 and random > 3  # a checkpoint of each epoch, and the last one


# -- the search ------------------------------------------------------------------------------------------------------

STORAGES = [pytest.param(None, id="sqlite"), pytest.param("postgres", id="postgres", marks=pytest.mark.postgres)]


@pytest.fixture
def storage(request):
    return ["--storage", request.getfixturevalue("postgres_url")] if request.param else []


def search(name, storage, *more):
    words = [*BASE, *SIZES, "--run", name, *storage, *more]
    return [program("hsnas_search"), *words]


@pytest.fixture(scope="module")
def undisturbed(finished_demo):
    variables = finished_demo.variables
    run(search("kills_undisturbed", [], "--workers", "1"), **variables)
    return Runs(finished_demo.supernet_fold).result("kills_undisturbed")


@pytest.mark.parametrize("storage", STORAGES, indirect=True)
@pytest.mark.parametrize(
    ("role", "whom"), [("hsnas_search", "group"), ("hsnas_search", "self"), ("--join", "self")], ids=str
)
def test_search(demo_environment, undisturbed, storage, tmp_path, report, role, whom):
    """All of it is killed, or the leader alone, or a worker alone."""
    runs, numbers = Runs(demo_environment.supernet_fold), count()

    def attempt(kill: KillAtRename):
        name = f"kills_{role.strip('-')}_{whom}_{len(storage)}_{next(numbers)}"
        command = search(name, storage, "--workers", "1")
        if not is_killed(command, kill, tmp_path):
            return False
        run(command)
        assert runs.result(name) == undisturbed, kill
        assert not list(runs.path(name).rglob("*.tmp"))
        shutil.rmtree(runs.path(name))
        return True

    done = each_kill(kills(role, whom), attempt)
    report(done)
    assert done >= 4


@pytest.mark.parametrize("storage", STORAGES, indirect=True)
def test_search_at_random_moments(demo_environment, undisturbed, storage, report):
    name = f"kills_random_{len(storage)}"
    command = search(name, storage, "--workers", "1")
    done = kill_at_random(command, 15, 1)
    run(command)
    report(done)
    runs = Runs(demo_environment.supernet_fold)
    assert done > 5 and runs.result(name) == undisturbed


# -- the other commands ----------------------------------------------------------------------------------------------


def test_calibration(demo_environment, tmp_path, report):
    """Times differ from one measuring to the next; what is measured does not."""
    command = [program("hsnas_calibrate"), "999", "3d_fullres", "-p", "HyperSegNASDemoSupernet"]
    command += ["--architectures", "8", "--device", "cpu"]
    folder = demo_environment.preprocessed / "hypersegnas_calibrations"

    def finished():
        (path,) = folder.iterdir()
        return json.loads(path.read_text())["networks"]

    def attempt(kill):
        shutil.rmtree(folder, ignore_errors=True)
        if not is_killed(command, kill, tmp_path):
            return False
        run([*command, "--overwrite"])
        assert finished() == 8
        return True

    at_renames = each_kill(kills(), attempt)
    shutil.rmtree(folder, ignore_errors=True)
    random = kill_at_random(command, 8, 2)
    run([*command, "--overwrite"])
    assert finished() == 8
    shutil.rmtree(folder)
    report(at_renames + random)
    assert at_renames >= 2 and random > 2


def test_cross_validation(demo_environment, tmp_path, monkeypatch, report):
    """nnU-Net trains; ours is to see what is whole, and to go on from there."""
    monkeypatch.setenv("nnUNet_results", str(tmp_path / "results"))
    short = str(Path(__file__).parents[1] / "matrix" / "short_trainer")
    monkeypatch.setenv("nnUNet_extTrainer", f"{external_trainer_folder()}:{short}")
    plans = demo_environment.summary["networks"][-1]["plans"]
    command = [program("hsnas_crossval"), "999", "3d_fullres", "-p", plans, "-tr", "nnUNetTrainer_Matrix", "-f", "0"]
    command += ["--device", "cpu"]
    done = kill_at_random(command, 10, 3)
    run(command)
    (summary,) = (tmp_path / "results").glob("*/*/fold_0/validation/summary.json")
    assert len(json.loads(summary.read_text())["metric_per_case"]) >= 1
    report(done)
    assert done > 3


def test_submission(data, predictions, tmp_path, report):
    command = [program("hsnas_msd_submission"), *predictions, "--data", data]
    run([*command, "-o", tmp_path / "undisturbed.zip"])
    expected = (tmp_path / "undisturbed.zip").read_bytes()

    def attempt(kill):
        target = tmp_path / f"{kill}.zip"
        if not is_killed([*command, "-o", target], kill, tmp_path):
            return False
        assert target.exists() == (kill.moment == "after")
        run([*command, "-o", target, "--overwrite"])
        assert target.read_bytes() == expected and not list(tmp_path.glob("*.tmp"))
        return True

    done = each_kill(kills(), attempt)
    report(done)
    assert done >= 2


def test_a_command_that_is_not_killed_says_so(tmp_path):
    assert not kill_after(["true"], 5)
    assert not is_killed(["true"], KillAtRename(1, "before"), tmp_path)
