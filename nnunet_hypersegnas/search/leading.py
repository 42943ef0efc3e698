"""Leading a search: the process that enqueues evaluations and waits for the workers' answers."""

from __future__ import annotations

import contextlib
import threading
import time
import warnings
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import optuna
from optuna.exceptions import ExperimentalWarning, UpdateFinishedTrialError
from optuna.trial import FrozenTrial, TrialState

from nnunet_hypersegnas.errors import HyperSegNASError
from nnunet_hypersegnas.search.evaluations import (
    ARCHITECTURE,
    ERROR,
    EVALUATION,
    LED,
    RUNG,
    STAGE,
    WORKER,
    Evaluation,
    Task,
    WorkerId,
    task_of,
)
from nnunet_hypersegnas.search.interrupts import InterruptsHeldBack
from nnunet_hypersegnas.search.rungs import Rung
from nnunet_hypersegnas.search.score import Score
from nnunet_hypersegnas.search.storage import GRACE_S, HEARTBEAT_S
from nnunet_hypersegnas.space import Architecture

POLL_S = 0.1
SWEEP_S = 1.0
# Of one evaluation while one process leads; whoever leads next counts anew, since the cause may be gone.
MOST_DEATHS = 10  # of workers over it, after which it is given up
MOST_ERRORS = 2
UNFINISHED = (TrialState.FAIL, TrialState.RUNNING)
# Optuna looks at all waiting trials whenever a worker asks for one (0.4 s where 1,000 wait in SQLite), so few wait.
SPARE = 8

GIVEN_UP = Evaluation(score=Score(dsc_by_label={}), cost_patches=0, seconds=0.0)


class EvaluationError(HyperSegNASError):
    """An evaluation that fails wherever it is tried."""


