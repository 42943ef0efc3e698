import itertools

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from nnunetv2.training.loss.compound_losses import DC_and_CE_loss
from nnunetv2.training.loss.deep_supervision import DeepSupervisionWrapper
from nnunetv2.training.loss.dice import MemoryEfficientSoftDiceLoss
from torch._subclasses.fake_tensor import FakeTensorMode

from nnunet_hypersegnas.cost import CostError, CostModel, Quantity, SetupError
from nnunet_hypersegnas.cost.tracing import CudaAutocast
from nnunet_hypersegnas.space import (
    Architecture,
    ArchitectureError,
    SearchSpace,
    largest,
    reference_architectures,
    rng_for,
    sample,
    sample_all_edges,
    to_codes,
)
from tests.cost.truth import TRUTH, network_of, setup_for, traced
from tests.spaces import FULL_RESOLUTION, IDS, PLANE, SPACES, TINY


def architectures(space, count):
    drawn = [sample(space, rng_for(0, "test", i)) for i in range(count)]
    return [*drawn, *reference_architectures(space, 0).values()]


def errors(space, setup, drawn):
    """Relative errors of saved bytes and of the peak, shape (n, 2)."""
    model, found = CostModel(space, setup), []
    for architecture in drawn:
        truth, predicted = traced(space, architecture, setup), model.predict_one(architecture)
        assert predicted.parameters[0] == truth.parameters
        assert predicted.weight_bytes[0] == truth.weight_bytes
        found.append(
            (predicted.activation_bytes[0] / truth.saved_bytes - 1, predicted.memory_bytes[0] / truth.peak_bytes - 1)
        )
    return np.abs(found)


@pytest.mark.parametrize("autocast", [False, True], ids=["fp32", "cuda autocast"])
@pytest.mark.parametrize("name", TRUTH)
def test_saved_bytes_and_peak_are_those_of_a_training_step(name, autocast):
    space, patch, batch = TRUTH[name]
    drawn = [sample(space, rng_for(1, "truth", i)) for i in range(2)]
    drawn += [largest(space), sample_all_edges(space, rng_for(1, "truth"))]
    found = errors(space, setup_for(patch, batch, autocast=autocast), drawn)
    assert (np.median(found, axis=0) < 0.01).all()
    assert found.max() < 0.03


@pytest.mark.slow
@pytest.mark.timeout(3600)
@pytest.mark.parametrize("autocast", [False, True], ids=["fp32", "cuda autocast"])
@pytest.mark.parametrize("name", TRUTH)
def test_saved_bytes_and_peak_of_two_hundred_architectures(name, autocast):
    space, patch, batch = TRUTH[name]
    drawn = [sample(space, rng_for(2, "truth", i)) for i in range(200)]
    found = errors(space, setup_for(patch, batch, autocast=autocast), drawn)
    assert (np.median(found, axis=0) < 0.01).all()
    assert found.max() < 0.03


@pytest.mark.parametrize(
    "changes",
    [{"batch_size": 1}, {"num_classes": 14}, {"input_channels": 4}, {"deep_supervision": False}],
    ids=lambda c: next(iter(c)),
)
def test_every_setting_of_the_training_counts(changes):
    space, patch = FULL_RESOLUTION, (32, 32, 32)
    drawn = architectures(space, 2)[:4]
    assert errors(space, setup_for(patch, **changes, autocast=True), drawn).max() < 0.02
    plain, other = CostModel(space, setup_for(patch)), CostModel(space, setup_for(patch, **changes))
    assert (plain.predict(to_codes(drawn)).memory_bytes != other.predict(to_codes(drawn)).memory_bytes).all()


def test_adam_keeps_one_state_more():
    codes = to_codes([largest(FULL_RESOLUTION)])
    one = CostModel(FULL_RESOLUTION, setup_for((16, 24, 16))).predict(codes)
    two = CostModel(FULL_RESOLUTION, setup_for((16, 24, 16), optimizer_states=2)).predict(codes)
    assert two.memory_bytes - one.memory_bytes == 4 * one.parameters


