"""The whole way: its plan of time for a GPU, what it refuses, and, slow, all of it on a CPU in pieces."""

import json
import os
import re
import subprocess
import sys

import pytest

from benchmarks.gpu_task04 import (
    CPU,
    GPU,
    SPEED,
    conclude,
    main,
    pieces_of,
    report_of,
    write_plans,
)
from benchmarks.pieces import Clock, Efforts, LimitedCommands, Piece, Printed, State
from nnunet_hypersegnas.demo.synthetic import write_synthetic_task
from nnunet_hypersegnas.nnunet.msd_steps import Step

CALL_S = 9 * 60
ALL_S = 25 * 60
MODEL = "nnUNetTrainer_1epoch__{}__3d_fullres"


@pytest.fixture
def task(tmp_path):
    folder = tmp_path / "Task999_Synthetic"
    for name in ("imagesTr", "labelsTr", "imagesTs"):
        (folder / name).mkdir(parents=True)
    (folder / "dataset.json").write_text("{}")
    return folder


@pytest.fixture
def commands(tmp_path, monkeypatch):
    for name in ("nnUNet_raw", "nnUNet_preprocessed", "nnUNet_results", "nnUNet_extTrainer", "OMP_WAIT_POLICY"):
        monkeypatch.setenv(name, "")  # restored after the test, whatever Commands sets
    return LimitedCommands(tmp_path / "state", "cuda", tmp_path, Clock(60), 0)


def test_a_gpu_has_time_for_everything(task, commands):
    pieces = pieces_of(task, commands, GPU)
    assert sum(piece.seconds for piece in pieces) <= ALL_S
    assert max(piece.seconds for piece in pieces) <= CALL_S
    assert len({piece.title for piece in pieces}) == len(pieces)


def test_everything_stands_behind_what_it_needs(task, commands):
    done = set()
    for piece in pieces_of(task, commands, GPU):
        assert set(piece.needs) <= done
        done.add(piece.title)
    assert {"train nnUNetPlans", "train BenchmarkSearched_1500MB", "train BenchmarkSearched_2GB"} <= set(piece.needs)
    assert piece.title == "compare"  # the last one


def test_a_gpu_runs_the_benchmarks_of_speed_and_a_cpu_does_not(task, commands):
    def speed(sizes):
        found = [piece.step.command() for piece in pieces_of(task, commands, sizes) if "speed of" in piece.title]
        return [" ".join(command) for command in found]

    assert speed(GPU)[0] == "python -m benchmarks.networks --sampled 3 --autocast fp16 --device cuda"
    assert speed(GPU)[-1] == "python -m benchmarks.inference 999 3d_fullres -p BenchmarkSupernet --device cuda"
    assert len(speed(GPU)) == len(SPEED) and not speed(CPU)


def plans_of_task04():
    stages = {"strides": [[1, 1, 1], *[[2, 2, 2]] * 3], "kernel_sizes": [[3, 3, 3]] * 4, "n_stages": 4}
    stages |= {
        "n_conv_per_stage": [2] * 4,
        "n_conv_per_stage_decoder": [2] * 3,
        "features_per_stage": [32, 64, 128, 256],
    }
    configuration = {"patch_size": [40, 56, 40], "batch_size": 7, "architecture": {"arch_kwargs": stages}}
    return {"plans_name": "nnUNetPlans", "configurations": {"3d_fullres": configuration, "2d": {}}}


def written(folder):
    return {path.stem: json.loads(path.read_text())["configurations"]["3d_fullres"] for path in folder.glob("*.json")}


def test_a_gpu_trains_at_full_width_on_nnunets_own_patch_and_batch(tmp_path):
    (tmp_path / "nnUNetPlans.json").write_text(json.dumps(plans_of_task04()))
    write_plans(tmp_path, GPU)
    found = written(tmp_path)
    assert set(found) == {"nnUNetPlans", "BenchmarkSupernet"} and GPU.stock_plans == "nnUNetPlans"
    block = found["BenchmarkSupernet"].pop("hypersegnas")
    assert (block["layers"], block["channels"]) == (12, [32, 64, 128, 256])
    assert found["BenchmarkSupernet"] == found["nnUNetPlans"]


def test_a_cpu_has_small_plans_that_differ_by_the_super_net_alone(tmp_path):
    (tmp_path / "nnUNetPlans.json").write_text(json.dumps(plans_of_task04()))
    write_plans(tmp_path, CPU)
    found = written(tmp_path)
    assert found["nnUNetPlans"]["patch_size"] == [40, 56, 40]
    small, supernet = found[CPU.stock_plans], found["BenchmarkSupernet"]
    assert supernet.pop("hypersegnas")["channels"] == [4, 6, 8]
    assert small == supernet and small["patch_size"] == [16, 16, 16] and small["batch_size"] == 2
    assert len(small["architecture"]["arch_kwargs"]["n_conv_per_stage_decoder"]) == 2