class Lead:
    """Has architectures evaluated by whoever works for a study.

    Args:
        study: see `open_study`.
    """

    def __init__(self, study: optuna.Study) -> None:
        self.study = study
        self._results: dict[Task, Evaluation] = {}
        self._deaths: Counter[Task] = Counter()
        self._errors: dict[Task, list[str]] = {}
        self._read: set[int] = set()  # numbers of finished trials that were looked at
        self._open: dict[Task, FrozenTrial] = {}
        self._nameless_since: dict[int, float] = {}
        self._swept = -SWEEP_S
        with InterruptsHeldBack():
            # What failed before, or was left running by a process that is gone, says nothing of now.
            self._earlier = {trial.number for trial in study.get_trials(deepcopy=False, states=UNFINISHED)}
            self._refresh()  # what cannot be read is told before anything is done

    def evaluate(
        self,
        rung: Rung,
        architectures: Iterable[Architecture],
        *,
        on_done: Callable[[Evaluation], None] = lambda evaluation: None,
        meanwhile: Callable[[], None] = lambda: None,
    ) -> dict[Architecture, Evaluation]:
        """Have architectures evaluated on a rung; what is known already is not evaluated again.

        Args:
            rung: how.
            architectures: which; duplicates count once.
            on_done: told of each, known ones too.
            meanwhile: called again and again while workers work.

        Raises:
            EvaluationError: an evaluation that fails wherever it is tried.
        """
        missing = {architecture.id: architecture for architecture in architectures}
        wanted = dict(missing)
        while True:
            with InterruptsHeldBack():
                self._refresh()
            self._give_up(rung, missing)
            for id_ in [i for i in missing if (rung.name, i) in self._results]:
                on_done(self._results[rung.name, id_])
                del missing[id_]
            if not missing:
                return {wanted[i]: self._results[rung.name, i] for i in wanted}
            with InterruptsHeldBack():
                self._enqueue(rung, missing.values())
                self._sweep()
            meanwhile()
            time.sleep(POLL_S)

    def _refresh(self) -> None:
        self._open = {}
        for trial in self.study.get_trials(deepcopy=False):
            if trial.number in self._read:
                continue
            task = task_of(trial)
            if task is None:
                continue
            if not trial.state.is_finished():
                self._open[task] = trial
            else:
                self._read.add(trial.number)
                if trial.state is TrialState.COMPLETE:
                    # Twice, where a worker that was thought dead came back: the first one counts.
                    self._results.setdefault(task, Evaluation.from_json(trial.user_attrs[EVALUATION]))
                elif trial.number in self._earlier:
                    continue
                elif ERROR in trial.user_attrs:
                    self._errors.setdefault(task, []).append(trial.user_attrs[ERROR])
                elif trial.state is TrialState.FAIL:
                    self._deaths[task] += 1

    def _give_up(self, rung: Rung, missing: Mapping[str, Architecture]) -> None:
        for id_ in missing:
            task = rung.name, id_
            if len(errors := self._errors.get(task, [])) >= MOST_ERRORS:
                raise EvaluationError(
                    f"{rung.title} failed {len(errors)} times for architecture {id_}: {errors[-1]}; the same command "
                    "tries it again"
                )
            if self._deaths[task] >= MOST_DEATHS and task not in self._results:
                warnings.warn(
                    f"{rung.title} is given up for architecture {id_}: {self._deaths[task]} workers died over it "
                    "(killed for want of memory?)",
                    stacklevel=2,
                )
                self._results[task] = GIVEN_UP

    def _enqueue(self, rung: Rung, missing: Iterable[Architecture]) -> None:
        running = sum(trial.state is TrialState.RUNNING for trial in self._open.values())
        room = 2 * running + SPARE - (len(self._open) - running)
        for architecture in missing:
            if room <= 0:
                return
            if (rung.name, architecture.id) not in self._open:
                attributes = {RUNG: rung.to_json(), ARCHITECTURE: architecture.to_json()}
                self.study.enqueue_trial({}, user_attrs=attributes)
                room -= 1

    def _sweep(self) -> None:
        """Fail the evaluations whose workers are gone; now and then, since it takes a look at all that run."""
        if time.monotonic() - self._swept < SWEEP_S:
            return
        self._swept = time.monotonic()
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ExperimentalWarning)
            optuna.storages.fail_stale_trials(self.study)
        running = [trial for trial in self._open.values() if trial.state is TrialState.RUNNING]
        nameless = {trial.number: self._nameless_since.get(trial.number, self._swept) for trial in running}
        for trial in running:
            name = trial.user_attrs.get(WORKER)
            # Optuna never calls a trial stale whose worker died before its first heartbeat.
            lost = name is None and self._swept - nameless[trial.number] > GRACE_S
            if lost or (name is not None and WorkerId.parse(name).is_dead):
                self._end(trial, TrialState.FAIL)
        self._nameless_since = nameless

    def release(self, workers: Iterable[WorkerId]) -> None:
        """Free the evaluations of workers that were ended on purpose, which says nothing against these."""
        names = {str(worker) for worker in workers}
        with InterruptsHeldBack():
            for trial in self.study.get_trials(deepcopy=False, states=(TrialState.RUNNING,)):
                if trial.user_attrs.get(WORKER) in names:
                    self._end(trial, TrialState.PRUNED)

    def _end(self, trial: FrozenTrial, state: TrialState) -> None:
        with contextlib.suppress(ValueError, UpdateFinishedTrialError):  # it was finished in the meantime
            self.study.tell(trial.number, state=state)

    def announce(self, stage: Mapping[str, Any]) -> None:
        """Tell those who look at the search from outside what it is doing."""
        with InterruptsHeldBack():
            self.study.set_user_attr(STAGE, dict(stage))

    @contextmanager
    def led(self) -> Iterator[None]:
        """Let workers see that the search is led, for as long as it is."""
        over = threading.Event()

        def beat() -> None:
            while True:
                with contextlib.suppress(Exception):  # a storage that is gone ends the main thread with its reason
                    self.study.set_user_attr(LED, time.time())
                if over.wait(HEARTBEAT_S):
                    return

        thread = threading.Thread(target=beat, daemon=True)
        thread.start()
        try:
            yield
        finally:
            with InterruptsHeldBack():
                over.set()
                thread.join()
                self.study.set_user_attr(LED, None)
