"""Types of arguments that are numbers."""

from __future__ import annotations

import argparse
import math
from collections.abc import Callable

from nnunet_hypersegnas.errors import abbreviated

MOST = 10**9  # of anything that is counted; what is larger is a slip of the keyboard


def integer(lowest: int, highest: int = MOST) -> Callable[[str], int]:
    """Return a type of argument: a whole number within bounds."""

    def parse(text: str) -> int:
        try:
            value = int(text)
        except ValueError:
            value = lowest - 1
        if not lowest <= value <= highest:
            bounds = f"from {lowest:,} to {highest:,}"
            raise argparse.ArgumentTypeError(f"{abbreviated(text)} is not a whole number {bounds}")
        return value

    return parse


positive_int, whole_number = integer(1), integer(0)
any_seed = integer(-(2**63), 2**63)


def positive_float(text: str) -> float:
    """Return a number above 0.

    Raises:
        ArgumentTypeError: it is none; argparse says so.
    """
    try:
        value = float(text)
    except ValueError:
        value = 0.0
    if not 0 < value < math.inf:
        raise argparse.ArgumentTypeError(f"{abbreviated(text)} is not a positive number")
    return value
