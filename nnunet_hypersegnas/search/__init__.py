"""The coarse-to-fine search (paper section 3.2): which sub-net is best under a budget. No nnU-Net in here."""

from nnunet_hypersegnas.search.candidates import BudgetError, MemoryWindow, draw_candidates
from nnunet_hypersegnas.search.coarse_to_fine import Candidate, Evaluator, ProgressBar, coarse_to_fine
from nnunet_hypersegnas.search.evaluation_log import EvaluationLog
from nnunet_hypersegnas.search.score import Score

__all__ = [
    "BudgetError",
    "Candidate",
    "EvaluationLog",
    "Evaluator",
    "MemoryWindow",
    "ProgressBar",
    "Score",
    "coarse_to_fine",
    "draw_candidates",
]
