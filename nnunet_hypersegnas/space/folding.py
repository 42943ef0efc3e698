"""An architecture on fewer scales than it was found on."""

from __future__ import annotations

from nnunet_hypersegnas.space.architecture import OFF, Architecture
from nnunet_hypersegnas.space.search_space import Edge, layer_edges


def fold_scales(architecture: Architecture, n_scales: int) -> Architecture:
    """Return the architecture with all coarser scales folded onto the coarsest one that is left.

    Every path stays a path. Where several edges become one, a convolution among them wins.

    Args:
        architecture: of `n_scales` scales or more.
        n_scales: how many are left.
    """
    edges = layer_edges(n_scales)
    rows = [[OFF] * len(edges) for _ in range(architecture.n_layers)]
    for layer, _, edge, operation in architecture.active():
        column = edges.index(Edge(min(edge.source, n_scales - 1), min(edge.target, n_scales - 1)))
        rows[layer][column] = max(rows[layer][column], int(operation))
    return Architecture(tuple(map(tuple, rows)))
