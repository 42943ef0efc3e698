"""How many architectures a search space holds, exactly."""

from __future__ import annotations

from collections import Counter
from itertools import product

from nnunet_hypersegnas.space.architecture import Operation
from nnunet_hypersegnas.space.search_space import Edge, SearchSpace


def count_architectures(space: SearchSpace) -> int:
    """Return the number of different architectures, in canonical form (see `Architecture`).

    In canonical form the scales that a layer's edges lead to are exactly those that the next layer's edges come from,
    so layers are chained over sets of scales; the first layer may come from any set, the last may lead to any.
    """
    ways = _ways_of_a_layer(space.edges)
    totals = Counter({sources: 1 for sources, _ in ways})
    for _ in range(space.layers):
        reached: Counter[frozenset[int]] = Counter()
        for (sources, targets), count in ways.items():
            reached[targets] += totals[sources] * count
        totals = reached
    return totals.total()


def _ways_of_a_layer(edges: tuple[Edge, ...]) -> Counter[tuple[frozenset[int], frozenset[int]]]:
    """Return how many layers come from and lead to exactly which scales."""
    ways: Counter[tuple[frozenset[int], frozenset[int]]] = Counter()
    for chosen in product((False, True), repeat=len(edges)):
        active = [edge for edge, on in zip(edges, chosen, strict=True) if on]
        if active:
            sources, targets = frozenset(e.source for e in active), frozenset(e.target for e in active)
            ways[sources, targets] += len(Operation) ** len(active)
    return ways
