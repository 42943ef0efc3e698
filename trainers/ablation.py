"""The super-nets of the paper's ablation (section 4.1): its own and those it is compared with, alike in all but MAN."""

from nnunet_hypersegnas.nnunet.variants import IMAGE_ONLY, KEEP_MAN, MAIN, NO_ANNEAL, VANILLA
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


class HyperSegNASSupernetTrainerAnnealMAN(HyperSegNASSupernetTrainer):
    """MAN is told image and architecture, and annealed away in the last epochs (section 3.2)."""

    variant = MAIN
