"""What a sub-net costs: training memory, parameters and multiply-adds predicted, memory and latency measured."""

from nnunet_hypersegnas.cost.calibration import FEWEST_NETWORKS, Calibration, Conditions, Fit
from nnunet_hypersegnas.cost.cost_model import CostError, CostModel, PredictedCosts
from nnunet_hypersegnas.cost.quantities import Quantity, format_count, parse_count, parse_ms
from nnunet_hypersegnas.cost.setup import SetupError, TrainingSetup, check_patch
from nnunet_hypersegnas.cost.sizes import SizeError, format_bytes, is_size, parse_bytes

__all__ = [
    "FEWEST_NETWORKS",
    "Calibration",
    "Conditions",
    "CostError",
    "CostModel",
    "Fit",
    "PredictedCosts",
    "Quantity",
    "SetupError",
    "SizeError",
    "TrainingSetup",
    "check_patch",
    "format_bytes",
    "format_count",
    "is_size",
    "parse_bytes",
    "parse_count",
    "parse_ms",
]
