"""What we rely on in nnU-Net, by name: where one of these moves, the test that names it fails."""

import ast
import importlib
import inspect
from pathlib import Path

import numpy as np
import pytest
import torch
from nnunetv2.inference.predict_from_raw_data import nnUNetPredictor
from nnunetv2.inference.sliding_window_prediction import compute_steps_for_sliding_window
from nnunetv2.run import run_training
from nnunetv2.training.dataloading.nnunet_dataset import infer_dataset_class
from nnunetv2.training.nnUNetTrainer.nnUNetTrainer import nnUNetTrainer
from nnunetv2.utilities.label_handling.label_handling import LabelManager
from nnunetv2.utilities.plans_handling.plans_handler import ConfigurationManager, PlansManager

from nnunet_hypersegnas.nnunet.dataset import PreprocessedDataset
from nnunet_hypersegnas.nnunet.space_trainer import SpaceTrainer
from nnunet_hypersegnas.trainers import HyperSegNASSupernetTrainer

ROOT = Path(__file__).parents[2]
OUR_TRAINERS = (SpaceTrainer, HyperSegNASSupernetTrainer)

# What is imported, with the parameters that we give, in this order where they are positional.
FUNCTIONS = {
    "nnunetv2.inference.predict_from_raw_data.nnUNetPredictor": [
        *("tile_step_size", "use_mirroring", "perform_everything_on_device", "device", "allow_tqdm")
    ],
    "nnunetv2.inference.sliding_window_prediction.compute_gaussian": [
        *("tile_size", "sigma_scale", "value_scaling_factor", "dtype", "device")
    ],
    "nnunetv2.inference.sliding_window_prediction.compute_steps_for_sliding_window": [
        *("image_size", "tile_size", "tile_step_size")
    ],
    "nnunetv2.training.dataloading.nnunet_dataset.infer_dataset_class": ["folder"],
    "nnunetv2.training.dataloading.nnunet_dataset.nnUNetBaseDataset": [
        *("folder", "identifiers", "folder_with_segs_from_previous_stage")
    ],
    "nnunetv2.training.nnUNetTrainer.nnUNetTrainer.nnUNetTrainer": [
        *("plans", "configuration", "fold", "dataset_json", "device")
    ],
    "nnunetv2.utilities.collate_outputs.collate_outputs": ["outputs"],
    "nnunetv2.utilities.dataset_name_id_conversion.find_candidate_datasets": ["dataset_id"],
    "nnunetv2.utilities.dataset_name_id_conversion.maybe_convert_to_dataset_name": ["dataset_name_or_id"],
    "nnunetv2.utilities.default_n_proc_DA.get_allowed_n_proc_DA": [],
    "nnunetv2.utilities.find_class_by_name.recursive_find_python_class": ["folder", "class_name", "current_module"],
    "nnunetv2.utilities.find_objects.recursive_find_trainer_class_by_name": ["trainer_name"],
    "nnunetv2.utilities.get_network_from_plans.get_network_from_plans": [
        *("arch_class_name", "arch_kwargs", "arch_kwargs_req_import", "input_channels", "output_channels"),
        *("allow_init", "deep_supervision"),
    ],
    "nnunetv2.utilities.label_handling.label_handling.LabelManager": ["label_dict", "regions_class_order"],
    "nnunetv2.utilities.label_handling.label_handling.convert_labelmap_to_one_hot": [
        *("segmentation", "all_labels", "output_dtype")
    ],
    "nnunetv2.utilities.label_handling.label_handling.determine_num_input_channels": [
        *("plans_manager", "configuration_or_config_manager", "dataset_json")
    ],
    "nnunetv2.utilities.label_handling.label_handling.get_labelmanager_class_from_plans": ["plans"],
    "nnunetv2.utilities.plans_handling.plans_handler.ConfigurationManager": ["configuration_dict"],
    "nnunetv2.utilities.plans_handling.plans_handler.PlansManager": ["plans_file_or_dict"],
}
VARIABLES = [f"nnunetv2.paths.nnUNet_{name}" for name in ("preprocessed", "raw", "results")]
# What our trainers override, and so what nnU-Net has to call, with these parameters.
HOOKS = {
    "_build_loss": [],
    "_do_i_compile": [],
    "_get_deep_supervision_scales": [],
    "_set_batch_size_and_oversample": [],
    "build_network_architecture": [
        *("plans_manager", "configuration_manager", "num_input_channels", "num_output_channels"),
        "enable_deep_supervision",
    ],
    "configure_optimizers": [],
    "get_dataloaders": [],
    "get_tr_and_val_datasets": [],
    "get_training_transforms": None,  # handed on as it is
    "initialize": [],
    "load_checkpoint": None,  # its parameter is given by position: its name has changed before
    "on_epoch_end": [],
    "on_train_epoch_end": ["train_outputs"],
    "on_train_epoch_start": [],
    "on_train_start": [],
    "perform_actual_validation": ["save_probabilities"],
    "save_checkpoint": ["filename"],
    "train_step": ["batch"],
    "validation_step": ["batch"],
}
TRAINER_ATTRIBUTES = [
    *("batch_size", "configuration_manager", "current_epoch", "dataset_json", "device", "disable_checkpointing"),
    *("enable_deep_supervision", "folder_with_segs_from_previous_stage", "grad_scaler", "initial_lr", "is_ddp"),
    *("label_manager", "local_rank", "log_file", "oversample_foreground_percent"),
    *("logger", "loss", "lr_scheduler", "network", "num_epochs", "num_iterations_per_epoch"),
    *("num_val_iterations_per_epoch", "optimizer", "output_folder", "plans_manager", "print_to_log_file"),
    *("save_every", "weight_decay"),
]
PREDICTOR_METHODS = {
    "initialize_from_trained_model_folder": ["model_training_output_dir", "use_folds", "checkpoint_name"],
    "predict_sliding_window_return_logits": ["input_image"],
}
CONFIGURATION_ATTRIBUTES = [
    *("batch_size", "configuration", "data_identifier", "network_arch_class_name", "network_arch_init_kwargs"),
    *("network_arch_init_kwargs_req_import", "patch_size", "previous_stage_name", "resampling_fn_probabilities"),
    "spacing",
]
PLANS_ATTRIBUTES = ["get_configuration", "get_label_manager", "transpose_backward", "transpose_forward"]
# What nnU-Net keeps of a case that has to go back to where it came from.
CASE_PROPERTIES = {
    *("bbox_used_for_cropping", "class_locations", "shape_after_cropping_and_before_resampling"),
    *("shape_before_cropping", "sitk_stuff", "spacing"),
}
LABEL_ATTRIBUTES = [
    *("convert_logits_to_segmentation", "foreground_labels", "foreground_regions", "has_ignore_label", "has_regions"),
    *("ignore_label", "num_segmentation_heads"),
]
CHECKPOINT_KEYS = {"network_weights", "optimizer_state", "grad_scaler_state", "logging", "current_epoch", "init_args"}


