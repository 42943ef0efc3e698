"""`hsnas_search`: the best networks for some memory budgets, from one trained super-net."""

from __future__ import annotations

import argparse
import contextlib
import os
import shlex
import sys
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from nnunet_hypersegnas.cli.device import chosen_device
from nnunet_hypersegnas.cli.entry import run_command
from nnunet_hypersegnas.cli.search_arguments import build_parser
from nnunet_hypersegnas.cost import Quantity, parse_bytes
from nnunet_hypersegnas.errors import HyperSegNASError

if TYPE_CHECKING:
    import torch

    from nnunet_hypersegnas.nnunet.crews import Crew
    from nnunet_hypersegnas.nnunet.device_measuring import Measuring
    from nnunet_hypersegnas.nnunet.findings import FoundNetwork
    from nnunet_hypersegnas.nnunet.memory_budgets import MemoryBudgets
    from nnunet_hypersegnas.nnunet.search_run import SuperNetSearch
    from nnunet_hypersegnas.search import Contest, Rung, SearchSettings
    from nnunet_hypersegnas.space import SearchSpace

STORAGE_VARIABLE = "HSNAS_STORAGE"  # in place of --storage, so that a password need not stand in a command
DEFAULT_RUN = "search"
MOST_CPU_WORKERS = 8  # by default: each holds the super-net, and half a GB of libraries


def run(args: argparse.Namespace) -> None:
    from nnunet_hypersegnas.search import labels_of, without_password

    at_most = _at_most(args)
    for quantity, text in at_most.items():  # what is mistyped is refused before anything heavy is imported
        quantity.parse(text)
    if args.tolerance:
        parse_bytes(args.tolerance)
    labels_of(args.memory)
    if args.plans_folder and not args.plans:
        raise HyperSegNASError("--plans-folder says where plans are written; give them a name with --plans")
    storage = args.storage or os.environ.get(STORAGE_VARIABLE)
    shown_storage = without_password(storage) if storage else None

    # Imported late: torch and nnU-Net take seconds that --help and a mistyped budget need not wait for.
    import torch

    from nnunet_hypersegnas.nnunet.dataset import PreprocessedDataset
    from nnunet_hypersegnas.nnunet.plans import check_plans_name
    from nnunet_hypersegnas.nnunet.search_run import SuperNetSearch
    from nnunet_hypersegnas.nnunet.search_worker import end_with, join_search

    if args.parent:
        end_with(args.parent)
    if args.plans:
        check_plans_name(args.plans)
    device = torch.device(chosen_device(args.device))
    dataset = PreprocessedDataset.find(args.dataset, args.p, args.configuration, trust_plans=args.trust_plans)
    run_name = args.run or args.plans or DEFAULT_RUN
    search = SuperNetSearch(dataset, args.fold, args.tr, device, settings_of(args), run_name)
    if args.join:
        done = join_search(search.folder, dataset, search.checkpoint, device, storage)
        print(f"The search in {search.folder.path} is over, or led no more; this worker did {done} evaluations.")
    else:
        with search.folder.led():
            _lead(args, search, _asked_budgets(args, search), storage, shown_storage)


def _at_most(args: argparse.Namespace) -> dict[Quantity, str]:
    asked = {
        Quantity.PARAMETERS: args.max_params,
        Quantity.MULTIPLY_ADDS: args.max_flops,
        Quantity.LATENCY: args.max_latency,
    }
    return {quantity: text for quantity, text in asked.items() if text is not None}


def _asked_budgets(args: argparse.Namespace, search: SuperNetSearch) -> MemoryBudgets:
    """Return the budgets, checked against what the super-net's space holds, before the super-net is loaded."""
    from nnunet_hypersegnas.cost.measuring import MemoryMetric
    from nnunet_hypersegnas.nnunet.checked_budgets import checked_budgets, default_memory

    at_most = _at_most(args)
    return checked_budgets(
        search.dataset,
        search.costs,
        search.device.type,
        args.memory or (() if at_most else default_memory(search.dataset)),
        at_most,
        tolerance=args.tolerance,
        around=args.around,
        metric=MemoryMetric(args.memory_metric) if args.memory_metric else None,
    )


