"""One of the processes of `test_several_processes`: a rank that trains on the CPU."""

from __future__ import annotations

import os
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch
import torch.distributed as dist
from nnunetv2.run.run_training import get_trainer_from_args
from nnunetv2.training.nnUNetTrainer import nnUNetTrainer as nnunet_module


def part_of(batch: dict, rank: int) -> dict:
    """Return one sample of a batch of as many as there are ranks."""
    return {"data": batch["data"][rank : rank + 1], "target": [t[rank : rank + 1] for t in batch["target"]]}


def with_momenta(trainer: Any) -> dict[str, set[int]]:
    """Return which parameters the optimizers have a state for: those that ever got a gradient."""
    return {name: set(one["state"]) for name, one in trainer.optimizer.state_dict().items()}


def _leave() -> None:
    """End this process as it is.

    Gloo's threads may still let go of their last work, for which they need the interpreter's lock; whoever takes the
    group down in the meantime holds that lock and waits for them, for ever (torch 2.13).
    """
    os._exit(0)


def rank_trainer(rank: int, world_size: int, plans: str, folder: Path) -> Any:
    """Join the other ranks and make this rank's trainer as nnU-Net's launcher does, but on the CPU."""
    torch.set_num_threads(1)
    dist.init_process_group("gloo", f"file://{folder / 'ranks'}", rank=rank, world_size=world_size)
    # nnU-Net knows several processes on CUDA only; what it does there for the device is undone for this test.
    nnunet_module.DDP = lambda network, device_ids: SimpleNamespace(module=network)
    trainer = get_trainer_from_args("999", "3d_fullres", 0, "HyperSegNASSupernetTrainer", plans)
    trainer.device, trainer.grad_scaler = torch.device("cpu"), None
    trainer.initialize()
    assert trainer.batch_size == 1
    return trainer


def take_steps(rank: int, world_size: int, plans: str, folder: Path) -> None:
    """Take the steps of `batches.pt`, each rank on its own sample, and write what the weights are then."""
    trainer = rank_trainer(rank, world_size, plans, folder)
    trainer.network.train()
    architectures = []
    for batch in torch.load(folder / "batches.pt"):
        architectures.append(trainer.architecture_of(trainer.iteration).id)
        trainer.train_step(part_of(batch, rank))
    result = {"weights": trainer.one_shot_network().state_dict(), "architectures": architectures}
    result["momenta"] = with_momenta(trainer)
    torch.save(result, folder / f"rank{rank}.pt")
    _leave()


def train(rank: int, world_size: int, plans: str, folder: Path) -> None:
    """Run the whole training, validation and checkpoints included."""
    trainer = rank_trainer(rank, world_size, plans, folder)
    trainer.run_training()
    torch.save(trainer.one_shot_network().state_dict(), folder / f"rank{rank}.pt")
    _leave()
