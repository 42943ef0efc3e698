import numpy as np
import pytest
import torch

from nnunet_hypersegnas.architectures import SearchedNet, searched_net_kwargs
from nnunet_hypersegnas.cost import TrainingMemoryModel, TrainingSetup
from nnunet_hypersegnas.space import Architecture, largest, reference_architectures, rng_for, sample
from tests.spaces import FULL_RESOLUTION, IDS, SPACES


def _model(space, patch):
    setup = TrainingSetup(patch_size=patch, batch_size=2, input_channels=2, num_classes=3)
    return TrainingMemoryModel(space, setup)


def _architectures(space, count):
    return [sample(space, rng_for(0, "test", i)) for i in range(count)] + list(
        reference_architectures(space, 0).values()
    )


def _network(space, architecture):
    return SearchedNet(2, 3, True, **searched_net_kwargs(space, architecture))


def _saved_bytes(network, image):
    """Bytes of the distinct tensors that autograd keeps for the backward pass, parameters and image excepted."""
    known = {tensor.untyped_storage().data_ptr() for tensor in (*network.parameters(), image)}
    kept, sizes = [], {}

    def pack(tensor):
        kept.append(tensor)  # alive, so that no address is used twice
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in known:
            sizes[storage.data_ptr()] = storage.nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        network(image)
    return sum(sizes.values())


@pytest.mark.parametrize(("space", "patch"), SPACES, ids=IDS)
def test_parameters_are_exact(space, patch):
    model = _model(space, patch)
    for architecture in _architectures(space, 20):
        expected = sum(p.numel() for p in _network(space, architecture).parameters())
        assert model.parameters(architecture) == expected


@pytest.mark.parametrize(("space", "patch"), SPACES, ids=IDS)
def test_saved_activations_are_those_that_autograd_keeps(space, patch):
    model = _model(space, patch)
    errors = []
    for architecture in _architectures(space, 15):
        saved = _saved_bytes(_network(space, architecture), torch.randn(2, 2, *patch))
        errors.append(abs(4 * model.saved_elements(architecture) / saved - 1))
    assert np.median(errors) < 0.02
    assert max(errors) < 0.06


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
