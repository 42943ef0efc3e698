import json
import pydoc
import re
from dataclasses import replace

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from nnunetv2.utilities.get_network_from_plans import get_network_from_plans

from nnunet_hypersegnas.architectures import (
    HeadsPresentLoss,
    OneShotNetwork,
    SearchedNet,
    SuperNet,
    deep_supervision_strides,
    inherit_weights,
    searched_net_kwargs,
)
from nnunet_hypersegnas.architectures.operations import Scaled, ScaledInstanceNorm, sum_normalised
from nnunet_hypersegnas.architectures.topology_network import InputSizeError
from nnunet_hypersegnas.cost.tracing import trace_training_step
from nnunet_hypersegnas.space import (
    Architecture,
    ArchitectureError,
    Operation,
    SearchSpace,
    largest,
    reference_architectures,
    rng_for,
    sample,
    smallest,
    u_net,
)
from tests.spaces import FULL_RESOLUTION, IDS, SPACES, STEM_STRIDE

CHANNELS, CLASSES = 2, 3


def _searched(space, architecture, deep_supervision=False):
    return SearchedNet(CHANNELS, CLASSES, deep_supervision, **searched_net_kwargs(space, architecture))


@pytest.fixture(params=SPACES, ids=IDS)
def case(request):
    space, patch = request.param
    torch.manual_seed(0)
    return space, SuperNet(space, CHANNELS, CLASSES), torch.randn(2, CHANNELS, *patch)


@pytest.mark.parametrize("deep_supervision", [False, True])
def test_a_searched_network_compiles_in_one_piece(case, deep_supervision):
    """Stock nnU-Net compiles networks; every break in the graph would cost what compiling gains."""
    space, _, image = case
    searched = _searched(space, sample(space, rng_for(0, "compiled")), deep_supervision).eval()
    compiled = torch.compile(searched, backend="eager", fullgraph=True)
    with torch.no_grad():
        for a, b in zip(compiled(image), searched(image), strict=True):
            torch.testing.assert_close(a, b, rtol=0, atol=0)
    torch.compiler.reset()


def test_a_searched_network_with_inherited_weights_equals_the_super_net(case):
    space, super_net, image = case
    architectures = [sample(space, rng_for(0, "test", i)) for i in range(8)]
    for architecture in [*architectures, *reference_architectures(space, 0).values()]:
        searched = _searched(space, architecture, deep_supervision=True)
        inherit_weights(super_net, searched)
        expected = super_net(image, architecture, all_heads=True)
        got = searched(image)
        assert len(got) == max(2, len(expected))  # nnU-Net needs two outputs, see `deep_supervision_strides`
        for a, b in zip(expected, got, strict=False):
            torch.testing.assert_close(a, b, rtol=0, atol=1e-5)
        assert got[0].shape == (2, CLASSES, *image.shape[2:])
        searched.decoder.deep_supervision = False
        torch.testing.assert_close(searched(image), expected[0], rtol=0, atol=1e-5)


def test_only_active_edges_run(case):
    space, super_net, image = case
    calls = []
    for name, module in super_net.named_modules():
        if re.fullmatch(r"stems\.\d+|layers\.\d+\.\w+|output\.merges\.\d+", name):
            module.register_forward_hook(lambda *_, name=name: calls.append(name))
    for i in range(5):
        architecture = sample(space, rng_for(1, "test", i))
        calls.clear()
        super_net(image, architecture)
        edges = [
            f"layers.{layer}.{edge.source}to{edge.target}_{operation.name.lower()}"
            for layer, _, edge, operation in architecture.active()
            if not (operation is Operation.SKIP and edge.source == edge.target)  # which compute nothing
        ]
        stems = [f"stems.{scale}" for scale in architecture.stems]
        merges = [f"output.merges.{scale}" for scale in range(1, max(architecture.outputs) + 1)]
        assert 0 < len(edges) <= architecture.n_edges
        assert sorted(calls) == sorted(edges + stems + merges)


def test_every_edge_of_an_architecture_matters(case):
    """Pruning left nothing that the output ignores, and the super-net reads each edge's own weights."""
    space, super_net, image = case
    architecture = sample(space, rng_for(2, "test", 0))
    parameters = dict(super_net.named_parameters())
    sum(logits.square().sum() for logits in super_net(image, architecture, all_heads=True)).backward()
    trained = {name for name, p in parameters.items() if p.grad is not None and name.startswith("layers.")}
    expected = {
        f"layers.{layer}.{edge.source}to{edge.target}_{operation.name.lower()}"
        for layer, _, edge, operation in architecture.active()
        if not (operation.name == "SKIP" and edge.source == edge.target)  # the identity has no weights
    }
    assert {".".join(name.split(".")[:3]) for name in trained} == expected
    assert all(parameters[name].grad.abs().max() > 0 for name in trained if name.endswith("conv.weight"))