def found(path):
    module, _, name = path.rpartition(".")
    return getattr(importlib.import_module(module), name)


@pytest.mark.parametrize("path", FUNCTIONS)
def test_what_is_called(path):
    parameters = list(inspect.signature(found(path)).parameters)
    assert parameters[: len(FUNCTIONS[path])] == FUNCTIONS[path] or set(FUNCTIONS[path]) <= set(parameters)


@pytest.mark.parametrize("name", PREDICTOR_METHODS)
def test_the_predictor(name):
    parameters = list(inspect.signature(getattr(nnUNetPredictor, name)).parameters)
    assert parameters == ["self", *PREDICTOR_METHODS[name]]


@pytest.mark.parametrize("path", VARIABLES)
def test_path_variables(path):
    assert found(path).env_var_name == path.rpartition(".")[2] and callable(found(path).is_set)


@pytest.mark.parametrize("name", HOOKS)
def test_what_is_overridden(name):
    parameters = [p for p in inspect.signature(getattr(nnUNetTrainer, name)).parameters if p != "self"]
    assert HOOKS[name] is None or parameters == HOOKS[name]


def test_nnunet_still_calls_it():
    """An override of something that nobody calls any more would be dead without a word."""
    called = set()
    for module in (nnUNetTrainer, run_training):
        for node in ast.walk(ast.parse(Path(inspect.getfile(module)).read_text())):
            if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute):
                owner = node.func.value
                if isinstance(owner, ast.Name) and owner.id in ("self", "nnunet_trainer"):
                    called.add(node.func.attr)
    assert [name for name in HOOKS if name not in called] == []


