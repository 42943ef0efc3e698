"""The ten tasks of the Medical Segmentation Decathlon (Antonelli et al. 2022, 10.1038/s41467-022-30695-9)."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from functools import lru_cache
from importlib.resources import files

from nnunet_hypersegnas.errors import HyperSegNASError


class TaskError(HyperSegNASError):
    """No task of the challenge."""


@dataclass(frozen=True)
class MsdTask:
    """One task.

    Attributes:
        number: 1 to 10.
        name: without number.
        tolerance_mm: of NSD, for all its labels.
        highest_label: labels are 0 to this one.
        not_scored: test cases that the challenge does not take.
    """

    number: int
    name: str
    tolerance_mm: float
    highest_label: int
    not_scored: frozenset[str] = frozenset()

    @property
    def folder(self) -> str:
        """Name of its folder, in the data and in a submission."""
        return f"Task{self.number:02d}_{self.name}"

    @property
    def scored(self) -> frozenset[str]:
        """The test cases that the challenge takes."""
        prefix, _, numbers = _test_cases()[self.folder].partition(": ")
        return frozenset(f"{prefix}_{number}" for number in numbers.split()) - self.not_scored


@lru_cache(maxsize=1)
def _test_cases() -> dict[str, str]:
    content = json.loads((files(__package__) / "published" / "msd_test_cases.json").read_text(encoding="utf-8"))
    return dict(content["cases"])


# Tolerances as the paper has them; that of Task07 was read there, that of Task04 agrees with the leaderboard's figures.
# Labels as in each task's dataset.json. Cases not scored: as submissions that were accepted left them out.
TASKS = (
    MsdTask(1, "BrainTumour", 5.0, 3),
    MsdTask(2, "Heart", 4.0, 1),
    MsdTask(
        *(3, "Liver", 7.0, 2),
        frozenset(f"liver_{i}" for i in (141, 156, 160, 161, 162, 164, 167, 182, 189, 190)),
    ),
    MsdTask(4, "Hippocampus", 1.0, 2),
    MsdTask(5, "Prostate", 4.0, 2),
    MsdTask(6, "Lung", 2.0, 1),
    MsdTask(7, "Pancreas", 5.0, 2),
    MsdTask(8, "HepaticVessel", 3.0, 2, frozenset({"hepaticvessel_247"})),
    MsdTask(9, "Spleen", 3.0, 1),
    MsdTask(10, "Colon", 4.0, 1),
)


def msd_task(name: str) -> MsdTask | None:
    """Return the task that a folder of the challenge or a data set of nnU-Net holds, by number and name; or None."""
    found = re.fullmatch(r"(?:Task|Dataset)0*(\d+)_(\w+)", name)
    return next((t for t in TASKS if found and (str(t.number), t.name) == found.groups()), None)


def known_task(name: str) -> MsdTask:
    """Return the task of a name (Task04_Hippocampus, Dataset004_Hippocampus) or number (4).

    Raises:
        TaskError: there is none.
    """
    task = next((t for t in TASKS if name == str(t.number)), None) or msd_task(name)
    if task is None:
        raise TaskError(f"{name!r} is no task of the challenge; its tasks are {', '.join(t.folder for t in TASKS)}")
    return task
