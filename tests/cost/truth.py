"""The truth that predicted memory is held against: a traced training step of the real network, as nnU-Net trains."""

import numpy as np
from nnunetv2.training.loss.compound_losses import DC_and_CE_loss
from nnunetv2.training.loss.deep_supervision import DeepSupervisionWrapper
from nnunetv2.training.loss.dice import MemoryEfficientSoftDiceLoss

from nnunet_hypersegnas.architectures import SearchedNet, searched_net_kwargs
from nnunet_hypersegnas.cost import TrainingSetup
from nnunet_hypersegnas.cost.tracing import trace_training_step
from nnunet_hypersegnas.space import SearchSpace
from tests.spaces import FULL_RESOLUTION, TINY

STAGES = [[1, 1, 1], [1, 2, 2], [2, 2, 2], [2, 2, 2], [2, 2, 2], [1, 2, 2]], [[1, 3, 3]] + [[3, 3, 3]] * 5
PAPERS_CHANNELS = (32, 64, 128, 256)
ANISOTROPIC = SearchSpace.from_stages(*STAGES, channels=PAPERS_CHANNELS)
ALL_STAGES = SearchSpace.from_stages(*STAGES, (32, 64, 128, 256, 320, 320))
IN_PLANE = SearchSpace.from_stages([[1, 1]] + [[2, 2]] * 6, [[3, 3]] * 7, channels=PAPERS_CHANNELS)
# The spaces on which predictions are held against a traced training step, with patch and batch.
TRUTH = {
    "paper": (SearchSpace.paper(), (96, 96, 96), 2),
    "anisotropic": (ANISOTROPIC, (32, 128, 128), 2),
    "all stages": (ALL_STAGES, (32, 128, 128), 2),
    "2d": (IN_PLANE, (256, 256), 6),
    "full resolution": (FULL_RESOLUTION, (40, 56, 40), 2),
    "tiny": (TINY, (16, 16, 16), 2),
}


def setup_for(patch, batch=2, **changes):
    return TrainingSetup(**{"patch_size": patch, "batch_size": batch, "input_channels": 2, "num_classes": 3, **changes})


def network_of(space, architecture, setup):
    return SearchedNet(
        setup.input_channels,
        setup.num_classes,
        setup.deep_supervision,
        **searched_net_kwargs(space, architecture),
    )


def traced(space, architecture, setup):
    """A training step of the real network with nnU-Net's own loss, as nnU-Net weights its heads."""
    strides = searched_net_kwargs(space, architecture)["strides"]
    scales = (1 / np.cumprod(np.vstack(strides), axis=0))[:-1]
    loss = DC_and_CE_loss(
        {"batch_dice": False, "smooth": 1e-5, "do_bg": False, "ddp": False}, {}, dice_class=MemoryEfficientSoftDiceLoss
    )
    if setup.deep_supervision:
        weights = np.array([0.5**i for i in range(len(scales) - 1)] + [0])
        loss = DeepSupervisionWrapper(loss, weights / weights.sum())
    else:
        scales = scales[:1]
    return trace_training_step(
        lambda: network_of(space, architecture, setup),
        loss,
        (setup.batch_size, setup.input_channels, *setup.patch_size),
        [(setup.batch_size, 1, *np.round(np.array(setup.patch_size) * s).astype(int)) for s in scales],
        cuda_autocast=setup.autocast,
    )
