"""Fine-tuning a sub-net with nnU-Net's own loaders, augmentation and loss (paper section 3.2, step 3)."""

from __future__ import annotations

import io
import os
import random
from collections.abc import Callable, Iterator
from contextlib import contextmanager, redirect_stdout
from pathlib import Path
from typing import Any
from unittest.mock import patch

import numpy as np
import torch
from nnunetv2.training.nnUNetTrainer.nnUNetTrainer import nnUNetTrainer
from torch import nn

from nnunet_hypersegnas.architectures import HeadsPresentLoss, SearchedNet, deep_supervision_strides
from nnunet_hypersegnas.nnunet.dataset import PreprocessedDataset
from nnunet_hypersegnas.nnunet.schedule import POLY_EXPONENT
from nnunet_hypersegnas.space import SearchSpace, largest


class _SubNetTrainer(nnUNetTrainer):
    """nnU-Net's training step on networks that are handed in, with targets for every head of the search space."""

    space: SearchSpace

    def _get_deep_supervision_scales(self) -> list[list[float]]:
        strides = deep_supervision_strides(self.space, largest(self.space))
        return [list(scale) for scale in 1 / np.cumprod(np.vstack(strides), axis=0)][:-1]

    def _build_loss(self) -> nn.Module:
        return HeadsPresentLoss(super()._build_loss().loss)

    def _do_i_compile(self) -> bool:
        return False  # a few thousand steps for each finalist do not pay for compiling it


class FineTuner:
    """Loaders, loss and step of one fold; every finalist is trained with them.

    With nnUNet_n_proc_DA=0 the batches follow from the seed; nnU-Net's background workers draw unseeded.
    """

    def __init__(
        self, dataset: PreprocessedDataset, space: SearchSpace, fold: int, device: torch.device, folder: Path
    ) -> None:
        plans: dict[str, Any] = {**dataset.plans, "continue_training": False}
        with _results_in(folder), redirect_stdout(io.StringIO()):
            self.trainer = _SubNetTrainer(
                plans, dataset.configuration_name, fold, dict(dataset.dataset_json), device=device
            )
        self.trainer.space = space
        self.trainer._set_batch_size_and_oversample()
        self.trainer.loss = self.trainer._build_loss()
        with redirect_stdout(io.StringIO()):
            self.batches, validation = self.trainer.get_dataloaders()
        if hasattr(validation, "_finish"):
            validation._finish()

    def fine_tune(
        self,
        network: SearchedNet,
        *,
        iterations: int,
        learning_rate: float,
        seed: int,
        on_iteration: Callable[[], None] = lambda: None,
    ) -> None:
        """Train the network in place with nnU-Net's SGD and polynomial decay from `learning_rate`."""
        random.seed(seed)
        np.random.seed(seed % 2**32)
        torch.manual_seed(seed)
        trainer = self.trainer
        network.deep_supervision = True
        network.train()
        trainer.network = network
        trainer.optimizer = torch.optim.SGD(
            network.parameters(), learning_rate, weight_decay=trainer.weight_decay, momentum=0.99, nesterov=True
        )
        for iteration in range(iterations):
            for group in trainer.optimizer.param_groups:
                group["lr"] = learning_rate * (1 - iteration / iterations) ** POLY_EXPONENT
            trainer.train_step(next(self.batches))
            on_iteration()
        network.deep_supervision = False
        network.eval()

    def close(self) -> None:
        """Shut nnU-Net's background workers down."""
        if hasattr(self.batches, "_finish"):
            self.batches._finish()


@contextmanager
def _results_in(folder: Path) -> Iterator[None]:
    """Let nnU-Net keep the log that every trainer opens in the search's folder instead of among trained models."""
    with patch.dict(os.environ, {"nnUNet_results": str(folder)}):
        yield
