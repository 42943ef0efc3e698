"""What the search tells whoever watches it."""

from __future__ import annotations

from typing import Protocol


class ProgressBar(Protocol):
    """Shows a stage's progress while it is open."""

    def __enter__(self) -> ProgressBar: ...

    def __exit__(self, *exception: object) -> None: ...

    def advance(self, best_dsc: float | None = None) -> None:
        """One more network is done; `best_dsc` is the stage's best so far, in 0 to 1."""


class Progress(Protocol):
    """Makes the bars."""

    def __call__(self, stage: str, total: int) -> ProgressBar: ...
