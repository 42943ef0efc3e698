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
    with _results_in(folder), redirect_stdout(io.StringIO()):
        return trainer_class(
            {**plans, "continue_training": False}, configuration, fold, dict(dataset_json), device=device
        )


@contextmanager
def _results_in(folder: Path) -> Iterator[None]:
    """Let nnU-Net's results be in this folder for a while; it reads the variable each time."""
    before = os.environ.get("nnUNet_results")
    os.environ["nnUNet_results"] = str(folder)
    try:
        yield
    finally:
        if before is None:
            del os.environ["nnUNet_results"]
        else:
            os.environ["nnUNet_results"] = before
