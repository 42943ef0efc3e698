"""Data sets for commands that need no training."""

import json
import shutil

import pytest


@pytest.fixture
def planned(demo_environment):
    """A data set as nnUNetv2_plan_experiment leaves it: anisotropic, as nnU-Net plans it for thick slices."""
    folder = demo_environment.preprocessed.parent / "Dataset998_Planned"
    folder.mkdir()
    shutil.copy(demo_environment.preprocessed / "dataset.json", folder)
    plans = json.loads((demo_environment.preprocessed / "HyperSegNASDemoSupernet.json").read_text())
    plans |= {"dataset_name": folder.name, "plans_name": "nnUNetPlans"}
    configuration = plans["configurations"]["3d_fullres"]
    del configuration["hypersegnas"]
    configuration |= {"spacing": [6.5, 0.8, 0.8], "patch_size": [12, 96, 80], "batch_size": 2}
    configuration["architecture"]["arch_kwargs"] |= {
        "strides": [[1, 1, 1], [1, 2, 2], [1, 2, 2], [2, 2, 2], [1, 2, 2]],
        "kernel_sizes": [[1, 3, 3], [1, 3, 3], [3, 3, 3], [3, 3, 3], [3, 3, 3]],
        "n_stages": 5,
        "features_per_stage": [32, 64, 128, 256, 320],
        "n_conv_per_stage": [2] * 5,
        "n_conv_per_stage_decoder": [2] * 4,
    }
    (folder / "nnUNetPlans.json").write_text(json.dumps(plans))
    yield folder
    shutil.rmtree(folder)
