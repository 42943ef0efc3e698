"""`hsnas_msd run`: a task's way through real commands, and how it goes on where it stood."""

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import SimpleITK as sitk

from nnunet_hypersegnas.atomic import write_json
from nnunet_hypersegnas.cli.msd import main
from nnunet_hypersegnas.cli.msd_submission import main as submission
from nnunet_hypersegnas.cli.transfer import main as transfer
from nnunet_hypersegnas.nnunet.dataset import PreprocessedDataset
from nnunet_hypersegnas.nnunet.estimates import Probe, estimates
from nnunet_hypersegnas.nnunet.msd_steps import MsdError, MsdRun
from nnunet_hypersegnas.search import SearchSettings
from nnunet_hypersegnas.space import rng_for
from tests.evaluation.conftest import write_image

N_TRAINING, N_TEST = 5, 2


@pytest.fixture
def nnunet_folders(tmp_path, monkeypatch):
    for name in ("nnUNet_raw", "nnUNet_preprocessed", "nnUNet_results"):
        monkeypatch.setenv(name, str(tmp_path / name))
    short = Path(__file__).parents[1] / "matrix" / "short_trainer"
    monkeypatch.setenv("nnUNet_extTrainer", str(short))
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture
def task(tmp_path):
    """A small Task05_Prostate: two channels in images of four dimensions, as the challenge gives them."""
    folder = tmp_path / "Task05_Prostate"
    for number in range(N_TRAINING + N_TEST):
        rng = rng_for(0, "prostate", number)
        labels = np.zeros((16, 24, 28), np.uint8)
        low = rng.integers(2, 6, size=3)
        labels[tuple(slice(a, a + 8) for a in low)] = 1
        labels[tuple(slice(a + 3, a + 7) for a in low)] = 2
        channels = [sitk.GetImageFromArray((100 * labels + rng.normal(0, 9, labels.shape)).astype(np.float32))] * 2
        image = sitk.JoinSeries(channels)
        image.SetSpacing((1.0, 1.0, 1.2, 1.0))
        image.SetOrigin((5.0, -3.0, 2.0, 0.0))
        training = number < N_TRAINING
        path = folder / ("imagesTr" if training else "imagesTs") / f"prostate_{number:02d}.nii.gz"
        path.parent.mkdir(parents=True, exist_ok=True)
        sitk.WriteImage(image, str(path))
        if training:
            write_image(folder / "labelsTr" / path.name, labels, (1.0, 1.0, 1.2), (5.0, -3.0, 2.0))
    description = {
        "name": "Prostate",
        "modality": {"0": "T2", "1": "ADC"},
        "labels": {"0": "background", "1": "PZ", "2": "TZ"},
        "numTraining": N_TRAINING,
        "training": [],
        "test": [],
    }
    (folder / "dataset.json").write_text(json.dumps(description))
    return folder


def titles(printed):
    return re.findall(r"^\[([^\]]+)\]", printed, re.MULTILINE)


def test_a_dry_run_names_every_command_and_writes_nothing(task, nnunet_folders, capsys):
    words = ["run", str(task), "--device", "cpu", "--dry-run"]
    assert main([*words, "--memory", "5GB", "7GB", "--search-args", "--candidates 9 --tolerance 1GB"]) == 0
    printed = capsys.readouterr().out
    commands = [line.split()[1] for line in printed.splitlines() if line.startswith("$ ")]
    networks = ["hsnas_crossval", "nnUNetv2_predict", "nnUNetv2_apply_postprocessing"]
    assert [command for command in commands if "=" not in command] == [
        "nnUNetv2_convert_MSD_dataset",
        *(["nnUNetv2_plan_and_preprocess"] if os.environ.get("nnUNet_n_proc_DA") != "0" else []),
        "nnUNetv2_train",
        "hsnas_search",
        *networks * 2,
    ]
    assert "--memory 5GB 7GB --candidates 9 --tolerance 1GB" in printed and "HyperSegNASPlans_7GB" in printed
    assert "Budgets are checked, and time and disk estimated, once the data are planned" in printed
    assert main([*words, "--transfer", "unet"]) == 0
    printed = capsys.readouterr().out
    assert titles(printed)[2] == "transfer" and "hsnas_search" not in printed
    assert "--plans HyperSegNAS_unet" in printed
    assert main(words) == 0
    printed = capsys.readouterr().out
    assert "--memory own 50%\n" in printed and "-p HyperSegNASPlans_own" in printed
    assert "-p HyperSegNASPlans_50pct" in printed
    assert not list(nnunet_folders.glob("nnUNet*/*"))


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--memory", "5GB", "--transfer", "unet"], "give either --memory, to search, or --transfer"),
        (["--memory", "5"], "'5' is no memory budget; write a size with its unit"),
        (["--memory", "0%"], "write a percentage above 0"),
        (["--memory", "own", "OWN"], "would have one name in the plans"),
    ],
)
def test_bad_arguments(task, nnunet_folders, words, message, capsys):
    assert main(["run", str(task), "--device", "cpu", *words]) == 1
    assert message in capsys.readouterr().err


