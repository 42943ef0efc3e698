"""The evaluations of a search as an Optuna study: enqueued by one process, worked off by any number of others.

A trial is one evaluation: an architecture on a rung. Trials are only ever enqueued (`leading`) and then run by
`Study.optimize` (`working`), under which Optuna keeps a heartbeat. One whose worker is gone fails, and is enqueued
again.
"""

from __future__ import annotations

import os
import socket
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import optuna
from optuna.storages import BaseStorage
from optuna.trial import FrozenTrial

from nnunet_hypersegnas.search.rungs import Rung
from nnunet_hypersegnas.search.score import Score

# User attributes of a trial, and of the study.
RUNG, ARCHITECTURE, WORKER, EVALUATION, ERROR = "rung", "architecture", "worker", "evaluation", "error"
STAGE = "stage"
LED = "led"  # time of the leading process' last sign of life

Task = tuple[str, str]  # name of a rung, id of an architecture


def open_study(storage: BaseStorage, name: str, *, create: bool = False) -> optuna.Study:
    """Return a search's study.

    Args:
        storage: see `open_storage`.
        name: the study's.
        create: make it where there is none.

    Raises:
        KeyError: there is none, and none is to be made.
    """
    sampler = optuna.samplers.RandomSampler()  # never asked: all trials are enqueued
    if create:
        return optuna.create_study(
            storage=storage, study_name=name, direction="maximize", load_if_exists=True, sampler=sampler
        )
    return optuna.load_study(storage=storage, study_name=name, sampler=sampler)


def task_of(trial: FrozenTrial) -> Task | None:
    """Return what a trial evaluates; None where a worker asked for one when none was left."""
    if RUNG not in trial.user_attrs:
        return None
    return Rung.from_json(trial.user_attrs[RUNG]).name, trial.user_attrs[ARCHITECTURE]["id"]


def last_led(study: optuna.Study) -> float | None:
    """Return the leading process' last sign of life, in seconds by its own clock; None where no process leads."""
    return study.user_attrs.get(LED)


@dataclass(frozen=True, kw_only=True)
class Evaluation:
    """What a worker found out.

    Attributes:
        score: of the architecture; without any label where it could not be evaluated.
        cost_patches: scored patches plus three times the trained ones.
        seconds: it took.
    """

    score: Score
    cost_patches: int
    seconds: float

    def to_json(self) -> dict[str, Any]:
        return {"score": self.score.to_json(), "cost_patches": self.cost_patches, "seconds": round(self.seconds, 4)}

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> Evaluation:
        return cls(score=Score.from_json(value["score"]), cost_patches=value["cost_patches"], seconds=value["seconds"])


@dataclass(frozen=True)
class WorkerId:
    """A worker's process, as its trials name it.

    Attributes:
        machine: its name, and since when it runs: names are not unique everywhere.
        pid: the process there.
    """

    machine: str
    pid: int

    @classmethod
    def of_this_process(cls) -> WorkerId:
        return cls(_machine(), os.getpid())

    @property
    def is_dead(self) -> bool:
        """Whether it was a process of this machine that is no more; of others only their heartbeat tells."""
        if self.machine != _machine():
            return False
        try:
            os.kill(self.pid, 0)
        except ProcessLookupError:
            return True
        except PermissionError:
            pass
        return False

    def __str__(self) -> str:
        return f"{self.machine}:{self.pid}"

    @classmethod
    def parse(cls, text: str) -> WorkerId:
        machine, _, pid = text.rpartition(":")
        return cls(machine, int(pid))


@cache
def _machine() -> str:
    boot = Path("/proc/sys/kernel/random/boot_id")
    return f"{socket.gethostname()}/{boot.read_text()[:8] if boot.exists() else ''}"
