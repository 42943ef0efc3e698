"""Super-net trainers as nnUNetv2_train makes them."""

import json

import pytest
import torch
from nnunetv2.run.run_training import get_trainer_from_args, maybe_load_checkpoint

from nnunet_hypersegnas.nnunet.discovery import external_trainer_folder

BLOCK = {
    "layers": 2,
    "channels": [4, 6],
    "epochs": 3,
    "annealing_epochs": 1.5,
    "warmup_epochs": 0.5,
    "iterations_per_epoch": 4,
    "save_every": 1,
    "man": "image and architecture",
}


@pytest.fixture
def make_trainer(demo_environment, monkeypatch, tmp_path):
    """Make trainers as nnUNetv2_train does, on a copy of the plans with another `hypersegnas` block."""
    monkeypatch.setenv("nnUNet_results", str(tmp_path))
    monkeypatch.setenv("nnUNet_extTrainer", str(external_trainer_folder()))
    plans_file = demo_environment.preprocessed / "SupernetTrainerTest.json"

    def make(block=BLOCK, name="HyperSegNASSupernetTrainer", resume=False, batch_size=1, pretrained=None, **more):
        plans = json.loads((demo_environment.preprocessed / "HyperSegNASDemoSupernet.json").read_text())
        plans["plans_name"] = plans_file.stem
        plans["configurations"]["3d_fullres"] |= {
            "hypersegnas": block,
            "patch_size": [16, 16, 16],
            "batch_size": batch_size,
            **more,
        }
        plans_file.write_text(json.dumps(plans))
        trainer = get_trainer_from_args(
            "999", "3d_fullres", 0, name, plans_file.stem, continue_training=resume, device=torch.device("cpu")
        )
        maybe_load_checkpoint(trainer, resume, False, pretrained)
        return trainer

    yield make
    plans_file.unlink()
