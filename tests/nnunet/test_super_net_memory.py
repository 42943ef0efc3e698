"""Predicted memory of a super-net's training steps, held against traced ones."""

import numpy as np
import pytest
import torch
from nnunetv2.training.loss.compound_losses import DC_and_CE_loss
from nnunetv2.training.loss.deep_supervision import DeepSupervisionWrapper
from nnunetv2.training.loss.dice import MemoryEfficientSoftDiceLoss

from benchmarks.typical_plans import TYPICAL
from nnunet_hypersegnas.architectures import HeadsPresentLoss, OneShotNetwork, deep_supervision_strides
from nnunet_hypersegnas.cost.tracing import trace_training_step
from nnunet_hypersegnas.nnunet.cost_models import training_setup
from nnunet_hypersegnas.nnunet.memory_counting import MemoryCounting
from nnunet_hypersegnas.nnunet.settings import SuperNetSettings
from nnunet_hypersegnas.nnunet.super_net_memory import MemoryLimitError, SuperNetMemory, super_net_parameters
from nnunet_hypersegnas.space import largest, rng_for, sample, sample_all_edges, smallest, to_codes
from tests.cost.truth import setup_for
from tests.spaces import FULL_RESOLUTION, IDS, SPACES


def one_shot(space, architecture, setup, annealing=1.0, man="none"):
    network = OneShotNetwork(
        space, setup.input_channels, setup.num_classes, setup.patch_size, deep_supervision=True, man=man
    )
    network.take(architecture, annealing)
    return network


def memory_of(space, setup, counting=None, man="none", **more):
    with torch.device("meta"):
        network = one_shot(space, largest(space), setup, man=man)
    of_man = 0 if network.man is None else sum(p.numel() for p in network.man.parameters())
    parameters = sum(p.numel() for p in network.super_net.parameters())
    counting, man_bytes = counting or MemoryCounting(), 4 * 4 * of_man  # with gradients and AdamW's two moments
    values = {"space": space, "setup": setup, "parameters": parameters, "optimizer": "AdamW", "man_bytes": man_bytes}
    return SuperNetMemory(**{**values, **more}, counting=counting)


def traced(space, architecture, setup, annealing=1.0, man="none", adam=True):
    """A training step of the super-net with nnU-Net's loss, as the trainer weights the heads of a sub-net."""
    strides = deep_supervision_strides(space, largest(space))
    scales = (1 / np.cumprod(np.vstack(strides), axis=0))[:-1]
    weights = np.array([0.5**i for i in range(len(scales) - 1)] + [0])
    loss = DC_and_CE_loss(
        {"batch_dice": False, "smooth": 1e-5, "do_bg": False, "ddp": False}, {}, dice_class=MemoryEfficientSoftDiceLoss
    )
    return trace_training_step(
        lambda: one_shot(space, architecture, setup, annealing, man),
        HeadsPresentLoss(DeepSupervisionWrapper(loss, weights / weights.sum()).loss),
        (setup.batch_size, setup.input_channels, *setup.patch_size),
        [(setup.batch_size, 1, *np.round(np.array(setup.patch_size) * s).astype(int)) for s in scales],
        cuda_autocast=setup.autocast,
        adam=adam,
    )


def drawn(space):
    return [
        *(sample(space, rng_for(3, "super-net", i)) for i in range(3)),
        *(sample_all_edges(space, rng_for(3, "super-net")), largest(space), smallest(space)),
    ]


@pytest.mark.parametrize("autocast", [False, True], ids=["fp32", "cuda autocast"])
@pytest.mark.parametrize(("space", "patch"), SPACES, ids=IDS)
def test_a_step_takes_what_is_predicted(space, patch, autocast):
    setup = setup_for(patch, autocast=autocast)
    memory = memory_of(space, setup)
    for architecture in drawn(space):
        step = traced(space, architecture, setup)
        assert memory.tensor_bytes(to_codes([architecture]))[0] == pytest.approx(step.peak_bytes, rel=0.01)
        assert step.parameters == memory.parameters
        assert memory.fixed_bytes == 3 * 4 * step.parameters  # weights and AdamW's two states


def test_sgd_keeps_one_state_less():
    setup = setup_for((16, 24, 16))
    adam, sgd = (memory_of(FULL_RESOLUTION, setup, optimizer=name) for name in ("AdamW", "SGD"))
    assert adam.fixed_bytes - sgd.fixed_bytes == 4 * adam.parameters
    step = traced(FULL_RESOLUTION, largest(FULL_RESOLUTION), setup, adam=False)
    assert sgd.tensor_bytes(to_codes([largest(FULL_RESOLUTION)]))[0] == pytest.approx(step.peak_bytes, rel=0.01)


def test_of_man_weights_gradients_and_states_are_counted():
    setup, architecture = setup_for((16, 24, 16)), largest(FULL_RESOLUTION)
    with_man = memory_of(FULL_RESOLUTION, setup, man="image and architecture")
    step = traced(FULL_RESOLUTION, architecture, setup, man="image and architecture")  # annealed away: no gradients
    assert step.parameters == with_man.parameters + with_man.man_bytes // 16
    without_gradients = with_man.tensor_bytes(to_codes([architecture]))[0] - with_man.man_bytes // 4
    assert without_gradients == pytest.approx(step.peak_bytes, rel=0.01)


def test_a_data_sets_super_net_shares_its_batch_among_the_ranks():
    dataset, settings = TYPICAL[7].dataset(), SuperNetSettings(man="architecture")
    space, setup = settings.space(dataset.configuration.configuration), training_setup(dataset, "cuda")
    one, two = (SuperNetMemory.of(dataset, space, settings, setup, MemoryCounting(), ranks) for ranks in (1, 2))
    assert (one.setup.batch_size, two.setup.batch_size) == (7, 4)
    super_net, of_man = super_net_parameters(dataset, space, settings)
    assert one.fixed_bytes == 4 * (3 * super_net + 4 * of_man) and of_man > 0


def test_several_ranks_exchange_the_gradients_of_all_weights():
    setup = setup_for((16, 24, 16))
    one, two = (memory_of(FULL_RESOLUTION, setup, ranks=ranks) for ranks in (1, 2))
    assert two.fixed_bytes - one.fixed_bytes == 4 * one.parameters


def test_a_limit_is_in_what_the_device_counts():
    setup = setup_for((16, 24, 16))
    tensors = memory_of(FULL_RESOLUTION, setup)
    counted = memory_of(FULL_RESOLUTION, setup, MemoryCounting(offset_bytes=1e6, factor=2))
    assert counted.drawn_bytes == pytest.approx(1e6 + 2 * tensors.drawn_bytes)
    low, middle, high = tensors.drawn_quantiles(0.2, 0.5, 1)
    assert tensors.fitting(middle) == pytest.approx(0.5, abs=0.01) and tensors.fitting(high) == 1
    codes = to_codes(drawn(FULL_RESOLUTION))
    assert (tensors.fits(middle)(codes) == (tensors.tensor_bytes(codes) <= middle)).all()
    assert (counted.fits(1e6 + 2 * middle)(codes) == tensors.fits(middle)(codes)).all()
    assert tensors.warmup_bytes >= tensors.tensor_bytes(codes).max()
    tensors.check(low)
    with pytest.raises(MemoryLimitError, match=r"only 0% of the sub-nets drawn can be trained.*smaller patch or batch"):
        tensors.check(tensors.drawn_bytes.min() - 1)
