"""Many architectures as one array of codes, shape (n, L, E): drawn, varied and brought into canonical form together.

One architecture at a time is `Architecture`; a search looks at hundreds of thousands before it scores a few.
"""

from __future__ import annotations

import numpy as np

from nnunet_hypersegnas.space.architecture import OFF, Architecture, Operation
from nnunet_hypersegnas.space.search_space import SearchSpace


def to_codes(architectures: list[Architecture]) -> np.ndarray:
    """Return the codes of some architectures of one space."""
    return np.array([architecture.codes for architecture in architectures], dtype=np.int8)


def to_architectures(codes: np.ndarray) -> list[Architecture]:
    """Return the architectures of codes that are valid (see `canonical`)."""
    return [Architecture(tuple(map(tuple, one))) for one in codes.tolist()]


def sample_codes(
    space: SearchSpace,
    count: int,
    rng: np.random.Generator,
    edge_probability: float | np.ndarray = 0.5,
    conv_probability: float | np.ndarray = 0.5,
) -> np.ndarray:
    """Draw architectures layer by layer, as `sample` does, in canonical form; duplicates are left in.

    Args:
        space: the search space.
        count: how many are drawn, n.
        rng: source of randomness.
        edge_probability: that a feasible edge is on, one value or one for each draw; the paper's is 1/2.
        conv_probability: that it holds a convolution, likewise; the paper's is 1/2.
    """
    sources = np.array([edge.source for edge in space.edges])
    on_probability = np.broadcast_to(edge_probability, count)[:, None]
    conv = rng.random((count, space.layers, len(space.edges))) < np.broadcast_to(conv_probability, count)[:, None, None]
    codes = np.zeros(conv.shape, np.int8)
    reached = np.ones((count, space.n_scales), bool)  # the image is given at all scales
    for layer in range(space.layers):
        feasible = reached[:, sources]
        on = feasible & (rng.random(feasible.shape) < on_probability)
        # A layer that would stay empty gets one feasible edge.
        instead = np.argmax(np.where(feasible, rng.random(feasible.shape), -1), axis=1)
        empty = ~on.any(1)
        on[empty, instead[empty]] = True
        codes[:, layer] = np.where(on, np.where(conv[:, layer], Operation.CONV, Operation.SKIP), OFF)
        reached = _reached_by(space, on)
    return canonical(space, codes)[0]


def canonical(space: SearchSpace, codes: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Switch off the edges that no path from the stem to the output uses.

    Returns:
        The pruned codes, and which of them are architectures at all, shape (n,): no layer is empty.
    """
    codes = codes.copy()
    sources = np.array([edge.source for edge in space.edges])
    targets = np.array([edge.target for edge in space.edges])
    for layer in range(1, space.layers):  # forwards: nothing arrives at their source
        codes[:, layer] *= _reached_by(space, codes[:, layer - 1] != OFF)[:, sources]
    for layer in range(space.layers - 2, -1, -1):  # backwards: nothing leaves their target
        used = np.zeros((len(codes), space.n_scales), bool)
        for column, source in enumerate(sources):
            used[:, source] |= codes[:, layer + 1, column] != OFF
        codes[:, layer] *= used[:, targets]
    return codes, (codes != OFF).any(2).all(1)


def mutate(space: SearchSpace, codes: np.ndarray, rng: np.random.Generator, changes: int = 3) -> np.ndarray:
    """Return a random neighbour of each architecture; not every one is an architecture, see `canonical`.

    For half of them one to `changes` edges get a random code. For the others two layers exchange the code of a column,
    which leaves the number of edges, the parameters and nearly the memory as they are.
    """
    n, result = len(codes), codes.copy()
    exchanges = rng.random(n) < 0.5
    how_many = np.where(exchanges, 0, rng.integers(1, changes + 1, n))
    for i in range(changes):
        chosen = np.flatnonzero(how_many > i)
        layer, column = rng.integers(space.layers, size=len(chosen)), rng.integers(len(space.edges), size=len(chosen))
        result[chosen, layer, column] = rng.integers(len(Operation) + 1, size=len(chosen))
    chosen = np.flatnonzero(exchanges)
    column = rng.integers(len(space.edges), size=len(chosen))
    one, other = rng.integers(space.layers, size=(2, len(chosen)))
    result[chosen, one, column] = codes[chosen, other, column]
    result[chosen, other, column] = codes[chosen, one, column]
    return result


def cross_over(mothers: np.ndarray, fathers: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Return the first layers of each mother with the remaining ones of its father, cut at random.

    Not every one is an architecture, see `canonical`.
    """
    n, layers = mothers.shape[:2]
    cut = rng.integers(1, max(2, layers), size=n)
    return np.where(np.arange(layers)[None, :, None] < cut[:, None, None], mothers, fathers)


def _reached_by(space: SearchSpace, on: np.ndarray) -> np.ndarray:
    """Return the scales that a layer's active edges, shape (n, E), lead to, shape (n, S)."""
    reached = np.zeros((len(on), space.n_scales), bool)
    for column, edge in enumerate(space.edges):
        reached[:, edge.target] |= on[:, column]
    return reached
