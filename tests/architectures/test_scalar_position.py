"""MAN's scalars on what an edge takes, in place of what it gives."""

import pytest
import torch
import torch.nn.functional as F

from nnunet_hypersegnas.architectures import OneShotNetwork, SuperNet
from nnunet_hypersegnas.space import Architecture, Operation, SearchSpace, rng_for, sample
from tests.awake import awake
from tests.spaces import IDS, SPACES


def _pair(space, patch):
    """The same weights of the super-net with scalars on the output and on the input, and MANs of their own."""
    networks = []
    for position in ("output", "input"):
        torch.manual_seed(0)
        networks.append(awake(OneShotNetwork(space, 1, 3, patch, scalar_position=position)))
    return networks


@pytest.mark.parametrize(("space", "patch"), SPACES, ids=IDS)
def test_without_man_the_network_is_the_same(space, patch):
    output, on_input = _pair(space, patch)
    image = torch.randn(2, 1, *patch)
    for i in range(4):
        architecture = sample(space, rng_for(1, "test", i))
        for network in (output, on_input):
            network.take(architecture, 1.0)
        assert torch.equal(output(image), on_input(image))
        on_input.take(architecture, 0.0)
        with_man = on_input(image)
        assert not torch.allclose(output(image), with_man, rtol=1e-3)
        on_input.take(architecture, 0.999)  # MAN's influence goes to nothing
        assert (on_input(image) - output(image)).abs().max() < 0.05 * (with_man - output(image)).abs().max()


@pytest.mark.parametrize("recompute", [False, True])
@pytest.mark.parametrize(("space", "patch"), SPACES, ids=IDS)
def test_each_scalar_changes_the_output_and_has_a_gradient(space, patch, recompute):
    torch.manual_seed(0)
    network = OneShotNetwork(space, 1, 3, patch, scalar_position="input", recompute=recompute)
    image = torch.randn(2, 1, *patch)
    seen = set()
    for i in range(3):
        architecture = sample(space, rng_for(4, "test", i))
        scalars = network.man(image, architecture)
        for layer, column, edge, operation in architecture.active():
            assert scalars[layer, column].shape == (2, space.channels[edge.source])
            scalars[layer, column].retain_grad()
            seen.add((operation, edge.target - edge.source))
        network.super_net(image, architecture, scalars)[0].square().mean().backward()
        largest = max(float(one.grad.abs().max()) for one in scalars.values())
        assert min(float(one.grad.abs().max()) for one in scalars.values()) > 1e-5 * largest
    assert len(seen) >= 5  # skips and convolutions, up, down and within a scale


def test_there_are_as_many_scalars_as_on_the_output():
    """Each edge between two scales has one that leads back, so the paper's 27,648 are reached in both ways."""
    space = SearchSpace.paper()
    for position in ("output", "input"):
        with torch.device("meta"):
            network = OneShotNetwork(space, 1, 3, (96, 96, 96), scalar_position=position)
        assert sum(rows.out_features for rows in network.man.hyper_net.rows.values()) == 27_648


def test_by_hand_on_a_network_of_three_edges():
    """Scale 0 after one layer: a convolution and a skip from the coarser scale, and the identity."""
    space = SearchSpace.from_stages([[1, 1, 1], [2, 2, 2]], [[3, 3, 3]] * 2, layers=1, channels=(3, 5))
    torch.manual_seed(0)
    super_net = SuperNet(space, 1, 2, scalar_position="input")
    image = torch.randn(2, 1, 8, 8, 8)

    def norm(x, module):
        return F.instance_norm(x, weight=module.weight, bias=module.bias)

    fine, coarse = super_net.stems["0"], super_net.stems["1"]
    node0 = norm(F.conv3d(image, fine.conv.weight, padding=1), fine.norm)
    node1 = norm(F.conv3d(F.avg_pool3d(image, 2), coarse.conv.weight, padding=1), coarse.norm)
    scalars = {(0, 0): torch.rand(2, 3) + 0.5, (0, 1): torch.rand(2, 5) + 0.5}
    s0, s1 = (one[..., None, None, None] for one in scalars.values())
    conv, skip = super_net.layers[0]["1to0_conv"], super_net.layers[0]["1to0_skip"]
    through = {
        Operation.CONV: norm(F.conv3d(s1 * F.leaky_relu(node1, 0.01), conv.conv.weight, padding=1), conv.norm),
        Operation.SKIP: norm(F.conv3d(s1 * node1, skip.conv.weight), skip.norm),
    }
    for operation, low in through.items():
        architecture = Architecture(((int(Operation.SKIP), int(operation), 0, 0),))
        total = (s0 * node0 + F.interpolate(low, scale_factor=2, mode="trilinear")) / 2**0.5
        expected = super_net.output.seg_layers[0](F.leaky_relu(total, 0.01))
        got = super_net(image, architecture, scalars)[0]
        torch.testing.assert_close(got, expected, rtol=1e-4, atol=1e-5)
