"""nnU-Net trainers, found by `nnUNetv2_train ... -tr NAME` through the folder `nnunet_ext` (see `hsnas_env`)."""

from nnunet_hypersegnas.trainers.ablation import (
    HyperSegNASSupernetTrainerAnnealMAN,
    HyperSegNASSupernetTrainerImageOnly,
    HyperSegNASSupernetTrainerKeepMAN,
    HyperSegNASSupernetTrainerNoAnneal,
    HyperSegNASSupernetTrainerVanilla,
)
from nnunet_hypersegnas.trainers.supernet_trainer import HyperSegNASSupernetTrainer
from nnunet_hypersegnas.trainers.variants import (
    HyperSegNASSupernetTrainer_1epoch,
    HyperSegNASSupernetTrainer_5epochs,
    HyperSegNASSupernetTrainer_10epochs,
    HyperSegNASSupernetTrainer_20epochs,
    HyperSegNASSupernetTrainer_50epochs,
    HyperSegNASSupernetTrainer_100epochs,
    HyperSegNASSupernetTrainer_250epochs,
    HyperSegNASSupernetTrainer_500epochs,
)

__all__ = [
    "HyperSegNASSupernetTrainer",
    "HyperSegNASSupernetTrainer_1epoch",
    "HyperSegNASSupernetTrainer_5epochs",
    "HyperSegNASSupernetTrainer_10epochs",
    "HyperSegNASSupernetTrainer_20epochs",
    "HyperSegNASSupernetTrainer_50epochs",
    "HyperSegNASSupernetTrainer_100epochs",
    "HyperSegNASSupernetTrainer_250epochs",
    "HyperSegNASSupernetTrainer_500epochs",
    "HyperSegNASSupernetTrainerVanilla",
    "HyperSegNASSupernetTrainerImageOnly",
    "HyperSegNASSupernetTrainerKeepMAN",
    "HyperSegNASSupernetTrainerNoAnneal",
    "HyperSegNASSupernetTrainerAnnealMAN",
]
