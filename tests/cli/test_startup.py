"""Help comes at once: no command imports a heavy library before it knows what is asked of it."""

import subprocess
import sys
from pathlib import Path

import pytest

from nnunet_hypersegnas import cli

COMMANDS = sorted(
    path.stem for path in Path(cli.__file__).parent.glob("*.py") if "def main(" in path.read_text(encoding="utf-8")
)
HEAVY = {"torch", "nnunetv2", "optuna", "scipy", "matplotlib", "pandas", "SimpleITK"}

HELP = """
import importlib, sys
try:
    importlib.import_module("nnunet_hypersegnas.cli." + sys.argv[1]).main(sys.argv[2:])
except SystemExit as end:
    assert not end.code, end.code
print("imported:", *{name.partition(".")[0] for name in sys.modules})
"""


def test_the_commands_are_found():
    assert {"search", "env", "crossval", "msd", "status"} <= set(COMMANDS)


@pytest.mark.parametrize("words", [*([name, "--help"] for name in COMMANDS), ["env"]], ids=" ".join)
def test_nothing_heavy_is_imported(words):
    done = subprocess.run([sys.executable, "-c", HELP, *words], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    assert not HEAVY & set(done.stdout.splitlines()[-1].split())
