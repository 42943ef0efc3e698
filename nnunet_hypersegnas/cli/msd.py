"""`hsnas_msd run`: from a task folder of the Medical Segmentation Decathlon to predictions of its test images."""

from __future__ import annotations

import argparse
import os
import shlex
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from nnunet_hypersegnas.cli.entry import run_command
from nnunet_hypersegnas.cli.numbers import whole_number
from nnunet_hypersegnas.cli.search_arguments import DEFAULT_PLANS_NAME
from nnunet_hypersegnas.errors import HyperSegNASError

if TYPE_CHECKING:
    from nnunet_hypersegnas.nnunet.msd_steps import MsdRun
    from nnunet_hypersegnas.search import SearchSettings


def build_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="hsnas_msd",
        description="The Medical Segmentation Decathlon. hsnas_msd_submission makes the zip of what this predicts.",
    )
    commands = parser.add_subparsers(metavar="COMMAND", required=True)
    run_parser = commands.add_parser(
        "run",
        help="from a task folder to predictions of its test images",
        description="Convert, plan, preprocess, train the super-net, search, train five folds, predict the test images "
        "with their ensemble and postprocess: with nnU-Net's and this package's own commands, which are printed. "
        "Started again, it goes on where it stood.",
    )
    run_parser.add_argument("folder", metavar="TASK_FOLDER", type=Path, help="for example Task09_Spleen, as downloaded")
    run_parser.add_argument(
        "--memory",
        nargs="+",
        default=[],
        metavar="BUDGET",
        help="training-memory budgets as in hsnas_search: 5GB, own, 50%%, or the name of plans [those of the plans' "
        "hypersegnas block, else own 50%%]",
    )
    run_parser.add_argument(
        "--transfer",
        metavar="ARCHITECTURE_OR_PLANS",
        help="take this architecture, as hsnas_transfer does, in place of super-net and search",
    )
    run_parser.add_argument("-c", metavar="CONFIGURATION", default="3d_fullres", help="[%(default)s]")
    run_parser.add_argument(
        "-p", metavar="PLANS", default="nnUNetPlans", help="the super-net's, made by hsnas_space --write [%(default)s]"
    )
    run_parser.add_argument("--plans", metavar="NAME", help=f"of the networks' plans [{DEFAULT_PLANS_NAME}]")
    run_parser.add_argument(
        "--supernet-trainer", metavar="TRAINER", default="HyperSegNASSupernetTrainer", help="[%(default)s]"
    )
    run_parser.add_argument(
        "-tr", metavar="TRAINER", default="nnUNetTrainer", help="of the networks found [%(default)s]"
    )
    run_parser.add_argument(
        "-f", "--folds", metavar="FOLD", type=whole_number, nargs="+", default=[0, 1, 2, 3, 4], help="[0 1 2 3 4]"
    )
    run_parser.add_argument("--device", "-device", choices=("cuda", "cpu"), help="[cuda where there is one, else cpu]")
    run_parser.add_argument(
        "--search-args",
        metavar="ARGUMENTS",
        default="",
        help="more for hsnas_search, in quotes, for example '--candidates 200 --tolerance 100MB'",
    )
    run_parser.add_argument(
        "-o",
        metavar="FOLDER",
        type=Path,
        default=Path("msd_predictions"),
        help="predictions go to FOLDER/PLANS/TASK [%(default)s]",
    )
    run_parser.add_argument(
        "--dry-run",
        action="store_true",
        help="print the commands and, once the data are planned, about how long they take and how much disk",
    )
    return parser


