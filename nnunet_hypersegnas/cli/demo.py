"""`hsnas_demo`: the whole loop on synthetic data or on a task of the Medical Segmentation Decathlon."""

from __future__ import annotations

import argparse
import sys
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from nnunet_hypersegnas.cli.device import chosen_device
from nnunet_hypersegnas.cli.entry import run_command
from nnunet_hypersegnas.cli.numbers import any_seed, positive_int
from nnunet_hypersegnas.cli.tables import format_table

TRAINING_CASES, TEST_CASES = 12, 3


def build_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="hsnas_demo",
        description="Convert, plan, preprocess, train a small super-net, search two memory budgets, train the networks "
        "found, predict and score: with nnU-Net's and this package's real commands, on synthetic data (under 10 "
        "minutes on two CPU cores) or on a task of the Medical Segmentation Decathlon. Started again, it goes on "
        "where it stood.",
    )
    parser.add_argument("--folder", type=Path, default=Path("hsnas_demo"), help="where everything goes [%(default)s]")
    parser.add_argument(
        "--msd-folder", type=Path, metavar="PATH", help="use this task instead, for example Task09_Spleen"
    )
    parser.add_argument("--device", "-device", choices=("cuda", "cpu"), help="[cuda where there is one, else cpu]")
    parser.add_argument("--seed", type=any_seed, default=0, help="of data, super-net and search [%(default)s]")
    sizes = parser.add_argument_group("sizes, for real data")
    sizes.add_argument("--memory", nargs="+", metavar="BUDGET", help="training-memory budgets [two that fit]")
    sizes.add_argument("--layers", type=positive_int, help="layers of the search space")
    sizes.add_argument("--channels", type=positive_int, nargs="+", help="channels of each scale, finest first")
    sizes.add_argument("--patch-size", type=positive_int, help="largest side of a patch, in voxels")
    sizes.add_argument("--batch-size", type=positive_int, help="patches a step")
    sizes.add_argument("--supernet-epochs", type=positive_int, help="epochs of the super-net, annealing included")
    sizes.add_argument("--iterations-per-epoch", type=positive_int, help="iterations in each of them")
    sizes.add_argument("--candidates", type=positive_int, help="candidates under each budget")
    sizes.add_argument("--finalists", type=positive_int, help="how many are fine-tuned")
    sizes.add_argument("--finetune-iterations", type=positive_int, help="for each finalist")
    sizes.add_argument("--validation-cases", type=positive_int, help="cases that score candidates")
    sizes.add_argument("--final-trainer", metavar="TRAINER", help="nnU-Net trainer of the networks found")
    return parser


def run(args: argparse.Namespace) -> None:
    from nnunet_hypersegnas.demo.loop import Commands, DemoSettings, claim_folder, run_demo
    from nnunet_hypersegnas.demo.synthetic import write_synthetic_task
    from nnunet_hypersegnas.nnunet.discovery import external_trainer_folder
    from nnunet_hypersegnas.nnunet.msd_steps import dataset_name

    given: dict[str, Any] = {
        name: tuple(value) if isinstance(value, list) else value
        for name in asdict(DemoSettings())
        if (value := getattr(args, name, None)) is not None
    }
    # All that can be wrong is found before the folder is taken.
    settings = replace(DemoSettings(), **given, budgets=tuple(args.memory or ()))
    device = chosen_device(args.device)
    folder = args.folder.resolve()
    msd_folder = args.msd_folder.resolve() if args.msd_folder else None
    if msd_folder:
        dataset_name(msd_folder)
    claim_folder(folder, {"msd_folder": str(msd_folder), "device": device, **asdict(settings)})
    commands = Commands(folder, device, external_trainer_folder())
    test_labels = None
    if msd_folder is None:
        msd_folder = folder / "Task999_Synthetic"
        test_labels = msd_folder / "labelsTs"
        if not (msd_folder / "dataset.json").exists():
            write_synthetic_task(msd_folder, n_training=TRAINING_CASES, n_test=TEST_CASES, seed=settings.seed)
    summary = run_demo(commands, msd_folder, settings, test_labels)
    print("\n" + format_table([_row(network) for network in summary["networks"]]))
    print(f"Validation DSC: {summary['validation_note']}.")
    print(f"{summary['seconds']} s; everything lies in {folder}: summary.json, logs, predictions, nnUNet_results")


def _row(network: dict[str, Any]) -> dict[str, str]:
    def dsc(scores: dict[str, float] | None) -> str:
        return "-" if scores is None else " / ".join(f"{v:.3f}" for k, v in scores.items() if k != "mean")

    measured = network["measured_memory_bytes"]
    return {
        "plans": network["plans"],
        "predicted memory": f"{network['predicted_memory_bytes'] / 1e6:.1f} MB",
        "measured memory": "-" if measured is None else f"{measured / 1e6:.1f} MB",
        "parameters": f"{network['parameters']:,}",
        "shared": f"{network['dsc_shared_weights']:.3f}",
        "fine-tuned": f"{network['dsc_fine_tuned']:.3f}",
        "validation DSC": dsc(network["dsc_validation"]),
        "test DSC": dsc(network["dsc_test"]),
    }


def main(argv: list[str] | None = None) -> int:
    return run_command(build_parser(), run, argv)


if __name__ == "__main__":
    sys.exit(main())
