"""What a sub-net costs. For now: training memory and parameters, predicted."""

from nnunet_hypersegnas.cost.sizes import SizeError, format_bytes, parse_bytes
from nnunet_hypersegnas.cost.training_memory import TrainingMemoryModel, TrainingSetup

__all__ = ["SizeError", "TrainingMemoryModel", "TrainingSetup", "format_bytes", "parse_bytes"]
