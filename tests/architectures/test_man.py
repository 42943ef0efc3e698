import numpy as np
import pytest
import torch
import torch.nn.functional as F

from nnunet_hypersegnas.architectures import MetaAssistantNetwork, OneShotNetwork, SuperNet, scalar_spread
from nnunet_hypersegnas.architectures.man import RunningStandardisation
from nnunet_hypersegnas.space import Architecture, Operation, SearchSpace, encode, rng_for, sample
from tests.awake import awake
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


def test_at_start_man_changes_nothing():
    man = _man()
    architectures = [sample(FULL_RESOLUTION, rng_for(0, "test", i)) for i in range(4)]
    images = torch.randn(4, 1, 16, 24, 16)
    assert scalar_spread(man, images, architectures) == (0, 0)
    assert all((scale == 1).all() for scale in man(images, architectures[0]).values())


def _learn(images, wanted, steps=64):
    """Let MAN learn scalars, in a step those of one of four architectures for two images; return its last errors."""
    man = _man(FULL_RESOLUTION, images.shape[2:])
    optimizer = torch.optim.AdamW(man.parameters(), 0.001)
    rows, errors = sample(man.space, rng_for(0, "rows")), []
    for i in range(steps):
        architecture = sample(man.space, rng_for(0, "learn", i % 4))
        image = images[torch.arange(2 * i, 2 * i + 2) % len(images)]
        scalars = 2 * man.scalars(image, architecture, rows=rows)
        error = F.mse_loss(scalars, wanted(image, i % 4)[:, None].expand_as(scalars))
        optimizer.zero_grad()
        error.backward()
        optimizer.step()
        errors.append(float(error.detach()))
    return np.mean(errors[-16:])


def test_man_learns_what_depends_on_the_architecture():
    images = _smooth_patches((16, 24, 16))
    assert _learn(images, lambda image, which: torch.full((len(image),), 0.75 + 0.5 * (which % 2))) < 0.25**2 / 4


@pytest.mark.parametrize("patch", PATCHES)
def test_man_learns_what_depends_on_the_image(patch):
    images = _smooth_patches(patch)
    images[::2] *= 0.5
    assert _learn(images, lambda image, _: 0.75 + 0.5 * (image.std((1, 2, 3, 4)) > 0.45)) < 0.25**2 / 2


@pytest.mark.parametrize("patch", PATCHES)
def test_no_norm_evens_out_what_the_encoder_says_of_images(patch):
    """The HyperNet's own normalisation would hide it in the scalars' spread: there, the little left is blown up."""
    with torch.no_grad():
        vectors = _man(FULL_RESOLUTION, patch).encoder(_smooth_patches(patch))
    assert (vectors.std(0) / vectors.mean(0)).nanmedian() > 0.1  # 0.05 to 0.08 with a norm after the last convolution


@pytest.mark.parametrize("patch", PATCHES)
def test_what_man_is_told_of_real_images_differs_as_much_as_what_it_is_told_of_architectures(test_data, patch):
    man, images = _man(FULL_RESOLUTION, patch), _real_patches(test_data, patch)
    for _ in range(20):
        for pair in images.split(2):
            vectors = man.standardisation(man.encoder(pair))
    with torch.no_grad():
        vectors = man.standardisation(man.encoder(images))
    assert vectors.mean(0).abs().max() < 0.5 and 0.8 < vectors.std(0).median() < 1.2


def test_standardisation_is_that_of_all_images_shown_and_stands_still_in_evaluation():
    torch.manual_seed(0)
    standardisation, vectors = RunningStandardisation(3), 5 + 2 * torch.randn(40, 3)
    for pair in vectors.split(2):
        standardisation(pair)
    torch.testing.assert_close(standardisation.mean, vectors.mean(0))
    torch.testing.assert_close(standardisation.variance, vectors.var(0), rtol=0.2, atol=0)
    before = {k: v.clone() for k, v in standardisation.state_dict().items()}
    with torch.no_grad():
        standardisation(vectors)
    standardisation.eval()(vectors)
    assert all(torch.equal(v, before[k]) for k, v in standardisation.state_dict().items())


def test_scalars_have_the_form_that_edges_need():
    architecture = sample(FULL_RESOLUTION, rng_for(0, "test", 0))
    modulation = awake(_man())(torch.randn(3, 1, 16, 24, 16), architecture)
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
    network = awake(OneShotNetwork(FULL_RESOLUTION, 1, 3, (16, 24, 16)))
    architecture = sample(FULL_RESOLUTION, rng_for(0, "test", 1))
    network.take(architecture, 0.0)
    network(torch.randn(2, 1, 16, 24, 16)).square().sum().backward()
    active = {
        f"layer{layer}_edge{column}_{operation.name.lower()}" for layer, column, _, operation in architecture.active()
    }
    for name, linear in network.man.hyper_net.rows.items():
        assert (linear.weight.grad is not None) == (name in active)
        assert name not in active or linear.weight.grad.abs().max() > 0


def test_at_lambda_one_man_has_no_influence_and_gets_no_gradient():
    torch.manual_seed(0)
    network = awake(OneShotNetwork(STEM_STRIDE, 1, 3, (16, 16, 16)))
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
    man, image = awake(_man()).eval(), torch.randn(2, 1, 16, 24, 16)
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
    super_net, man = SuperNet(space, 1, 2), awake(MetaAssistantNetwork(space, 1, (8, 8, 8))).eval()
    with torch.no_grad():
        for p in super_net.parameters():
            p.add_(0.1 * torch.randn_like(p))  # norms whose affine does something
        man.standardisation.mean.normal_()
        man.standardisation.variance.uniform_(0.5, 2)
    image = torch.randn(2, 1, 8, 8, 8)
    annealing = 0.3

    # l_arch + l_image -> H (Eq. 4)
    bits = torch.from_numpy(encode(architecture, space))
    assert bits.tolist() == [0, 1, 0, 1, 0, 0, 0, 0]
    centred = (bits - 0.1875) / (0.1875 * 0.8125) ** 0.5
    image_vector = (man.encoder(image) - man.standardisation.mean) / (man.standardisation.variance + 1e-3).sqrt()

    def answer(code, vector):
        hidden = torch.cat([code, vector], 1)
        for linear in man.hyper_net.hidden:
            hidden = linear(hidden).relu()
        return hidden

    code = centred.expand(2, -1)
    hidden = torch.cat([answer(code, image_vector) - answer(0 * code, 0 * image_vector), code], 1)

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
