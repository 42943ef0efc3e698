"""Drawing architectures (paper section 4, "Implementation Details")."""

from __future__ import annotations

import numpy as np

from nnunet_hypersegnas.space.architecture import OFF, Architecture, Operation, feasible_edges
from nnunet_hypersegnas.space.search_space import SearchSpace

_OPERATIONS = tuple(Operation)


def sample(space: SearchSpace, rng: np.random.Generator) -> Architecture:
    """Draw one architecture with the paper's heuristics.

    Layer by layer, every feasible edge is on or off and holds one of the operations with uniform likelihood; a layer
    that would stay empty gets one feasible edge, so the network always has all L layers. The result is canonical.
    """
    rows: list[list[int]] = []
    for layer in range(space.layers):
        feasible = feasible_edges(space.edges, rows[-1] if layer else None)
        chosen = [column for column in feasible if rng.random() < 0.5] or [int(rng.choice(feasible))]
        row = [OFF] * len(space.edges)
        for column in chosen:
            row[column] = int(_OPERATIONS[rng.integers(len(_OPERATIONS))])
        rows.append(row)
    return Architecture(tuple(map(tuple, rows)))


def sample_all_edges(space: SearchSpace, rng: np.random.Generator) -> Architecture:
    """Draw an architecture with every edge active and uniform operations, for a warm-up (not in the paper)."""
    return Architecture(
        tuple(
            tuple(int(_OPERATIONS[i]) for i in rng.integers(len(_OPERATIONS), size=len(space.edges)))
            for _ in range(space.layers)
        )
    )
