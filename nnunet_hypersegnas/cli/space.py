"""`hsnas_space`: the search space that a data set gets, before anything is trained."""

from __future__ import annotations

import argparse
import sys
from dataclasses import replace

from nnunet_hypersegnas.cli.entry import run_command
from nnunet_hypersegnas.cli.numbers import positive_int


def build_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="hsnas_space",
        description="Print the search space that follows from a data set's plans: scales, channels, edges, number of "
        "architectures, smallest and largest costs. The data set has to be planned, not preprocessed.",
    )
    parser.add_argument("dataset", metavar="DATASET", help="data set name or id")
    parser.add_argument("configuration", metavar="CONFIGURATION", help="3d_fullres, 3d_lowres, 2d, ...")
    parser.add_argument("-p", metavar="PLANS", default="nnUNetPlans", help="[%(default)s]")
    parser.add_argument("--layers", type=positive_int, metavar="N", help="layers, in place of what the plans say [12]")
    parser.add_argument(
        "--channels",
        type=positive_int,
        nargs="+",
        metavar="N",
        help="channels of each scale, finest first [32 64 128 256]",
    )
    parser.add_argument(
        "--scales", type=positive_int, metavar="N", help="number of scales, of channels doubled from 32"
    )
    parser.add_argument(
        "--recipe",
        choices=("paper",),
        help="the paper's experiment in place of what the plans say: 1 mm, patch 96, batch 8, and the settings of its "
        "training; the cases have to be preprocessed anew, see docs/how-to/training.md",
    )
    parser.add_argument(
        "--previous-stage",
        metavar="TRAINER__PLANS",
        help="trained model whose predictions a cascade's second stage takes [nnUNetTrainer__PLANS, those of -p]",
    )
    parser.add_argument(
        "--write",
        metavar="NAME",
        help="write a copy of the plans under this name with these settings in its hypersegnas block, to train with -p",
    )
    parser.add_argument(
        "--device",
        "-device",
        choices=("cuda", "cpu"),
        default="cuda",
        help="costs of training on it: in fp16 autocast on cuda, in fp32 on cpu; none is needed here [%(default)s]",
    )
    return parser


def run(args: argparse.Namespace) -> None:
    from nnunet_hypersegnas.atomic import write_json
    from nnunet_hypersegnas.cli.tables import format_table
    from nnunet_hypersegnas.cost import format_count
    from nnunet_hypersegnas.nnunet.cascade import CascadeError
    from nnunet_hypersegnas.nnunet.dataset import PreprocessedDataset
    from nnunet_hypersegnas.nnunet.plans import PlansError, check_plans_name
    from nnunet_hypersegnas.nnunet.recipes import paper_plans
    from nnunet_hypersegnas.nnunet.space_description import SpaceDescription, changed_settings, plans_with_settings

    dataset = PreprocessedDataset.find(args.dataset, args.p, args.configuration, preprocessed=False)
    if args.recipe:
        dataset = replace(dataset, plans=paper_plans(dataset.plans, args.configuration, args.write or args.p))
    settings = changed_settings(dataset, layers=args.layers, channels=args.channels, scales=args.scales)
    if dataset.first_stage:  # by name, since the written plans have another one
        settings = replace(settings, previous_stage=args.previous_stage or dataset.first_stage.model)
    elif args.previous_stage:
        raise CascadeError(f"{args.configuration} is no cascade's second stage, so leave --previous-stage away")
    if args.write:
        check_plans_name(args.write)
        path = dataset.folder / f"{args.write}.json"
        if path.exists():
            raise PlansError(f"{path} exists already; choose another name for --write")
    found = SpaceDescription.of(dataset, settings, args.device)
    space, patch = found.space, " x ".join(map(str, found.patch_size))
    print(
        f"Search space {space.digest} of {dataset.name} {args.configuration} (plans {args.p}: patch {patch}, batch "
        f"{found.batch_size})"
    )
    print(format_table(found.scales()))
    print(
        f"{space.layers} layers of {len(space.edges)} edges, each of them off, a skip connection or a convolution: "
        f"{_about(found.architectures)} architectures"
    )
    precision = "fp16 autocast on CUDA" if args.device == "cuda" else "fp32 on a CPU"
    print(f"\nOf one network, trained by nnU-Net ({precision}):")
    print(format_table(found.costs()))
    man = f" and MAN {format_count(found.man_parameters)}" if found.man_parameters else ""
    weights = format_count(found.super_net_parameters)
    print(f"The super-net has {weights} parameters{man}; each step trains one architecture.")
    if args.write:
        write_json(path, plans_with_settings(dataset.plans, args.configuration, args.write, settings, space))
        print(f"\nWritten: {path}")
        if args.recipe:
            number = int(dataset.name.removeprefix("Dataset")[:3])
            print(
                f"  preprocess at 1 mm, first: nnUNetv2_preprocess -d {number} -plans_name {args.write} "
                f"-c {args.configuration}"
            )
        print(
            f"  train: nnUNetv2_train {args.dataset} {args.configuration} FOLD -tr HyperSegNASSupernetTrainer "
            f"-p {args.write}"
        )


def _about(count: int) -> str:
    """Return a number whole where it is short, else as a power of ten."""
    return f"{count:,}" if count < 10**9 else f"{count:.1e}".replace("e+", " x 10^")


def main(argv: list[str] | None = None) -> int:
    return run_command(build_parser(), run, argv)


if __name__ == "__main__":
    sys.exit(main())
