"""One optimizer for the super-net and one for MAN, which nnU-Net handles as if they were one."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch.optim import Optimizer


class JointOptimizer:
    """Several optimizers, each with parameters of its own, stepped together.

    What nnU-Net and torch's GradScaler ask of an optimizer is here; gradients are clipped over all of them, as before.

    Args:
        optimizers: by name, under which their states stand in checkpoints.
    """

    def __init__(self, optimizers: Mapping[str, Optimizer]) -> None:
        self.optimizers = dict(optimizers)

    @property
    def param_groups(self) -> list[dict[str, Any]]:
        """All groups, those of the first optimizer first: of its first one, nnU-Net logs the learning rate."""
        return [group for optimizer in self.optimizers.values() for group in optimizer.param_groups]

    def zero_grad(self, set_to_none: bool = True) -> None:
        for optimizer in self.optimizers.values():
            optimizer.zero_grad(set_to_none)

    def step(self) -> None:
        for optimizer in self.optimizers.values():
            optimizer.step()

    def drop_incomplete_states(self) -> None:
        """Forget the state of weights whose first step ended before all of it was made."""
        for optimizer in self.optimizers.values():
            complete = max(map(len, optimizer.state.values()), default=0)
            for weight in [weight for weight, state in optimizer.state.items() if len(state) < complete]:
                del optimizer.state[weight]

    def state_dict(self) -> dict[str, Any]:
        return {name: optimizer.state_dict() for name, optimizer in self.optimizers.items()}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        for name, optimizer in self.optimizers.items():
            optimizer.load_state_dict(state[name])
