"""`hsnas_space`: the search space that a data set gets, before anything is trained."""

from __future__ import annotations

import argparse
import sys
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from nnunet_hypersegnas.cli.entry import run_command
from nnunet_hypersegnas.cli.numbers import positive_int
from nnunet_hypersegnas.cli.trust import add_trust_plans
from nnunet_hypersegnas.cost import parse_bytes

if TYPE_CHECKING:
    from nnunet_hypersegnas.nnunet.dataset import PreprocessedDataset
    from nnunet_hypersegnas.nnunet.placed_budgets import PlacedBudgets
    from nnunet_hypersegnas.nnunet.settings import SuperNetSettings
    from nnunet_hypersegnas.nnunet.space_description import SpaceDescription


CANDIDATES = 500  # that the sampler is asked for under each budget
CARDS = ("8GB", "12GB", "16GB", "24GB", "48GB", "80GB")  # memory of GPUs that are around


def build_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="hsnas_space",
        description="Print the search space that follows from a data set's plans: scales, channels, edges, number of "
        "architectures; what its networks need beside nnU-Net's own; where memory budgets lie in it; and what training "
        "the super-net takes. The data set has to be planned, not preprocessed.",
    )
    parser.add_argument("dataset", metavar="DATASET", help="data set name or id")
    parser.add_argument("configuration", metavar="CONFIGURATION", help="3d_fullres, 3d_lowres, 2d, ...")
    parser.add_argument("-p", metavar="PLANS", default="nnUNetPlans", help="[%(default)s]")
    parser.add_argument(
        "--memory",
        nargs="+",
        metavar="BUDGET",
        help="show where these training-memory budgets lie, and propose channels and layers where they lie badly: "
        "sizes (5GB), 'own' for what the plans' own network takes, a share of that (50%%), or the name of plans "
        "[those of the plans' hypersegnas block, else own 50%%]",
    )
    parser.add_argument(
        "--tolerance",
        metavar="SIZE",
        help="candidates lie so far below a budget at most [300MB, but 6%% of it at most]",
    )
    parser.add_argument("--layers", type=positive_int, metavar="N", help="layers, in place of what the plans say [12]")
    parser.add_argument(
        "--channels",
        type=positive_int,
        nargs="+",
        metavar="N",
        help="channels of each scale, finest first [the features of the plans' stages]",
    )
    parser.add_argument("--scales", type=positive_int, metavar="N", help="number of scales [the plans' stages]")
    parser.add_argument(
        "--full-resolution",
        action=argparse.BooleanOptionalAction,
        help="whether the finest scale is full resolution, or half of it [full resolution, unless --channels or "
        "--scales name fewer scales than the plans have stages]",
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
        help="write a copy of the plans under this name with these settings in its hypersegnas block, to train with "
        "-p; with --memory, the budgets, and the channels and layers that are proposed for them",
    )
    parser.add_argument("--json", metavar="FILE", type=Path, help="write the numbers to a file, in bytes")
    parser.add_argument(
        "--device",
        "-device",
        choices=("cuda", "cpu"),
        default="cuda",
        help="costs of training on it: in fp16 autocast on cuda, in fp32 on cpu; none is needed here [%(default)s]",
    )
    parser.add_argument(
        "--memory-metric",
        choices=("nvml", "reserved", "allocated"),
        default="nvml",
        help="how budgets are counted on a GPU, as in hsnas_search [%(default)s]",
    )
    add_trust_plans(parser)
    return parser


def run(args: argparse.Namespace) -> None:
    from nnunet_hypersegnas.search import labels_of

    labels_of(args.memory or ())  # what is mistyped is refused before anything is looked up
    if args.tolerance:
        parse_bytes(args.tolerance)

    from nnunet_hypersegnas.atomic import write_json
    from nnunet_hypersegnas.cost.measuring import MemoryMetric
    from nnunet_hypersegnas.nnunet.cascade import CascadeError
    from nnunet_hypersegnas.nnunet.dataset import PreprocessedDataset
    from nnunet_hypersegnas.nnunet.plans import PlansError, check_plans_name
    from nnunet_hypersegnas.nnunet.recipes import paper_plans
    from nnunet_hypersegnas.nnunet.space_description import SpaceDescription, changed_settings, plans_with_settings

    dataset = PreprocessedDataset.find(
        args.dataset, args.p, args.configuration, preprocessed=False, trust_plans=args.trust_plans
    )
    if args.recipe:
        dataset = replace(dataset, plans=paper_plans(dataset.plans, args.configuration, args.write or args.p))
    settings = changed_settings(
        dataset,
        layers=args.layers,
        channels=args.channels,
        scales=args.scales,
        full_resolution=args.full_resolution,
    )
    if dataset.first_stage:  # by name, since the written plans have another one
        settings = replace(settings, previous_stage=args.previous_stage or dataset.first_stage.model)
    elif args.previous_stage:
        raise CascadeError(f"{args.configuration} is no cascade's second stage; omit --previous-stage")
    if args.write:
        check_plans_name(args.write)
        path = dataset.folder / f"{args.write}.json"
        if path.exists():
            raise PlansError(f"{path} exists already; choose another name for --write")
    metric = MemoryMetric(args.memory_metric)
    found = SpaceDescription.of(dataset, settings, args.device, metric)
    _print_space(found, args, dataset)
    placed = _placed(found, args, dataset, settings)
    if placed:
        _print_budgets(placed, found)
    _print_super_net(found, args.device)
    if args.json:
        write_json(
            args.json, {**_identity(found, dataset, args), **found.to_json(), **(placed.to_json() if placed else {})}
        )
        print(f"\nWritten: {args.json}")
    if args.write:
        written = settings
        if placed and args.memory:
            by_hand = any(x is not None for x in (args.layers, args.channels, args.scales, args.full_resolution))
            written = placed.settings_to_write(settings, with_proposal=not by_hand)
        space = written.space(dataset.configuration.configuration)
        write_json(path, plans_with_settings(dataset.plans, args.configuration, args.write, written, space))
        print(f"\nWritten: {path}, with {written.layers} layers and channels {' '.join(map(str, space.channels))}")
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


