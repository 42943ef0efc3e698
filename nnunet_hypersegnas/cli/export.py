"""`hsnas_export`: a trained network for programs that have no nnU-Net."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from nnunet_hypersegnas.cli.entry import run_command
from nnunet_hypersegnas.cli.numbers import whole_number
from nnunet_hypersegnas.cli.trust import add_trust_plans

FORMATS = ("onnx", "program")


def build_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="hsnas_export",
        description="Write a network that nnU-Net has trained as ONNX and as torch.export program, both for batches of "
        "any size, with a JSON file that says how to feed it; and check both on a case against nnU-Net's own "
        "prediction. (nnUNetv2_export_model_to_zip packs a model for others who have nnU-Net.)",
    )
    parser.add_argument("-d", metavar="DATASET", required=True, help="data set name or id")
    parser.add_argument("-c", metavar="CONFIGURATION", required=True, help="3d_fullres, 2d, ...")
    parser.add_argument("-p", metavar="PLANS", default="nnUNetPlans", help="[%(default)s]")
    parser.add_argument("-tr", metavar="TRAINER", default="nnUNetTrainer", help="[%(default)s]")
    parser.add_argument("-f", metavar="FOLD", type=whole_number, default=0, help="[%(default)s]")
    parser.add_argument("-chk", metavar="FILE", default="checkpoint_final.pth", help="checkpoint [%(default)s]")
    parser.add_argument("-o", metavar="FOLDER", type=Path, required=True, help="for the files; none is replaced")
    parser.add_argument("--formats", nargs="+", choices=FORMATS, default=FORMATS, help="[all]")
    parser.add_argument(
        "--case", metavar="CASE", help="preprocessed case to check on [the fold's first for validation]"
    )
    add_trust_plans(parser)
    return parser


def run(args: argparse.Namespace) -> None:
    from nnunet_hypersegnas.cli.tables import format_table
    from nnunet_hypersegnas.nnunet.dataset import PreprocessedDataset
    from nnunet_hypersegnas.nnunet.exporting import TrainedNetwork, export

    dataset = PreprocessedDataset.find(args.d, args.p, args.c, trust_plans=args.trust_plans)
    trained = TrainedNetwork.load(dataset, args.tr, args.f, args.chk)
    case = args.case or dataset.validation_cases(args.f)[0]
    description, found = export(trained, args.o, list(dict.fromkeys(args.formats)), case)
    print(f"Checked on {case} by nnU-Net's predictor, on the CPU in fp32, without mirroring:")
    rows = [
        {
            "format": name,
            "patches": str(parity.patches),
            "largest difference of a logit": f"{parity.max_abs_difference:.2g}",
            "voxels with another label": f"{parity.voxels_with_another_label} of {parity.voxels:,}",
        }
        for name, parity in found.items()
    ]
    print(format_table(rows))
    print(f"Written: {', '.join(str(p) for p in sorted(args.o.glob(trained.name + '.*')))}")
    print(f"{description.name} has patch size, spacing, normalisation, labels and the files' digests.")


def main(argv: list[str] | None = None) -> int:
    return run_command(build_parser(), run, argv)


if __name__ == "__main__":
    sys.exit(main())
