"""The base classes of every error a user can cause."""

from collections.abc import Sequence

MOST_SHOWN = 80


class HyperSegNASError(Exception):
    """Bad input or an impossible request: one line that says what we got, what is allowed and what to do next."""


class FaultsError(HyperSegNASError):
    """Everything that is wrong with some files, found before anything was written."""

    def __init__(self, summary: str, faults: Sequence[str]) -> None:
        super().__init__(f"{summary}: {'; '.join(faults)}")
        self.summary, self.faults = summary, list(faults)


def abbreviated(value: object, most: int = MOST_SHOWN) -> str:
    """Return a value as a message shows it: on one line, and no longer than a number of characters."""
    # A text is cut before its repr is taken: a file can hold one of many megabytes.
    text = repr(value[: most + 1]) if isinstance(value, str | bytes | list | tuple) else repr(value)
    return text if len(text) <= most else f"{text[:most]}..."
