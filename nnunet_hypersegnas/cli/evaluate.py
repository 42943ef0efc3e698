"""`hsnas_evaluate`: DSC and normalised surface distance of predictions, or of a cross-validation."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from nnunet_hypersegnas.cli.entry import run_command
from nnunet_hypersegnas.cli.numbers import whole_number
from nnunet_hypersegnas.cli.scoring import (
    EMPTY,
    add_scoring_arguments,
    processes_of,
    score_with_bar,
    tolerance_note,
    tolerance_of,
)
from nnunet_hypersegnas.errors import HyperSegNASError, abbreviated
from nnunet_hypersegnas.json_files import read_object

if TYPE_CHECKING:
    from nnunet_hypersegnas.evaluation import LabelSet, Score, Scoring
    from nnunet_hypersegnas.nnunet.cross_validation import CrossValidation


def build_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="hsnas_evaluate",
        description="Score segmentations: DSC and normalised surface distance (NSD, as the Medical Segmentation "
        "Decathlon computes it) of each case, label and region, their means and bootstrap intervals. Either of two "
        "folders, or, with -d, of the validation predictions of nnU-Net's folds.",
    )
    parser.add_argument("predictions", metavar="PREDICTIONS", type=Path, nargs="?", help="folder of segmentations")
    parser.add_argument("references", metavar="REFERENCES", type=Path, nargs="?", help="folder of true segmentations")
    parser.add_argument("-d", "--dataset", metavar="DATASET", help="evaluate a cross-validation of this data set")
    parser.add_argument("-p", "--plans", metavar="PLANS", default="nnUNetPlans", help="with -d [%(default)s]")
    parser.add_argument("-c", metavar="CONFIGURATION", default="3d_fullres", help="with -d [%(default)s]")
    parser.add_argument("-tr", metavar="TRAINER", default="nnUNetTrainer", help="with -d [%(default)s]")
    parser.add_argument(
        "-f", metavar="FOLD", type=whole_number, nargs="+", default=[0, 1, 2, 3, 4], help="with -d [0 1 2 3 4]"
    )
    parser.add_argument(
        "--labels",
        metavar="FILE",
        type=Path,
        help="dataset.json with the labels [the one in PREDICTIONS, where nnUNetv2_predict puts it, or beside "
        "REFERENCES; else every label is scored that a case has]",
    )
    parser.add_argument("--chill", action="store_true", help="references without a prediction are no fault")
    parser.add_argument(
        "-o", metavar="FOLDER", type=Path, help="for hsnas_evaluation*.csv and .json [PREDICTIONS, or the model's]"
    )
    add_scoring_arguments(parser)
    return parser


def run(args: argparse.Namespace) -> None:
    from nnunet_hypersegnas.evaluation import EmptyReference, Scoring
    from nnunet_hypersegnas.evaluation.folders import pairs_in

    if (args.dataset is None) == (args.references is None):
        raise HyperSegNASError("give either two folders, PREDICTIONS and REFERENCES, or a data set with -d")
    empty = EmptyReference(args.empty_reference)
    if args.dataset:
        model, folds = _cross_validation(args), sorted(set(args.f))
        scoring = Scoring(
            labels=model.labels, tolerance_mm=tolerance_of(args, model.dataset.name), empty_reference=empty
        )
        scores = score_with_bar(model.pairs(folds), scoring, processes_of(args))
        name = f"hsnas_evaluation_folds_{'_'.join(map(str, folds))}"
        _report(scores, scoring, model.name, (args.o or model.folder) / name, model.biased_fold)
    else:
        pairs = pairs_in(args.predictions, args.references, chill=args.chill)
        tolerance_mm = tolerance_of(args, args.references.resolve().parent.name)
        scoring = Scoring(labels=_labels(args), tolerance_mm=tolerance_mm, empty_reference=empty)
        scores = score_with_bar(pairs, scoring, processes_of(args))
        _report(scores, scoring, str(args.predictions), (args.o or args.predictions) / "hsnas_evaluation", None)


def _cross_validation(args: argparse.Namespace) -> CrossValidation:
    from nnunet_hypersegnas.nnunet.cross_validation import CrossValidation
    from nnunet_hypersegnas.nnunet.dataset import PreprocessedDataset

    dataset = PreprocessedDataset.find(args.dataset, args.plans, args.c, preprocessed=False)
    return CrossValidation(dataset=dataset, trainer=args.tr)


def _labels(args: argparse.Namespace) -> LabelSet | None:
    """Return the labels of the dataset.json that was named, or that lies where nnU-Net puts it."""
    from nnunet_hypersegnas.evaluation import LabelsError, LabelSet

    likely = [args.predictions / "dataset.json", args.references.resolve().parent / "dataset.json"]
    path = args.labels or next((path for path in likely if path.exists()), None)
    if path is None:
        return None
    advice = "name another with --labels"
    labels = read_object(path, advice).get("labels")
    if not isinstance(labels, dict):
        raise LabelsError(f"{path} is no dataset.json with labels (it has {abbreviated(labels)}); {advice}")
    return LabelSet.from_json(labels)


def _report(scores: Sequence[Score], scoring: Scoring, name: str, stem: Path, biased_fold: int | None) -> None:
    from nnunet_hypersegnas.cli.tables import format_table
    from nnunet_hypersegnas.evaluation import describe, describe_folds, summarize, write_csv, write_summary

    summaries = summarize(scores)
    print(name)
    print(format_table(describe(summaries)))
    if len(summaries[-1].dsc_of_folds) > 1 or biased_fold in summaries[-1].dsc_of_folds:
        print(format_table(describe_folds(summaries, biased_fold)))
    if biased_fold in summaries[-1].dsc_of_folds:
        print("* this fold's validation cases chose the architecture, so its scores, and means with it, are biased.")
    print(tolerance_note(scoring))
    if left_out := sum(summary.left_out for summary in summaries):
        how = "whatever was predicted there" if scoring.empty_reference.value == EMPTY[0] else "nor were predicted"
        print(f"{left_out} scores are left out, of structures that their cases do not have, {how}.")
    stem.parent.mkdir(parents=True, exist_ok=True)
    files = [stem.with_name(stem.name + ending) for ending in (".csv", ".json")]
    write_csv(files[0], scores)
    write_summary(files[1], scores, summaries, scoring, {"evaluated": name, "selected_on_fold": biased_fold})
    print(f"Written: {', '.join(map(str, files))}")


def main(argv: list[str] | None = None) -> int:
    return run_command(build_parser(), run, argv)


if __name__ == "__main__":
    sys.exit(main())
