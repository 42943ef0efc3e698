"""Each kind of data set through real commands, from raw images to predictions of the searched network."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk
import torch

from nnunet_hypersegnas.nnunet.discovery import external_trainer_folder
from tests.conftest import run
from tests.matrix.rows import PAIRS, ROWS

DATASET, NAME = "901", "Dataset901_Matrix"
SUPERNET, FOUND = "MatrixSupernet", "MatrixFound"
SIZES = ["--candidates", "3", "--finalists", "1", "--finetune-iterations", "2", "--validation-cases", "1"]
TRAINER = "nnUNetTrainer_Matrix"
CASES = [pytest.param(row, id=name) for name, row in PAIRS.items()]
CASES += [pytest.param(row, id=name, marks=pytest.mark.slow) for name, row in ROWS.items()]


class Loop:
    """nnU-Net's three folders, and commands in them."""

    def __init__(self, folder, monkeypatch):
        self.folder = folder
        for name in ("nnUNet_raw", "nnUNet_preprocessed", "nnUNet_results"):
            monkeypatch.setenv(name, str(folder / name))
        trainers = [str(external_trainer_folder()), str(Path(__file__).parent / "short_trainer")]
        monkeypatch.setenv("nnUNet_extTrainer", os.pathsep.join(trainers))

    @property
    def raw(self):
        return self.folder / "nnUNet_raw" / NAME

    @property
    def preprocessed(self):
        return self.folder / "nnUNet_preprocessed" / NAME

    def fold(self, trainer, plans, configuration):
        return self.folder / "nnUNet_results" / NAME / f"{trainer}__{plans}__{configuration}" / "fold_0"

    def do(self, *command, **variables):
        result = run(*command, **variables)
        assert result.returncode == 0, f"{command}\n{result.stdout[-3000:]}\n{result.stderr[-3000:]}"
        return result.stdout

    def kill_when(self, exists, *command):
        """Start a command, and kill it as soon as a file is there."""
        program = Path(sys.executable).parent / command[0]
        process = subprocess.Popen(
            [program, *command[1:]], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True
        )
        until = time.monotonic() + 600
        while not exists.exists():
            assert process.poll() is None and time.monotonic() < until, command
            time.sleep(0.01)
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()


@pytest.fixture
def loop(tmp_path, monkeypatch):
    return Loop(tmp_path, monkeypatch)


def train_first_stage(loop, row):
    """Train all folds of a cascade's first stage, and return how the space names it."""
    for fold in range(5):
        loop.do(
            "nnUNetv2_train", DATASET, row.first_stage, str(fold), "-device", "cpu", "-tr", TRAINER, "-p", row.plans
        )
    return ("--previous-stage", f"{TRAINER}__{row.plans}")


@pytest.mark.parametrize("row", CASES)
def test_from_images_to_predictions(row, loop):
    row.write(loop.raw)
    configuration = row.configuration
    plan = ("nnUNetv2_plan_and_preprocess", "-d", DATASET, "-np", "2", *row.planner)
    loop.do(*plan, "-c", *(row.preprocessed or [configuration]), nnUNet_n_proc_DA="1")
    cascade = train_first_stage(loop, row) if row.first_stage else ()

    channels = [str(4 + 2 * i) for i in range(len(row.strides))]
    space = ("hsnas_space", DATASET, configuration, "-p", row.plans, "--layers", "3", "--channels", *channels)
    assert "architectures" in loop.do(*space, *cascade, "--write", SUPERNET)
    path = loop.preprocessed / f"{SUPERNET}.json"
    plans = json.loads(path.read_text())
    described = plans["configurations"][configuration]
    described["batch_size"] = 2
    described["hypersegnas"] |= {"epochs": 2, "annealing_epochs": 1, "iterations_per_epoch": 3, "save_every": 1}
    described["hypersegnas"] |= {"sandwich_every": 2, "sampler": "strictly fair"}
    described["hypersegnas"] |= {"man": "image and architecture", "scalar_position": "input"}
    path.write_text(json.dumps(plans))

    train = ("nnUNetv2_train", DATASET, configuration, "0", "-device", "cpu")
    supernet = loop.fold("HyperSegNASSupernetTrainer", SUPERNET, configuration)
    command = (*train, "-tr", "HyperSegNASSupernetTrainer", "-p", SUPERNET)
    loop.kill_when(supernet / "checkpoint_latest.pth", *command)
    loop.do(*command, "--c")
    record = torch.load(supernet / "checkpoint_final.pth", weights_only=False)["hypersegnas"]
    assert record["annealing_lambda"] == 1 and record["iteration"] == 6
    assert [list(s) for s in row.strides] == record["space"]["strides"]
    assert [list(k) for k in row.kernels] == record["space"]["kernel_sizes"]

    search = ("hsnas_search", DATASET, configuration, "0", "-p", SUPERNET, "--max-params", "1T", *SIZES)
    # Nobody asks what a super-net of six iterations ranks.
    loop.do(*search, "--plans", FOUND, "--workers", "1", "--device", "cpu", "--force")
    (found,) = [p.stem for p in loop.preprocessed.glob(f"{FOUND}_*.json")]
    loop.do(*train, "-p", found, "-tr", TRAINER, "--npz")
    summary = json.loads((loop.fold(TRAINER, found, configuration) / "validation" / "summary.json").read_text())
    assert not np.isnan(summary["foreground_mean"]["Dice"])

    model = ("-d", DATASET, "-c", configuration, "-f", "0", "-tr", TRAINER, "-p", found)
    best = ("nnUNetv2_find_best_configuration", DATASET, *model[2:], "--disable_ensembling")
    assert f"-p {found}" in loop.do(*best)
    loop.do("nnUNetv2_export_model_to_zip", "-o", loop.folder / "model.zip", *model)
    elsewhere = {"nnUNet_results": str(loop.folder / "elsewhere")}
    loop.do("nnUNetv2_install_pretrained_model_from_zip", loop.folder / "model.zip", **elsewhere)
    images = ("-i", loop.raw / "imagesTs", "-device", "cpu", "-npp", "0", "-nps", "0", "--disable_tta")
    if row.first_stage:
        first_model = ("-d", DATASET, "-c", row.first_stage, "-f", "0", "-tr", TRAINER, "-p", row.plans)
        loop.do("nnUNetv2_predict", *first_model, *images, "-o", loop.folder / "first")
        images += ("-prev_stage_predictions", loop.folder / "first")
    for name, variables in (("own", {}), ("imported", elsewhere)):
        loop.do("nnUNetv2_predict", *model, *images, "-o", loop.folder / name, **variables)
    (own,), (imported,) = (list((loop.folder / name).glob("*.nii.gz")) for name in ("own", "imported"))
    given = sitk.ReadImage(str(next((loop.raw / "imagesTs").iterdir())))
    labels = sitk.ReadImage(str(own))
    assert labels.GetSize() == given.GetSize() and labels.GetSpacing() == pytest.approx(given.GetSpacing())
    voxels = sitk.GetArrayFromImage(labels)
    assert set(np.unique(voxels)) <= row.values
    assert np.array_equal(voxels, sitk.GetArrayFromImage(sitk.ReadImage(str(imported))))
