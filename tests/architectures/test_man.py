import numpy as np
import pytest
import torch
import torch.nn.functional as F

from nnunet_hypersegnas.architectures import MetaAssistantNetwork, OneShotNetwork, SuperNet, scalar_spread
from nnunet_hypersegnas.space import Architecture, Operation, SearchSpace, encode, rng_for, sample
from tests.spaces import FULL_RESOLUTION, IDS, SPACES, STEM_STRIDE

PATCHES = [(24, 40, 24), (32, 32, 32), (40, 56, 40)]


def _man(space=FULL_RESOLUTION, patch=(16, 24, 16), seed=0):
    torch.manual_seed(seed)
    return MetaAssistantNetwork(space, 1, patch)


def _real_patches(folder, patch):
    import SimpleITK as sitk

    patches = []
    for file in sorted((folder / "Task04_Hippocampus" / "imagesTr").glob("*.nii.gz"))[:16]:
        volume = sitk.GetArrayFromImage(sitk.ReadImage(str(file))).astype(np.float32)
        volume = (volume - volume.mean()) / volume.std()
        volume = np.pad(volume, [(0, max(0, p - s)) for s, p in zip(volume.shape, patch, strict=True)])
        patches.append(volume[tuple(slice(0, p) for p in patch)])
    return torch.from_numpy(np.stack(patches))[:, None]


