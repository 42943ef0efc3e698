"""A cascade's second stage: what it sees of the first one, and what happens where that is missing."""

import json
import shutil

import numpy as np
import pytest
import torch
from nnunetv2.run.run_training import get_trainer_from_args
from nnunetv2.training.dataloading.nnunet_dataset import infer_dataset_class

from nnunet_hypersegnas.architectures import SearchedNet, searched_net_kwargs
from nnunet_hypersegnas.cli.space import main as space
from nnunet_hypersegnas.cli.transfer import main as transfer
from nnunet_hypersegnas.nnunet.cascade import CascadeError, FirstStage
from nnunet_hypersegnas.nnunet.cost_models import search_space
from nnunet_hypersegnas.nnunet.dataset import PreprocessedDataset
from nnunet_hypersegnas.nnunet.discovery import external_trainer_folder
from nnunet_hypersegnas.nnunet.fine_tuning import FineTuner
from nnunet_hypersegnas.nnunet.validation_crops import keep_validation_crops
from nnunet_hypersegnas.space import smallest

PLANS, CASCADE = "CascadeTest", "3d_cascade_fullres"
BLOCK = {
    "layers": 2,
    "channels": [4, 6],
    "epochs": 1,
    "annealing_epochs": 0.5,
    "iterations_per_epoch": 2,
    "man": "image",
}


@pytest.fixture
def plans(demo_environment, monkeypatch, tmp_path):
    """Plans of the demo's data set with a cascade, as nnU-Net plans it for large images."""
    monkeypatch.setenv("nnUNet_results", str(tmp_path / "results"))
    monkeypatch.setenv("nnUNet_extTrainer", str(external_trainer_folder()))
    plans = json.loads((demo_environment.preprocessed / "nnUNetPlans.json").read_text())
    plans["plans_name"] = PLANS
    plans["configurations"] |= {
        "3d_lowres": {"inherits_from": "3d_fullres", "next_stage": CASCADE},
        CASCADE: {
            "inherits_from": "3d_fullres",
            "previous_stage": "3d_lowres",
            "hypersegnas": BLOCK,
            "patch_size": [16, 16, 16],
        },
    }
    path = demo_environment.preprocessed / f"{PLANS}.json"
    path.write_text(json.dumps(plans))
    yield plans
    for written in demo_environment.preprocessed.glob(f"{PLANS}*.json"):
        written.unlink()


@pytest.fixture
def first_stage(plans, demo_environment):
    """A first stage that predicts the labels one voxel too far along the last axis."""
    stage = FirstStage.of(plans, CASCADE)
    stage.folder.mkdir(parents=True)
    folder = demo_environment.preprocessed / "nnUNetPlans_3d_fullres"
    reader = infer_dataset_class(str(folder))
    cases = reader(str(folder))
    for case in cases.identifiers:
        labels = np.maximum(np.asarray(cases.load_case(case)[1][:])[0], 0).astype(np.uint8)
        reader.save_seg(np.roll(labels, 1, axis=-1), str(stage.folder / case))
    return stage


def found():
    return PreprocessedDataset.find("999", PLANS, CASCADE)


def test_predictions_are_those_of_nnunets_trainer_or_of_the_named_model(plans, tmp_path):
    folder = FirstStage.of(plans, CASCADE).folder
    model = tmp_path / "results" / "Dataset999_Synthetic" / f"nnUNetTrainer__{PLANS}__3d_lowres"
    assert folder == model / "predicted_next_stage" / CASCADE
    plans["configurations"][CASCADE]["hypersegnas"] = {"previous_stage": "nnUNetTrainer_5epochs__Other"}
    assert FirstStage.of(plans, CASCADE).folder.parts[-3] == "nnUNetTrainer_5epochs__Other__3d_lowres"
    assert FirstStage.of(plans, "3d_lowres") is None


def test_missing_predictions_are_named_with_the_command_that_makes_them(first_stage):
    assert found().input_channels == 3
    case = first_stage.files()[0]
    case.unlink()
    with pytest.raises(
        CascadeError, match=rf"none for {case.stem} \(1 in all\); run `nnUNetv2_train .* 3d_lowres FOLD"
    ):
        found()
    shutil.rmtree(first_stage.folder)
    with pytest.raises(CascadeError, match=r"in all\)"):
        found()


