"""The four costs of a network, as users write and read them."""

from __future__ import annotations

import re
from collections.abc import Callable
from enum import Enum

from nnunet_hypersegnas.cost.sizes import SizeError, format_bytes, parse_bytes
from nnunet_hypersegnas.errors import abbreviated

_COUNTS = {"": 1, "k": 10**3, "M": 10**6, "G": 10**9, "B": 10**9, "T": 10**12}
_TIMES_MS = {"us": 1e-3, "ms": 1.0, "s": 1e3}


class Quantity(Enum):
    """What a search can be limited by."""

    MEMORY = "memory"
    PARAMETERS = "parameters"
    MULTIPLY_ADDS = "multiply-adds"
    LATENCY = "latency"

    def format(self, value: float) -> str:
        """Return a value with its unit: memory in bytes, latency in ms, the others in numbers."""
        if self is Quantity.MEMORY:
            return format_bytes(round(value))
        if self is Quantity.LATENCY:
            return f"{value:.3g} ms"
        return format_count(value)

    def parse(self, text: str) -> float:
        """Return what a user wrote, in the unit of `format`.

        Raises:
            SizeError: no positive number, or no unit that this quantity has.
        """
        parse: Callable[[str], float] = parse_bytes
        if self is Quantity.LATENCY:
            parse = parse_ms
        elif self is not Quantity.MEMORY:
            parse = parse_count
        return parse(text)


def parse_count(text: str) -> int:
    """Return a number such as "5M", "1.5G" or "20000"; k, M, G (or B) and T are powers of 1000.

    Raises:
        SizeError: no positive number, or an unknown unit.
    """
    match = re.fullmatch(r"\s*([0-9]{1,18}(?:\.[0-9]+)?)\s*([A-Za-z]?)\s*", text)
    units = {unit.lower(): size for unit, size in _COUNTS.items()}
    unit = units.get(match[2].lower()) if match else None
    count = round(float(match[1]) * unit) if match and unit else 0
    if count <= 0:
        raise SizeError(
            f"{abbreviated(text)} is no number of things; write a positive number, if need be with k, M, G or T: 5M"
        )
    return count


def parse_ms(text: str) -> float:
    """Return the milliseconds of a time such as "50ms" or "0.2s".

    Raises:
        SizeError: no positive number, or no unit.
    """
    match = re.fullmatch(r"\s*([0-9]{1,9}(?:\.[0-9]+)?)\s*([A-Za-z]+)\s*", text)
    unit = _TIMES_MS.get(match[2].lower()) if match else None
    time_ms = float(match[1]) * unit if match and unit else 0
    if time_ms <= 0:
        raise SizeError(f"{abbreviated(text)} is no time; write a positive number with a unit (us, ms, s), as in 50ms")
    return time_ms


def format_count(value: float) -> str:
    """Return a number with three digits and a decimal unit, for example "1.24 M"."""
    for unit in ("T", "G", "M", "k"):
        scaled = value / _COUNTS[unit]
        if abs(scaled) >= 0.9995:
            digits = 2 if abs(scaled) < 9.995 else 1 if abs(scaled) < 99.95 else 0
            return f"{scaled:.{digits}f} {unit}"
    return f"{round(value)}"