def test_folders_that_are_no_task(task, nnunet_folders, capsys, monkeypatch):
    assert main(["run", str(task.parent), "--memory", "5GB", "--device", "cpu"]) == 1
    assert "is no task of the Medical Segmentation Decathlon: imagesTr, labelsTr" in capsys.readouterr().err
    other = task.rename(task.with_name("Prostate"))
    assert main(["run", str(other), "--memory", "5GB", "--device", "cpu"]) == 1
    assert "its name is not of the form Task09_Spleen" in capsys.readouterr().err
    monkeypatch.delenv("nnUNet_results")
    other.rename(task)
    assert main(["run", str(task), "--memory", "5GB", "--device", "cpu"]) == 1
    assert "nnUNet_results is not set" in capsys.readouterr().err


def a_run(folder, output):
    return MsdRun(
        folder=folder,
        configuration="3d_fullres",
        memory=("5GB",),
        tolerance=None,
        around=False,
        metric=None,
        plans="nnUNetPlans",
        plans_name="P",
        transfer=None,
        supernet_trainer="S",
        trainer="T",
        folds=(0, 1),
        device="cpu",
        output=output,
        search_arguments=(),
    )


@pytest.fixture
def planned(task, nnunet_folders):
    return a_run(task, nnunet_folders / "out")


def test_a_conversion_of_somebody_else_is_not_deleted(planned):
    convert = planned.steps()[0]
    planned.raw.mkdir(parents=True)
    with pytest.raises(MsdError, match=r"is there without dataset\.json"):
        convert.prepare()
    planned.raw.rmdir()
    convert.prepare()
    for name in ("imagesTr", "imagesTs"):  # and then it was killed, twice
        (planned.raw / name).mkdir(parents=True)
        assert not convert.done()
        convert.prepare()
        assert not planned.raw.exists()
    broken = planned.raw.parent / "broken"
    assert [path.relative_to(broken).as_posix() for path in sorted(broken.glob("*/*"))] == [
        f"2_{planned.dataset}/imagesTs",
        f"{planned.dataset}/imagesTr",
    ]
    planned.raw.mkdir()
    (planned.raw / "dataset.json").touch()
    convert.finish()
    assert convert.done()


def test_half_preprocessed_data_are_preprocessed_again_with_the_same_plans(planned):
    step = planned.steps()[1]
    write_image(planned.raw / "labelsTr" / "prostate_00.nii.gz", np.zeros((2, 2, 2), np.uint8))
    assert not step.done() and step.command()[0] == "nnUNetv2_plan_and_preprocess"
    (planned.preprocessed / "data").mkdir(parents=True)
    write_plans_of(planned.preprocessed / "nnUNetPlans.json", "nnUNetPlans")
    assert not step.done() and step.command()[0] == "nnUNetv2_preprocess"
    (planned.preprocessed / "data" / "prostate_00.pkl").touch()
    assert step.done()


