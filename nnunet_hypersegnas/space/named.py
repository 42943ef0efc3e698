"""Architectures that go by a name in every search space."""

from __future__ import annotations

from collections.abc import Callable

from nnunet_hypersegnas.space.architecture import Architecture
from nnunet_hypersegnas.space.reference import largest, smallest, u_net, u_net_parallel_skips
from nnunet_hypersegnas.space.search_space import SearchSpace

_MAKERS: dict[str, Callable[[SearchSpace], Architecture]] = {
    "largest": largest,
    "smallest": smallest,
    "unet": u_net,
    "unet_parallel_skips": u_net_parallel_skips,
}


def names_of_architectures() -> list[str]:
    return sorted(_MAKERS)


def named_architecture(name: str, space: SearchSpace) -> Architecture:
    """Return one of `names_of_architectures()` in a search space."""
    return _MAKERS[name](space)