def settings_of(args: argparse.Namespace) -> SearchSettings:
    """Return the settings that the command's flags give."""
    from nnunet_hypersegnas.search import SearchSettings

    return SearchSettings(
        candidates=args.candidates,
        strategy=args.strategy,
        finalists=args.finalists,
        finetune_iterations=args.finetune_iterations,
        finetune_lr=args.finetune_lr,
        refinements=args.refinements,
        halving=not args.no_halving,
        validation_cases=args.validation_cases,
        seed=args.seed,
    )


def _lead(
    args: argparse.Namespace,
    search: SuperNetSearch,
    asked: MemoryBudgets,
    storage: str | None,
    shown_storage: str | None,
) -> None:
    from nnunet_hypersegnas.cli.progress import stage_bars
    from nnunet_hypersegnas.cost.measuring import MemoryMetric
    from nnunet_hypersegnas.environment import environment
    from nnunet_hypersegnas.nnunet.device_measuring import measuring_on
    from nnunet_hypersegnas.nnunet.findings import Findings
    from nnunet_hypersegnas.search import Lead, open_storage, open_study, reading_errors, storage_errors

    started, folder = time.monotonic(), search.folder
    # What is refused is refused before time is spent: first what needs no measuring.
    search.load_super_net()
    memory = args.memory_metric or ("predicted" if search.device.type == "cpu" else "the best metric there is")
    record = search.record(asked.budgets, memory, shown_storage)
    findings = Findings(search.dataset, search.space, folder, record, args.plans, args.overwrite, args.plans_folder)
    findings.check_plans_folder()
    findings.check_plans_names([budget.label for budget in asked.budgets])
    url = folder.storage_url(storage)
    folder.write(record)  # before anything else lies there, so that whatever happens the same command goes on
    with contextlib.ExitStack() as stack:
        stack.enter_context(storage_errors(url))
        if storage:
            stack.enter_context(environment(**{STORAGE_VARIABLE: storage}))  # for the workers
        measuring = stack.enter_context(
            measuring_on(
                search.device,
                search.dataset,
                search.costs,
                metric=MemoryMetric(args.memory_metric) if args.memory_metric else None,
                latency=Quantity.LATENCY in asked.budgets[0].limits.intervals,
                folder=folder.path,
                progress=stage_bars("calibration"),
            )
        )
        budgets = asked.counted_by(measuring.counting)
        contests = search.contests(budgets.budgets, measuring)
        crew = _crew(args, search, storage)
        opened = open_storage(url)
        course = search.prepare(record)
        with reading_errors(url):
            lead = Lead(open_study(opened, record.study, create=True))
        folder.write(replace(record, prepared=True))
        stack.enter_context(lead.led())
        stack.callback(lambda: lead.release(crew.end()))
        print("\n".join([measuring.note, *budgets.lines()]))
        print(f"Run folder: {folder.path} (hsnas_status tells how far it is)", flush=True)
        if args.workers == 0:
            print("No workers here: call the same command with --join, on this machine or on others.", flush=True)
        search.run(contests, course, lead, crew, measuring, stage_bars(folder.path.name), force=args.force)
        last = course.rungs[-1]
        found = findings.write_winners(contests, last, measuring)
        front = findings.write_front(contests, last, measuring) if args.pareto else []
    _print_contests(contests, search)
    if fault := course.ranking_fault(contests):
        print(f"Forced, though on the first rung {fault}: the winners below say nothing of the architectures.")
    _print_found(found, front, args, search)
    print(f"All fine-tuned networks, DSC against memory: {_draw_front(contests, last, measuring, folder.path)}")
    spent = search.spent
    print(
        f"{spent.evaluations} evaluations at a cost of {spent.cost_patches:,} scored patches (a trained one counts "
        f"three), {spent.seconds:.0f} s of all workers together; {time.monotonic() - started:.0f} s now."
    )


