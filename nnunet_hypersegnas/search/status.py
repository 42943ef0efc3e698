"""How far a search is, as anyone sees it who can read its study."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

import optuna
from optuna.trial import FrozenTrial, TrialState

from nnunet_hypersegnas.search.addresses import Address, StorageError, without_password
from nnunet_hypersegnas.search.evaluations import EVALUATION, RUNG, STAGE, WORKER, Evaluation, last_led, open_study
from nnunet_hypersegnas.search.rungs import Rung
from nnunet_hypersegnas.search.storage import GRACE_S, open_storage, reading_errors

RECENT = timedelta(minutes=10)


@dataclass(frozen=True, kw_only=True)
class RungStatus:
    """How far one rung is.

    Attributes:
        rung: which.
        planned: evaluations on it: known once it has begun, before that what may come at most.
        done: evaluations that are finished.
        best_dsc: of these; NaN where there is none.
        seconds: an evaluation took on average; NaN where none is finished.
    """

    rung: Rung
    planned: int
    done: int
    best_dsc: float
    seconds: float

    @property
    def cost_left(self) -> int:
        return max(0, self.planned - self.done) * self.rung.cost_patches


@dataclass(frozen=True, kw_only=True)
class SearchStatus:
    """How far a search is.

    Attributes:
        now: what it is doing.
        is_led: whether a process leads it, by that process' last sign of life.
        rungs: the cheapest first.
        workers: of evaluations under way.
        failed: evaluations that had to be done again.
        per_minute: evaluations finished in the last ten minutes, a minute.
        seconds_left: with as many workers as now; NaN where nothing tells.
    """

    now: str
    is_led: bool
    rungs: Sequence[RungStatus]
    workers: Sequence[str]
    failed: int
    per_minute: float
    seconds_left: float

    @classmethod
    def of(cls, study: optuna.Study, now: datetime | None = None) -> SearchStatus:
        """Read a study."""
        now, sign = now or datetime.now(), last_led(study)
        stage = study.user_attrs.get(STAGE, {"rungs": [], "budgets": 0, "totals": {}, "now": "not begun"})
        trials = [trial for trial in study.get_trials(deepcopy=False) if RUNG in trial.user_attrs]
        complete = [trial for trial in trials if trial.state is TrialState.COMPLETE]
        rungs = [
            _rung_status(rung, complete, planned)
            for rung, planned in _planned([Rung.from_json(value) for value in stage["rungs"]], stage)
        ]
        running = [trial for trial in trials if trial.state is TrialState.RUNNING]
        finished = [t.datetime_complete for t in complete if t.datetime_complete]
        since = min(RECENT, now - min(finished)) if finished else RECENT
        recent = sum(now - time <= since for time in finished)
        minutes = max(since.total_seconds(), 1.0) / 60
        cost = sum(status.done * status.rung.cost_patches for status in rungs)
        seconds = sum(status.done * status.seconds for status in rungs if status.done)
        left = math.nan
        if stage["now"] == "finished":
            left = 0.0
        elif cost and running:
            left = seconds / cost * sum(status.cost_left for status in rungs) / len(running)
        return cls(
            now=stage["now"],
            is_led=sign is not None and now.timestamp() - sign < 2 * GRACE_S,
            rungs=rungs,
            workers=sorted({trial.user_attrs[WORKER] for trial in running if WORKER in trial.user_attrs}),
            failed=sum(trial.state is TrialState.FAIL for trial in trials),
            per_minute=recent / minutes,
            seconds_left=left,
        )


def read_status(address: Address, study: str) -> SearchStatus:
    """Return how far a search is, by what its storage holds; nothing is made where there is no storage.

    Args:
        address: of the storage.
        study: name of the search's study.

    Raises:
        StorageError: it is not there, cannot be reached, is damaged, or holds no such study.
    """
    with reading_errors(address):
        try:
            found = open_study(open_storage(address, create=False), study)
        except KeyError as error:
            raise StorageError(
                f"there are no evaluations of {study!r} in {without_password(address)} yet; try again when the search "
                "has begun"
            ) from error
        return SearchStatus.of(found)


def _planned(rungs: Sequence[Rung], stage: Mapping[str, Any]) -> Iterator[tuple[Rung, int]]:
    """Yield each rung with the evaluations that it has or will have; the first one grows with each generation."""
    totals = stage["totals"]
    for rung in rungs:
        settled = rung.name in totals and (rung is not rungs[0] or len(totals) > 1 or stage["now"] == "finished")
        yield rung, totals[rung.name] if settled else rung.keep * stage["budgets"]


def _rung_status(rung: Rung, complete: Sequence[FrozenTrial], planned: int) -> RungStatus:
    found = {
        trial.user_attrs["architecture"]["id"]: Evaluation.from_json(trial.user_attrs[EVALUATION])
        for trial in complete
        if Rung.from_json(trial.user_attrs[RUNG]).name == rung.name
    }
    scores = [e.score.dsc for e in found.values() if not math.isnan(e.score.dsc)]
    return RungStatus(
        rung=rung,
        planned=planned,
        done=len(found),
        best_dsc=max(scores, default=math.nan),
        seconds=sum(e.seconds for e in found.values()) / len(found) if found else math.nan,
    )
