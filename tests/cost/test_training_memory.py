from math import prod

import pytest
import torch
from nnunetv2.training.loss.compound_losses import DC_and_CE_loss
from nnunetv2.training.loss.deep_supervision import DeepSupervisionWrapper
from nnunetv2.training.loss.dice import MemoryEfficientSoftDiceLoss

from nnunet_hypersegnas.architectures import SearchedNet, searched_net_kwargs
from nnunet_hypersegnas.cost import TrainingMemoryModel, TrainingSetup
from nnunet_hypersegnas.space import Architecture, Operation, largest, reference_architectures, rng_for, sample
from tests.spaces import FULL_RESOLUTION, IDS, PLANE, SPACES


def _model(space, patch):
    setup = TrainingSetup(patch_size=patch, batch_size=2, input_channels=2, num_classes=3)
    return TrainingMemoryModel(space, setup)


def _architectures(space, count):
    return [sample(space, rng_for(0, "test", i)) for i in range(count)] + list(
        reference_architectures(space, 0).values()
    )


def _network(space, architecture):
    return SearchedNet(2, 3, True, **searched_net_kwargs(space, architecture))


def _saved_bytes(forward, *known):
    """Bytes of the distinct tensors that autograd keeps for the backward pass of `forward`, the known ones excepted."""
    addresses = {tensor.untyped_storage().data_ptr() for tensor in known}
    kept, sizes = [], {}

    def pack(tensor):
        kept.append(tensor)  # alive, so that no address is used twice
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in addresses:
            sizes[storage.data_ptr()] = storage.nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        forward()
    return sum(sizes.values())


@pytest.mark.parametrize(("space", "patch"), SPACES, ids=IDS)
def test_parameters_are_exact(space, patch):
    model = _model(space, patch)
    for architecture in _architectures(space, 20):
        expected = sum(p.numel() for p in _network(space, architecture).parameters())
        assert model.parameters(architecture) == expected


@pytest.mark.parametrize(("space", "patch"), SPACES, ids=IDS)
def test_saved_activations_are_exactly_those_that_autograd_keeps(space, patch):
    model = _model(space, patch)
    for architecture in _architectures(space, 30):
        network, image = _network(space, architecture), torch.randn(2, 2, *patch)
        saved = _saved_bytes(lambda: network(image), *network.parameters(), image)  # noqa: B023 (called at once)
        assert 4 * model.saved_elements(architecture) == saved


@pytest.mark.parametrize(("space", "patch"), SPACES, ids=IDS)
def test_all_that_a_training_step_keeps_is_counted(space, patch):
    """Network and nnU-Net's own loss under deep supervision, plus what lives on without being saved for backward."""
    model = _model(space, patch)
    loss = DC_and_CE_loss(
        {"batch_dice": True, "smooth": 1e-5, "do_bg": False, "ddp": False}, {}, dice_class=MemoryEfficientSoftDiceLoss
    )
    for architecture in _architectures(space, 2):
        network, image = _network(space, architecture), torch.randn(2, 2, *patch)
        outputs = network(image)
        targets = [torch.randint(0, 3, (2, 1, *out.shape[2:]), dtype=torch.int16) for out in outputs]
        weighted = DeepSupervisionWrapper(loss, [0.5**i for i in range(len(outputs) - 1)] + [0])
        parameters = list(network.parameters())
        saved = _saved_bytes(lambda: weighted(network(image), targets), *parameters, image)  # noqa: B023 (called at once)
        held = image.nbytes + sum(o.nbytes + t.nbytes for o, t in zip(outputs[:-1], targets, strict=False))
        training_state = 12 * sum(p.numel() for p in parameters)  # weight, gradient and momentum
        assert model.predict_bytes(architecture) == pytest.approx(training_state + saved + held, rel=1e-3)


def test_under_autocast_convolutions_keep_narrow_copies():
    """In 2D, since CPU kernels of 3D pooling widen what CUDA's leave narrow."""
    space, patch = PLANE, (32, 32)
    setup = TrainingSetup(patch_size=patch, batch_size=2, input_channels=2, num_classes=3, bytes_per_activation=2)
    narrow, wide = TrainingMemoryModel(space, setup), _model(space, patch)
    for architecture in _architectures(space, 6):
        network, image = _network(space, architecture), torch.randn(2, 2, *patch)
        with torch.autocast("cpu", dtype=torch.bfloat16):
            saved = _saved_bytes(lambda: network(image), *network.parameters(), image)  # noqa: B023 (called at once)
        parameters, voxels = narrow.parameters(architecture), 2 * prod(patch)
        heads = [1, *(prod(s) for s in space.cumulative_strides)][: max(architecture.outputs) + 1]
        loss = sum(((2 + 3 * 4) * 3 + 2 + 8) * voxels // stride for stride in heads)
        predicted = narrow.predict_bytes(architecture) - 12 * parameters - 4 * 2 * voxels - loss
        assert predicted == pytest.approx(saved, rel=0.02)
        assert 2 * wide.saved_elements(architecture) < predicted


@pytest.mark.parametrize(("space", "patch"), SPACES, ids=IDS)
def test_an_edge_more_never_costs_less(space, patch):
    model = _model(space, patch)
    dearer = 0
    for architecture in _architectures(space, 20):
        cost = model.predict_bytes(architecture)
        for layer, row in enumerate(architecture.codes):
            for column in (i for i, code in enumerate(row) if not code):
                for operation in Operation:
                    codes = [list(r) for r in architecture.codes]
                    codes[layer][column] = int(operation)
                    more = Architecture(tuple(map(tuple, codes)))
                    assert model.predict_bytes(more) >= cost
                    dearer += model.predict_bytes(more) > cost
    assert dearer > 100


def test_every_edge_costs():
    model = _model(FULL_RESOLUTION, (16, 24, 16))
    codes = [list(row) for row in largest(FULL_RESOLUTION).codes]
    last = model.predict_bytes(largest(FULL_RESOLUTION))
    for layer in range(1, 5):
        for column in range(10):
            codes[layer][column] = 1  # a skip in a convolution's place
            cost = model.predict_bytes(Architecture(tuple(map(tuple, codes))))
            assert cost < last
            last = cost


def test_autocast_halves_activations_and_leaves_the_weights():
    def predict(width):
        setup = TrainingSetup(
            patch_size=(16, 24, 16), batch_size=2, input_channels=2, num_classes=3, bytes_per_activation=width
        )
        return TrainingMemoryModel(FULL_RESOLUTION, setup)

    architecture = largest(FULL_RESOLUTION)
    fixed = 12 * predict(4).parameters(architecture)
    assert (
        0.5 < (predict(2).predict_bytes(architecture) - fixed) / (predict(4).predict_bytes(architecture) - fixed) < 0.6
    )
