"""Fine-tuning a sub-net with nnU-Net's own loaders, augmentation and loss (paper section 3.2, step 3)."""

from __future__ import annotations

import io
import random
from collections.abc import Callable
from contextlib import redirect_stdout
from pathlib import Path

import numpy as np
import torch
from nnunetv2.training.nnUNetTrainer.nnUNetTrainer import nnUNetTrainer

from nnunet_hypersegnas.architectures import SearchedNet
from nnunet_hypersegnas.nnunet.dataset import PreprocessedDataset
from nnunet_hypersegnas.nnunet.quiet_trainer import quiet_trainer
from nnunet_hypersegnas.nnunet.schedule import POLY_EXPONENT
from nnunet_hypersegnas.nnunet.space_trainer import SpaceTrainer
from nnunet_hypersegnas.space import SearchSpace


def sub_net_trainer(
    dataset: PreprocessedDataset, space: SearchSpace, fold: int, device: torch.device, folder: Path
) -> SpaceTrainer:
    """Return a trainer of nnU-Net, with its loss, whose step trains the networks that it is given.

    Args:
        dataset: data set and configuration.
        space: the networks' search space.
        fold: fold of the loaders.
        device: where it trains.
        folder: where it keeps its log.
    """
    trainer = quiet_trainer(
        SpaceTrainer, dataset.plans, dataset.configuration_name, fold, dataset.dataset_json, device, folder
    )
    trainer.space = space
    trainer._set_batch_size_and_oversample()
    trainer.loss = trainer._build_loss()
    return trainer


def sgd(trainer: nnUNetTrainer, learning_rate: float) -> torch.optim.Optimizer:
    """Return nnU-Net's optimizer for the trainer's network."""
    return torch.optim.SGD(
        trainer.network.parameters(), learning_rate, weight_decay=trainer.weight_decay, momentum=0.99, nesterov=True
    )


class FineTuner:
    """Loaders, loss and step of one fold; every finalist is trained with them.

    With nnUNet_n_proc_DA=0 the batches follow from the seed; nnU-Net's background workers draw unseeded.
    """

    def __init__(
        self, dataset: PreprocessedDataset, space: SearchSpace, fold: int, device: torch.device, folder: Path
    ) -> None:
        self.trainer = sub_net_trainer(dataset, space, fold, device, folder)
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
        trainer.optimizer = sgd(trainer, learning_rate)
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
