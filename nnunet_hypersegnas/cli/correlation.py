"""`hsnas_correlation`: does a super-net rank networks as training them from scratch does (the paper's Fig. 4)?"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from nnunet_hypersegnas.cli.entry import run_command
from nnunet_hypersegnas.cli.numbers import positive_int, whole_number
from nnunet_hypersegnas.cli.trust import add_trust_plans
from nnunet_hypersegnas.cost import parse_bytes
from nnunet_hypersegnas.errors import FaultsError
from nnunet_hypersegnas.search_settings import SearchSettings

if TYPE_CHECKING:
    from nnunet_hypersegnas.nnunet.correlation.folder import CorrelationFolder
    from nnunet_hypersegnas.nnunet.correlation.from_scratch import FromScratch
    from nnunet_hypersegnas.nnunet.correlation.results import CorrelationResults
    from nnunet_hypersegnas.nnunet.dataset import PreprocessedDataset
    from nnunet_hypersegnas.nnunet.fold_training import FoldJob
    from nnunet_hypersegnas.search import Budget


def build_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="hsnas_correlation",
        description="Train some sub-nets of a trained super-net from scratch by nnU-Net's own commands, which are "
        "printed, and write how far the super-net ranks them alike, with shared and with fine-tuned weights, and how "
        "far their size alone does (the paper's Figure 4). Started again, it goes on where it stood.",
    )
    parser.add_argument("dataset", metavar="DATASET", help="data set name or id")
    parser.add_argument("configuration", metavar="CONFIGURATION", help="3d_fullres, 2d, ...")
    parser.add_argument("fold", metavar="FOLD", type=whole_number, help="the super-net's; its validation cases score")
    parser.add_argument("-p", metavar="PLANS", default="nnUNetPlans", help="the networks' plans [%(default)s]")
    parser.add_argument(
        "-tr", metavar="SUPERNET_TRAINER", default="HyperSegNASSupernetTrainer", help="of the super-nets [%(default)s]"
    )
    parser.add_argument(
        "--supernet-plans",
        nargs="+",
        metavar="PLANS",
        help="judge the super-nets of these plans, which have to span the same search space, against the same "
        "networks, such as those of other seeds or other numbers of iterations [that of -p]",
    )
    parser.add_argument(
        "--architectures",
        type=positive_int,
        metavar="N",
        default=12,
        help="sub-nets that are trained, in all or for each budget of --memory [%(default)s]",
    )
    parser.add_argument(
        "--memory",
        nargs="+",
        default=[],
        metavar="BUDGET",
        help="draw them within training-memory budgets (5GB, own, 50%%, or the name of plans), predicted for tensors, "
        "and not over all of the search space",
    )
    parser.add_argument(
        "--tolerance", metavar="SIZE", help="they lie so far below a budget at most [300MB, at most 6%% of it]"
    )
    parser.add_argument(
        "--trainer",
        metavar="TRAINER",
        default="nnUNetTrainer",
        help="nnU-Net's, that trains them from scratch, such as nnUNetTrainer_100epochs [%(default)s]",
    )
    parser.add_argument(
        "--finetune-iterations",
        type=whole_number,
        metavar="N",
        default=SearchSettings().finetune_iterations,
        help="of the fine-tuning that predicts; 0 leaves it out [%(default)s]",
    )
    parser.add_argument(
        "--validation-cases",
        type=positive_int,
        metavar="N",
        help="predict on so many of the fold's cases at most [all]",
    )
    parser.add_argument("--device", "-device", choices=("cuda", "cpu"), help="[cuda where there is one, else cpu]")
    parser.add_argument(
        "--output",
        type=Path,
        metavar="FOLDER",
        help="[nnUNet_results/DATASET/hsnas_correlation/PLANS_CONFIGURATION_fold_N]",
    )
    parser.add_argument("--dry-run", action="store_true", help="print the trainings that are missing, and no more")
    add_trust_plans(parser)
    return parser


def run(args: argparse.Namespace) -> None:
    from nnunet_hypersegnas.search import labels_of

    labels_of(args.memory)  # what is mistyped is refused before anything heavy is imported
    if args.tolerance:
        parse_bytes(args.tolerance)

    import torch

    from nnunet_hypersegnas.cli.device import chosen_device
    from nnunet_hypersegnas.cli.progress import stage_bars
    from nnunet_hypersegnas.nnunet.correlation.folder import CorrelationFolder, CorrelationRecord
    from nnunet_hypersegnas.nnunet.correlation.from_scratch import FromScratch, check_trainer
    from nnunet_hypersegnas.nnunet.correlation.results import CorrelationResults
    from nnunet_hypersegnas.nnunet.correlation.running import default_folder, truths
    from nnunet_hypersegnas.nnunet.correlation.sub_nets import ranked_nets
    from nnunet_hypersegnas.nnunet.correlation.super_nets import SuperNetPredictor, judged_super_nets
    from nnunet_hypersegnas.nnunet.cost_models import cost_model

    device = torch.device(chosen_device(args.device))
    dataset = _dataset(args)
    costs = cost_model(dataset, device.type)
    super_nets = judged_super_nets(dataset, costs.space, args.supernet_plans or [args.p], args.tr, args.fold)
    nets = ranked_nets(costs, args.architectures, _budgets(args, dataset, device.type))
    networks = [FromScratch.of(dataset, costs.space, net, args.trainer, args.fold) for net in nets]
    check_trainer(args.trainer)
    if faults := [fault for network in networks for fault in network.faults(dataset)]:
        raise FaultsError("these sub-nets cannot be trained", faults)
    if args.dry_run:
        _print_missing(networks, device.type)
        return
    record = CorrelationRecord(
        dataset=dataset.name,
        configuration=args.configuration,
        plans=args.p,
        fold=args.fold,
        trainer=args.trainer,
        device=device.type,
        validation_cases=args.validation_cases,
        sub_nets=nets,
    )
    folder = CorrelationFolder(args.output or default_folder(dataset, args.fold))
    folder.begin(record)
    settings = SearchSettings(finetune_iterations=args.finetune_iterations)
    predictor = SuperNetPredictor(dataset, args.fold, args.validation_cases, settings, folder, nets, device)
    predicted = tuple(predictor.predict(super_net, stage_bars("predicting")) for super_net in super_nets)
    del predictor  # the trainings need the memory
    if device.type == "cuda":
        torch.cuda.empty_cache()
    for truth in truths(networks, dataset, device.type, _announce):
        results = CorrelationResults(
            record=record,
            settings=settings,
            labels=tuple(dataset.label_names()),
            super_nets=predicted,
            truth=truth,
        )
        _write(results, folder)  # after each of them, so that there is always something to look at
    _print(results, folder)


def _budgets(args: argparse.Namespace, dataset: PreprocessedDataset, device_type: str) -> Sequence[Budget]:
    if not args.memory:
        return []
    from nnunet_hypersegnas.nnunet.memory_budgets import MemoryBudgets
    from nnunet_hypersegnas.nnunet.memory_counting import MemoryCounting

    # Of tensors, so that the networks do not depend on the device.
    return MemoryBudgets.of(dataset, device_type, MemoryCounting(), args.memory, tolerance=args.tolerance).budgets


def _dataset(args: argparse.Namespace) -> PreprocessedDataset:
    from nnunet_hypersegnas.nnunet.cross_validation import CrossValidation
    from nnunet_hypersegnas.nnunet.dataset import PreprocessedDataset

    dataset = PreprocessedDataset.find(args.dataset, args.p, args.configuration, trust_plans=args.trust_plans)
    CrossValidation(dataset=dataset, trainer="").check_fold(args.fold)
    return dataset


def _announce(network: FromScratch, job: FoldJob) -> None:
    from nnunet_hypersegnas.nnunet.stock_commands import shown

    print(f"\n[{network.plans_file.stem}: {job.state.value}]\n$ {shown(job.command)}", flush=True)


def _print_missing(networks: Sequence[FromScratch], device: str) -> None:
    from nnunet_hypersegnas.nnunet.correlation.running import in_order
    from nnunet_hypersegnas.nnunet.stock_commands import shown

    missing = [shown(job.command) for network in in_order(networks) for job in network.jobs(device)]
    print("\n".join(missing) or "All are trained.")


def _write(results: CorrelationResults, folder: CorrelationFolder) -> None:
    from nnunet_hypersegnas.atomic import write_text
    from nnunet_hypersegnas.cli.tables import headed_markdown
    from nnunet_hypersegnas.report.correlation_figure import CorrelationDrawing, plot_correlation

    results.write(folder)
    write_text(folder.tables, headed_markdown(_heading(results), results.tables()))
    drawing = CorrelationDrawing(truth=results.true_dsc.tolist(), windows=results.windows, panels=results.panels())
    plot_correlation(drawing, folder.figure)


def _heading(results: CorrelationResults) -> str:
    record = results.record
    where = f"{record.dataset} {record.configuration}, plans {record.plans}, fold {record.fold}"
    return f"Search correlation on {where}: {len(results.truth)} of {len(record.sub_nets)} networks trained"


def _print(results: CorrelationResults, folder: CorrelationFolder) -> None:
    from nnunet_hypersegnas.cli.tables import print_tables

    print_tables(_heading(results), results.tables())
    print(f"\nWritten: {folder.json}, {folder.csv}, {folder.tables}, {folder.figure}")


def main(argv: list[str] | None = None) -> int:
    return run_command(build_parser(), run, argv)


if __name__ == "__main__":
    sys.exit(main())
