"""Searches by real commands in several processes: whoever works, and whoever is killed, the result is the same."""

import json
import os
import random
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from nnunet_hypersegnas.cli.search import main
from nnunet_hypersegnas.cli.status import main as status
from nnunet_hypersegnas.cost import Quantity
from nnunet_hypersegnas.nnunet.cost_models import cost_model
from nnunet_hypersegnas.nnunet.crews import CrewError, LocalCrew, SlurmCrew
from nnunet_hypersegnas.nnunet.dataset import PreprocessedDataset
from nnunet_hypersegnas.nnunet.run_folder import RunError, RunFolder
from nnunet_hypersegnas.nnunet.slurm import SlurmError
from nnunet_hypersegnas.search import StorageError, possible_range
from nnunet_hypersegnas.search.status import read_status

PLANS = "HyperSegNASDemoSupernet"
BASE = ["999", "3d_fullres", "0", "-p", PLANS, "--device", "cpu"]
SIZES = ["--max-params", "1G", "--candidates", "24", "--finalists", "2", "--finetune-iterations", "8"]
SIZES += ["--seed", "3"]


def command(*words):
    return [sys.executable, "-m", "nnunet_hypersegnas.cli.search", *BASE, *words]


def start(*words, **variables):
    return subprocess.Popen(
        command(*words),
        env={**os.environ, **variables},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )


class Runs:
    """The runs of a test, whose folders are beside the super-net's other ones."""

    def __init__(self, supernet_fold):
        self.folder = supernet_fold / "search"

    def path(self, name):
        return self.folder / name

    def result(self, name):
        """What a search found, without when and where."""
        record = json.loads((self.path(name) / "no_plans_1Gparams.json").read_text())
        return {key: record[key] for key in ("winner", "candidates", "strategy", "distribution", "limits")}

    def evaluations(self, name):
        """How many a run has done so far."""
        folder = RunFolder(self.path(name))
        try:
            record = folder.read()
            status = read_status(folder.storage_url(record.storage), record.study)
        except (RunError, StorageError):  # not begun yet
            return 0
        return sum(rung.done for rung in status.rungs)

    def workers(self, name):
        """Processes that work for a run, on this machine."""
        found = []
        for folder in Path("/proc").iterdir():
            try:
                words = (folder / "cmdline").read_bytes().split(b"\0")
            except (OSError, ValueError):
                continue
            if b"--join" in words and name.encode() in words:
                found.append(int(folder.name))
        return found


@pytest.fixture
def runs(demo_environment):
    if not Path("/proc/self/cmdline").exists():
        pytest.skip("looks for processes in /proc")
    return Runs(demo_environment.supernet_fold)


@pytest.fixture(scope="session")
def expected(finished_demo):
    """The result of an undisturbed search with one worker."""
    variables = {n: str(finished_demo.folder / n) for n in ("nnUNet_raw", "nnUNet_preprocessed", "nnUNet_results")}
    done = start("--run", "undisturbed", "--workers", "1", *SIZES, **variables)
    out, err = done.communicate(timeout=300)
    assert done.returncode == 0, err
    assert "evaluations at a cost of" in out
    return Runs(finished_demo.supernet_fold).result("undisturbed")


def test_evolution_and_rungs_leave_their_traces_in_the_record(expected):
    assert len(expected["candidates"]) == 24 + 2  # as many neighbours as there are finalists
    reached = [len(c["dsc_by_rung"]) for c in expected["candidates"]]
    assert reached == sorted(reached, reverse=True) and set(reached) == {
        1,
        2,
        3,
        4,
    }  # patches, crops, both fine-tunings
    assert len(expected["strategy"]) >= 1 and "held-out rank correlation" in expected["strategy"][0]
    best = expected["winner"]["dsc_by_rung"]
    assert [name.split()[0] for name in best] == ["patches", "crops", "fine-tuning", "fine-tuning"]


def test_two_workers_that_join_find_the_same(runs, expected, capsys):
    leader = start("--run", "joined", "--workers", "0", *SIZES)
    joining = [start("--run", "joined", "--join") for _ in range(2)]
    deadline = time.monotonic() + 240
    while leader.poll() is None and time.monotonic() < deadline:
        time.sleep(0.5)
        if (runs.path("joined") / "study.db").exists() and not capsys.readouterr().out.count("workers ("):
            status([str(runs.path("joined"))])
    out, err = leader.communicate(timeout=5)
    assert leader.returncode == 0, err
    done = []
    for worker in joining:
        text, error = worker.communicate(timeout=60)
        assert worker.returncode == 0, error
        done.append(int(re.search(r"this worker did (\d+) evaluations", text)[1]))
    assert all(done)  # both worked
    assert sum(done) == int(re.search(r"^(\d+) evaluations at a cost", out, re.MULTILINE)[1])  # and nothing twice
    assert runs.result("joined") == expected
    assert status([str(runs.path("joined"))]) == 0
    printed = capsys.readouterr().out
    assert "joined" in printed and ": finished" in printed and "26 of 26" in printed and "time left: 0:00:00" in printed


