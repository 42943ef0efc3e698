"""`hsnas_status`: how far a search is, while it runs or afterwards."""

from __future__ import annotations

import argparse
import math
import os
import sys
from datetime import timedelta
from pathlib import Path

from nnunet_hypersegnas.cli.entry import run_command
from nnunet_hypersegnas.cli.search import STORAGE_VARIABLE
from nnunet_hypersegnas.cli.tables import format_table


def build_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="hsnas_status",
        description="Show the stages of a search, its rate, the best score so far and the time left.",
    )
    parser.add_argument("run", metavar="RUN", type=Path, help="the run's folder, which hsnas_search prints")
    parser.add_argument("--storage", metavar="URL", help="as given to hsnas_search, where it holds a password")
    return parser


def run(args: argparse.Namespace) -> None:
    from nnunet_hypersegnas.nnunet.run_folder import RunFolder
    from nnunet_hypersegnas.search.status import read_status

    folder = RunFolder(args.run)
    record = folder.read()
    url = folder.storage_url(args.storage or os.environ.get(STORAGE_VARIABLE) or record.storage)
    folder.check_host(record, url)
    status = read_status(url, record.study)
    print(
        f"{record.study}: {status.now}{'' if status.is_led or status.now == 'finished' else ' (nobody leads it now)'}"
    )
    rows = [
        {
            "rung": one.rung.title,
            "done": f"{one.done} of {one.planned}",
            "best DSC": "-" if math.isnan(one.best_dsc) else f"{one.best_dsc:.4f}",
            "seconds each": "-" if math.isnan(one.seconds) else f"{one.seconds:.2f}",
        }
        for one in status.rungs
    ]
    if rows:
        print(format_table(rows))
    print(
        f"{len(status.workers)} workers ({', '.join(status.workers) or 'none'}), {status.per_minute:.1f} evaluations a "
        f"minute, {status.failed} done again; time left: "
        + ("unknown" if math.isnan(status.seconds_left) else str(timedelta(seconds=round(status.seconds_left))))
    )


def main(argv: list[str] | None = None) -> int:
    return run_command(build_parser(), run, argv)


if __name__ == "__main__":
    sys.exit(main())