def test_a_report_holds_what_is_done_with_its_command(tmp_path):
    def piece(title, printed):
        step = Step(title=title, command=list, done=lambda: True)
        return Piece(step=step, seconds=5, printed=printed)

    pieces = [piece("table", Printed.MARKDOWN), piece("text", Printed.TEXT), piece("later", Printed.TEXT)]
    pieces.append(piece("silent", Printed.NOTHING))
    for one in pieces:
        (tmp_path / one.title).write_text(f"printed by {one.title}\n")
    states = {one.title: State.DONE for one in pieces} | {"later": State.LATER}
    efforts = Efforts.read(tmp_path / "none.json")
    efforts.of("table").command = "some command"
    efforts.of("table").seconds = 12.4
    report = report_of(pieces, states, efforts, lambda title: tmp_path / title, "# heading")
    assert report.startswith("# heading\n\n## table\n\n```\n$ some command\n```\n\nprinted by table\n")
    assert "```\nprinted by text\n```" in report
    assert "printed by later" not in report and "printed by silent" not in report
    assert "| table | done | 12 | 0 | 5 |" in report
    assert f"| later | {State.LATER.value} | 0 | 0 | 5 |" in report


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["nowhere"], "is no task of the Medical Segmentation Decathlon"),
        (["Task999_Synthetic", "--memory", "much"], "'much' is no memory size"),
        (["Task999_Synthetic", "--memory", "1MB", "1 MB"], "would have one name in the plans"),
    ],
)
def test_what_is_refused_leaves_nothing_behind(task, monkeypatch, capsys, words, message):
    monkeypatch.chdir(task.parent)
    assert main([*words, "--folder", "state", "--device", "cpu"]) == 1
    (line,) = capsys.readouterr().err.splitlines()
    assert message in line and not (task.parent / "state").exists()


def test_a_folder_of_something_else_is_refused(task, monkeypatch, capsys):
    monkeypatch.chdir(task.parent)
    assert main([str(task), "--folder", str(task), "--device", "cpu"]) == 1
    identity = {"task": str(task), "device": "cuda", "layers": 12}
    (task.parent / "state").mkdir()
    (task.parent / "state" / "run.json").write_text(json.dumps(identity))
    assert main([str(task), "--folder", "state", "--device", "cpu"]) == 1
    first, second = capsys.readouterr().err.splitlines()
    assert "is not empty and holds no run" in first
    assert (
        "holds another run" in second
        and "device cuda there, cpu now; " in second
        and "layers 12 there, 3 now" in second
    )


def test_the_exit_code_tells_what_is_left(capsys):
    states = {"one": State.DONE, "two": State.DONE}
    assert conclude(states) == 0
    assert conclude(states | {"two": State.LATER}) == 3
    assert conclude(states | {"two": State.FAILED, "one": State.ENDED}) == 1
    done, later, failed, also = capsys.readouterr().out.splitlines()
    assert done == "Everything is done."
    assert later == "1 of 2 steps are left: two. The same command goes on."
    assert failed == "Failed: two; STATE/logs tell why."
    assert also == "2 of 2 steps are left: one, two. The same command goes on."


@pytest.mark.slow
@pytest.mark.timeout(3600)
def test_the_whole_way_on_a_cpu_in_pieces(tmp_path):
    task = write_synthetic_task(tmp_path / "Task999_Synthetic", n_training=10, n_test=1, seed=0)
    state = tmp_path / "state"

    def call(minutes):
        words = ["-m", "benchmarks.gpu_task04", str(task), "--folder", str(state), "--device", "cpu"]
        words += ["--minutes", str(minutes)]
        done = subprocess.run([sys.executable, *words], env=os.environ, capture_output=True, text=True)
        assert not done.stderr.strip(), done.stderr
        return done.returncode, done.stdout

    # As long as it takes until a training is ended in the middle.
    ended = State.ENDED.value
    for _ in range(12):
        code, printed = call(0.9)
        assert code == 3 and "steps are left: " in printed
        if re.search(rf"\| (super-net|train \w+) \| {ended}", printed):
            break
    else:
        pytest.fail("no training was ever ended")
    begun = json.loads((state / "efforts.json").read_text())
    finished = re.findall(r"^\| (.+?) \| done \|", printed, re.MULTILINE)
    assert "convert" in finished

    code, printed = call(30)
    assert code == 0 and printed.endswith("Everything is done.\n"), printed
    efforts = json.loads((state / "efforts.json").read_text())
    assert all(efforts[title] == effort for title, effort in begun.items() if title in finished)

    report = (state / "report.md").read_text()
    assert report in printed
    assert "Measured: nothing, since this needs CUDA, and the device is a CPU." in report
    names = [CPU.stock_plans, *(f"BenchmarkSearched_{budget}" for budget in CPU.budgets)]
    table = report.split("## compare")[1]
    for name, starred in zip(names, (False, True, True), strict=True):
        (row,) = re.findall(rf"^{name}(\*?) +(.+)$", table, re.MULTILINE)
        assert row[0] == "*" * starred  # the searched networks' fold is biased, and says so
        assert len(re.findall(r"\b0\.\d{4}\b", row[1])) >= 4  # DSC of two structures, their mean, and NSD
        assert bool(re.search(r"[+-]0\.\d{4} \([+-]0\.\d{4} to [+-]0\.\d{4}\)", row[1])) is starred
    assert "DSC difference" in table and "NSD difference" in table
    assert "NSD at a tolerance of 1 mm." in table

    results = state / "nnUNet_results" / "Dataset999_Synthetic"
    data = set()
    for name in names:  # trained alike
        plans = json.loads((results / MODEL.format(name) / "plans.json").read_text())["configurations"]["3d_fullres"]
        logs = [path.read_text() for path in (results / MODEL.format(name) / "fold_0").glob("training_log_*.txt")]
        assert any("Training done." in log for log in logs)
        data.add((tuple(plans["patch_size"]), plans["batch_size"]))
    assert data == {((16, 16, 16), 2)}
    assert call(1)[0] == 0  # nothing is left to do
    assert json.loads((state / "efforts.json").read_text()) == efforts
