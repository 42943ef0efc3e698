"""hsnas_env: the line that a shell evaluates, and the check of what nnU-Net will find."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from nnunet_hypersegnas.cli import env
from nnunet_hypersegnas.nnunet import discovery_check
from nnunet_hypersegnas.nnunet.discovery import TRAINER, VARIABLE, external_trainer_folder

OURS = str(external_trainer_folder())
COMMAND = [sys.executable, "-m", "nnunet_hypersegnas.cli.env"]


@pytest.fixture
def no_variables(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in (VARIABLE, "SHELL", *discovery_check.FOLDERS):
        monkeypatch.delenv(name, raising=False)


@pytest.fixture
def good_variables(no_variables: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(VARIABLE, OURS)
    for name in discovery_check.FOLDERS:
        (tmp_path / name).mkdir()
        monkeypatch.setenv(name, str(tmp_path / name))


def printed(capsys: pytest.CaptureFixture[str], *arguments: str) -> str:
    env.main(list(arguments))
    return capsys.readouterr().out


def evaluated_by_bash(cwd: Path) -> str:
    """Return the variable's value, as a child process sees it, after evaluating what the command prints."""
    show = f"import os; print(os.environ['{VARIABLE}'], end='')"
    script = 'line="$("$@")" && eval "$line" && exec "$1" -c "$SHOW"'
    return subprocess.run(
        ["bash", "-c", script, "bash", *COMMAND],
        env=os.environ | {"SHOW": show},
        cwd=cwd,
        capture_output=True,
        text=True,
        check=True,
    ).stdout


def test_folder_holds_exactly_the_shim() -> None:
    assert [path.name for path in Path(OURS).glob("*.py")] == ["hypersegnas_trainers.py"]


@pytest.mark.skipif(shutil.which("bash") is None, reason="needs bash")
@pytest.mark.parametrize("existing", [None, "/other/trainers", '/it\'s $HOME/`odd` "dir"'])
def test_bash_sets_the_variable(
    existing: str | None, no_variables: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if existing is not None:
        monkeypatch.setenv(VARIABLE, existing)
    value = evaluated_by_bash(tmp_path)
    assert value.split(os.pathsep) == ([OURS] if existing is None else [existing, OURS])


@pytest.mark.parametrize("spelling", [OURS, OURS + "/"])
def test_folder_is_not_added_twice(
    spelling: str, no_variables: None, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv(VARIABLE, os.pathsep.join(["/other", spelling]))
    assert printed(capsys, "--shell", "fish") == f"set -gx {VARIABLE} '/other{os.pathsep}{spelling}'\n"


@pytest.mark.parametrize(
    ("shell", "line"),
    [
        ("bash", """export X='a b'"'"'c\\$d'"""),
        ("fish", """set -gx X 'a b\\'c\\\\$d'"""),
        ("powershell", """$env:X = 'a b''c\\$d'"""),
    ],
)
def test_quoting(shell: str, line: str) -> None:
    assert env.export_line(shell, "a b'c\\$d") == line.replace("X", VARIABLE)


@pytest.mark.skipif(os.name == "nt", reason="Windows always gets PowerShell")
@pytest.mark.parametrize(
    ("shell", "start"),
    [("/bin/bash", "export "), ("/bin/zsh", "export "), ("/usr/bin/fish", "set -gx "), ("/usr/bin/pwsh", "$env:")],
)
def test_shell_is_detected(
    shell: str, start: str, no_variables: None, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("SHELL", shell)
    assert printed(capsys).startswith(start + VARIABLE)


def test_line_is_printed_without_loading_anything_heavy(tmp_path: Path) -> None:
    code = (
        "import sys; from nnunet_hypersegnas.cli.env import main; main([]);"
        "print(sorted({'torch', 'nnunetv2', 'numpy', 'nnunet_hypersegnas.trainers'} & set(sys.modules)))"
    )
    result = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, check=True)
    assert result.stdout.splitlines()[1:] == ["[]"]


def test_check_succeeds(good_variables: None, tmp_path: Path) -> None:
    result = subprocess.run([*COMMAND, "--check"], cwd=tmp_path, capture_output=True, text=True)
    lines = result.stdout.splitlines()
    assert result.returncode == 0, result.stdout + result.stderr
    assert all(line.startswith("[ok] ") for line in lines)
    assert lines[-1] == f"[ok] nnU-Net finds nnunet_hypersegnas.trainers.supernet_trainer.{TRAINER}"


def test_check_names_every_fault_and_its_cure(
    no_variables: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("nnUNet_raw", str(tmp_path / "missing"))
    assert env.main(["--check"]) == 1
    faults = [line for line in capsys.readouterr().out.splitlines() if line.startswith("[NOT OK] ")]
    for fault, said in zip(
        faults,
        [
            "no folder; create it",
            "nnUNet_preprocessed is not set; export",
            "nnUNet_results is not set; export",
            f'{VARIABLE} is not set, so nnU-Net looks for trainers in its own folder only; run: eval "$(hsnas_env)"',
            f"nnU-Net does not find {TRAINER}: RuntimeError",
        ],
        strict=True,
    ):
        assert said in fault


def test_check_names_other_folders_in_the_variable(
    good_variables: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(VARIABLE, str(tmp_path / "missing"))
    texts = [finding.text for finding in discovery_check.check_discovery() if not finding.ok]
    assert "no folder; nnU-Net skips it without a word" in texts[0]
    assert f'lacks our folder {OURS}; run: eval "$(hsnas_env)"' in texts[1]


def test_check_tells_a_namesake_from_our_trainer(
    good_variables: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "namesake_of_ours.py").write_text(
        "from nnunetv2.training.nnUNetTrainer.nnUNetTrainer import nnUNetTrainer\n"
        f"class {TRAINER}(nnUNetTrainer): pass\n"
    )
    monkeypatch.setenv(VARIABLE, os.pathsep.join([str(tmp_path), OURS]))
    (fault,) = [finding.text for finding in discovery_check.check_discovery() if not finding.ok]
    assert fault.startswith(f"nnU-Net finds namesake_of_ours.{TRAINER}, which is not ours; take its folder out")


def test_check_survives_a_folder_that_exits_python(
    good_variables: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "ends_python.py").write_text("raise SystemExit('usage: setup.py')\n")
    monkeypatch.setenv(VARIABLE, os.pathsep.join([str(tmp_path), OURS]))
    (fault,) = [finding.text for finding in discovery_check.check_discovery() if not finding.ok]
    assert fault == f"nnU-Net does not find {TRAINER}: SystemExit: usage: setup.py"


@pytest.mark.parametrize(("version", "ok"), [("2.8", True), ("2.8.1", True), ("2.7.2", False), ("2.9.0", False)])
def test_check_of_the_version(version: str, ok: bool, good_variables: None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(discovery_check, "version", lambda name: version)
    assert discovery_check.check_discovery()[0].ok is ok


def test_check_names_a_torchvision_of_another_torch(good_variables: None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "torchvision", None)  # its import raises
    (fault,) = [finding.text for finding in discovery_check.check_discovery() if not finding.ok]
    assert "torchvision does not work beside the installed torch" in fault
    assert "install torch and torchvision from the same index" in fault
