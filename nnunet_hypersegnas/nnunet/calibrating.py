"""Calibrating the cost model to a device: networks spread over a search space are measured, and the result is kept."""

from __future__ import annotations

import os
import platform
import re
from pathlib import Path

import torch
from nnunetv2.paths import nnUNet_results

from nnunet_hypersegnas.cost import Calibration, Conditions, CostError, CostModel, Fit, Quantity
from nnunet_hypersegnas.cost.measuring import MemoryMetric
from nnunet_hypersegnas.cost.nvml import driver_version
from nnunet_hypersegnas.errors import HyperSegNASError
from nnunet_hypersegnas.json_files import JsonFileError, read_object
from nnunet_hypersegnas.nnunet.dataset import PreprocessedDataset
from nnunet_hypersegnas.nnunet.metering import LoggedMeter
from nnunet_hypersegnas.search import BudgetSampler, Limits, Progress, possible_range
from nnunet_hypersegnas.space import Architecture, to_architectures

FOLDER = "hypersegnas_calibrations"  # in the data set's preprocessed folder, beside its plans


class CalibrationError(HyperSegNASError):
    """A calibration that cannot be read, or was made under other conditions."""


def device_name(device: torch.device) -> str:
    """Return the GPU's name as torch gives it, or the CPU's with the number of threads that torch uses."""
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    return f"{_cpu_name()}, {torch.get_num_threads()} threads"


def conditions_of(model: CostModel, device: torch.device) -> Conditions:
    """Return the conditions under which measurements are made now."""
    return Conditions(
        device=device_name(device),
        driver=driver_version() if device.type == "cuda" else "none",
        torch=torch.__version__,
        plans=model.digest,
    )


def calibration_file(dataset: PreprocessedDataset, device: torch.device) -> Path:
    """Return where a data set's configuration keeps the calibration of a device of this name.

    That is beside its plans, or among its results where it is not there and the plans' folder is read-only.
    """
    kind = re.sub(r"[^A-Za-z0-9]+", "-", device_name(device)).strip("-")
    name = f"{dataset.plans['plans_name']}__{dataset.configuration_name}__{kind}.json"
    folder = dataset.folder / FOLDER
    if (folder / name).exists() or os.access(folder if folder.exists() else dataset.folder, os.W_OK):
        return folder / name
    return Path(nnUNet_results) / dataset.name / FOLDER / name


def read_calibration(path: Path, now: Conditions, metric: MemoryMetric | None) -> Calibration:
    """Read a calibration for use under the conditions of now.

    Raises:
        JsonFileError: it holds no JSON object.
        CalibrationError: it is not a calibration, holds for other conditions, or lacks the metric.
    """
    anew = "calibrate anew with hsnas_calibrate --overwrite"
    content = read_object(path, anew)
    try:
        calibration = Calibration.from_json(content)
    except (JsonFileError, CostError) as error:
        raise CalibrationError(f"{path} is no calibration ({error}); {anew}") from error
    if differences := calibration.conditions.differences(now):
        raise CalibrationError(f"the calibration {path} is stale: {'; '.join(differences)}; {anew}")
    if metric and metric.value not in calibration.memory:
        raise CalibrationError(
            f"the calibration {path} has memory by {', '.join(calibration.memory) or 'no metric'}, not by "
            f"{metric.value}; choose another --memory-metric, or {anew}"
        )
    return calibration


def networks_to_measure(model: CostModel, count: int, seed: int) -> list[Architecture]:
    """Draw networks spread evenly over all the memory that the space's networks can have."""
    everything = Limits({Quantity.MEMORY: possible_range(model.space, model.predict, Quantity.MEMORY)})
    return to_architectures(BudgetSampler(model.space, model.predict, everything, seed).take(count))


def calibrate(
    model: CostModel, architectures: list[Architecture], meter: LoggedMeter, now: Conditions, progress: Progress
) -> Calibration:
    """Measure networks and fit their costs; those that do not fit the device are left out.

    Raises:
        CostError: too few of them fit the device.
    """
    fitting: list[Architecture] = []
    latencies_ms: list[float] = []
    memory_bytes: dict[str, list[int]] = {metric.value: [] for metric in MemoryMetric}
    with progress("measuring", len(architectures)) as bar:
        for architecture in architectures:
            costs = meter.costs(architecture)
            if costs.latency_ms is not None:
                fitting.append(architecture)
                latencies_ms.append(costs.latency_ms)
                for metric, amounts in memory_bytes.items():
                    amount = costs.memory.bytes(MemoryMetric(metric)) if costs.memory else None
                    amounts += [amount] if amount is not None else []
            bar.advance()
    # A metric that could not be read, as NVML in some containers, is left out.
    complete = {metric: amounts for metric, amounts in memory_bytes.items() if amounts and len(amounts) == len(fitting)}
    return Calibration.fitted(now, model.predict_all(fitting), complete, latencies_ms)


def describe(calibration: Calibration) -> list[dict[str, str]]:
    """Return one row for each cost that was fitted, as text."""
    rows = []
    for metric, fit in calibration.memory.items():
        offset, scale = fit.coefficients
        formula = f"{offset / 1e6:.0f} MB + {scale:.3f} x predicted"
        rows.append({"cost": f"memory ({metric})", "measured": formula, **_errors(fit)})
    constant, per_multiply_add, per_byte = calibration.latency_ms.coefficients
    formula = f"{constant:.3g} ms + {per_multiply_add * 1e9:.3g} ms/G multiply-adds + {per_byte * 1e9:.3g} ms/GB"
    return [*rows, {"cost": "latency", "measured": formula, **_errors(calibration.latency_ms)}]


def _errors(fit: Fit) -> dict[str, str]:
    return {"median error": f"{fit.median_error:.2%}", "worst error": f"{fit.worst_error:.2%}"}


def _cpu_name() -> str:
    try:
        found = re.search(r"^model name\s*:\s*(.+)$", Path("/proc/cpuinfo").read_text(), re.MULTILINE)
    except OSError:
        found = None
    return found[1].strip() if found else platform.processor() or platform.machine()