@pytest.mark.parametrize(("space", "patch"), SPACES, ids=IDS)
def test_saved_bytes_are_those_of_real_tensors_too(space, patch):
    """The trace runs on fake tensors; here autograd keeps real ones."""
    setup = setup_for(patch, deep_supervision=False)
    model = CostModel(space, setup)
    for architecture in architectures(space, 5):
        network, image = network_of(space, architecture, setup), torch.randn(2, 2, *patch)
        known = {t.untyped_storage().data_ptr() for t in (*network.parameters(), image)}
        kept = []

        def pack(tensor):
            kept.append(tensor)  # noqa: B023 (called at once); alive, so that no address is used twice
            return tensor

        with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
            network(image)
        storages = {t.untyped_storage().data_ptr(): t.untyped_storage().nbytes() for t in kept}
        saved = sum(size for address, size in storages.items() if address not in known)
        voxels = 2 * np.prod(patch)
        of_loss = (3 * 4 * 3 + 8) * voxels  # softmax, log-softmax, one-hot target; the cross-entropy's target
        assert model.predict_one(architecture).activation_bytes[0] - of_loss == saved


@pytest.mark.parametrize(("space", "patch"), SPACES, ids=IDS)
def test_multiply_adds_are_those_of_the_convolutions(space, patch):
    setup = setup_for(patch, batch=3)
    model = CostModel(space, setup)
    for architecture in architectures(space, 3):
        network, counted = network_of(space, architecture, setup), []
        for module in network.modules():
            if isinstance(module, torch.nn.Conv2d | torch.nn.Conv3d):
                module.register_forward_hook(
                    lambda m, _, out: counted.append(m.weight[0].numel() * out[0].numel())  # noqa: B023
                )
        network(torch.randn(1, 2, *patch))
        assert model.predict_one(architecture).multiply_adds[0] == sum(counted)


def test_many_at_once_cost_what_each_costs_alone():
    space = FULL_RESOLUTION
    model = CostModel(space, setup_for((16, 24, 16), autocast=True))
    drawn = architectures(space, 50)
    together = model.predict(to_codes(drawn))
    alone = [model.predict_one(a) for a in drawn]
    for quantity in (Quantity.MEMORY, Quantity.PARAMETERS, Quantity.MULTIPLY_ADDS):
        assert together.of(quantity).tolist() == [costs.of(quantity)[0] for costs in alone]


def test_a_space_of_five_scales_needs_no_table_of_all_rows():
    space = SearchSpace.from_stages([[1, 1, 1]] + [[2, 2, 2]] * 4, [[3, 3, 3]] * 5, layers=4, channels=(2, 3, 4, 5, 6))
    assert errors(space, setup_for((32, 32, 32), autocast=True), architectures(space, 2)[:3]).max() < 0.02


def all_of(space):
    for codes in itertools.product(itertools.product((0, 1, 2), repeat=len(space.edges)), repeat=space.layers):
        try:
            yield Architecture(codes)
        except ArchitectureError:
            continue


def test_autocast_needs_about_half_of_the_activations_and_all_of_the_weights():
    codes = to_codes([largest(FULL_RESOLUTION)])
    wide = CostModel(FULL_RESOLUTION, setup_for((32, 32, 32))).predict(codes)
    narrow = CostModel(FULL_RESOLUTION, setup_for((32, 32, 32), autocast=True)).predict(codes)
    assert narrow.weight_bytes == wide.weight_bytes
    assert 0.5 < narrow.activation_bytes / wide.activation_bytes < 0.6


def test_latency_is_not_predicted_without_a_calibration():
    costs = CostModel(TINY, setup_for((16, 16, 16))).predict_one(largest(TINY))
    with pytest.raises(CostError, match="run hsnas_calibrate"):
        costs.of(Quantity.LATENCY)


