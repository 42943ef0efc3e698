"""A built wheel holds every module of the three source folders, and works without them."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import zipfile
from configparser import ConfigParser
from pathlib import Path

import pytest

import nnunet_hypersegnas

ROOT = Path(__file__).parents[1]
INSTALLED_AS = {
    "nnunet_hypersegnas": "nnunet_hypersegnas",
    "trainers": "nnunet_hypersegnas/trainers",
    "architectures": "nnunet_hypersegnas/architectures",
}
PIP_WHEEL = ("-m", "pip", "wheel", "--quiet", "--no-deps", "--no-build-isolation", "--no-index")

COMMANDS = (
    "ablation calibrate compare correlation cost crossval demo env evaluate export man msd msd_submission search space "
    "status transfer"
)


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The wheel of a copy of the sources: building in place would leave files there, and take old ones along."""
    source, target = tmp_path_factory.mktemp("source"), tmp_path_factory.mktemp("wheel")
    for name in ("setup.py", "pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, source)
    for folder in INSTALLED_AS:
        shutil.copytree(ROOT / folder, source / folder, ignore=shutil.ignore_patterns("__pycache__", ".*"))
    subprocess.run([sys.executable, *PIP_WHEEL, "--wheel-dir", target, source], check=True)
    (built,) = target.glob("*.whl")
    return built


def test_wheel_holds_every_module_and_nothing_else(wheel: Path) -> None:
    expected = {
        f"{INSTALLED_AS[folder]}/{path.relative_to(ROOT / folder).as_posix()}"
        for folder in INSTALLED_AS
        for path in (ROOT / folder).rglob("*.py")
    }
    files = {name for name in zipfile.ZipFile(wheel).namelist() if ".dist-info/" not in name}
    published = {f"nnunet_hypersegnas/evaluation/published/{name}.json" for name in ("msd", "msd_test_cases")}
    assert files == expected | published | {"nnunet_hypersegnas/py.typed"}
    assert "nnunet_hypersegnas/trainers/nnunet_ext/hypersegnas_trainers.py" in files


def test_wheel_names_version_license_commands_and_dependencies(wheel: Path) -> None:
    archive = zipfile.ZipFile(wheel)
    info = f"nnunet_hypersegnas-{nnunet_hypersegnas.__version__}.dist-info"
    metadata = archive.read(f"{info}/METADATA").decode()
    assert "License-Expression: Apache-2.0" in metadata
    assert f"{info}/licenses/LICENSE" in archive.namelist()
    for name in ("nnunetv2<2.9,>=2.8", "torch", "batchgenerators", "SimpleITK", "numpy", "acvl-utils", "nvidia-ml-py"):
        assert f"Requires-Dist: {name}" in metadata
    commands = ConfigParser()
    commands.read_string(archive.read(f"{info}/entry_points.txt").decode())
    assert dict(commands["console_scripts"]) == {
        f"hsnas_{name}": f"nnunet_hypersegnas.cli.{name}:main" for name in COMMANDS.split()
    }


def test_installed_wheel_finds_its_trainers(wheel: Path, tmp_path: Path) -> None:
    zipfile.ZipFile(wheel).extractall(tmp_path)
    code = "from nnunet_hypersegnas.nnunet.discovery import external_trainer_folder as f; print(f())"
    result = subprocess.run(
        [sys.executable, "-c", code],
        cwd=tmp_path,
        env=os.environ | {"PYTHONPATH": str(tmp_path)},  # stands before an editable installation
        capture_output=True,
        text=True,
        check=True,
    )
    assert Path(result.stdout.strip()) == tmp_path / "nnunet_hypersegnas" / "trainers" / "nnunet_ext"
