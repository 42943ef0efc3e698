"""The whole way in 25 minutes of one large GPU: costs and speed, a super-net, two searched networks, nnU-Net's own.

    python -m benchmarks.gpu_task04 Task04_Hippocampus --folder STATE --minutes 9

Each call works for as long as --minutes says, keeps in STATE what it has done, and ends with all tables that there are,
which STATE/report.md holds too. Called again, it goes on. The exit code is 0 when everything is done, 3 when there is
more to do, and 1 when a step has failed. Everything is run by real commands, whose output lies in STATE/logs.

With --device cpu a small network, patch and data loader do the same in minutes, as a test; their scores say nothing.
"""

from __future__ import annotations

import argparse
import json
import signal
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, replace
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch

from benchmarks.gpu_sizes import CPU, GPU, SMALL_PLANS, Sizes
from benchmarks.pieces import Clock, Efforts, LimitedCommands, Piece, Printed, State, locked, run_pieces
from nnunet_hypersegnas.atomic import write_json, write_text
from nnunet_hypersegnas.cli.device import chosen_device
from nnunet_hypersegnas.cli.entry import run_command
from nnunet_hypersegnas.cli.numbers import positive_float
from nnunet_hypersegnas.cli.tables import markdown_table
from nnunet_hypersegnas.demo.loop import CONFIGURATION, FOLD, SUPERNET_TRAINER, claim_folder, small_patch
from nnunet_hypersegnas.evaluation import msd_task
from nnunet_hypersegnas.nnunet.calibrating import device_name
from nnunet_hypersegnas.nnunet.cross_validation import CrossValidation
from nnunet_hypersegnas.nnunet.dataset import PreprocessedDataset
from nnunet_hypersegnas.nnunet.discovery import external_trainer_folder
from nnunet_hypersegnas.nnunet.fold_training import FoldState, missing_jobs, remove_torn_checkpoints, state_of
from nnunet_hypersegnas.nnunet.msd_steps import STOCK_PLANS, MsdRun, Step, dataset_name
from nnunet_hypersegnas.nnunet.settings import BLOCK
from nnunet_hypersegnas.search import budgets_of

SUPERNET_PLANS = "BenchmarkSupernet"
SEARCHED_PLANS = "BenchmarkSearched"
MORE_TO_DO = 3
# Each runs `python -m benchmarks.NAME ARGUMENTS`.
FP16 = ("--autocast", "fp16")
SPEED: tuple[tuple[str, ...], ...] = (
    ("networks", "--sampled", "3", *FP16),
    ("steps", "supernet", *FP16),
    ("steps", "limit", *FP16),
    ("steps", "recompute", *FP16),
    ("growth", *FP16),
    ("inference", "DATASET", CONFIGURATION, "-p", SUPERNET_PLANS),  # in the precision of nnU-Net's predictor
)


# What is run


def pieces_of(task: Path, commands: LimitedCommands, sizes: Sizes) -> list[Piece]:
    """Return all steps in order of worth: data, then what needs the data alone, then what ends in the scores."""
    device, seconds = commands.device, sizes.seconds
    way = MsdRun(
        folder=task,
        configuration=CONFIGURATION,
        memory=tuple(sizes.budgets),
        tolerance=sizes.tolerance,
        around=False,
        metric=None,
        plans=STOCK_PLANS,
        plans_name=SEARCHED_PLANS,
        transfer=None,
        supernet_trainer=SUPERNET_TRAINER,
        trainer=sizes.trainer,
        folds=(FOLD,),
        device=device,
        output=commands.folder / "predictions",  # of test images, which nothing here makes
        search_arguments=_search_arguments(sizes),
    )
    data = {step.title: step for step in way.steps()}
    found = {step.title: step for step in replace(way, plans=SUPERNET_PLANS).steps()}
    convert, preprocess = data["convert"], data["plan and preprocess"]
    ready = replace(
        preprocess,
        command=lambda: _with_processes(preprocess.command(), sizes.processes),
        done=lambda: preprocess.done() and (way.preprocessed / f"{SUPERNET_PLANS}.json").exists(),
        finish=lambda: write_plans(way.preprocessed, sizes),
    )
    dataset = (way.number, CONFIGURATION)
    on_supernet = ("-p", SUPERNET_PLANS, "--device", device)

    def printing(title: str, *command: str) -> Step:
        return Step(title=title, command=lambda: list(command), done=commands.output(title).exists)

    measured = printing(
        "predicted and measured memory",
        *("python", "-m", "benchmarks.measured_cost", *dataset, *on_supernet),
        *("--architectures", str(sizes.measured), "--log", str(commands.folder / "measured_cost.jsonl")),
    )
    calibrate = printing(
        "calibrate",
        *("hsnas_calibrate", *dataset, *on_supernet, "--architectures", str(sizes.calibrated), "--overwrite"),
    )
    stock, *searched = [_training(name, way, sizes) for name in (sizes.stock_plans, *way.searched)]
    models = [_model(sizes.trainer, name) for name in (sizes.stock_plans, *way.searched)]
    compare = printing(
        "compare",
        *("hsnas_compare", *models, "-d", way.number, "-f", str(FOLD), "--device", device, "--no-published"),
        *(() if msd_task(way.dataset) else ("--tolerance", "1")),  # mm; no other data set has one of its own
    )
    trainings = [
        Piece(step=stock, seconds=seconds.stock, resumes=True, needs=(ready.title,)),
        *[Piece(step=one, seconds=seconds.searched, resumes=True, needs=("search",)) for one in searched],
    ]
    return [
        Piece(step=convert, seconds=seconds.convert),
        Piece(step=ready, seconds=seconds.preprocess, needs=("convert",)),
        Piece(step=measured, seconds=seconds.cost, resumes=True, needs=(ready.title,), printed=Printed.MARKDOWN),
        *[
            Piece(
                step=printing(
                    f"speed of {' '.join(word for word in words[:2] if word.isalpha() and word.islower())}",
                    *("python", "-m", f"benchmarks.{words[0]}"),
                    *(way.number if word == "DATASET" else word for word in words[1:]),
                    *("--device", device),
                ),
                seconds=seconds.speed,
                printed=Printed.MARKDOWN,
            )
            for words in (SPEED if sizes.speed else ())
        ],
        Piece(step=found["super-net"], seconds=seconds.supernet, resumes=True, needs=(ready.title,)),
        Piece(step=calibrate, seconds=seconds.calibrate, resumes=True, needs=(ready.title,), printed=Printed.TEXT),
        Piece(
            step=found["search"],
            seconds=seconds.search,
            resumes=True,
            needs=("super-net", "calibrate"),
            printed=Printed.TEXT,
        ),
        *trainings,
        Piece(
            step=compare,
            seconds=seconds.compare,
            needs=tuple(piece.title for piece in trainings),
            printed=Printed.TEXT,
        ),
    ]


