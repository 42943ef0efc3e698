"""Training steps that are left out, since the device has no memory for them or their loss is not finite."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from nnunet_hypersegnas.cost.measuring import is_out_of_memory
from nnunet_hypersegnas.errors import HyperSegNASError, abbreviated
from nnunet_hypersegnas.space import Architecture


class SkippedStepsError(HyperSegNASError):
    """So many steps in a row were skipped that going on would train nothing."""


@dataclass
class SkippedSteps:
    """Counts the steps in a row that were skipped for one reason.

    Attributes:
        reason: in the words of the log.
        advice: what to change when a run ends for it.
        most: so many in a row end the run.
        in_a_row: up to now.
    """

    reason: str
    advice: str
    most: int
    in_a_row: int = 0

    def passed(self) -> None:
        """Note a step that went well."""
        self.in_a_row = 0

    def skipped(self, iteration: int, sub_net: Architecture, error: Exception) -> str:
        """Note a step that was skipped, and return a line for the log.

        Raises:
            SkippedStepsError: it was one too many.
        """
        self.in_a_row += 1
        named = f"sub-net {sub_net.id} ({sub_net.n_edges} edges, {sub_net.n_convolutions} convolutions)"
        if self.in_a_row >= self.most:
            raise SkippedStepsError(
                f"{self.reason} in {self.in_a_row} steps in a row, the last one with {named}; {self.advice} "
                f"({abbreviated(str(error).splitlines()[0], 200)})"
            ) from error
        return f"WARNING: {self.reason} in iteration {iteration} with {named}: the step is skipped"


def lacks_memory(error: RuntimeError) -> bool:
    """Whether an error says that the device has no memory left."""
    return is_out_of_memory(error)


def out_of_memory() -> SkippedSteps:
    return SkippedSteps(
        "out of memory",
        "set memory_limit in the hypersegnas block of the plans below what the GPU has, or take a smaller patch or "
        "batch, and train anew",
        most=5,
    )


def loss_not_finite() -> SkippedSteps:
    return SkippedSteps(
        "loss that is not finite",
        "look for NaN in the preprocessed images, lower initial_lr in the hypersegnas block of the plans, and train "
        "anew or from an earlier checkpoint",
        most=20,
    )


class NotFiniteError(Exception):
    """A training step whose loss is NaN or infinite."""


class FiniteLoss(nn.Module):
    """A loss that raises where it is not finite and gradients would follow from it.

    torch's GradScaler skips such steps by itself; this is for devices that have none.

    Args:
        loss: any that returns a scalar.
    """

    def __init__(self, loss: nn.Module) -> None:
        super().__init__()
        self.loss = loss

    def forward(self, output: Tensor | list[Tensor], target: Tensor | list[Tensor]) -> Tensor:
        """Return the loss.

        Raises:
            NotFiniteError: it is not finite, and gradients are asked for.
        """
        value: Tensor = self.loss(output, target)
        if torch.is_grad_enabled() and not torch.isfinite(value):
            raise NotFiniteError(f"the loss is {value.item()}")
        return value
