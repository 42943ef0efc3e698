"""Search spaces that benchmarks run in, with a patch for each."""

from __future__ import annotations

from nnunet_hypersegnas.space import SearchSpace

SMALL = SearchSpace(
    layers=6,
    channels=(8, 16, 32, 64),
    strides=((1, 1, 1), (2, 2, 2), (2, 2, 2), (2, 2, 2)),
    kernel_sizes=((3, 3, 3),) * 4,
)
SPACES = {"paper": (SearchSpace.paper(), (64, 64, 64)), "small": (SMALL, (24, 40, 24))}
