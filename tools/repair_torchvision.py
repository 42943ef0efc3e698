"""Make torchvision importable beside a CPU-only torch, inside this Python environment.

nnU-Net imports torchvision (through timm). The torchvision that PyPI serves is compiled for CUDA; beside a CPU-only
torch its compiled operators cannot be loaded, and importing it fails where it describes these operators' output shapes.
This project's CPU runs use none of them, so those descriptions are taken out. The clean cure, where the network allows
it, is to install torchvision from the same index as torch: https://pytorch.org/get-started/locally/
"""

from __future__ import annotations

import os
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

FAULT = "operator torchvision::nms does not exist"
REPLACEMENT = '''"""Emptied by nnunet_hypersegnas's tools/repair_torchvision.py.

The compiled operators whose output shapes were described here cannot be loaded beside this CPU-only torch. Reinstall
torchvision to undo this.
"""
'''


def import_error() -> str | None:
    """Return what importing torchvision prints when it fails, None when it works."""
    result = subprocess.run([sys.executable, "-c", "import torchvision"], capture_output=True, text=True)
    return result.stderr if result.returncode else None


def torchvision_folder() -> Path:
    spec = find_spec("torchvision")  # finds the package without running it
    if spec is None or spec.origin is None:
        raise SystemExit("torchvision is not installed")
    return Path(spec.origin).parent


def replace(target: Path, content: bytes) -> None:
    """Give a file new content at once, so that an interruption leaves the old one or the new one."""
    temporary = target.with_suffix(".tmp")
    temporary.write_bytes(content)
    os.replace(temporary, target)


def main() -> int:
    error = import_error()
    if error is None:
        return 0
    if FAULT not in error:
        print(f"importing torchvision fails in an unknown way: {error.strip().splitlines()[-1]}", file=sys.stderr)
        return 1
    target = torchvision_folder() / "_meta_registrations.py"
    original = target.read_bytes()
    replace(target, REPLACEMENT.encode())
    if error := import_error():
        replace(target, original)
        print(f"torchvision still fails: {error.strip().splitlines()[-1]}", file=sys.stderr)
        return 1
    print(f"torchvision is built for another torch; emptied {target}, so that it can be imported")
    return 0


if __name__ == "__main__":
    sys.exit(main())
