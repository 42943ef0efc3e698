"""`hsnas_search`: the best networks for some memory budgets, from one trained super-net."""

from __future__ import annotations

import argparse
import contextlib
import sys

from nnunet_hypersegnas.cli.device import chosen_device
from nnunet_hypersegnas.cli.entry import run_command
from nnunet_hypersegnas.cost import Quantity
from nnunet_hypersegnas.search import SearchSettings, budgets_of

DEFAULT_PLANS_NAME = "HyperSegNASPlans"


def build_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="hsnas_search",
        description="Search the best networks for one or more training-memory budgets with a trained super-net, and "
        "write them as nnU-Net plans. An interrupted search goes on where it stood when called again with the same "
        "arguments.",
    )
    parser.add_argument("dataset", metavar="DATASET", help="data set name or id, as in nnUNetv2_train")
    parser.add_argument("configuration", metavar="CONFIGURATION", help="for example 3d_fullres")
    parser.add_argument("fold", metavar="FOLD", type=int, help="the super-net's fold; its validation cases score")
    parser.add_argument(
        "--memory", nargs="+", default=[], metavar="BUDGET", help="training-memory budgets, for example 5GB 7GB"
    )
    parser.add_argument("--max-params", metavar="N", help="parameters at most, for example 5M; alone or with --memory")
    parser.add_argument("--max-flops", metavar="N", help="multiply-adds of a patch's forward pass at most, as in 100G")
    parser.add_argument("--max-latency", metavar="TIME", help="time of a patch's forward pass at most, as in 50ms")
    parser.add_argument(
        "--plans",
        nargs="?",
        const=DEFAULT_PLANS_NAME,
        metavar="NAME",
        help=f"write the best network of each budget as plans NAME_BUDGET.json (NAME: {DEFAULT_PLANS_NAME})",
    )
    parser.add_argument("--overwrite", action="store_true", help="replace plans of that name")
    parser.add_argument("-tr", default="HyperSegNASSupernetTrainer", metavar="TRAINER", help="the super-net's trainer")
    parser.add_argument("-p", default="nnUNetPlans", metavar="PLANS", help="the super-net's plans [%(default)s]")
    parser.add_argument(
        "--memory-metric",
        choices=("nvml", "reserved", "allocated"),
        help="what a budget's memory is, measured on a GPU: NVML's figure for the process, as nvidia-smi shows it, or "
        "what torch has reserved or allocated [nvml; on a CPU memory is predicted]",
    )
    parser.add_argument(
        "--candidates",
        type=_positive,
        default=SearchSettings.candidates,
        help="sampled under each budget [%(default)s]",
    )
    parser.add_argument(
        "--finalists", type=_positive, default=SearchSettings.finalists, help="how many are fine-tuned [%(default)s]"
    )
    parser.add_argument(
        "--finetune-iterations",
        type=_positive,
        default=SearchSettings.finetune_iterations,
        metavar="N",
        help="for each finalist [%(default)s]",
    )
    parser.add_argument(
        "--finetune-lr", type=_positive_rate, default=SearchSettings.finetune_lr, metavar="LR", help="[%(default)s]"
    )
    parser.add_argument(
        "--tolerance",
        default="300MB",
        metavar="SIZE",
        help="candidates lie so far below a budget at most [%(default)s]",
    )
    parser.add_argument("--around", action="store_true", help="let them lie as far above it too, as in the paper")
    parser.add_argument(
        "--validation-cases", type=_positive, metavar="N", help="score on N of the fold's validation cases [all]"
    )
    parser.add_argument(
        "--seed", type=int, default=SearchSettings.seed, help="of sampling and fine-tuning [%(default)s]"
    )
    parser.add_argument("--device", "-device", choices=("cuda", "cpu"), help="[cuda where there is one, else cpu]")
    return parser


def _positive(text: str) -> int:
    value = int(text)
    if value < 1:
        raise argparse.ArgumentTypeError(f"{text} is not a positive number")
    return value


def _positive_rate(text: str) -> float:
    value = float(text)
    if not 0 < value < 10:
        raise argparse.ArgumentTypeError(f"{text} is not a learning rate")
    return value