def test_deep_supervision_heads_are_those_nnunet_computes_from_the_strides(case):
    space, _super_net, image = case
    for coarsest in range(space.n_scales):
        candidates = (sample(space, rng_for(3, "test", i)) for i in range(2000))
        architecture = next(a for a in candidates if max(a.outputs) == coarsest)
        logits = _searched(space, architecture, deep_supervision=True)(image)
        strides = deep_supervision_strides(space, architecture)
        scales = (1 / np.cumprod(np.vstack(strides), axis=0))[:-1]  # as nnUNetTrainer has it
        assert len(strides) >= 3
        assert strides[0] == [1] * space.dimension
        sizes = [tuple(round(s * f) for s, f in zip(image.shape[2:], scale, strict=True)) for scale in scales]
        assert [tuple(out.shape[2:]) for out in logits] == sizes


def test_json_is_all_that_nnunet_needs(case):
    space, _, image = case
    architecture = u_net(space)
    path = "nnunet_hypersegnas.architectures.SearchedNet"
    assert pydoc.locate(path) is SearchedNet
    kwargs = json.loads(json.dumps(searched_net_kwargs(space, architecture)))
    network = get_network_from_plans(path, kwargs, [], CHANNELS, CLASSES, deep_supervision=True)
    strides = deep_supervision_strides(space, architecture)
    assert [out.shape[1] for out in network(image)] == [CLASSES] * (len(strides) - 1)
    plain = get_network_from_plans(path, kwargs, [], CHANNELS, CLASSES)  # as when nnU-Net estimates memory
    assert plain(image).shape == (2, CLASSES, *image.shape[2:])


def test_heads_are_named_as_nnunet_knows_them():
    names = [name for name, _ in _searched(FULL_RESOLUTION, u_net(FULL_RESOLUTION)).named_parameters()]
    heads = [name for name in names if ".seg_layers." in name]
    assert heads == ["output.seg_layers.0.weight", "output.seg_layers.0.bias"]


def test_only_needed_modules_are_built():
    few = sum(p.numel() for p in _searched(STEM_STRIDE, smallest(STEM_STRIDE)).parameters())
    all_of_them = sum(p.numel() for p in _searched(STEM_STRIDE, largest(STEM_STRIDE)).parameters())
    assert few < all_of_them / 10
    assert list(_searched(STEM_STRIDE, smallest(STEM_STRIDE)).stems) == ["2"]


def test_contradicting_plans_are_refused():
    kwargs = searched_net_kwargs(FULL_RESOLUTION, u_net(FULL_RESOLUTION))
    with pytest.raises(ArchitectureError, match="strides"):
        SearchedNet(1, 2, **{**kwargs, "strides": [[1, 1, 1]] * 5})
    with pytest.raises(ArchitectureError, match="6 layers and 4 scales, the search space has 5 and 3"):
        SearchedNet(1, 2, **{**kwargs, "space": STEM_STRIDE.to_json()})
    with pytest.raises(ArchitectureError, match="search space"):
        inherit_weights(SuperNet(STEM_STRIDE, 1, 2), SearchedNet(1, 2, **kwargs))
    with pytest.raises(ArchitectureError, match="2 scales"):
        SuperNet(STEM_STRIDE, 1, 2)(torch.zeros(1, 1, 8, 8, 8), Architecture(((2,) * 4,)))


def test_an_indivisible_patch_is_refused():
    with pytest.raises(InputSizeError, match=r"\(10, 16, 16\) is not divisible by \(8, 8, 8\)"):
        _searched(FULL_RESOLUTION, largest(FULL_RESOLUTION))(torch.zeros(1, CHANNELS, 10, 16, 16))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_autocast_is_finite(case, dtype):
    space, _, image = case
    torch.manual_seed(0)
    network = OneShotNetwork(space, CHANNELS, CLASSES, image.shape[2:], deep_supervision=True)
    references = reference_architectures(space, 0)
    for name in ("largest", "unet", "random0"):
        network.take(references[name], 0.0)
        network.zero_grad(set_to_none=True)
        with torch.autocast("cpu", dtype=dtype):
            logits = network(image)
            loss = sum(F.cross_entropy(x.float(), torch.zeros_like(x[:, 0], dtype=torch.long)) for x in logits)
        loss.backward()
        assert all(x.isfinite().all() for x in logits)
        assert all(p.grad.isfinite().all() for p in network.parameters() if p.grad is not None)


@pytest.mark.parametrize("shape", [(1, 4, 6, 5), (3, 4, 5, 6, 7)])
def test_a_scaled_norm_is_the_norm_times_the_scalar(shape):
    torch.manual_seed(0)
    norm = ScaledInstanceNorm(shape[1])
    with torch.no_grad():
        norm.weight.uniform_(0.5, 2)
        norm.bias.uniform_(-1, 1)
    x = torch.randn(shape)
    scale = torch.rand(shape[:2])
    expected = F.instance_norm(x, weight=norm.weight, bias=norm.bias) * scale[(...,) + (None,) * (x.ndim - 2)]
    torch.testing.assert_close(norm(x, scale), expected)
    torch.testing.assert_close(norm(x), F.instance_norm(x, weight=norm.weight, bias=norm.bias))


