"""`hsnas_crossval` and `hsnas_compare`: stock trainings of folds, and tables of them."""

import fcntl
import json
import os
import shlex
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

from nnunet_hypersegnas.cli.compare import main as compare
from nnunet_hypersegnas.cli.crossval import main
from nnunet_hypersegnas.nnunet.cross_validation import CrossValidation
from nnunet_hypersegnas.nnunet.dataset import PreprocessedDataset
from nnunet_hypersegnas.nnunet.fold_training import FoldsError, missing_jobs, run_jobs
from nnunet_hypersegnas.nnunet.model_reports import seconds_per_case
from nnunet_hypersegnas.nnunet.plans import PROVENANCE

TRAINER = "nnUNetTrainer_Matrix"
CPU = ["--device", "cpu", "-np", "1"]


@pytest.fixture
def model(demo_environment, monkeypatch, tmp_path):
    """The demo's smaller network, untrained, to be trained by a trainer with few iterations."""
    monkeypatch.setenv("nnUNet_results", str(tmp_path / "results"))
    monkeypatch.setenv("nnUNet_extTrainer", str(Path(__file__).parents[1] / "matrix" / "short_trainer"))
    plans = demo_environment.summary["networks"][0]["plans"]
    return CrossValidation(dataset=PreprocessedDataset.find("999", plans, "3d_fullres"), trainer=TRAINER)


def words(model, *more):
    return ["999", "3d_fullres", "-p", model.dataset.plans["plans_name"], "-tr", TRAINER, *CPU, *more]


def commands_of(model, capsys, *more):
    assert main(words(model, "--dry-run", *more)) == 0
    return [shlex.split(line) for line in capsys.readouterr().out.splitlines() if line.startswith("nnUNet")]


def test_only_what_is_missing_is_run(model, capsys):
    def touch(fold, name):
        path = model.fold_folder(fold) / name
        path.parent.mkdir(parents=True, exist_ok=True)
        torch.save({}, path)

    *train, best = commands_of(model, capsys)
    assert [command[:4] for command in train] == [
        ["nnUNetv2_train", "Dataset999_Synthetic", "3d_fullres", str(fold)] for fold in range(5)
    ]
    assert all(command[-3:] == ["--npz", "-device", "cpu"] for command in train)
    assert best[0] == "nnUNetv2_find_best_configuration" and best[-5:] == list("01234")
    touch(1, "checkpoint_latest.pth")
    touch(2, "checkpoint_latest.pth")
    touch(2, "checkpoint_final.pth")
    touch(3, "checkpoint_final.pth")
    touch(3, "validation/summary.json")
    more = {command[3]: command[-1] for command in commands_of(model, capsys)[:-1]}
    assert more == {"0": "cpu", "1": "--c", "2": "--val", "4": "cpu"}
    assert [command[3] for command in commands_of(model, capsys, "-f", "2", "3")[:-1]] == ["2"]


def test_inherited_weights_are_for_their_own_fold(model, capsys, tmp_path):
    inherited, ordinary = tmp_path / "inherited.pth", tmp_path / "ordinary.pth"
    torch.save({"network_weights": {}, "hypersegnas": {"fold": 0}}, inherited)
    torch.save({"network_weights": {}}, ordinary)
    for folds in ([], ["-f", "1"], ["-f", "0", "1"]):
        assert main(words(model, "--dry-run", "-pretrained_weights", str(inherited), *folds)) == 1
        assert "is inherited from a super-net of fold 0" in capsys.readouterr().err
    command, _ = commands_of(model, capsys, "-pretrained_weights", str(inherited), "-f", "0")
    assert command[-2:] == ["-pretrained_weights", str(inherited)]
    assert len(commands_of(model, capsys, "-pretrained_weights", str(ordinary))) == 6
    assert main(words(model, "-pretrained_weights", str(tmp_path / "no.pth"))) == 1
    assert "there is no" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (["-f", "5"], "no folds [5]; the data set has 0, 1, 2, 3, 4"),
        (["--gpus", "0"], "--gpus is for --device cuda"),
        (["--slurm", "cluster=slurm"], "--slurm cluster=slurm:"),
    ],
)
def test_bad_arguments(model, more, message, capsys):
    assert main(words(model, *more)) == 1
    assert message in capsys.readouterr().err


def test_a_fold_is_trained_once_at_a_time(model):
    """By whoever holds the file, be it a training that outlived the command that started it."""
    path = model.fold_folder(1) / "hsnas_crossval.lock"
    path.parent.mkdir(parents=True)
    code = f"import fcntl, time; f = open({str(path)!r}, 'w'); fcntl.flock(f, fcntl.LOCK_EX)"
    code += "; print('has it', flush=True); time.sleep(60)"
    with subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True) as other:
        assert other.stdout.readline() == "has it\n"
        with pytest.raises(FoldsError, match=r"fold 1 of .* is being trained by another process"):
            run_jobs(missing_jobs(model, [1], "cpu", None), model, [{}], lambda *_: None)
        other.kill()
    with path.open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)


