"""Progress bars of the search: stage, best so far, time left."""

from __future__ import annotations

import math
import sys

from tqdm import tqdm

from nnunet_hypersegnas.search import Progress


class StageBar:
    """One stage of one budget's search on stderr."""

    def __init__(self, description: str, total: int) -> None:
        self._bar = tqdm(total=total, desc=description, unit="net", file=sys.stderr, dynamic_ncols=True)

    def __enter__(self) -> StageBar:
        return self

    def __exit__(self, *exception: object) -> None:
        self._bar.close()

    def advance(self, best_dsc: float | None = None) -> None:
        if best_dsc is not None and math.isfinite(best_dsc):
            self._bar.set_postfix_str(f"best DSC {best_dsc:.4f}", refresh=False)
        self._bar.update()


def stage_bars(name: str) -> Progress:
    """Return a maker of bars, named by budget (or what else is gone through) and stage."""
    return lambda stage, total: StageBar(f"{name}: {stage}", total)
