"""Short super-net trainings in nnU-Net's naming: N epochs in all, warm-up and annealing scaled along."""

from nnunet_hypersegnas.trainers.supernet_trainer import HyperSegNASSupernetTrainer


class HyperSegNASSupernetTrainer_1epoch(HyperSegNASSupernetTrainer):
    total_epochs = 1


class HyperSegNASSupernetTrainer_5epochs(HyperSegNASSupernetTrainer):
    total_epochs = 5


class HyperSegNASSupernetTrainer_10epochs(HyperSegNASSupernetTrainer):
    total_epochs = 10


class HyperSegNASSupernetTrainer_20epochs(HyperSegNASSupernetTrainer):
    total_epochs = 20


class HyperSegNASSupernetTrainer_50epochs(HyperSegNASSupernetTrainer):
    total_epochs = 50


class HyperSegNASSupernetTrainer_100epochs(HyperSegNASSupernetTrainer):
    total_epochs = 100


class HyperSegNASSupernetTrainer_250epochs(HyperSegNASSupernetTrainer):
    total_epochs = 250


class HyperSegNASSupernetTrainer_500epochs(HyperSegNASSupernetTrainer):
    total_epochs = 500
