"""Fine-tuning a sub-net with nnU-Net's own loaders, augmentation and loss (paper section 3.2, step 3)."""

from __future__ import annotations

import io
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, redirect_stdout, suppress
from pathlib import Path
from typing import Any

import torch
from batchgenerators.dataloading.multi_threaded_augmenter import MultiThreadedAugmenter
from nnunetv2.training.nnUNetTrainer.nnUNetTrainer import nnUNetTrainer
from nnunetv2.utilities.default_n_proc_DA import get_allowed_n_proc_DA

from nnunet_hypersegnas.architectures import SearchedNet
from nnunet_hypersegnas.environment import environment
from nnunet_hypersegnas.errors import abbreviated
from nnunet_hypersegnas.nnunet.checkpoint_files import CheckpointError, load_checkpoint, write_checkpoint
from nnunet_hypersegnas.nnunet.dataset import PreprocessedDataset
from nnunet_hypersegnas.nnunet.quiet_trainer import quiet_trainer
from nnunet_hypersegnas.nnunet.schedule import POLY_EXPONENT
from nnunet_hypersegnas.nnunet.seeded_batches import SeededBatches
from nnunet_hypersegnas.nnunet.set_aside import set_aside
from nnunet_hypersegnas.nnunet.skipped_steps import FiniteLoss, NotFiniteError
from nnunet_hypersegnas.nnunet.space_trainer import SpaceTrainer
from nnunet_hypersegnas.space import SearchSpace

SAVE_EVERY_S = 60.0  # so much is lost at most where a fine-tuning is interrupted


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
    trainer.take_predictions_of(dataset.first_stage)
    trainer._set_batch_size_and_oversample()
    loss = trainer._build_loss()
    trainer.loss = FiniteLoss(loss) if trainer.grad_scaler is None else loss
    return trainer


def sgd(trainer: nnUNetTrainer, learning_rate: float) -> torch.optim.Optimizer:
    """Return nnU-Net's optimizer for the trainer's network."""
    return torch.optim.SGD(
        trainer.network.parameters(), learning_rate, weight_decay=trainer.weight_decay, momentum=0.99, nesterov=True
    )


class FineTuner:
    """Loaders, loss and step of one fold; every finalist is trained with them.

    On a CPU the result follows from the seed; CUDA's backward passes are not reproducible to the last bit.
    """

    def __init__(
        self, dataset: PreprocessedDataset, space: SearchSpace, fold: int, device: torch.device, folder: Path
    ) -> None:
        self.trainer = sub_net_trainer(dataset, space, fold, device, folder)
        with environment(nnUNet_n_proc_DA="0"), redirect_stdout(io.StringIO()):
            training, _ = self.trainer.get_dataloaders()
        self.loader = training.data_loader

    def fine_tune(
        self, network: SearchedNet, *, iterations: int, learning_rate: float, seed: int, unfinished: Path
    ) -> None:
        """Train the network in place with nnU-Net's SGD and polynomial decay from `learning_rate`.

        Args:
            network: on the device.
            iterations: how many.
            learning_rate: of the first one.
            seed: of the batches.
            unfinished: file that an interrupted fine-tuning goes on from, unless it is damaged; of no use when this
                has returned.
        """
        trainer = self.trainer
        network.deep_supervision = True
        network.train()
        self._begin(network, learning_rate)
        first, saved = self._go_on(unfinished, iterations, learning_rate), time.monotonic()
        with self._batches(seed, first) as batches:
            for iteration in range(first, iterations):
                for group in trainer.optimizer.param_groups:
                    group["lr"] = learning_rate * (1 - iteration / iterations) ** POLY_EXPONENT
                with suppress(NotFiniteError):  # the weights stay as they were
                    trainer.train_step(next(batches))
                if time.monotonic() - saved > SAVE_EVERY_S:
                    self._save(unfinished, iteration + 1)
                    saved = time.monotonic()
        network.deep_supervision = False
        network.eval()
        trainer.network = trainer.optimizer = None

    @contextmanager
    def _batches(self, seed: int, first: int) -> Iterator[Iterator[dict]]:
        processes = get_allowed_n_proc_DA()
        if not processes:
            yield SeededBatches(self.loader, seed, first)
            return
        # Unlike the one that nnU-Net trains with, this augmenter gives batches in order.
        augmenter = MultiThreadedAugmenter(
            SeededBatches(self.loader, seed, first, processes),
            None,
            processes,
            seeds=[0] * processes,  # each batch is seeded anew
            pin_memory=self.trainer.device.type == "cuda",
            wait_time=0.002,
        )
        try:
            yield augmenter
        finally:
            augmenter._finish()

    def _save(self, path: Path, iteration: int) -> None:
        trainer = self.trainer
        state = {
            "network": trainer.network.state_dict(),
            "optimizer": trainer.optimizer.state_dict(),
            "grad_scaler": trainer.grad_scaler.state_dict() if trainer.grad_scaler is not None else None,
            "iteration": iteration,
        }
        write_checkpoint(path, state)

    def _begin(self, network: SearchedNet, learning_rate: float) -> None:
        trainer = self.trainer
        trainer.network = network
        trainer.optimizer = sgd(trainer, learning_rate)
        if trainer.grad_scaler is not None:
            trainer.grad_scaler = type(trainer.grad_scaler)()

    def _go_on(self, path: Path, iterations: int, learning_rate: float) -> int:
        """Take up an interrupted fine-tuning, where there is one, and return its next iteration.

        A file that cannot be read, or is of something else, is set aside, and the fine-tuning starts anew.
        """
        if not path.exists():
            return 0
        network = self.trainer.network
        start = {name: value.clone() for name, value in network.state_dict().items()}
        try:
            return self._take_up(load_checkpoint(path), iterations)
        except (CheckpointError, RuntimeError, ValueError, KeyError, TypeError, AttributeError) as error:
            if isinstance(error, RuntimeError) and "CUDA" in str(error):
                raise
            set_aside(path, f"is no fine-tuning to go on from ({abbreviated(str(error), 200)})")
        network.load_state_dict(start)
        self._begin(network, learning_rate)
        return 0

    def _take_up(self, state: Mapping[str, Any], iterations: int) -> int:
        trainer, iteration = self.trainer, int(state["iteration"])
        trainer.network.load_state_dict(state["network"])
        trainer.optimizer.load_state_dict(state["optimizer"])
        if trainer.grad_scaler is not None:
            trainer.grad_scaler.load_state_dict(state["grad_scaler"])
        # The optimizer does not look at this itself.
        for parameter, buffers in trainer.optimizer.state.items():
            if any(buffer is not None and buffer.shape != parameter.shape for buffer in buffers.values()):
                raise ValueError("its optimizer is of another network")
        if not 0 <= iteration <= iterations:
            raise ValueError(f"iteration {iteration} is not one of {iterations}")
        return iteration
