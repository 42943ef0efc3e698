"""The super-net: shared weights for every architecture of a search space (paper section 3.2, Eq. 2)."""

from __future__ import annotations

from torch import Tensor

from nnunet_hypersegnas.architectures.topology_network import SCALAR_POSITIONS, Modulation, Route, TopologyNetwork
from nnunet_hypersegnas.space import Architecture, Operation, SearchSpace


class SuperNet(TopologyNetwork):
    """All operations of all edges. The path is an argument, so a step costs what its sub-net costs."""

    def __init__(
        self,
        space: SearchSpace,
        input_channels: int,
        num_classes: int,
        *,
        recompute: bool = False,
        scalar_position: str = SCALAR_POSITIONS[0],
        fixed_scalar: float = 1.0,
    ) -> None:
        super().__init__(
            space,
            input_channels,
            num_classes,
            stems=range(space.n_scales),
            operations=[(i, edge, o) for i in range(space.layers) for edge in space.edges for o in Operation],
            coarsest_output=space.n_scales - 1,
            recompute=recompute,
            scalar_position=scalar_position,
            fixed_scalar=fixed_scalar,
        )

    def forward(
        self,
        image: Tensor,
        architecture: Architecture,
        modulation: Modulation | None = None,
        *,
        all_heads: bool = False,
    ) -> list[Tensor]:
        """Run one architecture, see `TopologyNetwork.run`.

        Raises:
            ArchitectureError: the architecture is none of this super-net's space.
        """
        architecture.check_fits(self.space)
        return self.run(image, Route.of(self.space, architecture), modulation, all_heads=all_heads)
