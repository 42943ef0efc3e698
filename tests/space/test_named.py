"""Architectures that go by a name in every space, and folding onto fewer scales."""

import pytest

from nnunet_hypersegnas.space import (
    Operation,
    SearchSpace,
    fold_scales,
    largest,
    named_architecture,
    names_of_architectures,
    rng_for,
    sample,
    smallest,
    u_net,
    u_net_parallel_skips,
)
from tests.spaces import PLANE, STEM_STRIDE, TINY

SPACE = SearchSpace.paper()
MAKERS = {"largest": largest, "smallest": smallest, "unet": u_net, "unet_parallel_skips": u_net_parallel_skips}


@pytest.mark.parametrize("space", [SPACE, STEM_STRIDE, PLANE, TINY])
def test_names_stand_for_an_architecture_in_any_space(space):
    assert names_of_architectures() == sorted(MAKERS)
    for name, make in MAKERS.items():
        architecture = named_architecture(name, space)
        assert architecture == make(space)
        assert (architecture.n_layers, architecture.n_scales) == (space.layers, space.n_scales)


def test_in_the_papers_space_they_are_those_of_earlier_versions():
    ids = {name: named_architecture(name, SPACE).id for name in MAKERS}
    assert ids == {
        "largest": "e050f30be2",
        "smallest": "14043b8880",
        "unet": "3589bb0279",
        "unet_parallel_skips": "9512a04a74",
    }


def test_parallel_skips_leave_the_u_nets_convolutions_as_they_are():
    def convolutions(architecture):
        return {(layer, edge) for layer, _, edge, operation in architecture.active() if operation is Operation.CONV}

    with_skips = u_net_parallel_skips(SPACE)
    assert convolutions(with_skips) == convolutions(u_net(SPACE))
    skips = [e for _, _, e, operation in with_skips.active() if operation is Operation.SKIP]
    assert all(edge.source == edge.target for edge in skips) and len(skips) > 2 * 9


def paths(architecture, cap):
    """Return the sequences of scales that lead through, with scales from `cap` on taken as one."""
    found = {(min(s, cap), s) for s in architecture.stems}
    for layer in range(architecture.n_layers):
        edges = [edge for at, _, edge, _ in architecture.active() if at == layer]
        found = {(*p[:-1], min(e.target, cap), e.target) for p in found for e in edges if e.source == p[-1]}
    return {p[:-1] for p in found}


@pytest.mark.parametrize("n_scales", [1, 2, 3])
def test_folding_keeps_every_path(n_scales):
    small = SearchSpace(layers=4, channels=(4,) * 4, strides=((2,) * 3,) * 4, kernel_sizes=((3,) * 3,) * 4)
    for seed in range(20):
        architecture = sample(small, rng_for(0, "folding", seed))
        folded = fold_scales(architecture, n_scales)
        assert folded.n_scales == n_scales
        assert paths(architecture, n_scales - 1) <= paths(folded, n_scales - 1)


def test_a_convolution_wins_where_edges_become_one():
    assert fold_scales(largest(SPACE), 2) == largest(
        SearchSpace(layers=12, channels=(4,) * 2, strides=((2,) * 3,) * 2, kernel_sizes=((3,) * 3,) * 2)
    )
    architecture = sample(SPACE, rng_for(0, "folding"))
    assert fold_scales(architecture, 4) == architecture
