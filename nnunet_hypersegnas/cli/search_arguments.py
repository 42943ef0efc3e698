"""The arguments of `hsnas_search`."""

from __future__ import annotations

import argparse
from pathlib import Path

from nnunet_hypersegnas.cli.numbers import any_seed, positive_float, positive_int, whole_number
from nnunet_hypersegnas.cli.trust import add_trust_plans
from nnunet_hypersegnas.errors import abbreviated
from nnunet_hypersegnas.search_settings import STRATEGIES, SearchSettings

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
    parser.add_argument(
        "fold", metavar="FOLD", type=whole_number, help="the super-net's fold; its validation cases score"
    )
    parser.add_argument("-tr", default="HyperSegNASSupernetTrainer", metavar="TRAINER", help="the super-net's trainer")
    parser.add_argument("-p", default="nnUNetPlans", metavar="PLANS", help="the super-net's plans [%(default)s]")
    budgets = parser.add_argument_group("budgets")
    _add_budgets(budgets)
    add_trust_plans(budgets)
    _add_results(parser.add_argument_group("results"))
    _add_amounts(parser.add_argument_group("how much is done"))
    _add_workers(parser.add_argument_group("who does it"))
    return parser


def _add_budgets(group: argparse._ArgumentGroup) -> None:
    group.add_argument(
        "--memory",
        nargs="+",
        default=[],
        metavar="BUDGET",
        help="training-memory budgets: sizes (5GB), 'own' for what the plans' own network takes, a share of that "
        "(50%%), or the name of other plans, for what their network takes [those of the plans' hypersegnas block, else "
        "own 50%%]",
    )
    group.add_argument(
        "--tolerance",
        metavar="SIZE",
        help="candidates lie so far below a budget at most [300MB, at most 6%% of it]",
    )
    group.add_argument("--around", action="store_true", help="let them lie as far above it too, as in the paper")
    group.add_argument("--max-params", metavar="N", help="parameters at most, for example 5M; alone or with --memory")
    group.add_argument("--max-flops", metavar="N", help="multiply-adds of a patch's forward pass at most, as in 100G")
    group.add_argument("--max-latency", metavar="TIME", help="time of a patch's forward pass at most, as in 50ms")
    group.add_argument(
        "--memory-metric",
        choices=("nvml", "reserved", "allocated"),
        help="what a budget's memory is, measured on a GPU: NVML's figure for the process, as nvidia-smi shows it, or "
        "what torch has reserved or allocated [nvml; on a CPU memory is predicted]",
    )


def _add_results(group: argparse._ArgumentGroup) -> None:
    group.add_argument(
        "--plans",
        nargs="?",
        const=DEFAULT_PLANS_NAME,
        metavar="NAME",
        help=f"write the best network of each budget as plans NAME_BUDGET.json (NAME: {DEFAULT_PLANS_NAME})",
    )
    group.add_argument(
        "--pareto", action="store_true", help="write all networks than which none is both smaller and better, too"
    )
    group.add_argument(
        "--plans-folder",
        type=Path,
        metavar="FOLDER",
        help="where plans are written, as where nnUNet_preprocessed is read-only; nnU-Net finds them once they are "
        "copied there [the data set's folder in nnUNet_preprocessed]",
    )
    group.add_argument("--overwrite", action="store_true", help="replace plans of that name")
    group.add_argument(
        "--force",
        action="store_true",
        help="go on, and write plans, though the scores of all candidates are 0 or the same, or a label's are all 0",
    )
    group.add_argument(
        "--run", metavar="NAME", help="name of the run's folder beside the super-net [that of --plans, or 'search']"
    )


def _add_amounts(group: argparse._ArgumentGroup) -> None:
    defaults = SearchSettings()
    group.add_argument(
        "--candidates", type=positive_int, default=defaults.candidates, help="for each budget [%(default)s]"
    )
    group.add_argument(
        "--strategy",
        choices=STRATEGIES,
        default=defaults.strategy,
        help="where candidates come from: all drawn at random, as in the paper, or bred from the best so far "
        "[%(default)s]",
    )
    group.add_argument(
        "--finalists", type=positive_int, default=defaults.finalists, help="how many are fine-tuned [%(default)s]"
    )
    group.add_argument(
        "--finetune-iterations",
        type=positive_int,
        default=defaults.finetune_iterations,
        metavar="N",
        help="of a full fine-tuning [%(default)s]",
    )
    group.add_argument(
        "--finetune-lr", type=_positive_rate, default=defaults.finetune_lr, metavar="LR", help="[%(default)s]"
    )
    group.add_argument(
        "--refinements",
        type=whole_number,
        default=defaults.refinements,
        metavar="N",
        help="rounds in which neighbours of the best fine-tuned networks are fine-tuned, too; each costs as much as "
        "the finalists [%(default)s]",
    )
    group.add_argument(
        "--no-halving",
        action="store_true",
        help="score every candidate on whole crops and fine-tune every finalist in full, as in the paper, at about "
        "eight times the cost of going by rungs",
    )
    group.add_argument(
        "--validation-cases", type=positive_int, metavar="N", help="score on N of the fold's validation cases [all]"
    )
    group.add_argument("--seed", type=any_seed, default=defaults.seed, help="of sampling and fine-tuning [%(default)s]")


def _add_workers(group: argparse._ArgumentGroup) -> None:
    group.add_argument("--device", "-device", choices=("cuda", "cpu"), help="[cuda where there is one, else cpu]")
    group.add_argument(
        "--workers",
        type=whole_number,
        metavar="N",
        help="processes that evaluate; 0 leaves it to those who join [one for each GPU, or CPU core, 8 at most]",
    )
    group.add_argument(
        "--join",
        action="store_true",
        help="work for a search that another process, here or elsewhere, has started with the same command",
    )
    group.add_argument(
        "--storage",
        metavar="URL",
        help="where evaluations are kept: postgresql://USER@HOST/DATABASE, or journal:FILE on a shared folder, let "
        "other machines join; $HSNAS_STORAGE does the same [an SQLite file in the run's folder, for one machine]",
    )
    group.add_argument(
        "--slurm",
        nargs="+",
        type=key_and_value,
        metavar="KEY=VALUE",
        help="run the workers as a SLURM job array with these parameters of sbatch, as in partition=gpu time=240 "
        "gres=gpu:1",
    )
    group.add_argument("--parent", type=int, help=argparse.SUPPRESS)  # a worker ends when this process does


def _positive_rate(text: str) -> float:
    value = positive_float(text)
    if value >= 10:
        raise argparse.ArgumentTypeError(f"{abbreviated(text)} is not a learning rate")
    return value


def key_and_value(text: str) -> tuple[str, str]:
    key, sign, value = text.partition("=")
    if not (key and sign and value):
        raise argparse.ArgumentTypeError(f"{text!r} is not of the form KEY=VALUE")
    return key, value
