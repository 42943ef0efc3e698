"""The base classes of every error a user can cause."""

from collections.abc import Sequence


class HyperSegNASError(Exception):
    """Bad input or an impossible request: one line that says what we got, what is allowed and what to do next."""


class FaultsError(HyperSegNASError):
    """Everything that is wrong with some files, found before anything was written."""

    def __init__(self, summary: str, faults: Sequence[str]) -> None:
        super().__init__(f"{summary}: {'; '.join(faults)}")
        self.summary, self.faults = summary, list(faults)
