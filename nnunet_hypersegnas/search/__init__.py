"""The coarse-to-fine search (paper section 3.2): which sub-net is best under a budget. No nnU-Net in here."""

from nnunet_hypersegnas.search.budget_sampling import BudgetSampler, possible_range
from nnunet_hypersegnas.search.budgets import Budget, budgets_of
from nnunet_hypersegnas.search.candidates import Candidate, Meter, measured_candidates, predicted_candidates
from nnunet_hypersegnas.search.coarse_to_fine import Evaluator, coarse_to_fine
from nnunet_hypersegnas.search.distribution import Distribution
from nnunet_hypersegnas.search.evaluation_log import EvaluationLog, LogError
from nnunet_hypersegnas.search.limits import BudgetError, Interval, Limits
from nnunet_hypersegnas.search.progress import Progress, ProgressBar
from nnunet_hypersegnas.search.score import Score
from nnunet_hypersegnas.search.settings import SearchSettings

__all__ = [
    "Budget",
    "BudgetError",
    "BudgetSampler",
    "Candidate",
    "Distribution",
    "EvaluationLog",
    "Evaluator",
    "Interval",
    "Limits",
    "LogError",
    "Meter",
    "Progress",
    "ProgressBar",
    "Score",
    "SearchSettings",
    "budgets_of",
    "coarse_to_fine",
    "measured_candidates",
    "possible_range",
    "predicted_candidates",
]