def _search_arguments(sizes: Sizes) -> tuple[str, ...]:
    words = ["--memory", *sizes.budgets, "--tolerance", sizes.tolerance, "--candidates", str(sizes.candidates)]
    words += ["--finalists", str(sizes.finalists), "--finetune-iterations", str(sizes.finetune_iterations)]
    return (*words, *(("--validation-cases", str(sizes.validation_cases)) if sizes.validation_cases else ()))


def _with_processes(command: list[str], processes: int) -> list[str]:
    fingerprint = ["-npfp", str(processes)] if command[0] == "nnUNetv2_plan_and_preprocess" else []
    return [*command, "-np", str(processes), *fingerprint]


def _model(trainer: str, plans: str) -> str:
    return f"{trainer}__{plans}__{CONFIGURATION}"


def _training(plans: str, way: MsdRun, sizes: Sizes) -> Step:
    """Return the training of a network from scratch on the fold, and its validation."""

    def model() -> CrossValidation:
        return CrossValidation(dataset=PreprocessedDataset.find(way.number, plans, CONFIGURATION), trainer=way.trainer)

    return Step(
        title=f"train {plans}",
        command=lambda: missing_jobs(model(), [FOLD], way.device, None)[0].command,
        done=lambda: state_of(model(), FOLD) is FoldState.DONE,
        prepare=lambda: remove_torn_checkpoints(model().fold_folder(FOLD)),
        variables=sizes.variables,
    )


def write_plans(preprocessed: Path, sizes: Sizes) -> None:
    """Write the super-net's plans and, where there is a small patch, nnU-Net's own with a small network."""
    plans = json.loads((preprocessed / f"{STOCK_PLANS}.json").read_text())
    configuration = plans["configurations"][CONFIGURATION]
    plans["configurations"] = {CONFIGURATION: configuration}
    if sizes.patch_size is not None and sizes.stock_channels is not None:
        make_small(configuration, sizes.patch_size, sizes.stock_channels)
        configuration["batch_size"] = sizes.batch_size
        plans["plans_name"] = SMALL_PLANS
        write_json(preprocessed / f"{SMALL_PLANS}.json", plans)
    configuration[BLOCK] = {
        "layers": sizes.layers,
        "channels": list(sizes.channels),
        "epochs": sizes.supernet_epochs,
        "annealing_epochs": sizes.supernet_epochs / 5,
        "warmup_epochs": sizes.supernet_epochs / 10,
        "iterations_per_epoch": sizes.iterations_per_epoch,
        "save_every": 1,
    }
    plans["plans_name"] = SUPERNET_PLANS
    write_json(preprocessed / f"{SUPERNET_PLANS}.json", plans)


