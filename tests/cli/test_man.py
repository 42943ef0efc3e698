"""hsnas_man on a super-net whose MAN was annealed away, of the demo's plans, with real nnU-Net underneath."""

import csv
import json
import re
import shutil

import numpy as np
import pytest
import SimpleITK as sitk
import torch

from nnunet_hypersegnas.atomic import write_json
from nnunet_hypersegnas.cli.man import main
from nnunet_hypersegnas.evaluation.nifti import read_header
from nnunet_hypersegnas.nnunet.dataset import PreprocessedDataset
from nnunet_hypersegnas.nnunet.discovery import external_trainer_folder
from nnunet_hypersegnas.nnunet.supernet_checkpoint import SuperNetRecord
from nnunet_hypersegnas.space import SearchSpace, largest, u_net
from tests.conftest import run

PLANS, TRAINER = "HyperSegNASDemoSupernet", "HyperSegNASSupernetTrainerAnnealMAN"
WORDS = ["999", "3d_fullres", "0", "-p", PLANS, "-tr", TRAINER, "--device", "cpu"]


@pytest.fixture(scope="module")
def super_net_fold(finished_demo):
    """Where the super-net's checkpoints are; the demo's own has no MAN."""
    words = ["999", "3d_fullres", "0", "-tr", TRAINER, "-p", PLANS, "-device", "cpu"]
    extension = str(external_trainer_folder())
    result = run(
        "nnUNetv2_train", *words, HSNAS_NO_VALIDATION="1", nnUNet_extTrainer=extension, **finished_demo.variables
    )
    assert result.returncode == 0, result.stdout + result.stderr
    model = finished_demo.folder / "nnUNet_results" / "Dataset999_Synthetic" / f"{TRAINER}__{PLANS}__3d_fullres"
    yield model / "fold_0"
    shutil.rmtree(model)


def space_of(fold):
    return SuperNetRecord.read(fold / "checkpoint_final.pth").space


@pytest.fixture
def validation_cases(demo_environment):
    return PreprocessedDataset.find("999", PLANS, "3d_fullres").validation_cases(0)


@pytest.fixture
def edited_checkpoint(demo_environment, super_net_fold):
    """A copy of the super-net's checkpoint beside it, with another record or other weights."""
    made = super_net_fold / "checkpoint_edited.pth"

    def edit(change):
        checkpoint = torch.load(super_net_fold / "checkpoint_final.pth", weights_only=False)
        change(checkpoint)
        torch.save(checkpoint, made)
        return made.name

    yield edit
    made.unlink(missing_ok=True)


def test_the_training_log_tells_of_man(super_net_fold):
    (log,) = super_net_fold.glob("training_log*.txt")
    text = log.read_text()
    assert text.count("Pseudo dice of sub-nets with MAN at lambda") == 3 and "Spread of MAN's scalars" in text
    logged = torch.load(super_net_fold / "checkpoint_final.pth", weights_only=False)["logging"]
    for name in ("largest", "smallest", "unet", "random0", "random1", "random2"):
        assert len(logged[f"hsnas_dsc_{name}"]) == len(logged[f"hsnas_dsc_{name}_without_man"]) == 3
    assert logged["hsnas_lambda"][0] == 0 and logged["hsnas_lambda"][-1] == 1
    assert (super_net_fold / "progress_supernet.png").stat().st_size > 10_000


def test_one_case_from_plans_to_maps(demo_environment, super_net_fold, validation_cases, tmp_path, capsys):
    assert main([*WORDS, "--output", str(tmp_path / "maps")]) == 0
    case = validation_cases[0]
    maps = [tmp_path / "maps" / f"{case}_{name}_deviation.nii.gz" for name in ("image", "architecture")]
    others = {f"{case}.png", "statistics.json", "deviations.csv", "layers.csv"}
    assert {path.name for path in (tmp_path / "maps").iterdir()} == {*(path.name for path in maps), *others}
    image_file = demo_environment.folder / "nnUNet_raw" / "Dataset999_Synthetic" / "imagesTr" / f"{case}_0000.nii.gz"
    original, statistics = sitk.ReadImage(str(image_file)), json.loads((tmp_path / "maps/statistics.json").read_text())
    for path in maps:
        found = sitk.ReadImage(str(path))
        assert read_header(image_file).geometry.differences(read_header(path).geometry) == []
        assert found.GetPixelID() == sitk.sitkFloat32 and found.GetSize() == original.GetSize()
        values = sitk.GetArrayFromImage(found)
        assert np.isfinite(values).all() and values.min() >= 0 and values.max() > 0
    assert (tmp_path / "maps" / f"{case}.png").read_bytes().startswith(b"\x89PNG")

    space = space_of(super_net_fold)
    sizes = [layer["scalars"] for layer in statistics["scalars"]["layers"]]
    assert sizes == [2 * sum(space.channels[edge.target] for edge in space.edges)] * 3
    assert statistics["stride"] == 16 and [one["name"] for one in statistics["architectures"]] == ["small", "large"]
    (numbers,) = statistics["cases"]
    assert numbers["case"] == case and 0 < numbers["foreground_patches"] <= numbers["patches"]
    of_patches = numbers["deviations"]["architecture"]["patches"]
    assert of_patches["foreground"] > 0
    rows = list(csv.DictReader((tmp_path / "maps" / "deviations.csv").open()))
    assert [row["map"] for row in rows] == ["image", "architecture"]
    assert float(rows[1]["foreground_patches_mean"]) == of_patches["foreground"]
    assert len(list(csv.DictReader((tmp_path / "maps" / "layers.csv").open()))) == 3
    printed = capsys.readouterr().out
    assert "MAN was annealed away" in printed and "Scalars are in (0, 2)" in printed and "Scalars by layer" in printed