def test_the_lists_are_complete():
    """Every import from nnU-Net and every override of ours is named above."""
    imported = set()
    for folder in ("nnunet_hypersegnas", "trainers", "architectures"):
        for path in (ROOT / folder).rglob("*.py"):
            for node in ast.walk(ast.parse(path.read_text())):
                if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("nnunetv2"):
                    imported |= {f"{node.module}.{alias.name}" for alias in node.names}
    assert imported == {*FUNCTIONS, *VARIABLES}
    overridden = {name for cls in OUR_TRAINERS for name in vars(cls) if hasattr(nnUNetTrainer, name)}
    dunder = {name for name in overridden if name.startswith("__")}
    assert overridden - dunder <= {*HOOKS}


@pytest.fixture
def trainer(make_trainer):
    found = make_trainer()
    found.on_train_start()
    return found


def test_the_trainers_attributes(trainer, tmp_path):
    assert [name for name in TRAINER_ATTRIBUTES if not hasattr(trainer, name)] == []
    assert isinstance(trainer.logger.local_logger.my_fantastic_logging, dict)
    assert {"epoch_start_timestamps", "train_losses"} <= set(trainer.logger.local_logger.my_fantastic_logging)
    assert trainer.dataloader_val is not None
    nnUNetTrainer.save_checkpoint(trainer, str(tmp_path / "c.pth"))
    assert set(torch.load(tmp_path / "c.pth", weights_only=False)) >= CHECKPOINT_KEYS
    batch = next(trainer.dataloader_train)
    assert batch["data"].shape == (1, 1, 16, 16, 16) and isinstance(batch["target"], list)
    trainer.network.take(trainer.references["unet"])
    result = nnUNetTrainer.validation_step(trainer, batch)
    assert set(result) == {"loss", "tp_hard", "fp_hard", "fn_hard"}


def test_plans_configurations_and_labels(demo_environment):
    dataset = PreprocessedDataset.find("999", "nnUNetPlans", "3d_fullres")
    manager = dataset.plans_manager
    assert isinstance(manager, PlansManager) and isinstance(dataset.configuration, ConfigurationManager)
    assert [name for name in PLANS_ATTRIBUTES if not hasattr(manager, name)] == []
    assert [name for name in CONFIGURATION_ATTRIBUTES if not hasattr(dataset.configuration, name)] == []
    assert [name for name in LABEL_ATTRIBUTES if not hasattr(LabelManager, name)] == []
    assert {"strides", "kernel_sizes"} <= set(dataset.configuration.network_arch_init_kwargs)


def test_preprocessed_cases(demo_environment):
    dataset = PreprocessedDataset.find("999", "nnUNetPlans", "3d_fullres")
    folder = str(dataset.data_folder)
    cases = infer_dataset_class(folder)(folder)
    data, labels, previous, properties = cases.load_case(cases.identifiers[0])
    assert previous is None and np.asarray(data[:]).shape[1:] == np.asarray(labels[:]).shape[1:]
    assert set(properties) >= CASE_PROPERTIES and set(properties["sitk_stuff"]) >= {"spacing", "origin", "direction"}


def test_steps_of_the_sliding_window():
    assert compute_steps_for_sliding_window((50, 32), (32, 32), 0.5) == [[0, 9, 18], [0]]
