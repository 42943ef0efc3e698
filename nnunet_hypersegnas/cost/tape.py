"""Memory over time, for many networks at once."""

from __future__ import annotations

import numpy as np

IntArray = np.ndarray


class Tape:
    """Live bytes of n networks while the operations of a training step pass, and their peak.

    Args:
        start: live bytes before the first operation, shape (n,).
    """

    def __init__(self, start: IntArray) -> None:
        self.live = start.astype(np.int64)
        self.peak = self.live.copy()
        self._amount = np.empty_like(self.live)

    def step(self, *, alloc: IntArray | int = 0, free: IntArray | int = 0, where: IntArray | bool = True) -> None:
        """One operation of the networks in `where`: it makes `alloc` bytes, and when it is done `free` bytes go."""
        if not _is_nothing(alloc):
            self.live += np.multiply(where, alloc, out=self._amount)
            np.maximum(self.peak, self.live, out=self.peak)
        if not _is_nothing(free):
            self.live -= np.multiply(where, free, out=self._amount)


def _is_nothing(amount: IntArray | int) -> bool:
    return isinstance(amount, int) and amount == 0