def test_all_cases_and_chosen_architectures(demo_environment, super_net_fold, validation_cases, tmp_path, capsys):
    """Into the folder among nnU-Net's results. Architectures that are one and the same do not differ."""
    dataset = PreprocessedDataset.find("999", PLANS, "3d_fullres")
    space = space_of(super_net_fold)
    files = [str(tmp_path / f"{make.__name__}.json") for make in (u_net, largest)]
    for file, make in zip(files, (u_net, largest), strict=True):
        write_json(tmp_path / file, make(space).to_json())
    assert main([*WORDS, "--cases", "all", "--architectures", files[0], files[0], "--stride", "32"]) == 0
    folder = dataset.trained_folder(TRAINER, 0).parent.parent / "hsnas_man" / f"{TRAINER}__{PLANS}__3d_fullres_fold_0"
    statistics = json.loads((folder / "statistics.json").read_text())
    assert [case["case"] for case in statistics["cases"]] == validation_cases and len(validation_cases) > 1
    assert all(case["deviations"]["architecture"]["voxels"]["foreground"] == 0 for case in statistics["cases"])
    assert all(case["deviations"]["image"]["voxels"]["foreground"] > 0 for case in statistics["cases"])

    printed = capsys.readouterr().out
    assert re.search(rf"^mean of {len(validation_cases)} +image ", printed, re.MULTILINE)
    assert main([*WORDS, "--cases", validation_cases[1], "--architectures", *files, "--output", str(tmp_path)]) == 0
    statistics = json.loads((tmp_path / "statistics.json").read_text())
    assert [one["id"] for one in statistics["architectures"]] == [u_net(space).id, largest(space).id]
    assert statistics["cases"][0]["deviations"]["architecture"]["voxels"]["foreground"] > 0
    assert "between it and largest" in capsys.readouterr().out


def test_an_unfinished_and_saturated_man(demo_environment, edited_checkpoint, tmp_path, capsys):
    def change(checkpoint):
        checkpoint["hypersegnas"] |= {"iteration": 6, "annealing_lambda": 0.0}
        for name, weights in checkpoint["network_weights"].items():
            if name.startswith("man.hyper_net.rows.layer1_"):
                torch.nn.init.normal_(weights, std=50)

    assert main([*WORDS, "-chk", edited_checkpoint(change), "--output", str(tmp_path)]) == 0
    printed = capsys.readouterr().out
    assert "The training is not finished: iteration 6 of 18, lambda 0.000." in printed
    assert "WARNING: more than 50% of MAN's scalars in layer 2 are saturated" in printed
    layers = json.loads((tmp_path / "statistics.json").read_text())["scalars"]["layers"]
    assert [layer["saturated"] > 0.9 for layer in layers] == [False, True, False]


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--cases", "nobody"], "no validation cases of fold 0: nobody; there are"),
        (["-tr", "HyperSegNASSupernetTrainerVanilla"], "no checkpoint at"),
        (["-p", "None"], "no plans None"),
        (["--architectures", "unet", "missing.json"], "there is no missing.json"),
        (["--architectures", "unet", "paper.json"], "has 12 layers and 4 scales, the search space has 3 and 3"),
        (["--stride", "0"], "'0' is not a whole number from 1"),
    ],
)
def test_bad_arguments(demo_environment, super_net_fold, tmp_path, words, message, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    write_json(tmp_path / "paper.json", u_net(SearchSpace.paper()).to_json())
    try:
        code = main([*WORDS, "--output", str(tmp_path / "none"), *words])
    except SystemExit as usage:
        code = usage.code
    error = capsys.readouterr().err
    assert code in (1, 2) and message in error and "Traceback" not in error
    assert not (tmp_path / "none").exists()


def test_the_trainer_that_keeps_man_is_the_default(demo_environment, capsys):
    assert main(["999", "3d_fullres", "0", "-p", PLANS]) == 1
    assert f"HyperSegNASSupernetTrainerKeepMAN__{PLANS}" in capsys.readouterr().err


def test_a_super_net_without_man(demo_environment, capsys):
    assert main([*WORDS, "-tr", "HyperSegNASSupernetTrainer"]) == 1
    assert "is a super-net without MAN, so there are no scalars to look at" in capsys.readouterr().err
