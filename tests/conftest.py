"""Fixtures for all rooms, and the environment in which small CPU runs do not crawl."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import pytest

os.environ.setdefault("nnUNet_def_n_proc", "2")  # validation spawns that many processes; the default is 8
os.environ.setdefault("nnUNet_n_proc_DA", "0")  # augmentation in the training process
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")  # busy-waiting threads slow backward passes manyfold
os.environ.setdefault("OMP_NUM_THREADS", "1")
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:  # as in a shell's background jobs, which pass it on to theirs
    signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture(scope="session")
def test_data() -> Path:
    """The folder of real test data (published DiNTS codes, a task of the Medical Segmentation Decathlon)."""
    folder = os.environ.get("HSNAS_TEST_DATA")
    if not folder or not Path(folder).is_dir():
        pytest.skip("HSNAS_TEST_DATA names no folder of test data")
    return Path(folder)


class FinishedDemo(NamedTuple):
    """A tiny `hsnas_demo` run by real commands, on whose files several tests look."""

    folder: Path
    summary: dict
    stdout: str
    seconds_limit: int = 900

    @property
    def preprocessed(self) -> Path:
        return self.folder / "nnUNet_preprocessed" / "Dataset999_Synthetic"

    @property
    def supernet_fold(self) -> Path:
        return Path(self.summary["supernet"]) / "fold_0"

    @property
    def variables(self) -> dict[str, str]:
        """nnU-Net's, of the demo's folders."""
        names = ("nnUNet_raw", "nnUNet_preprocessed", "nnUNet_results")
        return {name: str(self.folder / name) for name in names}

    @property
    def run_folder(self) -> Path:
        return self.supernet_fold / "search" / "HyperSegNASDemo"


def run(*command: str | Path, **variables: str) -> subprocess.CompletedProcess:
    """Run one of the installed commands and return what it did."""
    program = Path(sys.executable).parent / str(command[0])
    return subprocess.run(
        [program, *map(str, command[1:])], env={**os.environ, **variables}, capture_output=True, text=True, timeout=900
    )


DEMO_SIZES = {
    "--layers": ["3"],
    "--channels": ["4", "6", "8"],
    "--patch-size": ["32"],
    "--supernet-epochs": ["3"],
    "--iterations-per-epoch": ["6"],
    "--candidates": ["4"],
    "--finalists": ["2"],
    "--finetune-iterations": ["3"],
    "--validation-cases": ["2"],
}


@pytest.fixture(scope="session")
def finished_demo(tmp_path_factory: pytest.TempPathFactory) -> FinishedDemo:
    folder = tmp_path_factory.mktemp("demo") / "run"
    sizes = [word for flag, values in DEMO_SIZES.items() for word in (flag, *values)]
    result = run("hsnas_demo", "--folder", folder, "--device", "cpu", *sizes)
    assert result.returncode == 0, result.stdout + result.stderr
    return FinishedDemo(folder, json.loads((folder / "summary.json").read_text()), result.stdout)


@pytest.fixture
def demo_environment(finished_demo: FinishedDemo, monkeypatch: pytest.MonkeyPatch) -> Iterator[FinishedDemo]:
    """nnU-Net's variables point into the finished demo; nnUNet_extTrainer is not set."""
    for name, value in finished_demo.variables.items():
        monkeypatch.setenv(name, value)
    monkeypatch.delenv("nnUNet_extTrainer", raising=False)
    yield finished_demo
