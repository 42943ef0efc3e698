"""The coarse-to-fine search (paper section 3.2): which sub-net is best under a budget. No nnU-Net in here."""

from nnunet_hypersegnas.search.budget_sampling import BudgetSampler, possible_range
from nnunet_hypersegnas.search.budgets import Budget, budgets_of
from nnunet_hypersegnas.search.coarse_to_fine import Candidate, Evaluator, ProgressBar, coarse_to_fine
from nnunet_hypersegnas.search.evaluation_log import EvaluationLog
from nnunet_hypersegnas.search.limits import BudgetError, Interval, Limits
from nnunet_hypersegnas.search.score import Score

__all__ = [
    "Budget",
    "BudgetError",
    "BudgetSampler",
    "Candidate",
    "EvaluationLog",
    "Evaluator",
    "Interval",
    "Limits",
    "ProgressBar",
    "Score",
    "budgets_of",
    "coarse_to_fine",
    "possible_range",
]
