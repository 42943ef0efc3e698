"""The super-net's learning rates, per iteration and per parameter group."""

from __future__ import annotations

from nnunet_hypersegnas.nnunet.schedule import Schedule
from nnunet_hypersegnas.trainers.optimizers import JointOptimizer


class ScheduledLearningRate:
    """Follows the schedule's factors for super-net and MAN from each group's own `base_lr`.

    nnU-Net's PolyLRScheduler would write the network's rate into MAN's group as well.
    """

    def __init__(self, optimizer: JointOptimizer, schedule: Schedule, iterations_per_epoch: int) -> None:
        self.optimizer, self.schedule, self.iterations_per_epoch = optimizer, schedule, iterations_per_epoch

    def step(self, epoch: int) -> None:
        """Set the rates of an epoch's first iteration; nnU-Net calls this."""
        self.step_iteration(epoch * self.iterations_per_epoch)

    def step_iteration(self, iteration: int) -> None:
        factors = {"super_net": self.schedule.lr_factor(iteration), "man": self.schedule.man_lr_factor(iteration)}
        for name, optimizer in self.optimizer.optimizers.items():
            for group in optimizer.param_groups:
                group["lr"] = group["base_lr"] * factors[name]
