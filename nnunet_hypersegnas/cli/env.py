"""`hsnas_env`: lets nnU-Net find this package's trainers, and says whether it will."""

from __future__ import annotations

import argparse
import os
import shlex
import sys

from nnunet_hypersegnas.cli.entry import run_command
from nnunet_hypersegnas.nnunet.discovery import VARIABLE, with_our_folder


def build_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="hsnas_env",
        description=f"Print the line that lets nnU-Net find the HyperSegNAS trainers, by setting {VARIABLE}: "
        'eval "$(hsnas_env)" in bash and zsh, hsnas_env | source in fish, hsnas_env | Invoke-Expression in PowerShell.',
    )
    parser.add_argument("--shell", choices=("bash", "fish", "powershell"), help="[from $SHELL; PowerShell on Windows]")
    parser.add_argument("--check", action="store_true", help="say in plain words whether nnU-Net will find them")
    return parser


def run(args: argparse.Namespace) -> int:
    if args.check:
        from nnunet_hypersegnas.nnunet.discovery_check import check_discovery

        findings = check_discovery()
        for finding in findings:
            print(f"[{'ok' if finding.ok else 'NOT OK'}] {finding.text}")
        return 0 if all(finding.ok for finding in findings) else 1
    print(export_line(args.shell or _detected_shell(), with_our_folder(os.environ.get(VARIABLE))))
    return 0


def export_line(shell: str, value: str) -> str:
    """Return the line that sets the variable in a shell; the value is quoted for it."""
    if shell == "fish":
        quoted = value.replace("\\", "\\\\").replace("'", "\\'")
        return f"set -gx {VARIABLE} '{quoted}'"
    if shell == "powershell":
        quoted = value.replace("'", "''")
        return f"$env:{VARIABLE} = '{quoted}'"
    return f"export {VARIABLE}={shlex.quote(value)}"


def _detected_shell() -> str:
    if os.name == "nt":
        return "powershell"
    return {"fish": "fish", "pwsh": "powershell"}.get(os.path.basename(os.environ.get("SHELL", "")), "bash")


def main(argv: list[str] | None = None) -> int:
    return run_command(build_parser(), run, argv)


if __name__ == "__main__":
    sys.exit(main())
