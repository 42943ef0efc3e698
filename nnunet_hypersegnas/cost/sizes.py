"""Sizes in bytes, as users write and read them."""

from __future__ import annotations

import re

from nnunet_hypersegnas.errors import HyperSegNASError, abbreviated

UNITS = {"KB": 10**3, "KiB": 2**10, "MB": 10**6, "MiB": 2**20, "GB": 10**9, "GiB": 2**30}
_BY_LOWER_CASE = {unit.lower(): size for unit, size in UNITS.items()}


class SizeError(HyperSegNASError):
    """Text that is no size in bytes."""


def parse_bytes(text: str) -> int:
    """Return the number of bytes of a size such as "5GB", "300 MB" or "4.5GiB"; GB is 10^9, GiB 2^30 bytes.

    Raises:
        SizeError: no positive number, no unit, or an unknown one.
    """
    match = re.fullmatch(r"\s*([0-9]{1,15}(?:\.[0-9]+)?)\s*([A-Za-z]+)\s*", text)
    unit = _BY_LOWER_CASE.get(match[2].lower()) if match else None
    size = round(float(match[1]) * unit) if match and unit else 0
    if size <= 0:
        raise SizeError(
            f"{abbreviated(text)} is no memory size; write a positive number with a unit ({', '.join(UNITS)}), as in "
            "5GB"
        )
    return size


def is_size(text: str) -> bool:
    """Whether `parse_bytes` can read it."""
    try:
        parse_bytes(text)
    except SizeError:
        return False
    return True


def format_bytes(size_bytes: int) -> str:
    """Return a size in decimal units with three digits, for example "4.97 GB"."""
    for unit in ("GB", "MB", "KB"):
        value = size_bytes / UNITS[unit]
        if abs(value) >= 0.9995:  # what rounds to 1.00 of this unit is not written as 1000 of the smaller one
            digits = 2 if abs(value) < 9.995 else 1 if abs(value) < 99.95 else 0
            return f"{value:.{digits}f} {unit}"
    return f"{size_bytes} B"
