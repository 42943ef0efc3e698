"""A MAN that is told the architecture alone: its scalars are constants, which searched networks' weights take in."""

import pytest
import torch

from nnunet_hypersegnas.architectures import OneShotNetwork, SearchedNet, inherit_weights, searched_net_kwargs
from nnunet_hypersegnas.architectures.man_statistics import scalar_statistics
from nnunet_hypersegnas.space import Operation, SearchSpace, rng_for, sample, smallest
from tests.awake import awake
from tests.spaces import IDS, SPACES


def one_shot(space, patch, **kwargs):
    torch.manual_seed(0)
    return awake(OneShotNetwork(space, 1, 3, patch, man="architecture", **kwargs))


@pytest.mark.parametrize("position", ["output", "input"])
@pytest.mark.parametrize(("space", "patch"), SPACES, ids=IDS)
def test_a_searched_network_takes_man_in(space, patch, position):
    network, image = one_shot(space, patch, scalar_position=position), torch.randn(2, 1, *patch)
    for i in range(4):
        architecture = sample(space, rng_for(1, "test", i))
        network.take(architecture, 0.0)
        expected = network(image)
        searched = SearchedNet(1, 3, **searched_net_kwargs(space, architecture))
        inherit_weights(network.super_net, searched)
        apart = (searched(image) - expected).abs().max()
        inherit_weights(network.super_net, searched, network.man(None, architecture))
        assert (searched(image) - expected).abs().max() < 1e-3 * apart
        assert {name for name, _ in searched.named_parameters()} <= {n for n, _ in network.super_net.named_parameters()}


def test_scalars_are_those_of_the_architecture_whatever_the_image():
    space, patch = SPACES[0]
    network, image = one_shot(space, patch), torch.randn(2, 1, *patch)
    first, second = (sample(space, rng_for(2, "test", i)) for i in range(2))
    with torch.no_grad():
        told = network.man.scalars(image, first, first)
        assert torch.equal(told, network.man.scalars(None, first, first)) and len(told) == 1
        assert not torch.allclose(told, network.man.scalars(image, second, first), atol=1e-3)
    assert not [name for name, _ in network.man.named_parameters() if "encoder" in name]


def test_skips_within_a_scale_have_no_scalars():
    space = SearchSpace.paper()
    with torch.device("meta"):
        network = OneShotNetwork(space, 1, 3, (96, 96, 96), man="architecture")
    within_a_scale = space.layers * sum(space.channels)
    assert sum(r.out_features for r in network.man.hyper_net.rows.values()) == 27_648 - within_a_scale
    architecture = sample(SPACES[0][0], rng_for(3, "test"))
    modulation = one_shot(*SPACES[0]).man(None, architecture)
    identities = {
        (layer, column)
        for layer, column, edge, operation in architecture.active()
        if operation is Operation.SKIP and edge.source == edge.target
    }
    assert identities and set(modulation) == {(i, c) for i, c, *_ in architecture.active()} - identities


def test_a_sub_net_of_nothing_but_skips_within_a_scale():
    space, patch = SPACES[0]
    network, image = one_shot(space, patch), torch.randn(2, 1, *patch)
    network.take(smallest(space), 0.0)
    assert network.man(image, smallest(space)) == {}
    with_man = network(image)
    network.take(smallest(space), 1.0)
    assert torch.equal(network(image), with_man)


@pytest.mark.parametrize("recompute", [False, True])
def test_active_rows_alone_learn(recompute):
    space, patch = SPACES[0]
    network = one_shot(space, patch, recompute=recompute)
    architecture = sample(space, rng_for(3, "test"))
    network.take(architecture, 0.0)
    network(torch.randn(2, 1, *patch)).square().mean().backward()
    learned = {name for name, linear in network.man.hyper_net.rows.items() if linear.weight.grad is not None}
    assert len(learned) == len(network.man(None, architecture))
    assert all(network.man.hyper_net.rows[name].weight.grad.abs().max() > 0 for name in learned)
    assert all(linear.weight.grad is not None for linear in network.man.hyper_net.hidden)


def test_statistics_do_not_ask_for_a_spread_over_images():
    space, patch = SPACES[0]
    network = one_shot(space, patch)
    architectures = [sample(space, rng_for(4, "test", i)) for i in range(4)]
    found = scalar_statistics(network.man, torch.randn(3, 1, *patch), architectures)
    assert found.spread_images == 0 and found.spread_architectures > 0.01
    assert found.warning(told_architecture=True, told_image=False) is None
    assert "depend on images any more" in found.warning(told_architecture=True)