def run(args: argparse.Namespace) -> None:
    from nnunet_hypersegnas.cli.device import chosen_device
    from nnunet_hypersegnas.cli.search import settings_of
    from nnunet_hypersegnas.cost.measuring import MemoryMetric
    from nnunet_hypersegnas.evaluation import msd_task
    from nnunet_hypersegnas.nnunet.msd_steps import SUPER_NET, MsdError, MsdRun
    from nnunet_hypersegnas.nnunet.stock_commands import run_stock, shown

    if args.memory and args.transfer:
        raise HyperSegNASError("give either --memory, to search, or --transfer ARCHITECTURE")
    search = _search_arguments(args)
    settings = settings_of(search)
    wanted = MsdRun(
        folder=args.folder,
        configuration=args.c,
        memory=tuple(args.memory),
        tolerance=search.tolerance,
        around=search.around,
        trust_plans=search.trust_plans,
        metric=MemoryMetric(search.memory_metric) if search.memory_metric else None,
        plans=args.p,
        plans_name=args.plans or _transferred_name(args.transfer) or DEFAULT_PLANS_NAME,
        transfer=args.transfer,
        supernet_trainer=args.supernet_trainer,
        trainer=args.tr,
        folds=tuple(sorted(set(args.folds))),
        device=chosen_device(args.device),
        output=args.o,
        search_arguments=tuple(shlex.split(args.search_args)) if not args.transfer else (),
    ).with_default_budgets()
    _let_nnunet_find_trainers()
    steps = wanted.steps()
    if args.dry_run:
        for step in steps:
            print(f"[{step.title}]{' done' if step.done() else ''}\n$ {shown(step.command(), step.variables)}")
        _estimate(wanted, settings)
        return
    wanted.check_predictions()
    for number, step in enumerate(steps, 1):
        if step.title == SUPER_NET and not step.done():
            _print_budgets(wanted)
        if step.done():
            print(f"[{number}/{len(steps)} {step.title}] done before", flush=True)
            continue
        step.prepare()
        command = step.command()
        print(f"\n[{number}/{len(steps)} {step.title}]\n$ {shown(command, step.variables)}", flush=True)
        run_stock(command, variables=step.variables)
        if not (step.repeats or step.done()):
            raise MsdError(
                f"{command[0]} ended without an error, but {step.title} is not complete; see what it printed"
            )
        step.finish()
    for name in wanted.searched:
        final = wanted.predictions(name).final
        print(f"\nPredictions: {final}")
        if msd_task(wanted.task):
            print(f"  submit: hsnas_msd_submission {final} --data {args.folder.resolve().parent} -o {name}.zip")


def _transferred_name(architecture: str | None) -> str | None:
    """Return the name of plans with an architecture that a file or a name stands for."""
    return architecture and f"HyperSegNAS_{Path(architecture).name.removesuffix('.json')}"


def _let_nnunet_find_trainers() -> None:
    """Add our trainers to nnUNet_extTrainer, for the commands that are run."""
    from nnunet_hypersegnas.nnunet.discovery import VARIABLE, with_our_folder

    os.environ[VARIABLE] = with_our_folder(os.environ.get(VARIABLE))


def _print_budgets(wanted: MsdRun) -> None:
    """Say what the budgets are, and refuse those that cannot be met, before anything is trained."""
    for line in wanted.budgets().lines():
        print(line, flush=True)


def _search_arguments(args: argparse.Namespace) -> argparse.Namespace:
    """Return what --search-args say, as hsnas_search reads it."""
    from nnunet_hypersegnas.cli.search import build_parser as search_parser

    found = search_parser().parse_args(["0", args.c, "0", *shlex.split(args.search_args)])
    if found.plans_folder:
        raise HyperSegNASError("--search-args with --plans-folder: the plans are needed in nnUNet_preprocessed at once")
    return found


def _estimate(wanted: MsdRun, search: SearchSettings) -> None:
    import torch

    from nnunet_hypersegnas.cli.tables import format_table
    from nnunet_hypersegnas.nnunet.estimates import describe_estimates, estimates, probe

    if not wanted.are_planned:
        print(
            "\nBudgets are checked, and time and disk estimated, once the data are planned: run the first two "
            "commands, or the whole, and call --dry-run again."
        )
        return
    dataset = wanted.planned()
    if not wanted.transfer:
        _print_budgets(wanted)
    print(f"\nTiming training steps and predictions on {wanted.device} ...", flush=True)
    found = estimates(wanted, dataset, probe(wanted, dataset, torch.device(wanted.device)), search)
    print(format_table(describe_estimates(found)))
    print("About, without loading of data, resampling and what nnU-Net compresses; steps that are done are included.")


def main(argv: list[str] | None = None) -> int:
    return run_command(build_parser(), run, argv)


if __name__ == "__main__":
    sys.exit(main())