@pytest.mark.parametrize("n", [1, 2, 5])
def test_sums_keep_the_magnitude_of_independent_inputs(n):
    torch.manual_seed(0)
    terms = [torch.randn(100_000) for _ in range(n)]
    copies = [t.clone() for t in terms]
    assert abs(sum_normalised([Scaled(term) for term in terms]).product().std() - 1) < 0.02
    assert all(torch.equal(a, b) for a, b in zip(terms, copies, strict=True))  # inputs are not written to


def test_the_loss_is_normalised_over_the_heads_that_are_there():
    loss = HeadsPresentLoss(lambda output, target: (output - target).mean())
    targets = [torch.zeros(1)] * 4
    ones = [torch.ones(1)] * 4
    for n in range(1, 5):
        assert loss(ones[:n], targets) == pytest.approx(1.0)
    weighted = loss([torch.tensor([3.0]), torch.tensor([6.0]), torch.tensor([100.0])], targets)
    assert weighted == pytest.approx((3 + 6 / 2) / 1.5)  # 1, 1/2 and nothing for the last, as nnU-Net


def test_nnunet_switches_deep_supervision_through_the_decoder():
    network = OneShotNetwork(FULL_RESOLUTION, CHANNELS, CLASSES, (16, 24, 16), deep_supervision=True)
    image = torch.randn(1, CHANNELS, 16, 24, 16)
    assert isinstance(network(image), list)
    network.decoder.deep_supervision = False
    assert network(image).shape == (1, CLASSES, 16, 24, 16)
    assert SearchSpace.from_json(FULL_RESOLUTION.to_json()) == network.super_net.space


def test_a_chain_of_skips_within_a_scale_keeps_one_map(case):
    """With MAN, whatever its length: the chain is a product of a few numbers."""
    space, _, image = case
    saved = []
    for layers in (4, 8):
        deeper = replace(space, layers=layers)
        network, chain = SuperNet(deeper, CHANNELS, CLASSES), smallest(deeper)
        modulation = {
            (layer, column): torch.full((len(image), deeper.channels[edge.target]), 0.9, requires_grad=True)
            for layer, column, edge, _ in chain.active()
        }
        sizes = []
        with torch.autograd.graph.saved_tensors_hooks(lambda t, s=sizes: s.append(t.numel()) or t, lambda t: t):
            logits = network(image, chain, modulation)
        largest_factor = max(value.numel() for value in modulation.values())
        saved.append(sum(size for size in sizes if size > largest_factor))
        sum(one.sum() for one in logits).backward()
        assert all(value.grad is not None for value in modulation.values())
    assert saved[0] == saved[1]


def test_recomputed_layers_give_the_same_gradients(case):
    space, _, image = case
    architecture = sample(space, rng_for(0, "recompute"))
    modulation = {
        (layer, column): torch.rand(len(image), space.channels[edge.target], requires_grad=True)
        for layer, column, edge, _ in architecture.active()
    }
    gradients = []
    for recompute in (False, True):
        torch.manual_seed(0)
        network = SuperNet(space, CHANNELS, CLASSES, recompute=recompute)
        for scalars in modulation.values():
            scalars.grad = None
        logits = network(image, architecture, modulation, all_heads=True)
        sum(one.square().mean() for one in logits).backward()
        used = [*network.parameters(), *modulation.values()]
        gradients.append([*logits, *(tensor.grad for tensor in used if tensor.grad is not None)])
        with torch.no_grad():
            assert torch.equal(network(image, architecture, modulation)[0], logits[0])
    torch.testing.assert_close(*gradients, rtol=0, atol=0)


def test_recomputed_layers_need_less_memory():
    """Of everything that is alive, as a training step is traced; not of what autograd says it keeps."""
    space, architecture = SearchSpace.paper(), largest(SearchSpace.paper())
    kwargs = json.loads(json.dumps(searched_net_kwargs(space, architecture)))
    peaks = []
    for recompute in (False, True):
        step = trace_training_step(
            lambda recompute=recompute: SearchedNet(1, 3, True, recompute=recompute, **kwargs),
            HeadsPresentLoss(torch.nn.CrossEntropyLoss()),
            (2, 1, 64, 64, 64),
            [(2, 64 // stride, 64 // stride, 64 // stride) for stride in (1, 2, 4, 8, 16)],
            cuda_autocast=False,
            target_dtype=torch.long,
        )
        assert step.peak_bytes > step.saved_bytes
        peaks.append(step.peak_bytes - 3 * 4 * step.parameters)  # beside weights, momentum and gradients
    assert peaks[1] < 0.6 * peaks[0]
