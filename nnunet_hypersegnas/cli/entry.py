"""What all commands share: a user's error is one line and an exit code, never a traceback."""

from __future__ import annotations

import argparse
import errno
import logging
import os
import sys
from collections.abc import Callable

from nnunet_hypersegnas.environment import check_processes
from nnunet_hypersegnas.errors import FaultsError, HyperSegNASError

MOST_CHARACTERS, MOST_FAULTS = 1200, 40  # of a message, and of a list of faults: what a screen has room for


def run_command(
    parser: argparse.ArgumentParser, run: Callable[[argparse.Namespace], int | None], argv: list[str] | None = None
) -> int:
    """Parse the arguments, run, and return the exit code: what `run` returns, 1 for an error, 130 for Ctrl-C.

    Raises:
        SystemExit: bad usage, with argparse's code 2.
        OSError: one that names no file; all others and a `HyperSegNASError` too, where --debug asks for the traceback.
    """
    parser.add_argument("--debug", action="store_true", help="show the traceback of an error")
    _keep_usage_errors_short(parser)
    args = parser.parse_args(argv)
    logging.basicConfig(stream=sys.stderr, level=logging.WARNING, format="%(levelname)s: %(message)s")
    try:
        check_processes()
        return run(args) or 0
    except FaultsError as report:
        if args.debug:
            raise
        code = _fail(parser, f"{report.summary}:")
        for fault in report.faults[:MOST_FAULTS]:
            print(f"  {_short(fault)}", file=sys.stderr)
        if len(report.faults) > MOST_FAULTS:
            print(f"  and {len(report.faults) - MOST_FAULTS} more", file=sys.stderr)
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
    print(f"{parser.prog}: error: {_short(message)}", file=sys.stderr)
    return 1


def _short(message: str) -> str:
    """Return a message on one line; of a very long one the beginning, and the end, which says what to do."""
    line = " ".join(message.split())
    return (
        line
        if len(line) <= MOST_CHARACTERS
        else f"{line[: MOST_CHARACTERS * 3 // 4]} ... {line[-MOST_CHARACTERS // 4 :]}"
    )


def _keep_usage_errors_short(parser: argparse.ArgumentParser) -> None:
    """Let argparse show no more of an argument than other errors do."""
    fail = parser.error
    parser.error = lambda message: fail(_short(message))  # type: ignore[method-assign]
    for action in parser._actions:
        if isinstance(action, argparse._SubParsersAction):
            for sub_parser in action.choices.values():
                _keep_usage_errors_short(sub_parser)
