"""The paper's constant scalar, where MAN's scalars are not relative to it."""

import pytest
import torch
from torch import nn

from nnunet_hypersegnas.architectures import (
    OneShotNetwork,
    SearchedNet,
    SuperNet,
    inherit_weights,
    operations,
    searched_net_kwargs,
)
from nnunet_hypersegnas.architectures.operations import ScaledInstanceNorm
from nnunet_hypersegnas.space import ArchitectureError, rng_for, sample
from tests.spaces import FULL_RESOLUTION, IDS, SPACES, TINY


def _network(kind, *args, **kwargs):
    torch.manual_seed(0)
    return kind(*args, **kwargs)


def _ones(space, architecture, factor):
    return {
        (layer, column): torch.full((2, space.channels[edge.target]), factor)
        for layer, column, edge, _ in architecture.active()
    }


@pytest.mark.parametrize("recompute", [False, True])
@pytest.mark.parametrize(("space", "patch"), SPACES, ids=IDS)
def test_it_multiplies_every_edge(space, patch, recompute):
    plain = _network(SuperNet, space, 1, 3)
    fixed = _network(SuperNet, space, 1, 3, fixed_scalar=0.5, recompute=recompute)
    image = torch.randn(2, 1, *patch)
    for i in range(3):
        architecture = sample(space, rng_for(2, "test", i))
        expected = plain(image, architecture, _ones(space, architecture, 0.5))[0]
        torch.testing.assert_close(fixed(image, architecture)[0], expected, rtol=1e-4, atol=1e-5)
        assert not torch.allclose(plain(image, architecture)[0], expected, rtol=1e-2)
        with_man = fixed(image, architecture, _ones(space, architecture, 1.6))[0]
        expected = plain(image, architecture, _ones(space, architecture, 0.8))[0]
        torch.testing.assert_close(with_man, expected, rtol=1e-4, atol=1e-5)
        with_man.sum().backward()


def test_equation_5_as_it_stands():
    """omega_fixed and H's sigmoid are multiplied with, not what they are relative to 0.5."""
    space, patch = FULL_RESOLUTION, (16, 24, 16)
    network = _network(OneShotNetwork, space, 1, 3, patch, fixed_scalar=0.5)
    image, architecture, annealing = torch.randn(2, 1, *patch), sample(space, rng_for(0, "test", 0)), 0.3
    sigmoids = network.man.scalars(image, architecture, architecture)
    scalars = (annealing * 0.5 + (1 - annealing) * sigmoids).split(
        [space.channels[edge.target] for *_, edge, _ in architecture.active()], dim=1
    )
    keys = [(layer, column) for layer, column, *_ in architecture.active()]
    plain = _network(SuperNet, space, 1, 3)
    network.take(architecture, annealing)
    expected = plain(image, architecture, dict(zip(keys, scalars, strict=True)))[0]
    torch.testing.assert_close(network(image), expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(("space", "patch"), SPACES, ids=IDS)
def test_a_searched_network_inherits_it(space, patch):
    super_net = _network(SuperNet, space, 1, 3, fixed_scalar=0.5)
    image = torch.randn(2, 1, *patch)
    for i in range(3):
        architecture = sample(space, rng_for(2, "test", i))
        searched = SearchedNet(1, 3, **searched_net_kwargs(space, architecture, super_net.fixed_scalar))
        inherit_weights(super_net, searched)
        torch.testing.assert_close(searched(image), super_net(image, architecture)[0], rtol=1e-4, atol=1e-5)
    assert "fixed_scalar" not in searched_net_kwargs(space, architecture)
    with pytest.raises(ArchitectureError, match=r"multiplied with 0.5, the searched network's with 1"):
        inherit_weights(super_net, SearchedNet(1, 3, **searched_net_kwargs(space, architecture)))


def test_a_searched_network_compiles_in_one_piece():
    architecture = sample(TINY, rng_for(2, "test", 0))
    searched, image = (
        SearchedNet(1, 3, **searched_net_kwargs(TINY, architecture, 0.5)).eval(),
        torch.randn(2, 1, 8, 8, 8),
    )
    compiled = torch.compile(searched, backend="eager", fullgraph=True)
    with torch.no_grad():
        torch.testing.assert_close(compiled(image), searched(image), rtol=0, atol=0)
    torch.compiler.reset()


@pytest.mark.parametrize("fast", [True, False])
def test_a_norm_takes_scalars_for_all_samples(fast, monkeypatch):
    if not fast:
        monkeypatch.setattr(operations, "in_fast_layout", lambda x: x)
    norm = ScaledInstanceNorm(3)
    nn.init.uniform_(norm.weight)
    nn.init.uniform_(norm.bias)
    x, scalars = torch.randn(2, 3, 4, 5, 6), torch.rand(1, 3)
    torch.testing.assert_close(norm(x, scalars), norm(x, scalars.expand(2, -1)))