def test_ctrl_c_ends_within_seconds_and_the_same_command_goes_on(runs, expected):
    leader = start("--run", "interrupted", "--workers", "2", *SIZES)
    _wait_for(lambda: runs.evaluations("interrupted") >= 3)  # in the middle of it, on a fast machine and a slow one
    assert len(runs.workers("interrupted")) == 2
    leader.send_signal(signal.SIGINT)
    started = time.monotonic()
    _, err = leader.communicate(timeout=60)
    assert time.monotonic() - started < 15
    assert leader.returncode == 130 and "the same command goes on" in err and "Traceback" not in err
    assert not runs.workers("interrupted")
    again = start("--run", "interrupted", "--workers", "2", *SIZES)
    _, err = again.communicate(timeout=300)
    assert again.returncode == 0, err
    assert runs.result("interrupted") == expected


def test_workers_end_with_the_process_that_leads_however_that_ends(runs):
    leader = start("--run", "orphans", "--workers", "2", *SIZES)
    _wait_for(lambda: len(runs.workers("orphans")) == 2)
    second = subprocess.run(command("--run", "orphans", *SIZES), capture_output=True, text=True)
    assert second.returncode == 1
    assert "runs already; help it with --join, see how far it is with hsnas_status" in second.stderr
    leader.kill()
    leader.communicate()
    _wait_for(lambda: not runs.workers("orphans"))


@pytest.mark.slow
def test_workers_killed_at_twenty_random_moments_change_nothing(runs, expected):
    rng, killed = random.Random(0), 0
    longer = [*SIZES, "--finetune-iterations", "400"]
    undisturbed = start("--run", "long", "--workers", "2", *longer)
    assert undisturbed.wait(timeout=600) == 0
    leader = start("--run", "killed", "--workers", "2", *longer)
    while leader.poll() is None:
        time.sleep(rng.uniform(0, 12))
        if killed < 20 and (workers := runs.workers("killed")):
            os.kill(rng.choice(workers), signal.SIGKILL)
            killed += 1
    assert leader.returncode == 0, leader.stderr.read()
    assert killed == 20
    assert runs.result("killed") == runs.result("long")


def test_slurm_jobs_do_the_same_by_submitits_local_executor(runs, expected):
    leader = start("--run", "jobs", "--workers", "2", "--slurm", "cluster=local", *SIZES)
    _, err = leader.communicate(timeout=300)
    assert leader.returncode == 0, err
    assert runs.result("jobs") == expected
    assert list((runs.path("jobs") / "workers").glob("*_log.out"))
    _wait_for(lambda: not runs.workers("jobs"))


def test_another_storage_gives_the_same(runs, expected, tmp_path):
    storage = f"journal:{tmp_path / 'shared.log'}"
    leader = start("--run", "journal", "--workers", "2", *SIZES, HSNAS_STORAGE=storage)
    _, err = leader.communicate(timeout=300)
    assert leader.returncode == 0, err
    assert runs.result("journal") == expected
    assert (tmp_path / "shared.log").exists() and not (runs.path("journal") / "study.db").exists()


def test_several_budgets_and_the_whole_front_in_one_run(runs, demo_environment, capsys):
    costs = cost_model(PreprocessedDataset.find("999", PLANS, "3d_fullres"), "cpu")
    possible = possible_range(costs.space, costs.predict, Quantity.MEMORY)
    sizes = [f"{(possible.low + share * (possible.high - possible.low)) / 1e6:.2f}MB" for share in (0.3, 0.6)]
    tolerance = f"{0.3 * (possible.high - possible.low) / 1e3:.0f}KB"
    words = [*BASE, "--memory", *sizes, "--tolerance", tolerance, "--plans", "Front", "--pareto", "--workers", "1"]
    words += ["--candidates", "6", "--finalists", "2", "--finetune-iterations", "2"]
    assert main(words) == 0
    printed = capsys.readouterr().out
    labels = [size.replace(".", "p") for size in sizes]
    winners = [json.loads((runs.path("Front") / f"Front_{label}.json").read_text())["winner"] for label in labels]
    dsc = [winner["fine_tuned"]["dsc"] for winner in winners]
    assert dsc[0] <= dsc[1]  # whatever fits the smaller budget fits the larger one
    front = sorted(demo_environment.preprocessed.glob("Front_pareto_*.json"))
    best = {w["architecture"]["id"] for w in winners if w["fine_tuned"]["dsc"] == max(dsc)}
    shown = {json.loads(p.read_text())["hypersegnas_search"]["winner"]["architecture"]["id"] for p in front}
    assert best & shown and "Pareto front" in printed
    assert (runs.path("Front") / "pareto.png").exists()
    before = {p: p.stat().st_mtime_ns for p in (runs.path("Front") / "finalists").glob("*.pth")}
    assert main(words) == 0  # its own plans are no obstacle, and nothing is done again
    assert {p: p.stat().st_mtime_ns for p in (runs.path("Front") / "finalists").glob("*.pth")} == before
    for path in demo_environment.preprocessed.glob("Front_*.json"):
        path.unlink()


