"""`hsnas_ablation`: the paper's ablation of MAN (section 4.1) on one's own data."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from nnunet_hypersegnas.cli.entry import run_command
from nnunet_hypersegnas.cli.numbers import positive_float, positive_int, whole_number
from nnunet_hypersegnas.errors import FaultsError, HyperSegNASError
from nnunet_hypersegnas.nnunet.variants import VARIANTS, longer_vanilla, varied

if TYPE_CHECKING:
    from nnunet_hypersegnas.nnunet.ablation.entries import AblationPlan, Entry
    from nnunet_hypersegnas.nnunet.ablation.folder import AblationFolder
    from nnunet_hypersegnas.nnunet.ablation.results import AblationResults
    from nnunet_hypersegnas.nnunet.fold_training import FoldJob


def build_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="hsnas_ablation",
        description="Train super-nets with and without the Meta-Assistant Network by nnU-Net's own commands, which are "
        "printed, score the same sub-nets with all of them, and write tables of DSC, paired differences and rank "
        "agreement, and a figure (the paper's Table 1 and Figure 3). Started again, it goes on where it stood.",
    )
    parser.add_argument("dataset", metavar="DATASET", help="data set name or id")
    parser.add_argument("configuration", metavar="CONFIGURATION", help="3d_fullres, 2d, ...")
    parser.add_argument("fold", metavar="FOLD", type=whole_number, help="whose validation cases score; not trained on")
    parser.add_argument("-p", metavar="PLANS", default="nnUNetPlans", help="[%(default)s]")
    parser.add_argument(
        "--variants",
        nargs="+",
        choices=tuple(VARIANTS),
        default=list(VARIANTS),
        metavar="VARIANT",
        help=f"of {', '.join(f'{key} ({variant.title})' for key, variant in VARIANTS.items())} [all]",
    )
    parser.add_argument(
        "--seeds",
        type=whole_number,
        nargs="+",
        metavar="N",
        default=[0, 1, 2],
        help="of the trainings; those that the plans do not have get copies of the plans, PLANS_seedN [0 1 2]",
    )
    parser.add_argument(
        "--longer-vanilla",
        type=positive_float,
        metavar="FACTOR",
        help="train the vanilla super-net for so many times the iterations as well, for a comparison at equal time",
    )
    parser.add_argument(
        "--vary",
        nargs="+",
        action="append",
        default=[],
        metavar=("NAME", "SETTING=VALUE"),
        help="also train a super-net with other settings in the hypersegnas block, as in `--vary sandwich "
        "sandwich_every=4`; may be given several times",
    )
    parser.add_argument(
        "--architectures", type=positive_int, metavar="N", default=25, help="sub-nets that are scored [%(default)s]"
    )
    parser.add_argument(
        "--validation-cases", type=positive_int, metavar="N", help="score on so many of the fold's cases at most [all]"
    )
    parser.add_argument("--device", "-device", choices=("cuda", "cpu"), help="[cuda where there is one, else cpu]")
    parser.add_argument(
        "--output",
        type=Path,
        metavar="FOLDER",
        help="[nnUNet_results/DATASET/hsnas_ablation/PLANS_CONFIGURATION_fold_N]",
    )
    parser.add_argument("--dry-run", action="store_true", help="print the trainings that are missing, and no more")
    return parser


def run(args: argparse.Namespace) -> None:
    import torch

    from nnunet_hypersegnas.cli.device import chosen_device
    from nnunet_hypersegnas.cli.progress import stage_bars
    from nnunet_hypersegnas.nnunet.ablation.entries import faults_of
    from nnunet_hypersegnas.nnunet.ablation.folder import AblationFolder, AblationRecord
    from nnunet_hypersegnas.nnunet.ablation.results import AblationResults
    from nnunet_hypersegnas.nnunet.ablation.running import default_folder, scored_super_nets
    from nnunet_hypersegnas.nnunet.ablation.sub_nets import spread_sub_nets
    from nnunet_hypersegnas.nnunet.cost_models import cost_model
    from nnunet_hypersegnas.nnunet.schedule import Schedule

    device = torch.device(chosen_device(args.device))
    plan = _plan(args)
    entries = plan.entries()
    if faults := faults_of(entries):
        raise FaultsError("this ablation cannot be run", faults)
    if args.dry_run:
        _print_missing(entries, device.type)
        return
    costs = cost_model(plan.dataset, device.type)
    record = AblationRecord(
        dataset=plan.dataset.name,
        configuration=args.configuration,
        plans=args.p,
        fold=args.fold,
        device=device.type,
        validation_cases=args.validation_cases,
        sub_nets=spread_sub_nets(costs.space, costs.predict, args.architectures),
    )
    folder = AblationFolder(args.output or default_folder(plan))
    folder.begin(record)
    iterations = Schedule.from_settings(plan.settings).iterations
    found = []
    for scored in scored_super_nets(
        plan, folder, record.sub_nets, args.validation_cases, device, _announce, stage_bars("scoring")
    ):
        found.append(scored)
        results = AblationResults.of(record, plan.variants, iterations, plan.dataset.label_names(), found)
        _write(results, folder)  # after each of them, so that there is always something to look at
    _print(results, folder)


def _plan(args: argparse.Namespace) -> AblationPlan:
    from nnunet_hypersegnas.nnunet.ablation.entries import AblationPlan
    from nnunet_hypersegnas.nnunet.cross_validation import CrossValidation
    from nnunet_hypersegnas.nnunet.dataset import PreprocessedDataset
    from nnunet_hypersegnas.nnunet.settings import SuperNetSettings

    variants = [variant for key, variant in VARIANTS.items() if key in args.variants]
    variants += [varied(name, _settings(name, words)) for name, *words in args.vary]
    dataset = PreprocessedDataset.find(args.dataset, args.p, args.configuration)
    CrossValidation(dataset=dataset, trainer="").check_fold(args.fold)
    if args.longer_vanilla:
        usual = SuperNetSettings.from_configuration(dataset.configuration.configuration)
        variants.insert(1 if "vanilla" in args.variants else 0, longer_vanilla(args.longer_vanilla, usual))
    if len({variant.key for variant in variants}) < len(variants):
        raise HyperSegNASError("two variants of --vary have one name; give each its own")
    return AblationPlan(
        dataset=dataset, fold=args.fold, variants=tuple(variants), seeds=tuple(dict.fromkeys(args.seeds))
    )


def _settings(name: str, words: list[str]) -> dict[str, Any]:
    """Return what SETTING=VALUE words say; values are JSON, or plain words."""
    changes = {}
    for word in words:
        key, is_there, value = word.partition("=")
        if not is_there or key == "seed":
            raise HyperSegNASError(f"--vary {name}: {word!r} is no SETTING=VALUE; seeds are given by --seeds")
        try:
            changes[key] = json.loads(value)
        except json.JSONDecodeError:
            changes[key] = value
    if not changes:
        raise HyperSegNASError(f"--vary {name} changes nothing; name settings, as in --vary {name} sandwich_every=4")
    return changes


def _announce(entry: Entry, job: FoldJob, variables: Mapping[str, str]) -> None:
    from nnunet_hypersegnas.nnunet.stock_commands import shown

    print(f"\n[{entry.name}: {job.state.value}]\n$ {shown(job.command, variables)}", flush=True)


def _print_missing(entries: list[Entry], device: str) -> None:
    from nnunet_hypersegnas.nnunet.ablation.running import training_variables
    from nnunet_hypersegnas.nnunet.fold_training import FoldState
    from nnunet_hypersegnas.nnunet.stock_commands import shown

    missing = [entry.job(device) for entry in entries if entry.state is not FoldState.DONE]
    print("\n".join(dict.fromkeys(shown(job.command, training_variables()) for job in missing)) or "All are trained.")


def _write(results: AblationResults, folder: AblationFolder) -> None:
    from nnunet_hypersegnas.atomic import write_text
    from nnunet_hypersegnas.cli.tables import headed_markdown
    from nnunet_hypersegnas.report.ablation_figure import AblationDrawing, plot_ablation

    results.write(folder)
    write_text(folder.tables, headed_markdown(_heading(results), results.tables()))
    drawing = AblationDrawing(memory_bytes=results.scores.memory_bytes.tolist(), dsc=results.figure_dsc())
    plot_ablation(drawing, folder.figure)


def _heading(results: AblationResults) -> str:
    record = results.record
    where = f"{record.dataset} {record.configuration}, plans {record.plans}, fold {record.fold}"
    return f"Ablation of the super-net on {where}: {len(record.sub_nets)} sub-nets"


def _print(results: AblationResults, folder: AblationFolder) -> None:
    from nnunet_hypersegnas.cli.tables import print_tables

    print_tables(_heading(results), results.tables())
    print(f"\nWritten: {folder.json}, {folder.csv}, {folder.tables}, {folder.figure}")


def main(argv: list[str] | None = None) -> int:
    return run_command(build_parser(), run, argv)


if __name__ == "__main__":
    sys.exit(main())