def run(args: argparse.Namespace) -> None:
    asked = {
        Quantity.PARAMETERS: args.max_params,
        Quantity.MULTIPLY_ADDS: args.max_flops,
        Quantity.LATENCY: args.max_latency,
    }
    at_most = {quantity: text for quantity, text in asked.items() if text is not None}
    budgets = budgets_of(args.memory, at_most, tolerance=args.tolerance, around=args.around)

    # Imported late: torch and nnU-Net take seconds that --help and a mistyped budget need not wait for.
    import torch

    from nnunet_hypersegnas.cli.progress import stage_bars
    from nnunet_hypersegnas.cli.tables import format_table
    from nnunet_hypersegnas.cost import format_bytes
    from nnunet_hypersegnas.cost.measuring import MemoryMetric
    from nnunet_hypersegnas.nnunet.dataset import PreprocessedDataset
    from nnunet_hypersegnas.nnunet.device_measuring import measuring_on
    from nnunet_hypersegnas.nnunet.search_run import BIAS_NOTE, SuperNetSearch, describe
    from nnunet_hypersegnas.report.architecture_figure import ArchitectureDrawing, plot_architecture
    from nnunet_hypersegnas.search import Distribution

    device = torch.device(chosen_device(args.device))
    settings = SearchSettings(
        candidates=args.candidates,
        finalists=args.finalists,
        finetune_iterations=args.finetune_iterations,
        finetune_lr=args.finetune_lr,
        validation_cases=args.validation_cases,
        seed=args.seed,
    )
    dataset = PreprocessedDataset.find(args.dataset, args.p, args.configuration)
    # What is refused is refused before time is spent: first what needs no super-net, then what needs no measuring.
    search = SuperNetSearch(dataset, args.fold, args.tr, device, settings)
    if args.plans:
        search.check_plans_names(budgets, args.plans, args.overwrite)
    search.load_super_net()
    with contextlib.ExitStack() as stack:
        measuring = stack.enter_context(
            measuring_on(
                device,
                dataset,
                search.costs,
                metric=MemoryMetric(args.memory_metric) if args.memory_metric else None,
                latency=Quantity.LATENCY in budgets[0].limits.intervals,
                folder=search.folder,
                progress=stage_bars("calibration"),
            )
        )
        stack.callback(search.close)
        print(measuring.note)
        samplers = [search.sampler(budget, measuring) for budget in budgets]
        candidates = [
            search.candidates(sampler, measuring.candidates, stage_bars(budget.label))
            for budget, sampler in zip(budgets, samplers, strict=True)
        ]
        measuring.release()
        for budget, found in zip(budgets, candidates, strict=True):
            print(f"{budget.label}: {Distribution.of(found, search.space)}")
            if len(found) < settings.candidates:
                print(f"{budget.label}: no more than {len(found)} of {settings.candidates} found with {budget.limits}")
        results = [
            search.search(budget, found, args.plans, measuring, stage_bars(budget.label))
            for budget, found in zip(budgets, candidates, strict=True)
        ]
    print(format_table(describe(results)))
    print(f"DSC: fold {args.fold}, {BIAS_NOTE}.")
    for result in results:
        picture = result.record.with_suffix(".png")
        winner = result.winner
        size, how = winner.measured.get(Quantity.MEMORY), "measured"
        if size is None:
            size, how = winner.predicted_memory_bytes, "predicted"
        title = f"{result.record.stem}: {format_bytes(round(size))} {how}"
        plot_architecture(ArchitectureDrawing.of(winner.architecture, search.space), picture, title)
        print(f"{result.budget.label}: all candidates in {result.record}, picture of the winner in {picture}")
        if result.plans:
            print(
                f"  train: nnUNetv2_train {args.dataset} {args.configuration} FOLD -p {result.plans.stem}\n"
                f"  with inherited weights (fold {args.fold} only): -pretrained_weights {result.weights}"
            )


def main(argv: list[str] | None = None) -> int:
    return run_command(build_parser(), run, argv)


if __name__ == "__main__":
    sys.exit(main())