def _wait_for(condition, seconds=60):
    until = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < until
        time.sleep(0.1)


# -- what joins nothing ----------------------------------------------------------------------------------------------


@pytest.fixture
def refused(runs, capsys):
    def run(*words):
        assert main([*BASE, "--join", *words]) == 1
        return capsys.readouterr().err

    return run


def test_a_search_that_nobody_leads(refused, monkeypatch):
    monkeypatch.setattr("nnunet_hypersegnas.nnunet.search_worker.WAIT_FOR_START_S", 0)
    line = refused("--run", "none")
    assert "nobody leads a search in" in line and "start it with the same command without --join" in line


def test_machines_that_cannot_share_the_file(refused, runs):
    folder = RunFolder(runs.path("elsewhere"))
    values = json.loads((runs.path("HyperSegNASDemo") / "run.json").read_text())
    folder.path.mkdir()
    folder.record_file.write_text(json.dumps({**values, "host": "another-machine"}))
    line = refused("--run", "elsewhere")
    assert "is led on another-machine and keeps its evaluations in SQLite" in line
    assert "--storage postgresql://" in line and "journal:FILE" in line
    assert status([str(folder.path)]) == 1


def test_another_super_net_or_device(refused, runs):
    folder = RunFolder(runs.path("changed"))
    values = json.loads((runs.path("HyperSegNASDemo") / "run.json").read_text())
    folder.path.mkdir()
    folder.record_file.write_text(json.dumps({**values, "super_net": "0123456789ab"}))
    assert "has super-net 0123456789ab" in refused("--run", "changed")
    folder.record_file.write_text(json.dumps({**values, "device": "cuda"}))
    assert "evaluates on cuda; join it with --device cuda" in refused("--run", "changed")
    folder.record_file.write_text(json.dumps({**values, "study": "unknown"}))
    assert "has no search 'unknown'; give --storage" in refused("--run", "changed")


def test_status_of_no_search(tmp_path, capsys):
    assert status([str(tmp_path)]) == 1
    assert f"no search in {tmp_path}; start one with hsnas_search" in capsys.readouterr().err


# -- crews -----------------------------------------------------------------------------------------------------------


def test_workers_that_never_get_anything_done_end_the_search(tmp_path):
    crew = LocalCrew([sys.executable, "-c", "raise SystemExit('no such thing')"], 1, "cpu", tmp_path)
    with pytest.raises(CrewError, match=r"worker 0 ended with an error again and again.*: no such thing \(log: "):
        for _ in range(200):
            crew.watch(0)
            time.sleep(0.05)
    crew.end()


def test_each_gpu_has_one_worker(tmp_path, monkeypatch):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "2,5")
    monkeypatch.delenv("nnUNet_n_proc_DA", raising=False)
    script = "import os; print(os.environ['CUDA_VISIBLE_DEVICES'], os.environ['nnUNet_n_proc_DA'])"
    crew = LocalCrew([sys.executable, "-c", script], 2, "cuda", tmp_path)
    crew.watch(0)
    for process in crew._processes.values():
        process.wait()
    first, second = ((tmp_path / f"worker_{i}.log").read_text().split() for i in range(2))
    assert (first[0], second[0]) == ("2", "5")
    assert first[1] == second[1] and int(first[1]) >= 1


def test_slurm_jobs_cannot_share_an_sqlite_file(runs, capsys):
    words = [*BASE, "--max-params", "1G", "--run", "array", "--slurm", "partition=gpu"]
    assert main(words) == 1
    assert "keeps its evaluations in SQLite, whose locks do not hold between machines" in capsys.readouterr().err
    assert not runs.path("array").exists()


def test_slurm_that_is_not_here_and_parameters_that_it_does_not_know(tmp_path):
    with pytest.raises(SlurmError, match="--slurm partition=gpu: Could not detect"):
        SlurmCrew(["true"], 1, {"partition": "gpu"}, tmp_path)
    with pytest.raises(SlurmError, match=r"--slurm cluster=local colour=blue: .*colour"):
        SlurmCrew(["true"], 1, {"cluster": "local", "colour": "blue"}, tmp_path)


@pytest.mark.parametrize("words", [["--slurm", "gpu"], ["--workers", "-1"], ["--strategy", "luck"]])
def test_usage_errors_exit_with_2(words, capsys):
    with pytest.raises(SystemExit) as exit_:
        main([*BASE, "--memory", "5GB", *words])
    assert exit_.value.code == 2
