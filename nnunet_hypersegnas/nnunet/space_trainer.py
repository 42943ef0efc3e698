"""What every trainer of a search space's networks does otherwise than nnU-Net's own."""

from __future__ import annotations

from typing import Any

import numpy as np
from nnunetv2.training.dataloading.nnunet_dataset import nnUNetBaseDataset
from nnunetv2.training.nnUNetTrainer.nnUNetTrainer import nnUNetTrainer
from torch import nn

from nnunet_hypersegnas.architectures import HeadsPresentLoss, deep_supervision_strides
from nnunet_hypersegnas.nnunet.cascade import FirstStage
from nnunet_hypersegnas.nnunet.seeded_batches import ForgetfulTransforms
from nnunet_hypersegnas.space import SearchSpace, largest


class SpaceTrainer(nnUNetTrainer):
    """nnU-Net's trainer with targets for every head of a search space; a network need not have them all."""

    space: SearchSpace
    first_stage: FirstStage | None = None

    def _get_deep_supervision_scales(self) -> list[list[float]] | None:
        if not self.enable_deep_supervision:
            return None
        strides = deep_supervision_strides(self.space, largest(self.space))
        return [list(scale) for scale in 1 / np.cumprod(np.vstack(strides), axis=0)][:-1]

    def _build_loss(self) -> nn.Module:
        loss = super()._build_loss()
        return HeadsPresentLoss(loss.loss) if self.enable_deep_supervision else loss

    def take_predictions_of(self, first_stage: FirstStage | None) -> None:
        """On a cascade's second stage, load the predictions of another model than nnU-Net would."""
        self.first_stage = first_stage
        self.folder_with_segs_from_previous_stage = str(first_stage.folder) if first_stage else None

    def get_tr_and_val_datasets(self) -> tuple[nnUNetBaseDataset, nnUNetBaseDataset]:
        training, validation = super().get_tr_and_val_datasets()
        if self.first_stage:
            self.first_stage.check([*training.identifiers, *validation.identifiers])
        return training, validation

    # nnU-Net's is static, and called through an instance.
    def get_training_transforms(self, *args: Any, **kwargs: Any) -> ForgetfulTransforms:
        """As nnU-Net's, so that each batch follows from its seed."""
        return ForgetfulTransforms(nnUNetTrainer.get_training_transforms(*args, **kwargs))

    def _do_i_compile(self) -> bool:
        return False  # another path every step would recompile until torch gives up; short trainings do not pay for it
