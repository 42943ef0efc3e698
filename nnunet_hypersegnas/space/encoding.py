"""The architecture vector: what MAN is told about a sub-network (paper section 3.2)."""

from __future__ import annotations

import numpy as np

from nnunet_hypersegnas.space.architecture import Architecture
from nnunet_hypersegnas.space.search_space import N_OPERATIONS, SearchSpace


def encode(architecture: Architecture, space: SearchSpace) -> np.ndarray:
    """Return the flattened L x E x O matrix, shape (L * E * O,), float32: 1 where an edge holds that operation, else 0.

    Raises:
        ArchitectureError: the architecture is none of `space`.
    """
    architecture.check_fits(space)
    matrix = np.zeros((space.layers, len(space.edges), N_OPERATIONS), dtype=np.float32)
    for layer, column, _, operation in architecture.active():
        matrix[layer, column, operation - 1] = 1
    return matrix.reshape(-1)
