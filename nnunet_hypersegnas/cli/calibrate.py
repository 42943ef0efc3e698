"""`hsnas_calibrate`: measures networks on this device, so that predicted costs are those to be expected here."""

from __future__ import annotations

import argparse
import sys

from nnunet_hypersegnas.cli.device import chosen_device
from nnunet_hypersegnas.cli.entry import run_command
from nnunet_hypersegnas.cli.numbers import any_seed, positive_int


def build_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="hsnas_calibrate",
        description="Measure the training memory (on a GPU) and the latency of some networks of a data set's search "
        "space on this device, and fit what turns predicted costs into measured ones. hsnas_search uses the result by "
        "itself. An interrupted calibration goes on where it stood when called again.",
    )
    parser.add_argument("dataset", metavar="DATASET", help="data set name or id, as in nnUNetv2_train")
    parser.add_argument("configuration", metavar="CONFIGURATION", help="for example 3d_fullres")
    parser.add_argument("-p", default="nnUNetPlans", metavar="PLANS", help="the super-net's plans [%(default)s]")
    parser.add_argument(
        "--architectures", type=positive_int, default=24, metavar="N", help="networks to measure [%(default)s]"
    )
    parser.add_argument("--seed", type=any_seed, default=0, help="of their choice [%(default)s]")
    parser.add_argument("--device", "-device", choices=("cuda", "cpu"), help="[cuda where there is one, else cpu]")
    parser.add_argument("--overwrite", action="store_true", help="measure anew and replace what there is")
    return parser


def run(args: argparse.Namespace) -> None:
    import torch

    from nnunet_hypersegnas.cli.progress import stage_bars
    from nnunet_hypersegnas.cli.tables import format_table
    from nnunet_hypersegnas.cost import FEWEST_NETWORKS
    from nnunet_hypersegnas.errors import HyperSegNASError
    from nnunet_hypersegnas.nnunet.calibrating import calibration_file, describe
    from nnunet_hypersegnas.nnunet.cost_models import cost_model
    from nnunet_hypersegnas.nnunet.dataset import PreprocessedDataset
    from nnunet_hypersegnas.nnunet.device_measuring import calibrate_device

    if args.architectures < FEWEST_NETWORKS:
        raise HyperSegNASError(
            f"--architectures {args.architectures} is too few, at least {FEWEST_NETWORKS} are needed"
        )
    device = torch.device(chosen_device(args.device))
    dataset = PreprocessedDataset.find(args.dataset, args.p, args.configuration)
    path = calibration_file(dataset, device)
    if path.exists() and not args.overwrite:
        raise HyperSegNASError(f"there is a calibration already: {path}; replace it with --overwrite")
    calibration = calibrate_device(
        device,
        dataset,
        cost_model(dataset, device.type),
        args.architectures,
        seed=args.seed,
        progress=stage_bars("calibration"),
    )
    print(format_table(describe(calibration)))
    if device.type != "cuda":
        print("There is no GPU: memory is not measured, only latency.")
    print(f"{calibration.networks} networks measured on {calibration.conditions.device}: {path}")


def main(argv: list[str] | None = None) -> int:
    return run_command(build_parser(), run, argv)


if __name__ == "__main__":
    sys.exit(main())
