"""Labels that no reference sub-net finds: a super-net that learns nothing is noticed while it trains."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

FIRST_AFTER = 5  # epochs in a row; further warnings come after twice as many each time


class UnfoundLabels:
    """Counts the epochs in a row in which validation patches show a label and no sub-net finds a voxel of it.

    Args:
        names: of the labels or regions, in nnU-Net's order.
    """

    def __init__(self, names: Sequence[str]) -> None:
        self.names = list(names)
        self.epochs = np.zeros(len(names), dtype=int)
        self._next = FIRST_AFTER

    def after_epoch(self, true_positives: np.ndarray, false_negatives: np.ndarray) -> str | None:
        """Note an epoch, and return a warning where it is time for one.

        Args:
            true_positives, false_negatives: voxels of each label, summed over all sub-nets and patches.
        """
        shown = true_positives + false_negatives > 0
        self.epochs = np.where(shown & (true_positives == 0), self.epochs + 1, 0)
        longest = int(self.epochs.max(initial=0))
        if longest < FIRST_AFTER:
            self._next = FIRST_AFTER
        if longest < self._next:
            return None
        self._next = 2 * longest
        missed = [name for name, epochs in zip(self.names, self.epochs, strict=True) if epochs >= FIRST_AFTER]
        return (
            f"no reference sub-net has found {', '.join(missed)} for {longest} epochs, and a search ranks nothing by a "
            "label that its super-net does not know. More iterations help, a larger oversample_foreground, a patch "
            "that shows more of the label's surroundings, or another initial_lr"
        )