@pytest.fixture
def trained(task, nnunet_folders, monkeypatch):
    """A task whose network is trained, and nnU-Net's commands as they would write their files; returns what was run."""
    dataset = "Dataset005_Prostate"
    raw, preprocessed, results = (
        nnunet_folders / name / dataset for name in ("nnUNet_raw", "nnUNet_preprocessed", "nnUNet_results")
    )
    for number in range(N_TRAINING, N_TRAINING + N_TEST):
        write_image(raw / "imagesTs" / f"prostate_0{number}_0000.nii.gz", np.zeros((2, 3, 4), np.float32))
    write_image(raw / "labelsTr" / "prostate_00.nii.gz", np.zeros((2, 2, 2), np.uint8))
    (raw / "dataset.json").touch()
    for plans in ("nnUNetPlans", "P_5GB"):
        write_plans_of(preprocessed / f"{plans}.json", plans)
    (preprocessed / "data").mkdir()
    (preprocessed / "data" / "prostate_00.pkl").touch()
    write_json(results / "S__nnUNetPlans__3d_fullres" / "fold_0" / "validation" / "summary.json", {})
    for trainer in ("T", "Other"):
        together = results / f"{trainer}__P_5GB__3d_fullres" / "crossval_results_folds_0_1"
        write_plans_of(together / "plans.json", "P_5GB")
        (together / "postprocessing.pkl").touch()
    ran = []

    def run_stock(command, log=None, variables=None):
        ran.append(command[0])
        if "-o" in command:
            folder = Path(command[command.index("-o") + 1])
            for number in range(N_TRAINING, N_TRAINING + N_TEST):
                path = folder / f"prostate_0{number}.nii.gz"
                if "--continue_prediction" not in command or not path.exists():
                    labels = rng_for(0, "prediction", number).integers(0, 3, size=(40, 64, 64))
                    write_image(path, labels.astype(np.uint8))

    monkeypatch.setattr("nnunet_hypersegnas.nnunet.stock_commands.run_stock", run_stock)
    return ran


def write_plans_of(path, name, channels=4):
    network = {"network_class_name": "net", "arch_kwargs": {"channels": channels}, "_kw_requires_import": []}
    configuration = {"data_identifier": "data", "architecture": network}
    plans = {"dataset_name": "Dataset005_Prostate", "plans_name": name}
    write_json(path, plans | {"configurations": {"3d_fullres": configuration}})


def run_task(task, *more):
    words = ["run", str(task), "--memory", "5GB", "--plans", "P", "--supernet-trainer", "S", "-tr", "T", "-f", "0", "1"]
    return main([*words, "--device", "cpu", *more])


PREDICT, POSTPROCESS = "nnUNetv2_predict", "nnUNetv2_apply_postprocessing"


def test_only_predictions_that_were_cut_off_are_made_again(task, trained, capsys):
    assert run_task(task) == 0
    assert trained == ["hsnas_search", PREDICT, POSTPROCESS]
    final = Path("msd_predictions/P_5GB/Task05_Prostate")
    before = Path("msd_predictions/P_5GB/before_postprocessing/Task05_Prostate")
    for folder, share in ((before, 0.9), (before, 0.01), (final, 0.9)):  # the last files, all names are there
        path = folder / "prostate_06.nii.gz"
        content = path.read_bytes()
        path.write_bytes(content[: int(len(content) * share)])
        trained.clear()
        assert run_task(task) == 0
        assert trained == ["hsnas_search", PREDICT if folder == before else POSTPROCESS]
        assert path.read_bytes() == content
    assert sorted(path.name for path in (before / "broken").iterdir()) == ["2_prostate_06.nii.gz", "prostate_06.nii.gz"]
    trained.clear()
    assert run_task(task) == 0 and trained == ["hsnas_search"]


def test_predictions_that_are_not_cut_off_are_kept(task, trained, capsys):
    """Sheared ones, which ITK refuses and nnU-Net writes, are whole; what is no image may be anything."""
    assert run_task(task) == 0
    before = Path("msd_predictions/P_5GB/before_postprocessing/Task05_Prostate")
    sheared, unknown = before / "prostate_05.nii.gz", before / "prostate_06.nii.gz"
    affine = np.eye(4)
    affine[0, 1] = 0.06
    nib.save(nib.Nifti1Image(np.zeros((4, 5, 6), np.uint8), affine), sheared)
    kept = sheared.read_bytes()
    unknown.write_bytes(b"notes of my own")
    trained.clear()
    assert run_task(task) == 1 and PREDICT not in trained
    assert f"{unknown}: it cannot be read (it is no NIfTI file); it is kept" in capsys.readouterr().err
    assert sheared.read_bytes() == kept and unknown.read_bytes() == b"notes of my own"
    unknown.unlink()
    assert run_task(task) == 0 and sheared.read_bytes() == kept