def _identity(found: SpaceDescription, dataset: PreprocessedDataset, args: argparse.Namespace) -> dict[str, Any]:
    return {
        "dataset": dataset.name,
        "configuration": args.configuration,
        "plans": args.p,
        "device": args.device,
        "space": found.space.to_json(),
    }


def _print_space(found: SpaceDescription, args: argparse.Namespace, dataset: PreprocessedDataset) -> None:
    from nnunet_hypersegnas.cli.tables import format_table

    space, patch = found.space, " x ".join(map(str, found.patch_size))
    print(
        f"Search space {space.digest} of {dataset.name} {args.configuration} (plans {args.p}: patch {patch}, batch "
        f"{found.batch_size})"
    )
    print(format_table(found.scales()))
    print(found.scales_in_words())
    print(
        f"{space.layers} layers of {len(space.edges)} edges, each of them off, a skip connection or a convolution: "
        f"{_about(found.architectures)} architectures"
    )
    precision = "fp16 autocast on CUDA" if args.device == "cuda" else "fp32 on a CPU"
    print(f"\nOf one network, trained by nnU-Net ({precision}); 'own' is the network that the plans name now, and")
    print("percentages are of networks drawn at random, as in the super-net's training:")
    print(format_table(found.costs.table()))
    if (quantile := found.costs.own_quantile) is not None:
        print(f"The plans' own network needs more memory than {quantile:.0%} of the networks drawn.")


def _placed(
    found: SpaceDescription, args: argparse.Namespace, dataset: PreprocessedDataset, settings: SuperNetSettings
) -> PlacedBudgets | None:
    from nnunet_hypersegnas.nnunet.placed_budgets import PlacedBudgets

    return PlacedBudgets.of(
        found, dataset, settings, args.device, args.memory, tolerance=args.tolerance, candidates=CANDIDATES
    )


def _print_budgets(placed: PlacedBudgets, found: SpaceDescription) -> None:
    from nnunet_hypersegnas.cli.tables import format_table

    print("\nBudgets of training memory:")
    print(format_table(placed.table()))
    if found.counting.origin:
        print(f"Counted on the GPU, CUDA's context and libraries included: {found.counting.origin}.")
    else:
        print("Memory is that of tensors, predicted.")
    for line in placed.lines():
        print(line)


def _print_super_net(found: SpaceDescription, device: str) -> None:
    from nnunet_hypersegnas.cost import format_bytes, format_count

    man = f" and MAN {format_count(found.man_parameters)}" if found.man_parameters else ""
    weights = format_count(found.super_net_parameters)
    print(f"\nThe super-net has {weights} parameters{man}; each step trains one network.")
    memory = found.super_net_memory
    half, most, warmup = (format_bytes(round(b)) for b in (*memory.drawn_quantiles(0.5, 1.0), memory.warmup_bytes))
    print(
        f"Training it takes {half} for half of the networks drawn, {most} for the largest of "
        f"{len(memory.drawn_bytes):,} and {warmup} in the warm-up with every edge; in each of them "
        f"{format_bytes(memory.fixed_bytes)} for all weights and the optimizer's states."
    )
    if device == "cuda":
        shares = ", ".join(f"{card} {memory.fitting(parse_bytes(card)):.0%}" for card in CARDS)
        print(
            f"Share of the draws that fit a GPU: {shares}. Larger ones are drawn again, and the warm-up takes the "
            "densest that fit (memory_limit in docs/how-to/training.md)."
        )


def _about(count: int) -> str:
    """Return a number whole where it is short, else as a power of ten."""
    return f"{count:,}" if count < 10**9 else f"{count:.1e}".replace("e+", " x 10^")


def main(argv: list[str] | None = None) -> int:
    return run_command(build_parser(), run, argv)


if __name__ == "__main__":
    sys.exit(main())
