"""What an interruption has left unusable is moved aside, not deleted: its owner says whether it is worth nothing."""

from __future__ import annotations

import itertools
import logging
from pathlib import Path

FOLDER = "broken"  # beside what is moved; nnU-Net looks for files and for names of data sets, so it does not see it

log = logging.getLogger(__name__)


def set_aside(path: Path, why: str) -> Path:
    """Move a file or folder into a folder `broken` beside it, under a name that nothing has there, and say so.

    Args:
        path: what is moved.
        why: said in the line that tells of it, for example "is cut off".

    Returns:
        Where it lies now.
    """
    folder = path.with_name(FOLDER)
    folder.mkdir(exist_ok=True)
    names = itertools.chain([path.name], (f"{number}_{path.name}" for number in itertools.count(2)))
    place = next(folder / name for name in names if not (folder / name).exists())
    path.rename(place)
    log.warning("%s %s; it was moved to %s", path, why, place)
    return place
