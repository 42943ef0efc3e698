"""`hsnas_transfer`: an architecture as plans for another data set."""

from __future__ import annotations

import argparse
import sys

from nnunet_hypersegnas.cli.entry import run_command
from nnunet_hypersegnas.cli.numbers import positive_int


def build_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="hsnas_transfer",
        description="Write plans for a data set with an architecture that was found on another one, that comes with "
        "this package, or that you wrote yourself. Strides, kernels, patch and channels are those of the data set.",
    )
    parser.add_argument(
        "architecture",
        metavar="ARCHITECTURE_OR_PLANS",
        help="path of plans, of a search's record or of a JSON file with an architecture; or a name: smallest, "
        "largest, unet, unet_parallel_skips",
    )
    parser.add_argument("configuration", metavar="CONFIGURATION", nargs="?", default="3d_fullres", help="[%(default)s]")
    parser.add_argument("--to", metavar="DATASET", required=True, help="data set name or id; it has to be planned")
    parser.add_argument("-p", metavar="PLANS", default="nnUNetPlans", help="the data set's own plans [%(default)s]")
    parser.add_argument("-c", metavar="SOURCE", help="configuration of the plans that the architecture is taken from")
    parser.add_argument(
        "--channels", type=positive_int, nargs="+", metavar="N", help="channels of each scale, finest first"
    )
    parser.add_argument(
        "--plans",
        metavar="NAME",
        help="name of the written plans [that of the plans it is taken from, or HyperSegNAS_NAME]",
    )
    parser.add_argument("--overwrite", action="store_true", help="replace plans of that name")
    return parser


def run(args: argparse.Namespace) -> None:
    from nnunet_hypersegnas.atomic import write_json
    from nnunet_hypersegnas.cli.tables import format_table
    from nnunet_hypersegnas.nnunet.architecture_files import find_architecture
    from nnunet_hypersegnas.nnunet.cost_models import search_space
    from nnunet_hypersegnas.nnunet.dataset import PreprocessedDataset
    from nnunet_hypersegnas.nnunet.network_costs import PlannedNetwork, describe, network_costs
    from nnunet_hypersegnas.nnunet.plans import PlansError, check_plans_name
    from nnunet_hypersegnas.nnunet.transfer import Transfer

    dataset = PreprocessedDataset.find(args.to, args.p, args.configuration, preprocessed=False)
    found = find_architecture(args.architecture, search_space(dataset), args.c)
    if args.c and not found.is_of_plans:
        raise PlansError(f"-c {args.c} names a configuration of plans, and {args.architecture} is not plans; omit -c")
    name = args.plans or (found.name if found.is_of_plans else f"HyperSegNAS_{found.name}")
    check_plans_name(name)
    path = dataset.folder / f"{name}.json"
    if name == args.p or (path.exists() and not args.overwrite):
        raise PlansError(f"{path} exists already; choose another name with --plans, or replace it with --overwrite")
    first_stage = dataset.first_stage
    if first_stage and not args.overwrite:
        first_stage.check_hand_on(name)
    transfer = Transfer.to(dataset, found, args.channels)
    plans = transfer.plans(dataset, name)
    network = PlannedNetwork(
        name=name, plans=plans, dataset_json=dataset.dataset_json, configuration=args.configuration
    )
    costs = network_costs(network, cuda=True)
    if first_stage:
        first_stage.hand_on(name)
    write_json(path, plans)
    for note in transfer.notes():
        print(note)
    print(format_table(describe([costs])))
    print(f"Predicted for nnU-Net's training in fp16 autocast on CUDA; see hsnas_cost.\nWritten: {path}")
    if first_stage and not first_stage.files():
        print(f"  first: nnUNetv2_train {args.to} {first_stage.configuration} FOLD -p {name}, for every fold")
    print(f"  train: nnUNetv2_train {args.to} {args.configuration} FOLD -p {name}")


def main(argv: list[str] | None = None) -> int:
    return run_command(build_parser(), run, argv)


if __name__ == "__main__":
    sys.exit(main())
