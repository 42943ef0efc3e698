"""A cheap guess of scores from architectures, fitted to what was evaluated already."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from nnunet_hypersegnas.search.budget_sampling import Predict
from nnunet_hypersegnas.search.candidates import Candidate
from nnunet_hypersegnas.space import Operation, derive_seed, to_codes

FOLDS = 5
FEWEST = 4 * FOLDS
PENALTIES = np.logspace(0, 5, 11)


class ScorePredictor:
    """Ridge regression on an architecture's costs and its bits, summed over layers and over edges.

    Single bits beside the sums add nothing: see docs/performance.md.

    Attributes:
        held_out: Spearman's rank correlation of guesses with scores that they were not fitted to (5 folds).
        by_parameters, by_memory: that of parameters and memory alone, with whichever sign is better.
    """

    def __init__(self, model: Any, predict: Predict, held_out: float, by_parameters: float, by_memory: float) -> None:
        self._model, self._predict = model, predict
        self.held_out, self.by_parameters, self.by_memory = held_out, by_parameters, by_memory

    @classmethod
    def fitted(cls, candidates: Sequence[Candidate], predict: Predict, seed: int) -> ScorePredictor:
        """Fit to the candidates' scores on the first rung."""
        # Imported late: it takes a second that workers and --help need not wait for.
        from sklearn.linear_model import RidgeCV
        from sklearn.model_selection import KFold, cross_val_predict
        from sklearn.pipeline import make_pipeline
        from sklearn.preprocessing import StandardScaler

        scored = [(c, s) for c in candidates for s in [next(iter(c.scores.values())).dsc] if not math.isnan(s)]
        scores = np.array([score for _, score in scored])
        model = make_pipeline(StandardScaler(), RidgeCV(PENALTIES))
        if len(scored) < FEWEST or np.ptp(scores) == 0:
            return cls(model, predict, 0.0, 0.0, 0.0)
        codes = to_codes([candidate.architecture for candidate, _ in scored])
        costs = predict(codes)
        features = _features(codes, predict)
        folds = KFold(FOLDS, shuffle=True, random_state=derive_seed(seed, "predictor") % 2**32)
        guesses = cross_val_predict(model, features, scores, cv=folds)
        return cls(
            model.fit(features, scores),
            predict,
            _rank_correlation(guesses, scores),
            abs(_rank_correlation(costs.parameters, scores)),
            abs(_rank_correlation(costs.memory_bytes, scores)),
        )

    @property
    def is_useful(self) -> bool:
        """Whether it orders held-out scores better than parameters or memory alone."""
        return self.held_out > max(self.by_parameters, self.by_memory)

    def __call__(self, codes: np.ndarray) -> np.ndarray:
        """Return guesses for codes of shape (n, L, E); only their order means something."""
        return np.asarray(self._model.predict(_features(codes, self._predict)))

    def __str__(self) -> str:
        verdict = "it chooses" if self.is_useful else "not used"
        return (
            f"predictor's held-out rank correlation {self.held_out:.2f}, of parameters alone {self.by_parameters:.2f}, "
            f"of memory alone {self.by_memory:.2f}: {verdict}"
        )


def _features(codes: np.ndarray, predict: Predict) -> np.ndarray:
    """Return one row for each architecture: logarithms of its costs, its operations by edge and by layer."""
    costs = predict(codes)
    logarithms = np.log(np.stack([costs.memory_bytes, costs.parameters, costs.multiply_adds + 1], axis=1).astype(float))
    sums = [(codes == operation).sum(axis) for operation in Operation for axis in (1, 2)]
    return np.concatenate([logarithms, *sums], axis=1)


def _rank_correlation(a: np.ndarray, b: np.ndarray) -> float:
    """Return Spearman's, 0 where one of the two is constant."""
    from scipy.stats import spearmanr

    return 0.0 if np.ptp(a) == 0 or np.ptp(b) == 0 else float(spearmanr(a, b)[0])
