"""The repair empties one module for exactly one fault, on a fake torchvision."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

SCRIPT = Path(__file__).parents[2] / "tools" / "repair_torchvision.py"
FAULTY = 'raise RuntimeError("operator torchvision::nms does not exist")\n'


@pytest.fixture
def package(tmp_path: Path) -> Path:
    folder = tmp_path / "torchvision"
    folder.mkdir()
    (folder / "__init__.py").write_text("from torchvision import _meta_registrations\n")
    return folder


def repair(package: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, SCRIPT],
        cwd=package.parent,
        env=os.environ | {"PYTHONPATH": str(package.parent)},
        capture_output=True,
        text=True,
    )


def test_fault_is_repaired_once(package: Path) -> None:
    module = package / "_meta_registrations.py"
    module.write_text(FAULTY)
    first = repair(package)
    assert (first.returncode, first.stderr) == (0, "")
    assert f"emptied {module}" in first.stdout
    repaired = module.read_text()
    assert repaired.startswith('"""Emptied by nnunet_hypersegnas')

    second = repair(package)
    assert (second.returncode, second.stdout, second.stderr) == (0, "", "")
    assert module.read_text() == repaired
    assert sorted(path.name for path in package.glob("*.*")) == ["__init__.py", "_meta_registrations.py"]


def test_healthy_torchvision_is_left_alone(package: Path) -> None:
    module = package / "_meta_registrations.py"
    module.write_text("healthy = True\n")
    result = repair(package)
    assert (result.returncode, result.stdout, result.stderr) == (0, "", "")
    assert module.read_text() == "healthy = True\n"


def test_other_fault_is_named_and_nothing_changed(package: Path) -> None:
    module = package / "_meta_registrations.py"
    module.write_text('raise ImportError("libcudart.so.13 is missing")\n')
    result = repair(package)
    assert result.returncode == 1
    assert result.stderr == "importing torchvision fails in an unknown way: ImportError: libcudart.so.13 is missing\n"
    assert "libcudart" in module.read_text()


def test_module_is_put_back_where_emptying_it_does_not_help(package: Path) -> None:
    (package / "__init__.py").write_text(FAULTY)
    module = package / "_meta_registrations.py"
    module.write_text("original = True\n")
    result = repair(package)
    assert result.returncode == 1
    assert result.stderr.startswith("torchvision still fails: RuntimeError: operator")
    assert module.read_text() == "original = True\n"
