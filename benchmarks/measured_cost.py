"""Predicted training memory beside that of real training steps on a GPU; prints a Markdown table.

    python -m benchmarks.measured_cost DATASET CONFIGURATION -p PLANS --architectures 50 --log costs.jsonl

Networks spread evenly over all the memory that the space's networks can have are trained, one after the other in one
process, on noise in the form of nnU-Net's batches. It needs the data set's plans and no trained super-net.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import torch

from benchmarks.tables import section, table
from nnunet_hypersegnas.cli.device import chosen_device
from nnunet_hypersegnas.cli.entry import run_command
from nnunet_hypersegnas.cli.numbers import positive_int
from nnunet_hypersegnas.cli.progress import stage_bars
from nnunet_hypersegnas.cost import Calibration, format_bytes
from nnunet_hypersegnas.cost.measuring import STEPS, WARMUP_STEPS, CudaGauge, MeasuredMemory
from nnunet_hypersegnas.nnunet.calibrating import calibrate, conditions_of, describe, networks_to_measure
from nnunet_hypersegnas.nnunet.cost_meter import MeasuringProcess
from nnunet_hypersegnas.nnunet.cost_models import cost_model
from nnunet_hypersegnas.nnunet.dataset import PreprocessedDataset
from nnunet_hypersegnas.nnunet.digests import digest
from nnunet_hypersegnas.nnunet.metering import LoggedMeter, MeasuredCosts
from nnunet_hypersegnas.search import MeasurementLog


def build_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="benchmarks.measured_cost", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("dataset", metavar="DATASET", help="data set name or id")
    parser.add_argument("configuration", metavar="CONFIGURATION", help="for example 3d_fullres")
    parser.add_argument("-p", default="nnUNetPlans", metavar="PLANS", help="[%(default)s]")
    parser.add_argument("--architectures", type=positive_int, default=50, metavar="N", help="[%(default)s]")
    parser.add_argument("--seed", type=int, default=0, help="of their choice [%(default)s]")
    parser.add_argument("--device", choices=("cuda", "cpu"), help="[cuda where there is one, else cpu]")
    parser.add_argument(
        "--log", type=Path, required=True, metavar="FILE", help="keeps what was measured, so that a call goes on there"
    )
    return parser


def run(args: argparse.Namespace) -> None:
    device = torch.device(chosen_device(args.device))
    dataset = PreprocessedDataset.find(args.dataset, args.p, args.configuration, preprocessed=False)
    model, patch = cost_model(dataset, device.type), dataset.configuration.patch_size
    networks = networks_to_measure(model, args.architectures, args.seed)
    predicted_bytes = model.predict_all(networks).memory_bytes
    now = conditions_of(model, device)
    title = (
        f"Predicted and measured training memory of {len(networks)} architectures ({dataset.name}, plans {args.p}, "
        f"patch {'x'.join(map(str, patch))}, batch {dataset.configuration.batch_size}; {now.device}, torch {now.torch})"
    )
    with section(title):
        lowest, highest = (format_bytes(round(float(end))) for end in (predicted_bytes.min(), predicted_bytes.max()))
        print(f"Predicted: {lowest} to {highest}.", end=" ", flush=True)
        if device.type != "cuda":
            print("Measured: nothing, since this needs CUDA, and the device is a CPU.")
            return
        log = MeasurementLog(args.log, "costs", MeasuredCosts.from_json)
        with MeasuringProcess(dataset, model.space, device) as process:
            meter = LoggedMeter(log, f"one process {digest(vars(now))}", None, process.measure)
            calibration = calibrate(model, networks, meter, now, stage_bars("measured cost"))
        memory = [meter.costs(network).memory or MeasuredMemory() for network in networks]
        print(f"Measured: peaks of {STEPS} training steps after {WARMUP_STEPS} that warm up.\n")
        table([unfitted_row(predicted_bytes, memory), *describe(calibration)])
        print("\n" + "\n".join(notes(calibration, memory, lambda: CudaGauge(device).why_no_nvml)))


def unfitted_row(predicted_bytes: np.ndarray, memory: Sequence[MeasuredMemory]) -> dict[str, str]:
    """Return how far predictions, as they are, lie from what torch allocated to tensors.

    Args:
        predicted_bytes: of n networks, shape (n,).
        memory: measured, n values, at least one of which fits the device.
    """
    fits = np.array([measured.fits for measured in memory])
    allocated = np.array([measured.allocated_bytes for measured in memory if measured.fits], float)
    errors = predicted_bytes[fits] / allocated - 1
    return {
        "cost": "memory (allocated), no fit",
        "measured": f"predicted x {1 / (1 + errors.max()):.4f} to {1 / (1 + errors.min()):.4f}",
        "median error": f"{np.median(np.abs(errors)):.2%}",
        "worst error": f"{np.abs(errors).max():.2%}",
    }


def notes(
    calibration: Calibration, memory: Sequence[MeasuredMemory], why_no_nvml: Callable[[], str | None]
) -> list[str]:
    """Say what NVML has beyond torch, and what is not in the table.

    Args:
        calibration: fitted to the networks.
        memory: of all networks.
        why_no_nvml: asks the device why NVML cannot be read.
    """
    lines = []
    beyond = [
        m.nvml_bytes - m.reserved_bytes for m in memory if m.nvml_bytes is not None and m.reserved_bytes is not None
    ]
    if beyond:
        offset, scale = calibration.memory["nvml"].coefficients if "nvml" in calibration.memory else (None, None)
        median, lowest, highest = (format_bytes(round(float(f(beyond)))) for f in (np.median, np.min, np.max))
        fitted = "" if offset is None else f"NVML's offset is {offset / 1e6:.0f} MB (scale {scale:.3f}). "
        lines.append(
            f"{fitted}Beyond what torch reserves, NVML sees {median} (median; {lowest} to {highest}): CUDA's context, "
            "and what its libraries hold, which grows with all that one process has measured."
        )
    else:
        lines.append(f"NVML's memory could not be read: {why_no_nvml() or 'it told nothing'}.")
    if too_large := sum(not measured.fits for measured in memory):
        lines.append(f"{too_large} of {len(memory)} networks did not fit the device, and are left out.")
    return lines


def main(argv: list[str] | None = None) -> int:
    return run_command(build_parser(), run, argv)


if __name__ == "__main__":
    sys.exit(main())