def test_predictions_of_another_model_are_no_ones_finished_ones(task, trained, nnunet_folders, capsys):
    assert run_task(task, "-tr", "Other") == 0
    trained.clear()
    final = Path("msd_predictions/P_5GB/Task05_Prostate")
    content = (final / "prostate_05.nii.gz").read_bytes()
    assert run_task(task) == 1 and not trained
    assert "predictions of another model (trainer Other there, T now); choose another folder" in capsys.readouterr().err
    assert run_task(task, "-f", "0") == 1
    assert "(trainer Other there, T now; folds 0 1 there, 0 now)" in capsys.readouterr().err
    assert (final / "prostate_05.nii.gz").read_bytes() == content
    assert run_task(task, "-o", "elsewhere") == 0 and trained == ["hsnas_search", PREDICT, POSTPROCESS]
    write_plans_of(nnunet_folders / "nnUNet_preprocessed/Dataset005_Prostate/P_5GB.json", "P_5GB", channels=5)
    assert run_task(task, "-o", "elsewhere") == 1
    assert "another model (network " in capsys.readouterr().err
    trained.clear()
    assert run_task(task, "-o", "third") == 1 and trained == ["hsnas_search", "hsnas_crossval"]  # which refuses
    Path("msd_predictions/P_5GB/Task05_Prostate.json").unlink()
    assert run_task(task) == 1
    assert "says what made them" in capsys.readouterr().err


def test_another_transferred_architecture_is_not_taken_for_this_one(demo_environment, monkeypatch, tmp_path):
    folder = demo_environment.preprocessed.parent / "Dataset998_Other"
    folder.mkdir()
    monkeypatch.setattr(MsdRun, "dataset", folder.name)
    try:
        plans = json.loads((demo_environment.preprocessed / "HyperSegNASDemoSupernet.json").read_text())
        write_json(folder / "nnUNetPlans.json", plans | {"dataset_name": folder.name, "plans_name": "nnUNetPlans"})
        shutil.copy(demo_environment.preprocessed / "dataset.json", folder)
        run = replace(a_run(demo_environment.folder / "Task999_Synthetic", tmp_path), memory=())
        steps = {name: replace(run, transfer=name).steps()[2] for name in ("unet", "smallest")}
        assert not steps["unet"].done()
        assert transfer(steps["unet"].command()[1:]) == 0
        assert steps["unet"].done() and not steps["smallest"].done()
        with pytest.raises(MsdError, match="describes another network than --transfer smallest"):
            steps["smallest"].prepare()
    finally:
        shutil.rmtree(folder)


def test_a_torn_checkpoint_of_the_super_net_is_moved_aside(planned):
    train = planned.steps()[2]
    fold = Path(train.done.__self__).parents[1]
    fold.mkdir(parents=True)
    (fold / "checkpoint_latest.pth").write_bytes(b"PK\x03\x04")
    train.prepare()
    assert [path.name for path in fold.iterdir()] == ["broken"] and "--c" not in train.command()
    assert (fold / "broken" / "checkpoint_latest.pth").read_bytes() == b"PK\x03\x04"


def test_an_estimate_once_the_data_are_planned(demo_environment, capsys, tmp_path):
    """On the demo's own task, whose name is of the challenge's form."""
    task = demo_environment.folder / "Task999_Synthetic"
    words = ["run", str(task), "--device", "cpu", "--dry-run", "-p", "HyperSegNASDemoSupernet"]
    assert main([*words, "--memory", "1GB", "--search-args", "--tolerance 999MB", "-tr", "nnUNetTrainer_5epochs"]) == 0
    printed = capsys.readouterr().out
    assert "[convert] done" in printed and "[plan and preprocess] done" in printed and "[super-net] done" in printed
    rows = [line.split() for line in printed[printed.index("step ") :].splitlines()[2:]]
    assert [row[0] for row in rows[:5]] == ["convert", "plan", "super-net", "search", "folds"]
    assert rows[2][1:3] == ["1", "min"]  # 18 iterations


@pytest.fixture
def demo_task(demo_environment, monkeypatch):
    """Call the command for the demo's task, whose super-net is to be trained; returns it and the commands that ran."""
    ran = []
    monkeypatch.setattr(
        "nnunet_hypersegnas.nnunet.stock_commands.run_stock", lambda command, *_, **__: ran.append(command[0])
    )
    folder, trainer = str(demo_environment.folder / "Task999_Synthetic"), "HyperSegNASSupernetTrainer_5epochs"
    words = ["run", folder, "--device", "cpu", "-p", "HyperSegNASDemoSupernet", "--supernet-trainer", trainer]
    return lambda *more: main([*words, *more]), ran


def test_budgets_are_checked_before_the_super_net_is_trained(demo_task, capsys):
    call, ran = demo_task
    assert call("--memory", "9MB", "10KB") == 1
    assert "budget 10KB: no architecture has memory" in capsys.readouterr().err and not ran
    assert call("--memory", "no_plans") == 1
    assert "no plans no_plans" in capsys.readouterr().err and not ran
    assert call("--memory", "9MB", "--search-args", "--tolerance 2MB") == 1  # nothing is trained, in truth
    assert "Budget 9MB: memory 7.00 MB to 9.00 MB" in capsys.readouterr().out and ran == ["nnUNetv2_train"]


