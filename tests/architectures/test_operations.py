"""The fast operations are the plain ones: torch's own, in the default memory format."""

import pytest
import torch
import torch.nn.functional as F

from nnunet_hypersegnas.architectures import SearchedNet, SuperNet, operations, searched_net_kwargs
from nnunet_hypersegnas.architectures.operations import (
    CHANNELS_LAST,
    ScaledInstanceNorm,
    activate,
    average_pool,
    pointwise_convolution,
)
from nnunet_hypersegnas.space import largest, rng_for, sample
from tests.spaces import IDS, SPACES

INSTANCE_NORM = {2: torch.nn.InstanceNorm2d, 3: torch.nn.InstanceNorm3d}
SHAPES = [(2, 6, 4, 8, 6), (1, 6, 4, 8, 6), (2, 6, 8, 4), (1, 6, 8, 4), (1, 1, 4, 4, 4), (2, 6, 1, 2, 1)]


def in_both_formats(shape, seed=0):
    """A map in the default and in the channels-last format."""
    x = torch.randn(shape, dtype=torch.double, generator=torch.Generator().manual_seed(seed))
    return [x, x.contiguous(memory_format=CHANNELS_LAST[len(shape) - 2])]


def gradients(function, x, gradient, *weights):
    x = x.detach().requires_grad_()
    for weight in weights:
        weight.grad = None
    result = function(x)
    result.backward(gradient)
    return [result.detach(), x.grad, *(weight.grad.clone() for weight in weights)]


def assert_same(found, expected):
    for a, b in zip(found, expected, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_the_norm_is_torchs_instance_norm_in_every_format(shape):
    ours, plain = ScaledInstanceNorm(shape[1]).double(), INSTANCE_NORM[len(shape) - 2](shape[1], affine=True).double()
    with torch.no_grad():
        for norm in (ours, plain):
            norm.weight.copy_(torch.linspace(0.5, 2, shape[1]))
            norm.bias.copy_(torch.linspace(-1, 1, shape[1]))
    gradient = torch.randn(shape, dtype=torch.double)
    (x, _), offset = in_both_formats(shape), 3
    # Each sample for itself: with one sample torch's norm is wrong where the gradient has the other format.
    expected = gradients(plain, x + offset, gradient, plain.weight, plain.bias)
    for given in in_both_formats(shape):
        for of_result in (gradient, gradient.contiguous(memory_format=CHANNELS_LAST[len(shape) - 2])):
            assert_same(gradients(ours, given + offset, of_result, ours.weight, ours.bias), expected)


@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_the_activation_is_leaky_relu_and_keeps_its_result(shape):
    for x in in_both_formats(shape):
        gradient = torch.randn(shape, dtype=torch.double)
        expected = gradients(lambda x: F.leaky_relu(x, operations.NEGATIVE_SLOPE), x, gradient)
        assert_same(gradients(activate, x, gradient), expected)
        saved = []
        with torch.autograd.graph.saved_tensors_hooks(lambda t, s=saved: s.append(t.data_ptr()), lambda t: t):
            result = activate(x.detach().requires_grad_())
        assert saved == [result.data_ptr()]


@pytest.mark.parametrize("stride", [(1, 2, 2), (2, 2, 2), (3, 1, 2), (1, 1, 1)], ids=str)
def test_pooling_is_average_pooling_and_keeps_nothing(stride):
    for x in in_both_formats((2, 3, 6, 4, 8)):
        gradient = torch.randn_like(F.avg_pool3d(x, stride, stride))
        expected = gradients(lambda x: F.avg_pool3d(x, stride, stride), x, gradient)
        assert_same(gradients(lambda x: average_pool(x, stride), x, gradient), expected)
        saved = []
        with torch.autograd.graph.saved_tensors_hooks(lambda t, s=saved: s.append(t.numel()), lambda t: t):
            average_pool(x.detach().requires_grad_(), stride)
        assert not [size for size in saved if size > 1]


@pytest.mark.parametrize("dimension", [2, 3])
@pytest.mark.parametrize("bias", [False, True])
def test_a_pointwise_convolution_is_torchs(dimension, bias):
    conv = pointwise_convolution(6, 4, dimension, bias=bias).double()
    plain, channels_last = in_both_formats((2, 6, 4, 8, 6)[: dimension + 2])
    gradient = torch.randn_like(conv(plain))
    found = gradients(conv, channels_last, gradient, *conv.parameters())
    assert_same(found, gradients(conv, plain, gradient, *conv.parameters()))


@pytest.mark.parametrize("batch", [1, 2])
@pytest.mark.parametrize("case", SPACES, ids=IDS)
def test_a_network_computes_the_same_in_the_fast_and_in_the_plain_way(case, batch, monkeypatch):
    """Logits and gradients of all weights and of MAN's scalars; a batch of one has memory formats of its own."""
    space, patch = case
    torch.manual_seed(0)
    network = SuperNet(space, 2, 3).double()
    image = torch.randn(batch, 2, *patch, dtype=torch.double)
    for architecture in (largest(space), *(sample(space, rng_for(0, "fast", i)) for i in range(4))):
        scalars = {
            (layer, column): torch.rand(batch, space.channels[edge.target], dtype=torch.double, requires_grad=True)
            for layer, column, edge, _ in architecture.active()
        }
        for modulation in (None, scalars):
            fast = _results(network, image, architecture, modulation)
            with monkeypatch.context() as plain:
                plain.setattr(operations, "in_fast_layout", lambda x: x)
                expected = _results(network, image, architecture, modulation)
            assert fast.keys() == expected.keys()
            largest_gradient = max(float(value.abs().max()) for value in expected.values())
            for name, value in fast.items():
                torch.testing.assert_close(value, expected[name], rtol=1e-6, atol=1e-9 * largest_gradient, msg=name)


def _results(network, image, architecture, modulation):
    network.zero_grad()
    logits = network(image, architecture, modulation, all_heads=True)
    sum((one - 1).square().mean() for one in logits).backward()
    results = {f"logits {i}": one.detach() for i, one in enumerate(logits)}
    results |= {name: weight.grad.clone() for name, weight in network.named_parameters() if weight.grad is not None}
    for key, scalar in (modulation or {}).items():
        results[f"scalar {key}"], scalar.grad = scalar.grad.clone(), None
    return results


def test_an_exported_program_has_plain_norms():
    space, patch = SPACES[0]
    network = SearchedNet(2, 3, **searched_net_kwargs(space, largest(space))).eval()
    exported = torch.export.export(network, (torch.randn(2, 2, *patch),))
    called = {str(node.target) for node in exported.graph.nodes if node.op == "call_function"}
    assert any("instance_norm" in name for name in called) and not any("rsqrt" in name for name in called)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_a_norm_of_large_values_in_half_precision_does_not_overflow(dtype):
    """Their squares are beyond fp16; a GPU's maps may have any memory format."""
    x = 100 * in_both_formats((2, 4, 6, 6, 6))[1].to(dtype)
    normed = ScaledInstanceNorm(4)(x).float()
    assert 0.95 < normed.std() < 1.05
