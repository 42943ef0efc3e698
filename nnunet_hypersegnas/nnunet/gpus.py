"""The GPUs that this process may use, and what a process has to know that gets one of them."""

from __future__ import annotations

import os

import torch
from nnunetv2.utilities.default_n_proc_DA import get_allowed_n_proc_DA


def visible_gpus() -> list[str]:
    """Return what CUDA_VISIBLE_DEVICES can name, one of them for each process; at least one."""
    visible = os.environ.get("CUDA_VISIBLE_DEVICES", "")
    return visible.split(",") if visible else [str(i) for i in range(max(1, torch.cuda.device_count()))]


def variables_for(gpu: str, side_by_side: int) -> dict[str, str]:
    """Return the environment of a process that has a GPU, where so many train on this machine at a time."""
    variables = {"CUDA_VISIBLE_DEVICES": gpu}
    if "nnUNet_n_proc_DA" not in os.environ:  # nnU-Net's own number is for one training
        variables["nnUNet_n_proc_DA"] = str(max(1, get_allowed_n_proc_DA() // side_by_side))
    return variables
