"""`hsnas_man`: what MAN's scalars depend on in a volume (the paper's "HyperNet Analysis", section 4.2)."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from nnunet_hypersegnas.cli.entry import run_command
from nnunet_hypersegnas.cli.numbers import positive_int, whole_number
from nnunet_hypersegnas.nnunet.variants import KEEP_MAN

if TYPE_CHECKING:
    from nnunet_hypersegnas.nnunet.man.analysis import AnalysedCase
    from nnunet_hypersegnas.nnunet.man.results import CaseNumbers, ManResults


def build_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="hsnas_man",
        description="Slide over validation cases and write, as images and as figures, how much the Meta-Assistant "
        "Network's scalars differ between patches and between two architectures (the paper's Figure 6), and tables of "
        "the scalars by layer.",
    )
    parser.add_argument("dataset", metavar="DATASET", help="data set name or id")
    parser.add_argument("configuration", metavar="CONFIGURATION", help="3d_fullres, 2d, ...")
    parser.add_argument("fold", metavar="FOLD", type=whole_number, help="that the super-net was trained on")
    parser.add_argument("-p", metavar="PLANS", default="nnUNetPlans", help="[%(default)s]")
    parser.add_argument("-tr", metavar="TRAINER", default=KEEP_MAN.trainer, help="of the super-net [%(default)s]")
    parser.add_argument(
        "-chk",
        metavar="FILE",
        default="checkpoint_final.pth",
        help="checkpoint in the fold's folder, of an unfinished training as well [%(default)s]",
    )
    parser.add_argument(
        "--cases", nargs="+", metavar="ID", help="validation cases of the fold, or all [the first of them]"
    )
    parser.add_argument(
        "--architectures",
        nargs=2,
        metavar="FILE",
        help="two architectures, from files or by name, as hsnas_transfer takes them; deviations between patches are "
        "those under the first [a small and a large one of what training draws]",
    )
    parser.add_argument(
        "--stride",
        type=positive_int,
        metavar="VOXELS",
        default=16,
        help="from one patch to the next, at most [%(default)s, as in the paper]",
    )
    parser.add_argument("--device", "-device", choices=("cuda", "cpu"), help="[cuda where there is one, else cpu]")
    parser.add_argument(
        "--output",
        type=Path,
        metavar="FOLDER",
        help="[nnUNet_results/DATASET/hsnas_man/TRAINER__PLANS__CONFIGURATION_fold_N]",
    )
    return parser


def run(args: argparse.Namespace) -> None:
    import torch

    from nnunet_hypersegnas.cli.device import chosen_device
    from nnunet_hypersegnas.nnunet.dataset import PreprocessedDataset
    from nnunet_hypersegnas.nnunet.man.analysis import (
        ManAnalysis,
        architectures_to_compare,
        cases_to_analyse,
        default_folder,
    )
    from nnunet_hypersegnas.nnunet.man.results import ManResults
    from nnunet_hypersegnas.nnunet.super_net_loading import load_with_man

    device = torch.device(chosen_device(args.device))
    dataset = PreprocessedDataset.find(args.dataset, args.p, args.configuration)
    checkpoint = dataset.trained_folder(args.tr, args.fold) / args.chk
    super_net = load_with_man(dataset, checkpoint)
    names = cases_to_analyse(dataset, args.fold, args.cases)
    architectures = architectures_to_compare(dataset, args.architectures, device.type)
    analysis = ManAnalysis(dataset, super_net, architectures, args.stride, device)
    folder = args.output or default_folder(dataset, args.tr, args.fold)
    where = {
        "dataset": dataset.name,
        "configuration": args.configuration,
        "plans": args.p,
        "trainer": args.tr,
        "fold": args.fold,
        "checkpoint": args.chk,
        "stride": args.stride,
    }
    numbers = []
    for name in names:
        case = analysis.case(name, _bar(name))
        analysis.write_maps(case, folder)
        _draw(case, folder / f"{name}.png")
        numbers.append(_numbers(case))
    results = ManResults(
        where=where,
        record=super_net.record,
        architectures=architectures,
        cases=numbers,
        statistics=analysis.statistics(),
    )
    written = results.write(folder)
    _print(results)
    print(f"\nWritten into {folder}: two maps and a figure of each case, {', '.join(path.name for path in written)}")


def _bar(case: str) -> Callable[[int], Callable[[int], object]]:
    """Return what makes a bar for a case; it ends with its last step."""
    from tqdm import tqdm

    return lambda total: tqdm(total=total, desc=case, unit="patch", file=sys.stderr, dynamic_ncols=True).update


def _numbers(case: AnalysedCase) -> CaseNumbers:
    from nnunet_hypersegnas.nnunet.man.results import CaseNumbers, Deviation

    maps = case.maps
    return CaseNumbers(
        case=case.case,
        patches=len(maps.foreground),
        foreground_patches=int((maps.foreground > 0).sum()),
        deviations={
            name: Deviation.of(found, maps.foreground, case.foreground)
            for name, found in (("image", maps.image), ("architecture", maps.architecture))
        },
    )


def _draw(case: AnalysedCase, path: Path) -> None:
    from nnunet_hypersegnas.report.man_figure import ManDrawing, plot_man

    drawing = ManDrawing(
        image=case.image,
        labels=case.labels * case.foreground,
        maps={
            "image deviation (Eq. 6)": case.maps.image.of_voxels,
            "architecture deviation (Eq. 7)": case.maps.architecture.of_voxels,
        },
        spacing_mm=case.spacing_mm,
    )
    plot_man(drawing, path, case.case)


def _print(results: ManResults) -> None:
    from nnunet_hypersegnas.cli.tables import format_table

    where = results.where
    print(
        f"MAN of {where['trainer']} on {where['dataset']} {where['configuration']}, plans {where['plans']}, fold "
        f"{where['fold']} ({where['checkpoint']}):"
    )
    print(f"\nDeviation of the scalars, on patches with and without foreground:\n{format_table(results.case_rows())}")
    print(f"\nScalars by layer:\n{format_table(results.layer_rows())}\n")
    print("\n".join(results.notes()))


def main(argv: list[str] | None = None) -> int:
    return run_command(build_parser(), run, argv)


if __name__ == "__main__":
    sys.exit(main())