def test_crops_show_the_prediction_beside_the_image(first_stage, tmp_path):
    dataset = found()
    for crop in keep_validation_crops(tmp_path / "crops", dataset, 0):
        image, *predicted = crop.image
        assert image.std() > 0 and len(predicted) == 2
        for label, channel in enumerate(predicted, 1):
            expected = np.roll(crop.labels == label, 1, axis=-1)
            assert np.array_equal(channel[..., 1:-1], expected[..., 1:-1])


def test_fine_tuning_takes_the_predictions_and_follows_from_its_seed(first_stage, tmp_path):
    dataset, weights = found(), []
    networks = search_space(dataset)
    for name in ("a", "b"):
        tuner = FineTuner(dataset, networks, 0, torch.device("cpu"), tmp_path / name)
        torch.manual_seed(0)
        network = SearchedNet(3, 3, **searched_net_kwargs(networks, smallest(networks)))
        tuner.fine_tune(network, iterations=3, learning_rate=0.01, seed=1, unfinished=tmp_path / name / "unfinished")
        weights.append([p.detach().clone() for p in network.parameters()])
    assert all(torch.equal(x, y) for x, y in zip(*weights, strict=True))


def test_a_super_net_trains_on_them(first_stage):
    trainer = get_trainer_from_args("999", CASCADE, 0, "HyperSegNASSupernetTrainer", PLANS, device=torch.device("cpu"))
    trainer.on_train_start()
    trainer.on_epoch_start()
    trainer.on_train_epoch_start()
    batch = next(trainer.dataloader_train)
    assert batch["data"].shape[1] == 3 and set(batch["data"][:, 1:].unique().tolist()) <= {0, 1}
    assert np.isfinite(trainer.train_step(batch)["loss"])
    trainer.validation_step(next(trainer.dataloader_val))


def test_predictions_are_handed_on_to_plans_with_other_names(first_stage, plans, capsys):
    first_stage.check_hand_on("New")
    first_stage.hand_on("New")
    first_stage.check_hand_on("New")  # the same ones are not in the way
    copies = FirstStage.of({**plans, "plans_name": "New"}, CASCADE)
    assert [p.name for p in copies.files()] == [p.name for p in first_stage.files()]
    copies.files()[0].write_bytes(b"another one")
    with pytest.raises(CascadeError, match=r"holds other predictions .* --overwrite"):
        first_stage.check_hand_on("New")
    first_stage.hand_on("New")
    assert copies.files()[0].read_bytes() == first_stage.files()[0].read_bytes()


def test_transferred_plans_find_them(first_stage, plans, capsys):
    words = ["unet", CASCADE, "--to", "999", "-p", PLANS]
    assert transfer([*words, "--plans", f"{PLANS}A"]) == 0
    assert len(first_stage.under(f"{PLANS}A").files()) == len(first_stage.files())
    assert "first:" not in capsys.readouterr().out
    shutil.rmtree(first_stage.folder)
    assert transfer([*words, "--plans", f"{PLANS}B"]) == 0
    assert f"first: nnUNetv2_train 999 3d_lowres FOLD -p {PLANS}B, for every fold" in capsys.readouterr().out


def test_written_settings_name_the_first_stage(plans, demo_environment, capsys):
    assert space(["999", CASCADE, "-p", PLANS, "--device", "cpu", "--write", f"{PLANS}Mine"]) == 0
    mine = json.loads((demo_environment.preprocessed / f"{PLANS}Mine.json").read_text())
    assert FirstStage.of(mine, CASCADE) == FirstStage.of(plans, CASCADE)
    words = ["--previous-stage", "nnUNetTrainer__Other"]
    assert space(["999", CASCADE, "-p", PLANS, *words, "--write", f"{PLANS}Yours"]) == 0
    yours = json.loads((demo_environment.preprocessed / f"{PLANS}Yours.json").read_text())
    assert FirstStage.of(yours, CASCADE).model == "nnUNetTrainer__Other"
    capsys.readouterr()
    assert space(["999", "3d_fullres", "-p", PLANS, *words]) == 1
    assert "is no cascade's second stage" in capsys.readouterr().err
    assert space(["999", CASCADE, "-p", PLANS, "--previous-stage", "nnUNetTrainer"]) == 1
    assert "previous_stage is 'nnUNetTrainer', needed is a trained model's TRAINER__PLANS" in capsys.readouterr().err
