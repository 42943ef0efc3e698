"""`hsnas_crossval`: the folds of a cross-validation by stock nnU-Net, and the row of a table that comes of them."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from nnunet_hypersegnas.cli.entry import run_command
from nnunet_hypersegnas.cli.numbers import whole_number
from nnunet_hypersegnas.cli.scoring import (
    add_scoring_arguments,
    processes_of,
    score_with_bar,
    tolerance_note,
    tolerance_of,
)
from nnunet_hypersegnas.cli.search_arguments import key_and_value
from nnunet_hypersegnas.errors import HyperSegNASError

if TYPE_CHECKING:
    from nnunet_hypersegnas.nnunet.cross_validation import CrossValidation
    from nnunet_hypersegnas.nnunet.fold_training import FoldJob

FIVE = [0, 1, 2, 3, 4]


def build_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="hsnas_crossval",
        description="Run what is missing of the folds of a cross-validation, by nnU-Net's own commands, which are "
        "printed: nnUNetv2_train --npz for each fold, then nnUNetv2_find_best_configuration. Then score them. Started "
        "again, it goes on where it stood.",
    )
    parser.add_argument("dataset", metavar="DATASET", help="data set name or id")
    parser.add_argument("configuration", metavar="CONFIGURATION", help="3d_fullres, 2d, ...")
    parser.add_argument("-p", metavar="PLANS", default="nnUNetPlans", help="[%(default)s]")
    parser.add_argument("-tr", metavar="TRAINER", default="nnUNetTrainer", help="[%(default)s]")
    parser.add_argument("-f", "--folds", metavar="FOLD", type=whole_number, nargs="+", default=FIVE, help="[0 1 2 3 4]")
    parser.add_argument(
        "-pretrained_weights",
        metavar="FILE",
        type=Path,
        help="start from these; weights that a search wrote are taken for the super-net's own fold alone",
    )
    parser.add_argument(
        "--device", "-device", choices=("cuda", "cpu", "mps"), help="[cuda where there is one, else cpu]"
    )
    parser.add_argument(
        "--gpus", metavar="ID", nargs="+", help="train folds side by side, one on each of these GPUs [all there are]"
    )
    parser.add_argument(
        "--slurm",
        type=key_and_value,
        nargs="+",
        metavar="KEY=VALUE",
        help="train the folds as a job array of SLURM, with these parameters of sbatch, for example partition=gpu "
        "time=2880 gpus_per_node=1",
    )
    parser.add_argument("--dry-run", action="store_true", help="print the commands that would run, and no more")
    parser.add_argument("--train-only", action="store_true", help="end when the folds are trained and validated")
    add_scoring_arguments(parser)
    return parser


def run(args: argparse.Namespace) -> None:
    from nnunet_hypersegnas.cli.device import chosen_device
    from nnunet_hypersegnas.nnunet.cross_validation import CrossValidation
    from nnunet_hypersegnas.nnunet.dataset import PreprocessedDataset
    from nnunet_hypersegnas.nnunet.fold_training import missing_jobs
    from nnunet_hypersegnas.nnunet.stock_commands import run_stock, shown

    device = args.device if args.slurm or args.device == "mps" else chosen_device(args.device)
    if args.gpus and (device != "cuda" or args.slurm):
        raise HyperSegNASError("--gpus is for --device cuda on this machine; leave it away")
    dataset = PreprocessedDataset.find(args.dataset, args.p, args.configuration)
    model, folds = CrossValidation(dataset=dataset, trainer=args.tr), sorted(set(args.folds))
    if unknown := [fold for fold in folds if fold not in model.known_folds]:
        raise HyperSegNASError(f"no folds {unknown}; the data set has {', '.join(map(str, model.known_folds))}")
    jobs = missing_jobs(model, folds, device or "cuda", args.pretrained_weights)
    if done := [fold for fold in folds if fold not in [job.fold for job in jobs]]:
        print(f"Done before: fold {', '.join(map(str, done))}.")
    best = model.best_configuration_command(folds)
    if args.dry_run:
        print("\n".join(shown(command) for command in [*(job.command for job in jobs), best]))
        return
    if jobs:
        _train(args, model, jobs, device or "cuda")
    if args.train_only:
        return
    print(f"\n$ {shown(best)}", flush=True)
    run_stock(best, model.folder / "crossval_logs" / "find_best_configuration.log")
    _report(args, model, folds, cuda=device != "cpu")


def _train(args: argparse.Namespace, model: CrossValidation, jobs: Sequence[FoldJob], device: str) -> None:
    from nnunet_hypersegnas.nnunet.fold_training import run_jobs, submit_jobs
    from nnunet_hypersegnas.nnunet.gpus import variables_for, visible_gpus
    from nnunet_hypersegnas.nnunet.stock_commands import shown

    def announce(job: FoldJob, variables: Mapping[str, str], log: Path | None) -> None:
        where = f" (log: {log})" if log else ""
        print(f"\n[fold {job.fold}: {job.state.value}]{where}\n$ {shown(job.command, variables)}", flush=True)

    if args.slurm:
        for job in jobs:
            announce(job, {}, None)
        submit_jobs(jobs, model, dict(args.slurm), _command_of_a_job(args, device))
        return
    gpus = (args.gpus or visible_gpus()) if device == "cuda" else []
    gpus = gpus[: len(jobs)]
    slots = [variables_for(gpu, len(gpus)) for gpu in gpus] if len(gpus) > 1 or args.gpus else [{}]
    run_jobs(jobs, model, slots, announce)


def _command_of_a_job(args: argparse.Namespace, device: str) -> list[str]:
    """Return this command for one fold, whose number is to follow."""
    command = [sys.executable, "-m", "nnunet_hypersegnas.cli.crossval", args.dataset, args.configuration]
    command += ["-p", args.p, "-tr", args.tr, "--device", device, "--train-only"]
    if args.pretrained_weights:
        command += ["-pretrained_weights", str(args.pretrained_weights)]
    return [*command, "-f"]


def _report(args: argparse.Namespace, model: CrossValidation, folds: Sequence[int], *, cuda: bool) -> None:
    from nnunet_hypersegnas.cli.tables import format_table
    from nnunet_hypersegnas.evaluation import EmptyReference, Scoring, describe_folds
    from nnunet_hypersegnas.nnunet.model_reports import ModelReport, describe_model, footnotes, short_names

    scoring = Scoring(
        labels=model.labels,
        tolerance_mm=tolerance_of(args, model.dataset.name),
        empty_reference=EmptyReference(args.empty_reference),
    )
    scores = score_with_bar(model.pairs(folds), scoring, processes_of(args))
    report = ModelReport.of(model, folds, scores, cuda=cuda)
    print(f"\n{model.name}, fold {', '.join(map(str, folds))}:")
    print(format_table([describe_model(report, *short_names([report]))]))
    print(format_table(describe_folds(report.summaries, model.biased_fold)))
    print("\n".join([*footnotes([report], cuda=cuda), tolerance_note(scoring)]))


def main(argv: list[str] | None = None) -> int:
    return run_command(build_parser(), run, argv)


if __name__ == "__main__":
    sys.exit(main())
