"""What every trainer of a search space's networks does otherwise than nnU-Net's own."""

from __future__ import annotations

import numpy as np
from nnunetv2.training.nnUNetTrainer.nnUNetTrainer import nnUNetTrainer
from torch import nn

from nnunet_hypersegnas.architectures import HeadsPresentLoss, deep_supervision_strides
from nnunet_hypersegnas.space import SearchSpace, largest


class SpaceTrainer(nnUNetTrainer):
    """nnU-Net's trainer with targets for every head of a search space; a network need not have them all."""

    space: SearchSpace

    def _get_deep_supervision_scales(self) -> list[list[float]] | None:
        if not self.enable_deep_supervision:
            return None
        strides = deep_supervision_strides(self.space, largest(self.space))
        return [list(scale) for scale in 1 / np.cumprod(np.vstack(strides), axis=0)][:-1]

    def _build_loss(self) -> nn.Module:
        loss = super()._build_loss()
        return HeadsPresentLoss(loss.loss) if self.enable_deep_supervision else loss

    def _do_i_compile(self) -> bool:
        return False  # another path every step would recompile until torch gives up; short trainings do not pay for it
