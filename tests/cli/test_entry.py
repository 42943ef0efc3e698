"""What every command does with errors: one line, an exit code, nothing on stdout."""

from __future__ import annotations

import argparse
import errno
import subprocess
import sys

import pytest

from nnunet_hypersegnas.cli.entry import run_command
from nnunet_hypersegnas.errors import FaultsError, HyperSegNASError


def command(error: BaseException | None, *arguments: str) -> int:
    def run(args: argparse.Namespace) -> None:
        if error is not None:
            raise error

    return run_command(argparse.ArgumentParser(prog="hsnas_test"), run, list(arguments))


def test_success() -> None:
    assert command(None) == 0


def test_result_of_run_is_the_exit_code() -> None:
    assert run_command(argparse.ArgumentParser(), lambda args: 1, []) == 1


@pytest.mark.parametrize(
    ("error", "code", "line"),
    [
        (HyperSegNASError("got this;\n  do that"), 1, "hsnas_test: error: got this; do that\n"),
        (KeyboardInterrupt(), 130, "hsnas_test: interrupted; the same command goes on from here\n"),
        (
            OSError(errno.ENOSPC, "No space left on device", "/data/x.json"),
            1,
            "hsnas_test: error: no space left on the disk for /data/x.json; nothing was damaged: free some space and "
            "run the command again\n",
        ),
        (
            PermissionError(errno.EACCES, "Permission denied", "/data/x.json"),
            1,
            "hsnas_test: error: Permission denied: /data/x.json; --debug shows where it was needed\n",
        ),
    ],
    ids=["ours", "interrupt", "full disk", "no permission"],
)
def test_error_is_one_line(error: BaseException, code: int, line: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert command(error) == code
    assert capsys.readouterr() == ("", line)


def test_debug_shows_the_traceback() -> None:
    with pytest.raises(HyperSegNASError, match="got this"):
        command(HyperSegNASError("got this"), "--debug")


def test_other_errors_are_bugs_and_not_hidden() -> None:
    with pytest.raises(PermissionError):
        command(PermissionError(errno.EACCES, "Permission denied"))


def test_a_reader_that_has_seen_enough_is_no_error() -> None:
    script = (
        "import argparse, sys; from nnunet_hypersegnas.cli.entry import run_command\n"
        "sys.exit(run_command(argparse.ArgumentParser(), lambda args: print('x' * 1_000_000), []))"
    )
    with subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        process.stdout.read(10)
        process.stdout.close()
        assert process.stderr.read() == b""


def test_usage(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as exit_:
        command(None, "--unknown")
    assert exit_.value.code == 2
    assert "unrecognized arguments: --unknown" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("name", "value"), [("nnUNet_def_n_proc", "many"), ("nnUNet_n_proc_DA", "-1"), ("nnUNet_def_n_proc", "0")]
)
def test_variables_that_nnunet_cannot_read_are_named(name, value, monkeypatch, capsys) -> None:
    monkeypatch.setenv(name, value)
    assert command(None) == 1
    assert f"variable {name} is '{value}', needed is a whole number" in capsys.readouterr().err


def test_what_is_very_long_is_shown_in_part(capsys) -> None:
    assert command(HyperSegNASError(f"{'x' * 10_000}; do this next")) == 1
    error = capsys.readouterr().err
    assert len(error) < 1500 and error.rstrip().endswith("; do this next")
    with pytest.raises(SystemExit):
        command(None, "--" + "x" * 10_000)
    assert len(capsys.readouterr().err) < 1500


def test_of_very_many_faults_some_are_named(capsys) -> None:
    assert command(FaultsError("wrong", [f"file {i}" for i in range(500)])) == 1
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) < 50 and lines[-1] == "  and 460 more"
