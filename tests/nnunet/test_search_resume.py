"""Searches that were killed or refused go on by the same command, and say where their plans are."""

import json
import os
import shutil
import signal
import subprocess
import sys
import threading
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from filelock import FileLock
from optuna.trial import TrialState

from nnunet_hypersegnas.atomic import temporary_name
from nnunet_hypersegnas.cli.search import main
from nnunet_hypersegnas.nnunet import search_worker
from nnunet_hypersegnas.nnunet.calibrating import calibration_file
from nnunet_hypersegnas.nnunet.dataset import PreprocessedDataset
from nnunet_hypersegnas.nnunet.run_folder import RunError, RunFolder
from nnunet_hypersegnas.search import open_storage, open_study
from nnunet_hypersegnas.search.evaluations import task_of

PLANS = "HyperSegNASDemoSupernet"
BASE = ["999", "3d_fullres", "0", "-p", PLANS, "--device", "cpu", "--workers", "1"]
SIZES = ["--max-params", "1G", "--candidates", "3", "--finalists", "1", "--finetune-iterations", "1"]
SIZES += ["--refinements", "0", "--validation-cases", "2"]

KILLED = """
import os, signal, sys
import numpy as np
from nnunet_hypersegnas.cli.search import main
save = np.save

def save_and_die(path, array):
    save(path, array)
    os.kill(os.getpid(), signal.SIGKILL)

np.save = save_and_die
main(sys.argv[1:])
"""


@pytest.fixture
def own_results(demo_environment, tmp_path, monkeypatch):
    """A copy of the trained super-net, whose searches are this test's own; returns its fold."""
    relative = demo_environment.supernet_fold.relative_to(demo_environment.folder / "nnUNet_results")
    fold = tmp_path / "results" / relative
    fold.mkdir(parents=True)
    shutil.copy(demo_environment.supernet_fold / "checkpoint_final.pth", fold)
    monkeypatch.setenv("nnUNet_results", str(tmp_path / "results"))
    return fold


def evaluated(run):
    """What a run has evaluated, each as often as it was."""
    folder = RunFolder(run)
    study = open_study(open_storage(folder.storage_url(None)), folder.read().study)
    return sorted(task_of(trial) for trial in study.get_trials(states=(TrialState.COMPLETE,)))


def test_a_search_that_was_killed_while_crops_were_cut_goes_on(own_results, capsys):
    run = own_results / "search" / "killed"
    words = [*BASE, *SIZES, "--run", "killed"]
    killed = subprocess.run([sys.executable, "-c", KILLED, *words], capture_output=True, text=True)
    assert killed.returncode == -signal.SIGKILL, killed.stderr
    assert (run / "study.db").exists() and not RunFolder(run).read().prepared
    assert len(list(own_results.glob("search/crops_*.tmp"))) == 1
    # Its folder belongs to this search alone.
    assert main([*words, "--seed", "5"]) == 1
    assert "holds a search with other arguments (seed 0 then, 5 now)" in capsys.readouterr().err
    assert main(words) == 0
    assert not list(own_results.glob("search/*.tmp")) and len(list(own_results.glob("search/crops_*"))) == 1
    assert RunFolder(run).read().prepared and evaluated(run)


def test_what_was_killed_before_anything_was_done_stands_in_nobodys_way(own_results, capsys):
    folder = RunFolder(own_results / "search" / "early")
    folder.path.mkdir(parents=True)
    (folder.path / "led.lock").touch()
    temporary_name(folder.path / "run.json").write_text("{")
    assert main([*BASE, "--max-params", "1", "--run", "early"]) == 1
    assert "no architecture has" in capsys.readouterr().err
    assert not folder.path.exists()


def test_a_record_of_what_never_began_is_replaced_and_one_of_what_did_is_kept(demo_environment, tmp_path):
    before = RunFolder(demo_environment.run_folder).read()
    asked = replace(before, fold=3, study="another", prepared=False)
    folder = RunFolder(tmp_path / "run")
    with folder.led():
        folder.write(replace(asked, fold=4))
        assert folder.continued(asked) == asked
        folder.write(asked)
        (folder.path / "study.db").touch()
        with pytest.raises(RunError, match="fold 3 then, 4 now"):
            folder.continued(replace(asked, fold=4))
        assert folder.continued(replace(asked, study="new", host="elsewhere")) == replace(asked, host="elsewhere")
        (folder.path / "study.db").unlink()
        # Evaluations of one that was prepared may be in a storage elsewhere.
        folder.write(replace(asked, prepared=True))
    assert folder.read().prepared
    (tmp_path / "run" / "run.json").unlink()
    with folder.led():
        folder.write(asked)
    assert not folder.path.exists()


