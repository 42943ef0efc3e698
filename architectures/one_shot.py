"""The thin wrapper that lets nnU-Net, which calls `network(x)`, train and run a super-net."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from torch import Tensor, nn

from nnunet_hypersegnas.architectures.man import MAN_INPUTS, MetaAssistantNetwork
from nnunet_hypersegnas.architectures.super_net import SuperNet
from nnunet_hypersegnas.architectures.topology_network import SCALAR_POSITIONS
from nnunet_hypersegnas.space import Architecture, SearchSpace, u_net


class OneShotNetwork(nn.Module):
    """Super-net and MAN with the path that the next forward pass takes.

    The path is plain state of this wrapper and of nothing below it. Freshly built, the wrapper runs a U-Net without
    MAN: that is what nnU-Net's own validation and prediction use.

    Args:
        space: the search space.
        input_channels: image channels.
        num_classes: heads' channels.
        patch_size: spatial size that MAN is made for.
        deep_supervision: whether all heads' logits are given, as a list.
        recompute: whether each layer is run again for the backward pass, see `TopologyNetwork`.
        man: what MAN is told, one of `MAN_INPUTS`; with "none" there is no MAN, `man` is None, and lambda does nothing.
        scalar_position: where MAN's scalars act, one of `SCALAR_POSITIONS`.
        fixed_scalar: what every edge is multiplied with, with MAN's scalars or without, see `TopologyNetwork`.
    """

    def __init__(
        self,
        space: SearchSpace,
        input_channels: int,
        num_classes: int,
        patch_size: Sequence[int],
        deep_supervision: bool = False,
        man: str = MAN_INPUTS[0],
        recompute: bool = False,
        scalar_position: str = SCALAR_POSITIONS[0],
        fixed_scalar: float = 1.0,
    ) -> None:
        super().__init__()
        self.super_net = SuperNet(
            space,
            input_channels,
            num_classes,
            recompute=recompute,
            scalar_position=scalar_position,
            fixed_scalar=fixed_scalar,
        )
        # After the super-net, so that its weights at start do not depend on MAN.
        self.man = (
            None
            if man == "none"
            else MetaAssistantNetwork(
                space,
                input_channels,
                patch_size,
                told_architecture="architecture" in man,
                told_image="image" in man,
                scalar_position=scalar_position,
            )
        )
        self.deep_supervision = deep_supervision
        self._all_parameters = tuple(super().parameters())
        self.take(u_net(space))

    @property
    def decoder(self) -> OneShotNetwork:
        """nnU-Net switches deep supervision through `network.decoder`."""
        return self

    def parameters(self, recurse: bool = True) -> Iterator[nn.Parameter]:
        """Return what every module returns; nnU-Net asks in each step, and a walk through all modules takes longer."""
        return iter(self._all_parameters) if recurse else super().parameters(recurse)

    def take(self, architecture: Architecture, annealing: float = 1.0) -> None:
        """Choose the architecture of the following forward passes, and MAN's lambda (1: MAN is removed)."""
        architecture.check_fits(self.super_net.space)
        self.architecture, self.annealing = architecture, annealing

    def forward(self, image: Tensor) -> Tensor | list[Tensor]:
        modulation = self.man(image, self.architecture, self.annealing) if self.man is not None else None
        logits = self.super_net(image, self.architecture, modulation, all_heads=self.deep_supervision)
        return logits if self.deep_supervision else logits[0]
