"""Trainers of nnU-Net that are borrowed for their loss, loaders and step, outside a training."""

from __future__ import annotations

import io
from collections.abc import Mapping
from contextlib import redirect_stdout
from pathlib import Path
from typing import Any, TypeVar

import torch
from nnunetv2.training.nnUNetTrainer.nnUNetTrainer import nnUNetTrainer

from nnunet_hypersegnas.environment import environment

T = TypeVar("T", bound=nnUNetTrainer)


def quiet_trainer(
    trainer_class: type[T],
    plans: Mapping[str, Any],
    configuration: str,
    fold: int,
    dataset_json: Mapping[str, Any],
    device: torch.device,
    folder: Path,
) -> T:
    """Return a trainer that prints nothing and keeps the log that every trainer opens in a folder of ours."""
    # Nothing may be left among trained models, nor be logged elsewhere.
    with environment(nnUNet_results=str(folder), nnUNet_wandb_enabled="0"), redirect_stdout(io.StringIO()):
        trainer = trainer_class(
            {**plans, "continue_training": False}, configuration, fold, dict(dataset_json), device=device
        )
    trainer.device = device  # nnU-Net itself takes the first GPU, whichever it is given
    return trainer
