"""`hsnas_msd_submission`: the zip that the Medical Segmentation Decathlon takes, made and checked."""

from __future__ import annotations

import argparse
import sys
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from nnunet_hypersegnas.cli.entry import run_command
from nnunet_hypersegnas.cli.numbers import positive_int
from nnunet_hypersegnas.cli.scoring import processes_of

if TYPE_CHECKING:
    from tqdm import tqdm

    from nnunet_hypersegnas.evaluation.submission import TaskPart


def build_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="hsnas_msd_submission",
        description="Make the zip that the Medical Segmentation Decathlon takes (decathlon-10.grand-challenge.org) of "
        "predictions of its test images, or check one. Every file is held against its image: name, shape, spacing, "
        "origin, direction, integer labels of the task; all faults are named at once, and nothing is written then.",
    )
    parser.add_argument(
        "predictions",
        metavar="TASK=FOLDER",
        nargs="*",
        help="folder that nnUNetv2_predict wrote for a task, for example Task04_Hippocampus=predictions; the task can "
        "be left away where the folder has its name",
    )
    parser.add_argument(
        "--data", metavar="FOLDER", type=Path, help="holds the tasks' folders (Task04_Hippocampus with imagesTs, ...)"
    )
    parser.add_argument("-o", metavar="ZIP", type=Path, default=Path("msd_submission.zip"), help="[%(default)s]")
    parser.add_argument("--overwrite", action="store_true", help="replace the zip if it is there")
    parser.add_argument(
        "--placeholders",
        action="store_true",
        help="fill tasks without predictions with empty segmentations; they score 0, but the challenge takes no zip "
        "without all ten tasks",
    )
    parser.add_argument("--check", metavar="ZIP", type=Path, help="check this zip, whoever made it, and write nothing")
    parser.add_argument("-np", metavar="N", type=positive_int, help="processes [nnUNet_def_n_proc, or 8]")
    return parser


def run(args: argparse.Namespace) -> None:
    from nnunet_hypersegnas.evaluation import TASKS
    from nnunet_hypersegnas.evaluation.submission import (
        SubmissionError,
        build,
        check,
        parse_part,
        part_of,
        placeholder_of,
    )

    processes = processes_of(args)
    if args.check:
        if args.predictions or args.placeholders:
            raise SubmissionError("--check takes nothing but --data beside it; leave the rest away")
        with _bar() as bar:
            parts = check(args.check, args.data, processes, bar.update)
        _print_parts(parts)
        unknown = [part.task.folder for part in parts if not part.images]
        print(f"{args.check}: no fault found.")
        if unknown:
            print(f"Geometry is not checked of {', '.join(unknown)}: no test images of them in --data.")
        return
    if not args.predictions:
        raise SubmissionError("no predictions; give TASK=FOLDER for each task that you have, or a zip with --check")
    if args.data is None:
        raise SubmissionError("predictions are checked against the test images; name their folder with --data")
    if args.o.exists() and not args.overwrite:
        raise SubmissionError(f"{args.o} exists already; choose another name with -o, or replace it with --overwrite")
    given = [parse_part(text) for text in args.predictions]
    if len({task for task, _ in given}) < len(given):
        raise SubmissionError("a task is named twice; give one folder for each")
    parts = [part_of(task, folder, args.data) for task, folder in given]
    with tempfile.TemporaryDirectory() as folder, _bar() as bar:
        if args.placeholders:
            missing = [task for task in TASKS if task not in dict(given)]
            parts += [placeholder_of(task, args.data, Path(folder)) for task in missing]
        parts.sort(key=lambda part: part.task.number)
        build(args.o, parts, processes, bar.update)
    _print_parts(parts)
    print(f"Written: {args.o} ({args.o.stat().st_size / 1e6:.1f} MB)")


def _print_parts(parts: Sequence[TaskPart]) -> None:
    from nnunet_hypersegnas.cli.tables import format_table
    from nnunet_hypersegnas.evaluation.submission import notes_on

    rows = [
        {
            "task": part.task.folder,
            "cases": str(len(part.files)),
            "left out": ", ".join(part.left_out) or "-",
            "content": "PLACEHOLDER, empty" if part.placeholder else "predictions",
        }
        for part in parts
    ]
    print(format_table(rows))
    for note in notes_on(parts):
        print(f"WARNING: {note}.")
    if placeholders := [part.task.folder for part in parts if part.placeholder]:
        print(f"WARNING: {len(placeholders)} of {len(parts)} tasks are PLACEHOLDERS, empty segmentations that score 0.")


@contextmanager
def _bar() -> Iterator[tqdm]:
    from tqdm import tqdm

    with tqdm(desc="checking", unit="file", file=sys.stderr, dynamic_ncols=True) as bar:
        yield bar


def main(argv: list[str] | None = None) -> int:
    return run_command(build_parser(), run, argv)


if __name__ == "__main__":
    sys.exit(main())
