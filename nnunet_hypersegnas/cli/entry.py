"""What all commands share: a user's error is one line and an exit code, never a traceback."""

from __future__ import annotations

import argparse
import errno
import logging
import os
import sys
from collections.abc import Callable

from nnunet_hypersegnas.errors import FaultsError, HyperSegNASError


def run_command(
    parser: argparse.ArgumentParser, run: Callable[[argparse.Namespace], int | None], argv: list[str] | None = None
) -> int:
    """Parse the arguments, run, and return the exit code: what `run` returns, 1 for an error, 130 for Ctrl-C.

    Raises:
        SystemExit: bad usage, with argparse's code 2.
        OSError: one that names no file; all others and a `HyperSegNASError` too, where --debug asks for the traceback.
    """
    parser.add_argument("--debug", action="store_true", help="show the traceback of an error")
    args = parser.parse_args(argv)
    logging.basicConfig(stream=sys.stderr, level=logging.WARNING, format="%(levelname)s: %(message)s")
    try:
        return run(args) or 0
    except FaultsError as report:
        if args.debug:
            raise
        code = _fail(parser, f"{report.summary}:")
        for fault in report.faults:
            print(f"  {' '.join(fault.split())}", file=sys.stderr)
        return code
    except HyperSegNASError as error:
        if args.debug:
            raise
        return _fail(parser, str(error))
    except KeyboardInterrupt:
        print(f"{parser.prog}: interrupted; the same command goes on from here", file=sys.stderr)
        return 130
    except BrokenPipeError:  # whoever read the output has seen enough, as `| head` does
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    except OSError as error:
        if args.debug or not (error.filename or error.errno == errno.ENOSPC):
            raise
        return _fail(parser, _explain(error))


def _explain(error: OSError) -> str:
    where = f" for {error.filename}" if error.filename else ""
    if error.errno == errno.ENOSPC:
        return f"no space left on the disk{where}; nothing was damaged: free some space and run the command again"
    return f"{error.strerror}: {error.filename}; --debug shows where it was needed"


def _fail(parser: argparse.ArgumentParser, message: str) -> int:
    print(f"{parser.prog}: error: {' '.join(message.split())}", file=sys.stderr)
    return 1
