"""Trainers of nnU-Net that are borrowed for their loss, loaders and step, outside a training."""

from __future__ import annotations

import io
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, redirect_stdout
from pathlib import Path
from typing import Any, TypeVar

import torch
from nnunetv2.training.nnUNetTrainer.nnUNetTrainer import nnUNetTrainer

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


@contextmanager
def environment(**variables: str) -> Iterator[None]:
    """Set variables, which nnU-Net reads each time, for a while."""
    before = {name: os.environ.get(name) for name in variables}
    os.environ.update(variables)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value
