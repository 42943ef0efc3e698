"""Scoring with a bar, and the flags that commands share for it."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING

from nnunet_hypersegnas.cli.numbers import positive_float, positive_int

if TYPE_CHECKING:
    from nnunet_hypersegnas.evaluation import Pair, Score, Scoring

EMPTY = ("left-out", "zero")


def add_scoring_arguments(parser: argparse.ArgumentParser) -> None:
    """Add --tolerance, --task, --empty-reference and -np."""
    tolerance = parser.add_mutually_exclusive_group()
    tolerance.add_argument("--tolerance", metavar="MM", type=positive_float, help="of NSD, in mm")
    tolerance.add_argument(
        "--task", metavar="TASK", help="take the tolerance of a task of the challenge: 1 to 10, or Task07_Pancreas"
    )
    parser.add_argument(
        "--empty-reference",
        choices=EMPTY,
        default=EMPTY[0],
        help="what a structure counts that a case does not have but that was predicted: nothing, as on the "
        "challenge's leaderboard, or 0, as in nnU-Net's summary.json [%(default)s]",
    )
    parser.add_argument("-np", metavar="N", type=positive_int, help="processes [nnUNet_def_n_proc, or 8]")


def processes_of(args: argparse.Namespace) -> int:
    """Return how many processes score or check files."""
    return args.np or int(os.environ.get("nnUNet_def_n_proc", "8"))


def tolerance_of(args: argparse.Namespace, dataset: str) -> float | None:
    """Return the tolerance of NSD in mm, the task's where the data set is one of the challenge; None if unknown.

    Raises:
        TaskError: --task names none.
    """
    from nnunet_hypersegnas.evaluation import known_task, msd_task

    if args.tolerance is not None:
        return float(args.tolerance)
    task = known_task(args.task) if args.task else msd_task(dataset)
    return task.tolerance_mm if task else None


def score_with_bar(pairs: Sequence[Pair], scoring: Scoring, processes: int, title: str = "scoring") -> list[Score]:
    """Score predictions, with a bar on stderr."""
    from tqdm import tqdm

    from nnunet_hypersegnas.evaluation import score_pairs

    with tqdm(total=len(pairs), desc=title, unit="case", file=sys.stderr, dynamic_ncols=True) as bar:
        return score_pairs(pairs, scoring, processes, bar.update)


def tolerance_note(scoring: Scoring) -> str:
    """Say which tolerance NSD was computed with, or why there is no NSD."""
    if scoring.tolerance_mm is None:
        return "No NSD: no tolerance is known for these data; give --tolerance MM, or --task of the challenge."
    return f"NSD at a tolerance of {scoring.tolerance_mm:g} mm."
