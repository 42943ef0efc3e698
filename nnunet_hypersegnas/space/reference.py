"""Architectures with names: fixed points by which training is watched and networks are compared."""

from __future__ import annotations

import itertools

from nnunet_hypersegnas.space.architecture import OFF, Architecture, Operation
from nnunet_hypersegnas.space.sampling import sample
from nnunet_hypersegnas.space.search_space import Edge, SearchSpace
from nnunet_hypersegnas.space.seeding import rng_for

N_RANDOM_REFERENCES = 3


def largest(space: SearchSpace) -> Architecture:
    """Every edge active and a convolution."""
    return Architecture(((int(Operation.CONV),) * len(space.edges),) * space.layers)


def smallest(space: SearchSpace) -> Architecture:
    """Identity all the way at the coarsest scale: stem and output alone do the work."""
    return skip_path(space, space.n_scales - 1, space.n_scales - 1)


def skip_path(space: SearchSpace, stem: int, output: int) -> Architecture:
    """A single path of skips from the stem's scale up to the output's, climbing first and staying there."""
    scales = [max(output, stem - layer) for layer in range(space.layers + 1)]
    rows = [[OFF] * len(space.edges) for _ in range(space.layers)]
    for row, edge in zip(rows, itertools.pairwise(scales), strict=True):
        row[space.edges.index(Edge(*edge))] = int(Operation.SKIP)
    return Architecture(tuple(map(tuple, rows)))


def u_net(space: SearchSpace) -> Architecture:
    """A U-Net: convolutions down to the coarsest scale that L layers reach and up again, skips across at each scale."""
    depth = min(space.n_scales - 1, space.layers // 2)
    path = _u_path(space.layers, depth)
    rows = [[OFF] * len(space.edges) for _ in range(space.layers)]
    for layer, edge in enumerate(itertools.pairwise(path)):
        rows[layer][space.edges.index(Edge(*edge))] = int(Operation.CONV)
    for scale in range(depth):
        left = max(i for i in range(len(path) // 2 + 1) if path[i] == scale)  # where the encoder leaves this scale
        joined = min(i for i in range(left + 1, len(path)) if path[i] == scale)  # where the decoder comes back to it
        for layer in range(left, joined):
            rows[layer][space.edges.index(Edge(scale, scale))] = int(Operation.SKIP)
    return Architecture(tuple(map(tuple, rows)))


def u_net_parallel_skips(space: SearchSpace) -> Architecture:
    """The U-Net with a skip connection on every other edge that keeps its scale.

    The paper found such parallel skips to cost little and to help consistently (section 4.2).
    """
    rows = [list(row) for row in u_net(space).codes]
    for row in rows:
        for column, edge in enumerate(space.edges):
            if edge.source == edge.target and row[column] == OFF:
                row[column] = int(Operation.SKIP)
    return Architecture(tuple(map(tuple, rows)))


def _u_path(layers: int, depth: int) -> list[int]:
    """Return the scale before the first and after each layer; layers to spare stay at a scale, the coarsest first."""
    levels = [*range(depth + 1), *range(depth - 1, -1, -1)]
    order = sorted(range(len(levels)), key=lambda i: (abs(i - depth), i))
    repeats = [1] * len(levels)
    for i in range(layers - 2 * depth):
        repeats[order[i % len(order)]] += 1
    return [level for level, repeat in zip(levels, repeats, strict=True) for _ in range(repeat)]


def reference_architectures(space: SearchSpace, seed: int) -> dict[str, Architecture]:
    """Return the sub-nets that are scored in training: the largest, the smallest, a U-Net and three random ones."""
    randoms = {
        f"random{i}": sample(space, rng_for(seed, "reference architecture", i)) for i in range(N_RANDOM_REFERENCES)
    }
    return {"largest": largest(space), "smallest": smallest(space), "unet": u_net(space), **randoms}
