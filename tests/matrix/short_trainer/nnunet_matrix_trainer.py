"""nnU-Net's own trainer with so few iterations that a CPU runs it in seconds."""

from nnunetv2.training.nnUNetTrainer.nnUNetTrainer import nnUNetTrainer


class nnUNetTrainer_Matrix(nnUNetTrainer):  # noqa: N801  (nnU-Net's naming)
    def __init__(self, *, plans, configuration, fold, dataset_json, device):
        super().__init__(plans, configuration, fold, dataset_json, device)
        self.num_epochs, self.num_iterations_per_epoch, self.num_val_iterations_per_epoch = 2, 3, 1
