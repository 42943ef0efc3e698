"""The network that searched plans name: one architecture, stand-alone, built by nnU-Net from JSON."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from nnunet_hypersegnas.architectures.deep_supervision import deep_supervision_strides
from nnunet_hypersegnas.architectures.super_net import SuperNet
from nnunet_hypersegnas.architectures.topology_network import Modulation, Route, TopologyNetwork
from nnunet_hypersegnas.space import Architecture, ArchitectureError, SearchSpace


class SearchedNet(TopologyNetwork):
    """One architecture of a search space as an ordinary nnU-Net network.

    Args:
        input_channels: image channels.
        num_classes: segmentation heads' channels.
        deep_supervision: return a list of logits, full resolution first, instead of one tensor.
        space: `SearchSpace.to_json()`.
        architecture: `Architecture.to_json()`.
        strides: `deep_supervision_strides()` of the two; nnU-Net reads it from the plans.
        fixed_scalar: what every edge is multiplied with, where that is not 1: as in the super-net it comes from.
        recompute: train with less memory and more time, see `TopologyNetwork`; by hand, in the plans' arch_kwargs.

    Raises:
        SearchSpaceError, ArchitectureError: the plans hold something that is no space or no architecture of it.
    """

    def __init__(
        self,
        input_channels: int,
        num_classes: int,
        deep_supervision: bool = False,
        *,
        space: Mapping[str, Any],
        architecture: Mapping[str, Any],
        strides: Sequence[Sequence[int]],
        recompute: bool = False,
        fixed_scalar: float = 1.0,
    ) -> None:
        search_space, searched = SearchSpace.from_json(space), Architecture.from_json(architecture)
        searched.check_fits(search_space)
        expected = deep_supervision_strides(search_space, searched)
        if [list(s) for s in strides] != expected:
            raise ArchitectureError(
                f"the plans name strides {list(strides)}, the heads of architecture {searched.id} need {expected}"
            )
        super().__init__(
            search_space,
            input_channels,
            num_classes,
            stems=searched.stems,
            operations=[(layer, edge, operation) for layer, _, edge, operation in searched.active()],
            coarsest_output=max(searched.outputs),
            recompute=recompute,
            fixed_scalar=fixed_scalar,
        )
        self.architecture = searched
        self._route = Route.of(search_space, searched)
        self.deep_supervision = deep_supervision

    def take_in(self, constants: Modulation, position: str) -> None:
        """Put scalars of edges into their weights, which then give what the scaled edges gave.

        Args:
            constants: each of shape (1, channels).
            position: where they act, one of `SCALAR_POSITIONS`.
        """
        with torch.no_grad():
            for layer, steps in enumerate(self._route.layers):
                for step in steps:
                    if (scalars := constants.get((layer, step.column))) is None:
                        continue
                    edge = self.layers[layer][step.name]
                    if position == "input":
                        edge.conv.weight.mul_(scalars[(..., *(None,) * self.space.dimension)])
                    else:
                        edge.norm.weight.mul_(scalars[0])
                        edge.norm.bias.mul_(scalars[0])

    @property
    def decoder(self) -> SearchedNet:
        """nnU-Net switches deep supervision through `network.decoder`."""
        return self

    def forward(self, image: Tensor) -> Tensor | list[Tensor]:
        logits = self.run(image, self._route, None, all_heads=self.deep_supervision)
        if not self.deep_supervision:
            return logits[0]
        # nnU-Net gives the last output no weight and needs two at least: see `deep_supervision_strides`.
        return logits if len(logits) > 1 else logits * 2


def searched_net_kwargs(space: SearchSpace, architecture: Architecture, fixed_scalar: float = 1.0) -> dict[str, Any]:
    """Return the JSON-able arguments, beyond nnU-Net's own, from which `SearchedNet` is built."""
    kwargs: dict[str, Any] = {
        "space": space.to_json(),
        "architecture": architecture.to_json(),
        "strides": deep_supervision_strides(space, architecture),
    }
    return kwargs if fixed_scalar == 1 else {**kwargs, "fixed_scalar": fixed_scalar}


def inherit_weights(super_net: SuperNet, searched_net: SearchedNet, constants: Modulation | None = None) -> None:
    """Copy the super-net's weights of the searched architecture, after which both give the same output.

    Args:
        super_net: that has been trained.
        searched_net: that takes the weights.
        constants: scalars of MAN that are the architecture's own, each of shape (1, channels), for edges with weights,
            which take them in; None where MAN is gone.

    Raises:
        ArchitectureError: the searched network comes from another search space, or scales its edges otherwise.
    """
    if super_net.space != searched_net.space:
        raise ArchitectureError(
            f"the super-net has search space {super_net.space.digest}, the searched network {searched_net.space.digest}"
        )
    if super_net.fixed_scalar != searched_net.fixed_scalar:
        raise ArchitectureError(
            f"the super-net's edges are multiplied with {super_net.fixed_scalar:g}, the searched network's with "
            f"{searched_net.fixed_scalar:g}"
        )
    shared = super_net.state_dict()
    searched_net.load_state_dict({key: shared[key] for key in searched_net.state_dict()})
    searched_net.take_in(constants or {}, super_net.scalar_position)
