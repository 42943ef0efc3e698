"""What the variable nnUNet_extTrainer points at: nnU-Net looks trainers up by name in this module."""

from nnunet_hypersegnas import trainers

globals().update({name: getattr(trainers, name) for name in trainers.__all__})
