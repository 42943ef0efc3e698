"""`hsnas_cost`: what networks cost to train, nnU-Net's own included."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from nnunet_hypersegnas.cli.entry import run_command
from nnunet_hypersegnas.cli.trust import add_trust_plans


def build_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="hsnas_cost",
        description="Predict what networks cost to train with nnU-Net, without a GPU: searched ones and nnU-Net's own "
        "(PlainConvUNet, ResEnc), so that a budget can be chosen that compares with what one has.",
    )
    parser.add_argument(
        "networks",
        metavar="PLANS_OR_ARCHITECTURE",
        nargs="+",
        help="name of a data set's plans (with -d), path of a plans file, or path of a JSON file with an architecture "
        "or with a search's record, whose winner counts (with -d and -p)",
    )
    parser.add_argument("-d", metavar="DATASET", help="data set name or id")
    parser.add_argument("-c", metavar="CONFIGURATION", default="3d_fullres", help="[%(default)s]")
    parser.add_argument(
        "-p",
        metavar="PLANS",
        default="nnUNetPlans",
        help="plans whose search space an architecture is of [%(default)s]",
    )
    parser.add_argument(
        "--device",
        "-device",
        choices=("cuda", "cpu"),
        default="cuda",
        help="training on it: in fp16 autocast on cuda, in fp32 on cpu; none is needed here [%(default)s]",
    )
    parser.add_argument("--json", metavar="FILE", type=Path, help="write the costs, in bytes and numbers, as well")
    add_trust_plans(parser)
    return parser


def run(args: argparse.Namespace) -> None:
    from nnunet_hypersegnas.atomic import write_json
    from nnunet_hypersegnas.cli.tables import format_table
    from nnunet_hypersegnas.errors import HyperSegNASError
    from nnunet_hypersegnas.nnunet.network_costs import describe, find_network, network_costs

    if args.json and args.json.exists():
        raise HyperSegNASError(f"{args.json} exists already; choose another name for --json or remove it")
    networks = [
        find_network(name, dataset=args.d, configuration=args.c, plans_name=args.p, trust_plans=args.trust_plans)
        for name in args.networks
    ]
    costs = [network_costs(network, cuda=args.device == "cuda") for network in networks]
    print(format_table(describe(costs)))
    precision = "fp16 autocast on CUDA" if args.device == "cuda" else "fp32 on a CPU"
    print(
        f"Predicted for nnU-Net's training ({precision}, SGD with momentum, deep supervision) at each plans' patch and "
        "batch size.\nAt the moment that needs most: weights, with momentum and the gradients there are; activations "
        "that the backward pass still needs; all else.\nMultiply-adds: of the convolutions in one patch's forward "
        "pass. Not counted: CUDA's context, cuDNN's workspaces, the allocator's reserve; hsnas_calibrate measures them."
    )
    if args.json:
        write_json(args.json, [cost.to_json() for cost in costs])


def main(argv: list[str] | None = None) -> int:
    return run_command(build_parser(), run, argv)


if __name__ == "__main__":
    sys.exit(main())
