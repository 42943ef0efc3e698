"""`hsnas_compare`: trained models side by side on the same folds."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
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
from nnunet_hypersegnas.cli.trust import add_trust_plans
from nnunet_hypersegnas.errors import HyperSegNASError

if TYPE_CHECKING:
    from nnunet_hypersegnas.evaluation import MsdTask
    from nnunet_hypersegnas.nnunet.cross_validation import CrossValidation
    from nnunet_hypersegnas.nnunet.model_reports import ModelReport


def build_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="hsnas_compare",
        description="Compare models that nnU-Net has trained (hsnas_crossval does), searched ones and its own, on "
        "the validation cases of the same folds: DSC, NSD, memory, parameters, seconds a case, and a paired test "
        "against the first of them. On a task of the Medical Segmentation Decathlon, published figures stand beside.",
    )
    parser.add_argument(
        "models",
        metavar="MODEL",
        nargs="+",
        help="plans, trained as -c and -tr say, or a model's whole name, TRAINER__PLANS__CONFIGURATION",
    )
    parser.add_argument("-d", "--dataset", metavar="DATASET", required=True, help="data set name or id")
    parser.add_argument("-c", metavar="CONFIGURATION", default="3d_fullres", help="[%(default)s]")
    parser.add_argument("-tr", metavar="TRAINER", default="nnUNetTrainer", help="[%(default)s]")
    parser.add_argument(
        "-f", "--folds", metavar="FOLD", type=whole_number, nargs="+", default=[0, 1, 2, 3, 4], help="[0 1 2 3 4]"
    )
    parser.add_argument(
        "--device",
        "-device",
        choices=("cuda", "cpu"),
        default="cuda",
        help="memory is predicted for training on it; none is needed here [%(default)s]",
    )
    parser.add_argument("--markdown", metavar="FILE", type=Path, help="write the table as Markdown as well")
    parser.add_argument("--no-published", action="store_true", help="leave published figures away")
    add_scoring_arguments(parser)
    add_trust_plans(parser)
    return parser


def run(args: argparse.Namespace) -> None:
    from nnunet_hypersegnas.atomic import write_text
    from nnunet_hypersegnas.cli.tables import format_table, markdown_table
    from nnunet_hypersegnas.evaluation import EmptyReference, Scoring, msd_task
    from nnunet_hypersegnas.nnunet.model_reports import ModelReport, difference_note, footnotes

    if args.markdown and args.markdown.exists():
        raise HyperSegNASError(f"{args.markdown} exists already; choose another name for --markdown or remove it")
    models, folds = [_find(name, args) for name in args.models], sorted(set(args.folds))
    pairs = [model.pairs(folds) for model in models]  # all faults before time is spent
    dataset = models[0].dataset.name
    scoring = Scoring(
        labels=models[0].labels,
        tolerance_mm=tolerance_of(args, dataset),
        empty_reference=EmptyReference(args.empty_reference),
    )
    cuda = args.device == "cuda"
    reports = [
        ModelReport.of(model, folds, score_with_bar(p, scoring, processes_of(args), model.name), cuda=cuda)
        for model, p in zip(models, pairs, strict=True)
    ]
    notes = [*footnotes(reports, cuda=cuda), tolerance_note(scoring)]
    if len(reports) > 1:
        notes.append(difference_note(reports))
    rows, more = _rows(reports, None if args.no_published else msd_task(dataset))
    heading = f"{dataset}, validation cases of fold {', '.join(map(str, folds))}"
    print(f"{heading}:\n{format_table(rows)}")
    print("\n".join([*notes, *more]))
    if args.markdown:
        lines = [f"# {heading}", "", markdown_table(rows), "", *[f"- {note}" for note in [*notes, *more]]]
        write_text(args.markdown, "\n".join(lines) + "\n")
        print(f"Written: {args.markdown}")


def _find(name: str, args: argparse.Namespace) -> CrossValidation:
    from nnunet_hypersegnas.nnunet.cross_validation import CrossValidation
    from nnunet_hypersegnas.nnunet.dataset import PreprocessedDataset

    trainer, plans, configuration = args.tr, name, args.c
    if "__" in name:
        words = name.split("__")
        if len(words) != 3:
            raise HyperSegNASError(f"{name!r} is no model; give PLANS or TRAINER__PLANS__CONFIGURATION")
        trainer, plans, configuration = words
    dataset = PreprocessedDataset.find(
        args.dataset, plans, configuration, preprocessed=False, trust_plans=args.trust_plans
    )
    return CrossValidation(dataset=dataset, trainer=trainer)


def _rows(reports: Sequence[ModelReport], task: MsdTask | None) -> tuple[list[dict[str, str]], list[str]]:
    """Return one row for each model and published model, with the same columns, and notes on the published ones."""
    from nnunet_hypersegnas.nnunet.model_reports import (
        describe_difference,
        describe_model,
        describe_published,
        short_names,
    )

    rows = [describe_model(report, name) for report, name in zip(reports, short_names(reports), strict=True)]
    for report, row in zip(reports[1:], rows[1:], strict=True):
        row |= describe_difference(report, reports[0])
    published, notes = describe_published(task, reports[0]) if task else ([], [])
    rows += published
    columns = list(dict.fromkeys(column for row in rows for column in row))
    return [{column: row.get(column, "-") for column in columns} for row in rows], notes


def main(argv: list[str] | None = None) -> int:
    return run_command(build_parser(), run, argv)


if __name__ == "__main__":
    sys.exit(main())