def test_workers_wait_while_a_search_is_prepared(demo_environment, tmp_path, monkeypatch):
    monkeypatch.setattr(search_worker, "WAIT_FOR_START_S", 0.0)
    folder = RunFolder(tmp_path / "run")
    record = replace(RunFolder(demo_environment.run_folder).read(), prepared=False)
    folder.path.mkdir()
    folder.write(record)
    with pytest.raises(RunError, match="nobody leads a search in"):
        search_worker._wait_for_start(folder)
    timer = threading.Timer(1.5, lambda: folder.write(replace(record, prepared=True)))
    with FileLock(folder.path / "led.lock"):
        assert folder.is_led
        timer.start()
        assert search_worker._wait_for_start(folder).prepared
    assert not folder.is_led


# -- super-nets that have learned nothing ----------------------------------------------------------------------------


def spoil(fold, label=None):
    """Let the super-net predict no label, or all but one."""
    file = fold / "checkpoint_final.pth"
    checkpoint = torch.load(file, weights_only=False)
    classes = 3  # with the background
    for name, value in checkpoint["network_weights"].items():
        if ".seg_layers." in name:
            for i in range(1, classes) if label is None else [label]:
                value[i] = -1e4 if name.endswith(".bias") else 0
    torch.save(checkpoint, file)


def test_a_super_net_that_misses_a_label_names_no_winners(own_results, capsys):
    spoil(own_results, label=2)
    assert main([*BASE, *SIZES, "--candidates", "6", "--run", "nothing"]) == 1
    assert "scoring on 2 patches, DSC of lesion is 0 for all 6 candidates. Train it longer" in capsys.readouterr().err


def test_a_super_net_that_cannot_rank_names_no_winners(own_results, demo_environment, capsys):
    spoil(own_results)
    fault = "DSC is 0 for all 6 candidates"
    words = [*BASE, *SIZES, "--candidates", "6", "--run", "nothing", "--plans", "Nothing"]
    plans = demo_environment.preprocessed / "Nothing_1Gparams.json"
    assert main(words) == 1
    captured = capsys.readouterr()
    (line,) = [line for line in captured.err.splitlines() if "error:" in line]
    assert f"cannot rank its sub-nets yet: scoring on 2 patches, {fault}. Train it longer" in line
    assert "oversample_foreground" in line and "smaller patch" in line and "--force" in line
    run = own_results / "search" / "nothing"
    scored = evaluated(run)
    assert {rung for rung, _ in scored} == {"patches 2"} and not plans.exists()
    assert main([*words, "--force"]) == 0
    assert f"Forced, though on the first rung {fault}" in capsys.readouterr().out
    after = evaluated(run)
    assert [task for task in after if task[0] == "patches 2"] == scored and len(after) > len(scored)
    assert plans.exists()
    plans.unlink()


# -- preprocessed data that cannot be written to ---------------------------------------------------------------------


def test_plans_are_written_to_another_folder(own_results, demo_environment, tmp_path, capsys):
    before = {path: path.stat().st_mtime_ns for path in demo_environment.preprocessed.iterdir()}
    words = [*BASE, *SIZES, "--plans", "Elsewhere", "--plans-folder", str(tmp_path / "my plans")]
    assert main(words) == 0
    written = tmp_path / "my plans" / "Elsewhere_1Gparams.json"
    assert json.loads(written.read_text())["plans_name"] == written.stem
    assert {path: path.stat().st_mtime_ns for path in demo_environment.preprocessed.iterdir()} == before
    printed = capsys.readouterr().out
    assert f"once they are copied: cp '{written}' {demo_environment.preprocessed}" in printed
    assert f"-p {written.stem}" in printed
    # The copy is this search's own; another's of that name would be in the way.
    copied = Path(shutil.copy(written, demo_environment.preprocessed))
    try:
        assert main(words) == 0
        copied.write_text(json.dumps(json.loads(copied.read_text()) | {"edited": True}))
        assert main(words) == 1
        assert f"{copied} exist already" in capsys.readouterr().err
    finally:
        copied.unlink()


def test_calibrations_are_kept_among_the_results_where_the_data_are_read_only(own_results, monkeypatch):
    dataset, device = PreprocessedDataset.find("999", PLANS, "3d_fullres"), torch.device("cpu")
    beside = calibration_file(dataset, device)
    assert beside.parent.parent == dataset.folder
    monkeypatch.setattr(os, "access", lambda path, mode: not Path(path).is_relative_to(dataset.folder))
    kept = calibration_file(dataset, device)
    assert kept == own_results.parents[1] / beside.parent.name / beside.name
    if not beside.exists():
        beside.parent.mkdir(exist_ok=True)
        beside.touch()
        assert calibration_file(dataset, device) == beside  # which others made before
        beside.unlink()