def test_a_training_that_fails_is_named_and_the_others_go_on(model, monkeypatch):
    """nnU-Net fails where a fold's command is wrong; here its trainer is not there."""
    jobs = missing_jobs(model, [0, 1], "cpu", None)
    jobs[0].command[jobs[0].command.index(TRAINER)] = "NoTrainer"
    jobs[1].command[0] = "nnUNetv2_train"
    jobs[1].command[1:] = ["--help"]
    logs = []
    with pytest.raises(FoldsError, match=r"fold 0: nnUNetv2_train failed with exit code 1: .*NoTrainer.*goes on"):
        run_jobs(jobs, model, [{}, {}], lambda job, variables, log: logs.append(log))
    assert "usage: nnUNetv2_train" in logs[1].read_text()


def test_folds_side_by_side_then_tables(model, capsys, demo_environment):
    announced = []
    jobs = missing_jobs(model, [1, 2], "cpu", None)
    run_jobs(jobs, model, [{}, {}], lambda job, variables, log: announced.append(log))
    assert [log.name for log in announced] == ["fold_1.log", "fold_2.log"]
    assert missing_jobs(model, [1, 2], "cpu", None) == []
    assert seconds_per_case(model, [1, 2]) > 0

    assert main(words(model, "-f", "1", "2", "--tolerance", "1")) == 0
    printed = capsys.readouterr().out
    assert "Done before: fold 1, 2." in printed and "$ nnUNetv2_find_best_configuration" in printed
    assert (model.folder / "crossval_results_folds_1_2" / "postprocessing.pkl").exists()
    row = next(line for line in printed.splitlines() if line.startswith(model.dataset.plans["plans_name"]))
    assert "*" not in row  # the search was on fold 0

    name, markdown = model.folder.name, model.folder.parent / "table.md"
    again = model.folder.with_name(name.replace(TRAINER, "nnUNetTrainer_Again"))
    shutil.copytree(model.folder, again)
    both = [name, again.name, "-d", "999", "-f", "1", "2", "--tolerance", "1", *CPU]
    assert compare([*both, "--markdown", str(markdown)]) == 0
    printed = capsys.readouterr().out
    assert "+0.0000 (+0.0000 to +0.0000)" in printed and "published" not in printed
    assert markdown.read_text().count("\n| ") == 4 and "- NSD at a tolerance of 1 mm." in markdown.read_text()
    assert compare([*both, "--markdown", str(markdown)]) == 1
    assert "exists already" in capsys.readouterr().err
    (again / "fold_2/validation" / _cases(again, 2)[0]).unlink()
    assert compare(both) == 1
    assert "is not complete" in capsys.readouterr().err
    assert compare([name, "no__model", "-d", "999"]) == 1
    assert "'no__model' is no model" in capsys.readouterr().err


def _cases(folder, fold):
    return sorted(path.name for path in (folder / f"fold_{fold}" / "validation").glob("*.nii.gz"))


def test_the_fold_that_chose_the_architecture_is_marked(demo_environment, capsys):
    network = demo_environment.summary["networks"][0]
    name = Path(network["model"]).name
    plans = json.loads((demo_environment.preprocessed / f"{network['plans']}.json").read_text())
    assert plans[PROVENANCE]["selected_on_fold"] == 0
    assert compare([name, "-d", "999", "-f", "0", *CPU]) == 0
    printed = capsys.readouterr().out
    assert f"{network['plans']}*" in printed and "the validation cases of fold 0 chose this architecture" in printed
    assert "No NSD" in printed


@pytest.mark.slow
def test_killed_and_called_again(model, tmp_path):
    """Killed with its training, and killed alone, in which case the training goes on and is waited for."""
    command = [Path(sys.executable).parent / "hsnas_crossval", *words(model, "-f", "3")]
    started = subprocess.Popen(command, start_new_session=True, stdout=subprocess.DEVNULL)
    while not list(model.fold_folder(3).glob("training_log*")):
        time.sleep(0.2)
    os.kill(started.pid, signal.SIGKILL)
    started.wait()
    result = subprocess.run(command, capture_output=True, text=True)
    assert result.returncode == 1 and "is being trained by another process" in result.stderr
    until = time.monotonic() + 300
    while result.returncode and time.monotonic() < until:
        time.sleep(5)
        result = subprocess.run(command, capture_output=True, text=True)
    assert result.returncode == 0 and "Done before: fold 3" in result.stdout


@pytest.mark.slow
def test_folds_as_jobs_of_slurm(model, capsys):
    """With submitit's executor on this machine."""
    assert main(words(model, "-f", "3", "4", "--slurm", "cluster=local", "timeout_min=30")) == 0
    assert "Submitted: " in capsys.readouterr().out
    assert missing_jobs(model, [3, 4], "cpu", None) == []
