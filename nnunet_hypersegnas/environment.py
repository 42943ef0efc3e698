"""Environment variables that hold for a while."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager

from nnunet_hypersegnas.errors import HyperSegNASError, abbreviated

PROCESSES = {"nnUNet_def_n_proc": 1, "nnUNet_n_proc_DA": 0}  # with the smallest number that nnU-Net can use


class EnvironmentVariableError(HyperSegNASError):
    """A variable whose value cannot be used."""


def check_processes() -> None:
    """Check the variables with numbers of processes, which nnU-Net reads without a check when it is imported.

    Raises:
        EnvironmentVariableError: one of them is not such a number.
    """
    for name, lowest in PROCESSES.items():
        value = os.environ.get(name)
        if value is not None and not (value.strip().isdecimal() and lowest <= int(value[:9]) <= 1000):
            raise EnvironmentVariableError(
                f"the environment variable {name} is {abbreviated(value)}, needed is a whole number from {lowest} to "
                "1000; change it, or unset it"
            )


@contextmanager
def environment(**variables: str) -> Iterator[None]:
    """Set variables, for nnU-Net, which reads them each time, and for processes started in the meantime."""
    before = {name: os.environ.get(name) for name in variables}
    os.environ.update(variables)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value
