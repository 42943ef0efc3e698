"""Types of arguments that are numbers."""

from __future__ import annotations

import argparse
import math


def positive_int(text: str) -> int:
    """Return a whole number above 0.

    Raises:
        ArgumentTypeError, ValueError: it is none; argparse says so.
    """
    value = int(text)
    if value < 1:
        raise argparse.ArgumentTypeError(f"{text} is not a positive number")
    return value


def whole_number(text: str) -> int:
    """Return a whole number, 0 or more.

    Raises:
        ArgumentTypeError, ValueError: it is none; argparse says so.
    """
    value = int(text)
    if value < 0:
        raise argparse.ArgumentTypeError(f"{text} is not a whole number of 0 or more")
    return value


def positive_float(text: str) -> float:
    """Return a number above 0.

    Raises:
        ArgumentTypeError, ValueError: it is none; argparse says so.
    """
    value = float(text)
    if not 0 < value < math.inf:
        raise argparse.ArgumentTypeError(f"{text} is not a positive number")
    return value