@pytest.mark.parametrize(
    ("space", "patch", "message"),
    [
        (FULL_RESOLUTION, (30, 24, 16), r"\[30, 24, 16\] is not divisible by \[8, 8, 8\].*\[32, 24, 16\]"),
        (FULL_RESOLUTION, (16, 16), "has 2 axes, the search space 3"),
        (PLANE, (32, 2), r"the next one that is"),
        (FULL_RESOLUTION, (8, 8, 8), "leaves a single voxel at the coarsest scale"),
    ],
)
def test_a_patch_that_does_not_fit_is_refused(space, patch, message):
    with pytest.raises(SetupError, match=message):
        CostModel(space, setup_for(patch))


def test_the_table_of_cudas_autocast():
    """Dtypes as CUDA gives them: lists `lower_precision_fp` and `fp32` in torch's autocast_mode.h."""
    with FakeTensorMode(), CudaAutocast() as autocast:  # fake, since CPU has no kernel for an fp16 softmax
        image, conv = torch.randn(1, 2, 8, 8), torch.nn.Conv2d(2, 2, 3, padding=1)
        norm = torch.nn.InstanceNorm2d(2, affine=True)
        features = conv(image)
        assert features.dtype == torch.float16
        assert F.leaky_relu(features).dtype == torch.float16
        assert norm(features).dtype == torch.float16
        assert F.avg_pool2d(image, 2).dtype == torch.float32
        assert F.interpolate(features, scale_factor=2.0, mode="bilinear").dtype == torch.float32
        assert torch.softmax(features, 1).dtype == torch.float32
        assert F.cross_entropy(features, torch.zeros(1, 8, 8, dtype=torch.int64)).dtype == torch.float32
        assert (features + 1).dtype == torch.float16
        kept = autocast._casts[id(conv.weight)]
        conv(image)
        assert autocast._casts[id(conv.weight)] is kept  # the weights' copy is made once


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_the_peak_is_what_cuda_allocates():
    """Three real steps of 50 architectures; what cuDNN's kernels take beside the tensors grows with these."""
    space, patch, batch = TRUTH["paper"]
    setup = setup_for(patch, batch, autocast=True)
    found = []
    for i in range(50):
        architecture = sample(space, rng_for(3, "truth", i))
        found.append(_allocated_by_cuda(space, architecture, setup))
        found[-1] = CostModel(space, setup).predict_one(architecture).memory_bytes[0] / found[-1]
    share = np.median(found)  # 0.92 on an H200; a calibration finds it
    errors = np.abs(np.array(found) / share - 1)
    assert 0.85 < share < 1.01, share
    assert np.median(errors) < 0.02 and errors.max() < 0.05, errors


def _allocated_by_cuda(space, architecture, setup):
    device = torch.device("cuda")
    network = network_of(space, architecture, setup).to(device)
    optimizer = torch.optim.SGD(network.parameters(), 0.01, weight_decay=3e-5, momentum=0.99, nesterov=True)
    scaler = torch.amp.GradScaler("cuda")
    loss = DC_and_CE_loss(
        {"batch_dice": False, "smooth": 1e-5, "do_bg": False, "ddp": False}, {}, dice_class=MemoryEfficientSoftDiceLoss
    )
    image = torch.randn(setup.batch_size, setup.input_channels, *setup.patch_size, device=device)
    heads = [tuple(out.shape[2:]) for out in network(image)]
    weights = [0.5**i for i in range(len(heads) - 1)] + [0]
    wrapped = DeepSupervisionWrapper(loss, np.array(weights) / sum(weights))
    targets = [torch.zeros(setup.batch_size, 1, *size, dtype=torch.int16, device=device) for size in heads]
    for step in range(3):
        if step == 1:  # the momentum is there
            torch.cuda.reset_peak_memory_stats()
        optimizer.zero_grad(set_to_none=True)
        with torch.autocast("cuda"):
            output = network(image)
            value = wrapped(output, targets)
        scaler.scale(value).backward()
        scaler.unscale_(optimizer)
        torch.nn.utils.clip_grad_norm_(network.parameters(), 12)
        scaler.step(optimizer)
        scaler.update()
    return torch.cuda.max_memory_allocated()