def _smooth_patches(patch):
    torch.manual_seed(1)
    coarse = torch.randn(16, 1, *(p // 8 for p in patch))
    return F.interpolate(coarse, size=patch, mode="trilinear") + 0.1 * torch.randn(16, 1, *patch)


@pytest.mark.parametrize("space", [FULL_RESOLUTION, SearchSpace.paper()], ids=["small", "paper"])
@pytest.mark.parametrize("patch", PATCHES)
def test_man_depends_on_image_and_architecture_from_the_start(space, patch):
    architectures = [sample(space, rng_for(0, "test", i)) for i in range(16)]
    over_images, over_architectures = scalar_spread(_man(space, patch), _smooth_patches(patch), architectures)
    assert over_images >= 0.02
    assert over_architectures >= 0.02


@pytest.mark.parametrize("patch", PATCHES)
def test_no_norm_evens_out_what_the_encoder_says_of_images(patch):
    """The HyperNet's own normalisation would hide it in the scalars' spread: there, the little left is blown up."""
    with torch.no_grad():
        vectors = _man(FULL_RESOLUTION, patch).encoder(_smooth_patches(patch))
    assert (vectors.std(0) / vectors.mean(0)).nanmedian() > 0.1  # 0.05 to 0.08 with a norm after the last convolution


@pytest.mark.parametrize("patch", PATCHES)
def test_man_tells_real_images_apart_from_the_start(test_data, patch):
    architectures = [sample(FULL_RESOLUTION, rng_for(0, "test", i)) for i in range(16)]
    man = _man(FULL_RESOLUTION, patch)
    over_images, over_architectures = scalar_spread(man, _real_patches(test_data, patch), architectures)
    assert over_images >= 0.02
    assert over_architectures >= 0.02


def test_a_dead_man_has_no_spread():
    man = _man()
    for linear in man.hyper_net.rows.values():
        torch.nn.init.zeros_(linear.weight)
    architectures = [sample(FULL_RESOLUTION, rng_for(0, "test", i)) for i in range(4)]
    assert scalar_spread(man, torch.randn(4, 1, 16, 24, 16), architectures) == (0, 0)


def test_scalars_have_the_form_that_edges_need():
    architecture = sample(FULL_RESOLUTION, rng_for(0, "test", 0))
    modulation = _man()(torch.randn(3, 1, 16, 24, 16), architecture)
    assert set(modulation) == {(layer, column) for layer, column, *_ in architecture.active()}
    for layer, column, edge, _ in architecture.active():
        scale = modulation[layer, column]
        assert scale.shape == (3, FULL_RESOLUTION.channels[edge.target])
        assert scale.min() > 0 and scale.max() < 2


@pytest.mark.parametrize(("space", "patch"), SPACES, ids=IDS)
def test_scalars_change_the_output_at_nodes_with_one_edge_and_with_several(space, patch):
    torch.manual_seed(0)
    super_net = SuperNet(space, 1, 3)
    image = torch.randn(2, 1, *patch)
    seen = {False: 0, True: 0}
    for i in range(6):
        architecture = sample(space, rng_for(4, "test", i))
        ones = {
            (layer, column): torch.ones(2, space.channels[edge.target])
            for layer, column, edge, _ in architecture.active()
        }
        plain = super_net(image, architecture)[0]
        torch.testing.assert_close(super_net(image, architecture, ones)[0], plain)
        for layer, column, edge, _ in architecture.active():
            row = architecture.codes[layer]
            several = sum(bool(c) and e.target == edge.target for c, e in zip(row, space.edges, strict=True)) > 1
            ramp = torch.linspace(0.5, 1.5, space.channels[edge.target]).expand(2, -1)
            changed = super_net(image, architecture, {**ones, (layer, column): ramp})[0]
            assert (changed - plain).abs().max() > 1e-4 * plain.abs().max()
            seen[several] += 1
    assert min(seen.values()) > 5


def test_only_active_rows_get_gradients():
    torch.manual_seed(0)
    network = OneShotNetwork(FULL_RESOLUTION, 1, 3, (16, 24, 16))
    architecture = sample(FULL_RESOLUTION, rng_for(0, "test", 1))
    network.take(architecture, 0.0)
    network(torch.randn(2, 1, 16, 24, 16)).square().sum().backward()
    active = {
        f"layer{layer}_edge{column}_{operation.name.lower()}" for layer, column, _, operation in architecture.active()
    }
    for name, linear in network.man.hyper_net.rows.items():
        assert (linear.weight.grad is not None) == (name in active)
        assert (linear.bias.grad is not None) == (name in active)
        assert name not in active or linear.weight.grad.abs().max() > 0


def test_at_lambda_one_man_has_no_influence_and_gets_no_gradient():
    torch.manual_seed(0)
    network = OneShotNetwork(STEM_STRIDE, 1, 3, (16, 16, 16))
    architecture = sample(STEM_STRIDE, rng_for(0, "test", 1))
    image = torch.randn(2, 1, 16, 16, 16)
    network.take(architecture, 1.0)
    logits = network(image)
    assert torch.equal(logits, network.super_net(image, architecture)[0])
    logits.sum().backward()
    assert all(p.grad is None for p in network.man.parameters())
    network.take(architecture, 0.0)
    assert not torch.allclose(network(image), logits)


def test_lambda_moves_the_scalars_linearly_to_one():
    man, image = _man(), torch.randn(2, 1, 16, 24, 16)
    architecture = sample(FULL_RESOLUTION, rng_for(0, "test", 2))
    free = man(image, architecture, 0.0)
    for annealing in (0.25, 0.5, 0.9):
        for key, value in man(image, architecture, annealing).items():
            torch.testing.assert_close(value - 1, (1 - annealing) * (free[key] - 1))


def test_equations_4_and_5_by_hand_on_a_network_of_two_edges():
    """One layer, scale 0: a convolution from the same scale and one from the coarser scale, summed."""
    space = SearchSpace.from_stages([[1, 1, 1], [2, 2, 2]], [[3, 3, 3]] * 2, layers=1, channels=(3, 5))
    architecture = Architecture(((int(Operation.CONV), int(Operation.CONV), 0, 0),))
    torch.manual_seed(0)
    super_net, man = SuperNet(space, 1, 2), MetaAssistantNetwork(space, 1, (8, 8, 8))
    with torch.no_grad():
        for p in super_net.parameters():
            p.add_(0.1 * torch.randn_like(p))  # norms whose affine does something
    image = torch.randn(2, 1, 8, 8, 8)
    annealing = 0.3

    # l_arch + l_image -> H (Eq. 4)
    bits = torch.from_numpy(encode(architecture, space))
    assert bits.tolist() == [0, 1, 0, 1, 0, 0, 0, 0]
    centred = (bits - 0.1875) / (0.1875 * 0.8125) ** 0.5
    features = F.layer_norm(man.encoder(image), (256,))
    hidden = torch.cat([centred.expand(2, -1), features], 1)
    for linear in man.hyper_net.hidden:
        hidden = linear(hidden).relu()

    def omega(column):  # Eq. 5, relative to the fixed 0.5
        sigmoid = man.hyper_net.rows[f"layer0_edge{column}_conv"](hidden).sigmoid()
        return ((annealing * 0.5 + (1 - annealing) * sigmoid) / 0.5)[..., None, None, None]

    def norm(x, module):
        return F.instance_norm(x, weight=module.weight, bias=module.bias)

    fine, coarse = super_net.stems["0"], super_net.stems["1"]
    node0 = norm(F.conv3d(image, fine.conv.weight, padding=1), fine.norm)
    node1 = norm(F.conv3d(F.avg_pool3d(image, 2), coarse.conv.weight, padding=1), coarse.norm)
    same, up = super_net.layers[0]["0to0_conv"], super_net.layers[0]["1to0_conv"]
    from_same = omega(0) * norm(F.conv3d(F.leaky_relu(node0, 0.01), same.conv.weight, padding=1), same.norm)
    from_up = omega(1) * norm(F.conv3d(F.leaky_relu(node1, 0.01), up.conv.weight, padding=1), up.norm)
    total = (from_same + F.interpolate(from_up, scale_factor=2, mode="trilinear")) / 2**0.5
    expected = super_net.output.seg_layers[0](F.leaky_relu(total, 0.01))

    got = super_net(image, architecture, man(image, architecture, annealing))[0]
    torch.testing.assert_close(got, expected, rtol=1e-4, atol=1e-5)
