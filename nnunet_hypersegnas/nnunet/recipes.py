"""Recipes: values of a super-net's settings under one name, and the plans that belong to the paper's one.

The paper's experiment (sections 3.2 and 4): 1 mm, patches of 96 x 96 x 96, batches of eight, rotation and flip alone,
foreground that is not oversampled (section 4.2), scalars that are multiplied with as they are, 160,000 and 20,000
iterations. Deep supervision and the optimizer are not named there; SGD is nnU-Net's.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from copy import deepcopy
from typing import Any

from nnunetv2.utilities.plans_handling.plans_handler import PlansManager

from nnunet_hypersegnas.errors import HyperSegNASError

# Section 4: 160,000 iterations, then 20,000 of annealing; in nnU-Net's epochs of 250 iterations.
PAPER_EPOCHS = 720
PAPER_ANNEALING_SHARE = 20_000 / 180_000

BLOCK = "hypersegnas"  # of a configuration in the plans
AUGMENTATIONS = ("nnunet", "rotation and flip")
# What a recipe says of the settings; what the plans' block says for itself stands above it.
RECIPES: Mapping[str, Mapping[str, Any]] = {
    "nnunet": {},
    "paper": {
        "layers": 12,
        "channels": (32, 64, 128, 256),
        "epochs": PAPER_EPOCHS,
        "iterations_per_epoch": 250,
        "augmentation": "rotation and flip",
        "oversample_foreground": 0.0,
        "deep_supervision": False,
        "optimizer": "SGD",
        "man": "image and architecture",
        "annealing": "linear",
        "relative_scalars": False,
        "annealing_share": 1.0,
        "warmup_epochs": 0,
        "architecture_per_rank": True,
    },
}

PAPER_SPACING_MM = (1.0, 1.0, 1.0)
PAPER_PATCH = (96, 96, 96)
PAPER_BATCH = 8
# The stem halves the image, and the four scales follow, as in DiNTS; nnU-Net plans these strides for such patches too.
PAPER_STRIDES = ((1, 1, 1), *((2, 2, 2),) * 4)


class RecipeError(HyperSegNASError):
    """A configuration that a recipe cannot be followed on."""


def paper_plans(plans: Mapping[str, Any], configuration: str, plans_name: str) -> dict[str, Any]:
    """Return plans of the paper's experiment on a data set; its cases have to be preprocessed anew for them.

    Args:
        plans: of which intensities, normalisation and labels are kept, and settings of which the recipe says nothing.
        configuration: a 3D one, the only one that is kept.
        plans_name: of the new plans, and of the folder of their preprocessed cases.

    Raises:
        RecipeError: the configuration is 2D, or a cascade's second stage.
    """
    described = PlansManager(deepcopy(dict(plans))).get_configuration(configuration).configuration
    if len(described["spacing"]) != len(PAPER_SPACING_MM) or described.get("previous_stage"):
        kind = "a cascade's second stage" if described.get("previous_stage") else "2D"
        raise RecipeError(f"recipe 'paper' is for 3D images as they are, {configuration} is {kind}; use 3d_fullres")
    size = [
        round(n * mm / new)
        for n, mm, new in zip(
            described["median_image_size_in_voxels"], described["spacing"], PAPER_SPACING_MM, strict=True
        )
    ]
    described = {key: value for key, value in described.items() if key not in ("inherits_from", "next_stage")}
    described |= {
        BLOCK: _paper_block(described.get(BLOCK, {})),
        "data_identifier": f"{plans_name}_{configuration}",
        "spacing": list(PAPER_SPACING_MM),
        "patch_size": list(PAPER_PATCH),
        "batch_size": PAPER_BATCH,
        "median_image_size_in_voxels": size,
        "architecture": _u_net(PAPER_STRIDES),
    }
    return {**deepcopy(dict(plans)), "plans_name": plans_name, "configurations": {configuration: described}}


def _paper_block(block: Mapping[str, Any]) -> dict[str, Any]:
    """Return a block with the recipe's values, as JSON holds them; what the recipe is silent on stays."""
    kept = {key: value for key, value in block.items() if key not in ("scales", "full_resolution")}
    of_recipe = {key: list(value) if isinstance(value, tuple) else value for key, value in RECIPES["paper"].items()}
    return {**kept, **of_recipe, "recipe": "paper"}


def departures_of_plans(configuration: Mapping[str, Any]) -> list[str]:
    """Say what a configuration has otherwise than the paper."""
    expected = {"spacing": PAPER_SPACING_MM, "patch_size": PAPER_PATCH, "batch_size": PAPER_BATCH}
    return [
        f"{key} {configuration[key]}, not {list(value) if isinstance(value, tuple) else value}"
        for key, value in expected.items()
        if (list(configuration[key]) != list(value) if isinstance(value, tuple) else configuration[key] != value)
    ]


def _u_net(strides: Sequence[Sequence[int]]) -> dict[str, Any]:
    """Return nnU-Net's own network with these strides, for whoever trains such plans without a search."""
    stages = len(strides)
    return {
        "network_class_name": "dynamic_network_architectures.architectures.unet.PlainConvUNet",
        "arch_kwargs": {
            "n_stages": stages,
            "features_per_stage": [min(320, 32 * 2**stage) for stage in range(stages)],
            "conv_op": "torch.nn.modules.conv.Conv3d",
            "kernel_sizes": [[3, 3, 3]] * stages,
            "strides": [list(stride) for stride in strides],
            "n_conv_per_stage": [2] * stages,
            "n_conv_per_stage_decoder": [2] * (stages - 1),
            "conv_bias": True,
            "norm_op": "torch.nn.modules.instancenorm.InstanceNorm3d",
            "norm_op_kwargs": {"eps": 1e-05, "affine": True},
            "dropout_op": None,
            "dropout_op_kwargs": None,
            "nonlin": "torch.nn.LeakyReLU",
            "nonlin_kwargs": {"inplace": True},
        },
        "_kw_requires_import": ["conv_op", "norm_op", "dropout_op", "nonlin"],
    }
