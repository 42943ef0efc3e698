"""The sandwich step: the largest network learns from the labels, the smallest and a random sub-net from the largest."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import nullcontext
from typing import Any, TypeAlias

import torch
from nnunetv2.training.nnUNetTrainer.nnUNetTrainer import nnUNetTrainer
from torch import Tensor, nn

from nnunet_hypersegnas.architectures import HeadsPresentLoss, ImitationLoss, OneShotNetwork, Taught
from nnunet_hypersegnas.space import Architecture, largest, smallest

MAX_GRADIENT_NORM = 12  # nnU-Net's

Logits: TypeAlias = Tensor | list[Tensor]


class SandwichStep:
    """One optimizer step on three networks of a super-net, whose gradients are added up.

    The sandwich rule of US-Net (Yu and Huang, ICCV 2019) and BigNAS (Yu et al., ECCV 2020), with the iteration's drawn
    sub-net between the largest and the smallest. Everything that is not said here is done as nnU-Net's `train_step`
    does it. A network is done with before the next one starts, so that the step needs the largest one's memory.

    Args:
        trainer: nnU-Net's, initialized.
        network: the super-net that it trains; on several GPUs, the one inside its wrapper.
    """

    def __init__(self, trainer: nnUNetTrainer, network: OneShotNetwork) -> None:
        self.trainer, self.network = trainer, network
        self.largest, self.smallest = largest(network.super_net.space), smallest(network.super_net.space)
        labels = trainer.label_manager
        imitation = ImitationLoss(regions=labels.has_regions, ignore_label=labels.ignore_label)
        # Heads that a student has, weighted as the label loss weights them.
        self.imitation: nn.Module = HeadsPresentLoss(imitation) if trainer.enable_deep_supervision else imitation

    def take(self, batch: dict[str, Any], sub_net: Architecture, annealing: float) -> dict[str, Any]:
        """Train largest, smallest and `sub_net` on a batch, with MAN at `annealing`; return the largest one's loss."""
        trainer = self.trainer
        data, target = self._on_device(batch["data"]), self._on_device(batch["target"])
        trainer.optimizer.zero_grad(set_to_none=True)
        self.network.take(self.largest, annealing)
        loss, logits = self._backward(data, lambda output: trainer.loss(output, target))
        taught = _taught(logits, target)
        for student, is_last in ((self.smallest, False), (sub_net, True)):
            self.network.take(student, annealing)
            self._backward(data, lambda output: self.imitation(output, taught), is_last=is_last)
        self._update()
        return {"loss": loss.cpu().numpy()}

    def _on_device(self, value: Any) -> Any:
        if isinstance(value, list):
            return [self._on_device(one) for one in value]
        return value.to(self.trainer.device, non_blocking=True)

    def _backward(
        self, data: Tensor, loss_of: Callable[[Logits], Tensor], *, is_last: bool = False
    ) -> tuple[Tensor, Logits]:
        """Add one network's gradients; return its loss and its logits, both without gradient."""
        trainer, device = self.trainer, self.trainer.device.type
        # Ranks exchange what has been added up, once a step.
        with trainer.network.no_sync() if trainer.is_ddp and not is_last else nullcontext():
            with torch.autocast(device, enabled=True) if device == "cuda" else nullcontext():
                output = trainer.network(data)
                loss = loss_of(output)
            scaled = loss if trainer.grad_scaler is None else trainer.grad_scaler.scale(loss)
            scaled.backward()
        return loss.detach(), [one.detach() for one in output] if isinstance(output, list) else output.detach()

    def _update(self) -> None:
        trainer, scaler = self.trainer, self.trainer.grad_scaler
        if scaler is not None:
            scaler.unscale_(trainer.optimizer)
        torch.nn.utils.clip_grad_norm_(trainer.network.parameters(), MAX_GRADIENT_NORM)
        if scaler is None:
            trainer.optimizer.step()
        else:
            scaler.step(trainer.optimizer)
            scaler.update()


def _taught(logits: Logits, target: Any) -> Taught | list[Taught]:
    if isinstance(logits, list):
        return [Taught(one, labels) for one, labels in zip(logits, target, strict=True)]
    return Taught(logits, target)
