"""From predicted to expected costs on one machine: what a few measured networks say of all others.

Training memory by NVML, or as reserved by torch, is what tensors need (`CostModel`) plus an offset (CUDA's context,
workspaces) and times a scale (what the allocator rounds up and keeps). Latency has no prediction of its own: it is
fitted as so much for every multiply-add (arithmetic), every byte that is written (norms, activations, sums) and every
call.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from typing_extensions import TypedDict  # pydantic needs it before Python 3.12

from nnunet_hypersegnas.cost.cost_model import CostError, PredictedCosts
from nnunet_hypersegnas.json_files import check

MEMORY_COEFFICIENTS = 2  # an offset and a scale
LATENCY_COEFFICIENTS = 3  # of a call, a multiply-add and a byte
MOST_COEFFICIENT = 1e15  # bytes or ms; also false for NaN
FEWEST_NETWORKS = 6  # twice the coefficients of the latency, below which residuals say nothing


class _FitRecord(TypedDict):
    coefficients: list[float]
    median_error: float
    worst_error: float


class _ConditionsRecord(TypedDict):
    device: str
    driver: str
    torch: str
    plans: str


class _CalibrationRecord(TypedDict):
    conditions: _ConditionsRecord
    memory_bytes: dict[str, _FitRecord]
    latency_ms: _FitRecord
    networks: int


@dataclass(frozen=True, kw_only=True)
class Conditions:
    """What a calibration holds for; with anything else changed it has to be measured again.

    Attributes:
        device: name of the GPU, or of the CPU.
        driver: version of NVIDIA's driver; "none" on a CPU.
        torch: version of torch.
        plans: digest of search space and training setup.
    """

    device: str
    driver: str
    torch: str
    plans: str

    def differences(self, now: Conditions) -> list[str]:
        """Name each condition that is another one now."""
        then, now_by_name = vars(self), vars(now)
        return [
            f"{name} {then[name]} then, {now_by_name[name]} now" for name in then if then[name] != now_by_name[name]
        ]


@dataclass(frozen=True, kw_only=True)
class Fit:
    """A sum of terms with coefficients, and how far it is from what it was fitted to.

    Attributes:
        coefficients: of the constant first, then of each term.
        median_error, worst_error: relative, over the measured networks.
    """

    coefficients: tuple[float, ...]
    median_error: float
    worst_error: float

    @classmethod
    def to(cls, measured: np.ndarray, *terms: np.ndarray, non_negative: bool = False) -> Fit:
        """Fit by least squares of relative errors.

        Args:
            measured: shape (n,), positive.
            terms: each of shape (n,).
            non_negative: allow no coefficient below 0.
        """
        columns = np.stack([np.ones(len(measured)), *terms], axis=1)
        # Columns of like size keep the equations well conditioned; rows divided by the goal weigh relative errors.
        size = columns.max(axis=0)
        relative = columns / size / measured[:, None]
        ones = np.ones(len(measured))
        from scipy.optimize import nnls  # half a second, which every command would wait for

        solution = nnls(relative, ones)[0] if non_negative else np.linalg.lstsq(relative, ones, rcond=None)[0]
        errors = np.abs(relative @ solution - 1)
        return cls(
            coefficients=tuple((solution / size).tolist()),
            median_error=float(np.median(errors)),
            worst_error=float(errors.max()),
        )

    def __call__(self, *terms: np.ndarray) -> np.ndarray:
        constant, *factors = self.coefficients
        return np.asarray(constant + sum(factor * term for factor, term in zip(factors, terms, strict=True)))

    def to_json(self) -> dict[str, Any]:
        return {
            "coefficients": list(self.coefficients),
            "median_error": self.median_error,
            "worst_error": self.worst_error,
        }

    @classmethod
    def from_json(cls, value: Mapping[str, Any], coefficients: int) -> Fit:
        """Read what `to_json` gives.

        Raises:
            CostError: it does not have that many coefficients, or some are larger than any device's.
        """
        found = value["coefficients"]
        if len(found) != coefficients or not all(abs(one) < MOST_COEFFICIENT for one in found):
            raise CostError(f"a fit needs {coefficients} coefficients of a sensible size, it has {found}")
        return cls(coefficients=tuple(found), median_error=value["median_error"], worst_error=value["worst_error"])


@dataclass(frozen=True, kw_only=True)
class Calibration:
    """What turns predicted costs into those to be expected on one machine.

    Attributes:
        conditions: the machine.
        memory: by metric ("nvml", "reserved", "allocated"), in bytes, of the predicted bytes; empty for a CPU.
        latency_ms: of multiply-adds and activation bytes.
        networks: how many were measured.
    """

    conditions: Conditions
    memory: Mapping[str, Fit]
    latency_ms: Fit
    networks: int

    @classmethod
    def fitted(
        cls,
        conditions: Conditions,
        predicted: PredictedCosts,
        memory_bytes: Mapping[str, Sequence[float]],
        latency_ms: Sequence[float],
    ) -> Calibration:
        """Fit to the measured costs of n networks.

        Args:
            conditions: the machine that they were measured on.
            predicted: of the same networks.
            memory_bytes: measured training memory by metric, n values each.
            latency_ms: measured, n values.

        Raises:
            CostError: too few networks.
        """
        if len(latency_ms) < FEWEST_NETWORKS:
            raise CostError(f"{len(latency_ms)} networks could be measured; a calibration needs {FEWEST_NETWORKS}")
        return cls(
            conditions=conditions,
            memory={name: Fit.to(np.array(v), predicted.memory_bytes) for name, v in memory_bytes.items()},
            latency_ms=Fit.to(np.array(latency_ms), *_latency_terms(predicted), non_negative=True),
            networks=len(latency_ms),
        )

    def apply(self, predicted: PredictedCosts, metric: str | None) -> PredictedCosts:
        """Return the costs to be expected here: memory by a metric (as predicted where None), and latency."""
        return replace(
            predicted,
            memory_bytes=self.memory[metric](predicted.memory_bytes) if metric else predicted.memory_bytes,
            latency_ms=self.latency_ms(*_latency_terms(predicted)),
        )

    def to_json(self) -> dict[str, Any]:
        return {
            "conditions": vars(self.conditions).copy(),
            "memory_bytes": {name: fit.to_json() for name, fit in self.memory.items()},
            "latency_ms": self.latency_ms.to_json(),
            "networks": self.networks,
        }

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> Calibration:
        """Read what `to_json` gives.

        Raises:
            JsonFileError: it is something else.
            CostError: a fit has other coefficients than its formula can have.
        """
        check(value, _CalibrationRecord, "its content is wrong")
        return cls(
            conditions=Conditions(**value["conditions"]),
            memory={name: Fit.from_json(fit, MEMORY_COEFFICIENTS) for name, fit in value["memory_bytes"].items()},
            latency_ms=Fit.from_json(value["latency_ms"], LATENCY_COEFFICIENTS),
            networks=value["networks"],
        )


def _latency_terms(predicted: PredictedCosts) -> tuple[np.ndarray, np.ndarray]:
    return predicted.multiply_adds, predicted.activation_bytes