def make_small(configuration: dict[str, Any], largest: int, channels: Sequence[int]) -> None:
    """Give a configuration a patch of `largest` voxels a side, and a network of as many stages as channels."""
    stages = len(channels)
    configuration["patch_size"] = small_patch(configuration, largest, stages)
    kwargs = configuration["architecture"]["arch_kwargs"]
    kwargs |= {"n_stages": stages, "features_per_stage": list(channels)}
    for key, count in {
        "strides": stages,
        "kernel_sizes": stages,
        "n_conv_per_stage": stages,
        "n_conv_per_stage_decoder": stages - 1,
    }.items():
        kwargs[key] = kwargs[key][:count]


# What is printed


def report_of(
    pieces: Sequence[Piece],
    states: Mapping[str, State],
    efforts: Efforts,
    output: Callable[[str], Path],
    heading: str,
) -> str:
    """Return all tables that there are, in Markdown, each with the command that made it."""
    lines = [heading, ""]
    for piece in pieces:
        if states[piece.title] is not State.DONE or piece.printed is Printed.NOTHING:
            continue
        text = output(piece.title).read_text(errors="replace").strip("\n")
        lines += [f"## {piece.title}", "", "```", f"$ {efforts.of(piece.title).command}", "```", ""]
        lines += [text, ""] if piece.printed is Printed.MARKDOWN else ["```", text, "```", ""]
    rows = [
        {
            "step": piece.title,
            "state": states[piece.title].value,
            "seconds": f"{efforts.of(piece.title).seconds:.0f}",
            "calls": str(efforts.of(piece.title).calls),
            "seconds planned": f"{piece.seconds:.0f}",
        }
        for piece in pieces
    ]
    return "\n".join([*lines, "## Steps", "", markdown_table(rows), ""])


def heading_of(dataset: str, device: torch.device, sizes: Sizes) -> str:
    """Say what the tables are of."""
    return (
        f"# {dataset} on {device_name(device)} (torch {torch.__version__}, nnU-Net {version('nnunetv2')})\n\n"
        f"Super-net: {sizes.layers} layers, channels {', '.join(map(str, sizes.channels))}, "
        f"{sizes.supernet_epochs * sizes.iterations_per_epoch} iterations. The searched networks and nnU-Net's own "
        f"({sizes.stock_plans}) are trained alike: {sizes.trainer}, from scratch, same patch and batch, fold "
        f"{FOLD}, one training each."
    )


# The command


def build_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="benchmarks.gpu_task04", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("task", metavar="TASK_FOLDER", type=Path, help="for example Task04_Hippocampus, as downloaded")
    parser.add_argument("--folder", metavar="STATE", type=Path, required=True, help="where everything goes")
    parser.add_argument("--device", choices=("cuda", "cpu"), help="[cuda where there is one, else cpu]")
    parser.add_argument("--minutes", type=positive_float, default=9.0, help="that a call may take [%(default)s]")
    parser.add_argument("--memory", nargs="+", metavar="BUDGET", help="training-memory budgets [two that fit]")
    parser.add_argument("--tolerance", metavar="SIZE", help="of the budgets [one that fits]")
    parser.add_argument("--skip", nargs="+", default=[], metavar="STEP", help="leave steps away, in this call")
    return parser


def run(args: argparse.Namespace) -> int:
    clock = Clock(60 * args.minutes)
    device = chosen_device(args.device)
    sizes = GPU if device == "cuda" else CPU
    sizes = replace(sizes, budgets=tuple(args.memory or sizes.budgets), tolerance=args.tolerance or sizes.tolerance)
    budgets_of(sizes.budgets, {}, tolerance=sizes.tolerance)  # all that can be wrong, before the folder is taken
    task, folder = args.task.resolve(), args.folder.resolve()
    dataset = dataset_name(task)
    identity = {name: value for name, value in asdict(sizes).items() if name != "seconds"}
    claim_folder(folder, {"task": str(task), "device": device, **identity}, "run")
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # so that commands end with this process
    with locked(folder) as lock:
        commands = LimitedCommands(folder, device, external_trainer_folder(), clock, lock)
        pieces, efforts = pieces_of(task, commands, sizes), Efforts.read(folder / "efforts.json")
        states = run_pieces(pieces, commands, efforts, args.skip)
        report = report_of(pieces, states, efforts, commands.output, heading_of(dataset, torch.device(device), sizes))
        write_text(folder / "report.md", report)
    print(f"\n{report}\nWritten: {folder / 'report.md'}")
    return conclude(states)


def conclude(states: Mapping[str, State]) -> int:
    """Say what is left to do, and return the exit code."""
    left = [title for title, state in states.items() if state is not State.DONE]
    failed = [title for title, state in states.items() if state is State.FAILED]
    if failed:
        print(f"Failed: {', '.join(failed)}; STATE/logs tell why.")
    if left:
        print(f"{len(left)} of {len(states)} steps are left: {', '.join(left)}. The same command goes on.")
    else:
        print("Everything is done.")
    return 1 if failed else MORE_TO_DO if left else 0


def main(argv: list[str] | None = None) -> int:
    return run_command(build_parser(), run, argv)


if __name__ == "__main__":
    sys.exit(main())