def test_a_dry_run_checks_budgets_too(demo_task, capsys):
    call, ran = demo_task
    assert call("--dry-run", "--memory", "10KB") == 1
    assert "budget 10KB: no architecture has memory" in capsys.readouterr().err and not ran


def test_without_budgets_those_of_the_block_are_searched_or_what_nnunets_own_network_takes(
    demo_task, demo_environment, capsys
):
    call, ran = demo_task
    assert call() == 1
    error = capsys.readouterr().err
    assert "budget own: no architecture has memory" in error and "budget 50pct: no" in error and not ran
    path = demo_environment.preprocessed / "HyperSegNASDemoSupernet.json"
    before = path.read_bytes()
    plans = json.loads(before)
    plans["configurations"]["3d_fullres"]["hypersegnas"]["memory"] = ["9KB"]
    path.write_text(json.dumps(plans))
    try:
        assert call() == 1
        assert "budget 9KB: no architecture has memory" in capsys.readouterr().err and not ran
    finally:
        path.write_bytes(before)


def test_an_estimate_counts_the_epochs_that_the_trainers_name_tells(demo_environment):
    plans, trainer = "HyperSegNASDemoSupernet", "HyperSegNASSupernetTrainer_20epochs"
    dataset = PreprocessedDataset.find("999", plans, "3d_fullres")
    task = demo_environment.folder / "Task999_Synthetic"
    run = replace(a_run(task, Path("predictions")), plans=plans, supernet_trainer=trainer)
    probed = Probe(
        super_net_step_s=1.0, network_step_s=0.0, patch_s=0.0, super_net_parameters=10, network_parameters=10
    )
    (super_net,) = (e for e in estimates(run, dataset, probed, SearchSettings()) if e.step == "super-net")
    assert super_net.seconds == 20 * 6  # of 6 iterations each


@pytest.mark.slow
def test_from_a_task_to_a_submission(task, nnunet_folders, capsys):
    """Four-dimensional images; killed while it trains, and called again."""
    words = ["run", str(task), "--transfer", "unet", "-tr", "nnUNetTrainer_Matrix", "--device", "cpu", "-f", "0", "1"]
    command = [Path(sys.executable).parent / "hsnas_msd", *words]
    model = (
        nnunet_folders / "nnUNet_results" / "Dataset005_Prostate" / "nnUNetTrainer_Matrix__HyperSegNAS_unet__3d_fullres"
    )
    with open("first.log", "w") as log:
        first = subprocess.Popen(command, start_new_session=True, stdout=log, stderr=log)
        while not (model / "fold_0" / "checkpoint_final.pth").exists():
            assert first.poll() is None, Path("first.log").read_text()
            time.sleep(0.2)
    for group in subprocess.run(["ps", "-ww", "-eo", "pgid,args"], capture_output=True, text=True).stdout.splitlines():
        if str(nnunet_folders) in group or "Dataset005_Prostate" in group:
            os.killpg(int(group.split()[0]), signal.SIGKILL)
    os.killpg(first.pid, signal.SIGKILL)
    first.wait()
    second = subprocess.run(command, capture_output=True, text=True)
    assert second.returncode == 0, second.stdout[-2000:] + second.stderr[-2000:]
    assert "[1/6 convert] done before" in second.stdout and "[3/6 transfer] done before" in second.stdout
    assert "trained, not validated" in second.stdout and "--val" in second.stdout
    predictions = nnunet_folders / "msd_predictions" / "HyperSegNAS_unet" / "Task05_Prostate"
    assert f"hsnas_msd_submission {predictions.relative_to(nnunet_folders)}" in second.stdout
    again = subprocess.run(command, capture_output=True, text=True)
    steps = ["convert", "plan and preprocess", "transfer"]
    steps += [f"{what} HyperSegNAS_unet" for what in ("folds of", "predict with", "postprocess")]
    assert titles(again.stdout) == [f"{number}/6 {step}" for number, step in enumerate(steps, 1)]
    assert again.stdout.count("done before") == 6
    capsys.readouterr()
    assert submission([str(predictions), "--data", str(nnunet_folders), "-np", "1"]) == 1
    faults = capsys.readouterr().err
    assert "nothing for Task01_BrainTumour" in faults and "Task05" not in faults  # its files are as they should be
