"""The search (paper section 3.2): which sub-net is best under a budget. No nnU-Net and no torch in here."""

from nnunet_hypersegnas.search.addresses import Address, StorageError, is_sqlite, sqlite_url, without_password
from nnunet_hypersegnas.search.budget_sampling import BudgetSampler, Predict, possible_range
from nnunet_hypersegnas.search.budgets import (
    DEFAULT_MEMORY,
    OWN,
    Budget,
    budgets_of,
    labels_of,
    memory_fault,
    networks_in,
)
from nnunet_hypersegnas.search.candidates import Candidate, Meter, Source, measured_candidates, predicted_candidates
from nnunet_hypersegnas.search.distribution import Distribution
from nnunet_hypersegnas.search.evaluations import Evaluation, WorkerId, last_led, open_study
from nnunet_hypersegnas.search.halving import Contest, climb, gather, pareto_front, refine, winner
from nnunet_hypersegnas.search.leading import EvaluationError, Lead
from nnunet_hypersegnas.search.limits import BudgetError, Interval, Limits
from nnunet_hypersegnas.search.measurement_log import MeasurementLog
from nnunet_hypersegnas.search.placement import (
    COMFORTABLE,
    Placement,
    drawn_costs,
    place,
    quantile_of,
    quantiles,
    unmet_budgets,
)
from nnunet_hypersegnas.search.progress import Progress, ProgressBar
from nnunet_hypersegnas.search.ranking import RankingError, ranking_fault
from nnunet_hypersegnas.search.rungs import Rung, Way, rungs_of
from nnunet_hypersegnas.search.score import Score
from nnunet_hypersegnas.search.storage import open_storage, reading_errors, storage_errors
from nnunet_hypersegnas.search.strategies import Strategy, strategy_of
from nnunet_hypersegnas.search.working import work
from nnunet_hypersegnas.search_settings import SearchSettings

__all__ = [
    "COMFORTABLE",
    "Placement",
    "Predict",
    "drawn_costs",
    "place",
    "quantile_of",
    "quantiles",
    "unmet_budgets",
    "DEFAULT_MEMORY",
    "OWN",
    "Address",
    "Budget",
    "BudgetError",
    "BudgetSampler",
    "Candidate",
    "Contest",
    "Distribution",
    "Evaluation",
    "EvaluationError",
    "Interval",
    "Limits",
    "Lead",
    "MeasurementLog",
    "Meter",
    "Progress",
    "ProgressBar",
    "RankingError",
    "Rung",
    "Score",
    "SearchSettings",
    "Source",
    "StorageError",
    "Strategy",
    "Way",
    "WorkerId",
    "budgets_of",
    "climb",
    "gather",
    "is_sqlite",
    "last_led",
    "measured_candidates",
    "labels_of",
    "memory_fault",
    "networks_in",
    "open_storage",
    "open_study",
    "pareto_front",
    "possible_range",
    "predicted_candidates",
    "ranking_fault",
    "refine",
    "reading_errors",
    "rungs_of",
    "sqlite_url",
    "storage_errors",
    "strategy_of",
    "winner",
    "without_password",
    "work",
]
