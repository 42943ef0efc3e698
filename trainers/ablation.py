"""The super-nets that the paper compares its own with (section 4.1), trained with the same hyper-parameters."""

from nnunet_hypersegnas.nnunet.variants import IMAGE_ONLY, KEEP_MAN, NO_ANNEAL, VANILLA
from nnunet_hypersegnas.trainers.supernet_trainer import HyperSegNASSupernetTrainer


class HyperSegNASSupernetTrainerVanilla(HyperSegNASSupernetTrainer):
    """A: one-shot training without MAN, which is not built."""

    variant = VANILLA


class HyperSegNASSupernetTrainerImageOnly(HyperSegNASSupernetTrainer):
    """B: MAN is told the image alone, and kept."""

    variant = IMAGE_ONLY


class HyperSegNASSupernetTrainerKeepMAN(HyperSegNASSupernetTrainer):
    """C: MAN is told image and architecture, and kept."""

    variant = KEEP_MAN


class HyperSegNASSupernetTrainerNoAnneal(HyperSegNASSupernetTrainer):
    """D: MAN takes part in every iteration, and in no prediction."""

    variant = NO_ANNEAL