def _crew(args: argparse.Namespace, search: SuperNetSearch, storage: str | None) -> Crew:
    from nnunet_hypersegnas.nnunet.crews import LocalCrew, NoCrew, SlurmCrew

    command = [sys.executable, "-m", "nnunet_hypersegnas.cli.search", args.dataset, args.configuration, str(args.fold)]
    command += [
        "-p",
        args.p,
        "-tr",
        args.tr,
        "--run",
        search.folder.path.name,
        "--join",
        "--device",
        search.device.type,
    ]
    workers = _default_workers(search.device) if args.workers is None else args.workers
    if not workers:
        return NoCrew()
    if args.slurm:
        if dict(args.slurm).get("cluster") != "local":
            search.folder.check_shared(search.folder.storage_url(storage))
        return SlurmCrew(command, workers, dict(args.slurm), search.folder.logs)
    return LocalCrew(command, workers, search.device.type, search.folder.logs)


def _default_workers(device: torch.device) -> int:
    import torch

    if device.type == "cuda":
        return torch.cuda.device_count()
    return min(
        len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1, MOST_CPU_WORKERS
    )


def _print_contests(contests: Sequence[Contest], search: SuperNetSearch) -> None:
    from nnunet_hypersegnas.search import Distribution

    for contest in contests:
        label, wanted = contest.budget.label, search.settings.candidates
        print(f"{label}: {Distribution.of(contest.candidates, search.space)}")
        if contest.gathered < wanted:
            print(f"{label}: no more than {contest.gathered} of {wanted} found with {contest.budget.limits}")
        for line in contest.strategy.report:
            print(f"{label}: {line}")


def _print_found(
    found: Sequence[FoundNetwork], front: Sequence[FoundNetwork], args: argparse.Namespace, search: SuperNetSearch
) -> None:
    from nnunet_hypersegnas.cli.tables import format_table
    from nnunet_hypersegnas.nnunet.findings import BIAS_NOTE, describe

    print(format_table(describe(found)))
    if front:
        print("\nPareto front: no network that was found is both smaller and better than one of these.")
        print(format_table(describe(front)))
    print(f"DSC: fold {args.fold}, {BIAS_NOTE}.")
    for one in [*found, *front]:
        picture = _draw(one, search.space)
        print(f"{one.label}: record in {one.record}, picture in {picture}")
        if one.plans:
            if args.plans_folder:
                copy = shlex.join(["cp", str(one.plans), str(search.dataset.folder)])
                print(f"  nnU-Net finds the plans once they are copied: {copy}")
            print(
                f"  train: nnUNetv2_train {args.dataset} {args.configuration} FOLD -p {one.plans.stem}\n"
                f"  with inherited weights (fold {args.fold} only): -pretrained_weights {one.weights}"
            )


def _draw_front(contests: Sequence[Contest], last: Rung, measuring: Measuring, folder: Path) -> Path:
    from nnunet_hypersegnas.report.pareto_figure import ParetoDrawing, plot_pareto

    picture = folder / "pareto.png"
    plot_pareto(ParetoDrawing.of(contests, last, measuring.to_json()["memory_metric"]), picture)
    return picture


def _draw(one: FoundNetwork, space: SearchSpace) -> Path:
    from nnunet_hypersegnas.cost import format_bytes
    from nnunet_hypersegnas.report.architecture_figure import ArchitectureDrawing, plot_architecture

    network, picture = one.network, one.record.with_suffix(".png")
    how = "measured" if Quantity.MEMORY in network.measured else "predicted"
    title = f"{one.record.stem}: {format_bytes(round(network.memory_bytes))} {how}"
    plot_architecture(ArchitectureDrawing.of(network.architecture, space), picture, title)
    return picture


def main(argv: list[str] | None = None) -> int:
    return run_command(build_parser(), run, argv)


if __name__ == "__main__":
    sys.exit(main())
