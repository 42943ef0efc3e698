"""The --trust-plans flag of commands that build networks from plans."""

from __future__ import annotations

import argparse


def add_trust_plans(parser: argparse.ArgumentParser | argparse._ArgumentGroup) -> None:
    parser.add_argument(
        "--trust-plans",
        action="store_true",
        help="build a network of any class that plans name; whoever wrote them can then run code here [only classes of "
        "nnU-Net, of this package and of torch.nn]",
    )
