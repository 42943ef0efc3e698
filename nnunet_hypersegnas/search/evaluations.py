"""The evaluations of a search as an Optuna study: enqueued by one process, worked off by any number of others.

A trial is one evaluation: an architecture on a rung. Trials are only ever enqueued and then run by `Study.optimize`,
under which Optuna keeps a heartbeat; one whose worker is gone fails, and is enqueued again.
"""

from __future__ import annotations

import contextlib
import os
import socket
import threading
import time
import traceback
import warnings
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import optuna
from optuna.exceptions import ExperimentalWarning, TrialPruned, UpdateFinishedTrialError
from optuna.storages import BaseStorage
from optuna.trial import FrozenTrial, Trial, TrialState

from nnunet_hypersegnas.errors import HyperSegNASError
from nnunet_hypersegnas.search.rungs import Rung
from nnunet_hypersegnas.search.score import Score
from nnunet_hypersegnas.search.storage import GRACE_S, HEARTBEAT_S
from nnunet_hypersegnas.space import Architecture

POLL_S = 0.1
LONGEST_PAUSE_S = 1.0  # of a worker that finds nothing to do
SWEEP_S = 1.0
MOST_DEATHS = 10  # of workers over one evaluation, after which it is given up
MOST_ERRORS = 2
# Optuna looks at all waiting trials whenever a worker asks for one (0.4 s where 1,000 wait in SQLite), so few wait.
SPARE = 8

# User attributes of a trial, and of the study.
RUNG, ARCHITECTURE, WORKER, EVALUATION, ERROR = "rung", "architecture", "worker", "evaluation", "error"
STAGE = "stage"
LED = "led"  # time of the leading process' last sign of life


class EvaluationError(HyperSegNASError):
    """An evaluation that fails wherever it is tried."""


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


GIVEN_UP = Evaluation(score=Score(dsc_by_label={}), cost_patches=0, seconds=0.0)

Task = tuple[str, str]  # name of a rung, id of an architecture
Evaluate = Callable[[Rung, Architecture], Score]


@dataclass(frozen=True)
class WorkerId:
    """A worker's process, as its trials name it."""

    host: str
    pid: int

    @classmethod
    def of_this_process(cls) -> WorkerId:
        return cls(socket.gethostname(), os.getpid())

    @property
    def is_dead(self) -> bool:
        """Whether it was a process of this machine that is no more; of others only their heartbeat tells."""
        if self.host != socket.gethostname():
            return False
        try:
            os.kill(self.pid, 0)
        except ProcessLookupError:
            return True
        except PermissionError:
            pass
        return False

    def __str__(self) -> str:
        return f"{self.host}:{self.pid}"

    @classmethod
    def parse(cls, text: str) -> WorkerId:
        host, _, pid = text.rpartition(":")
        return cls(host, int(pid))


class EvaluationStudy:
    """The evaluations of one search.

    Args:
        storage: see `open_storage`.
        name: the study's.
        create: make the study where there is none.

    Raises:
        KeyError: there is no such study and none is to be made.
    """

    def __init__(self, storage: BaseStorage, name: str, *, create: bool = False) -> None:
        sampler = optuna.samplers.RandomSampler()  # never asked: all trials are enqueued
        if create:
            self.study = optuna.create_study(
                storage=storage, study_name=name, direction="maximize", load_if_exists=True, sampler=sampler
            )
        else:
            self.study = optuna.load_study(storage=storage, study_name=name, sampler=sampler)
        self._results: dict[Task, Evaluation] = {}
        self._deaths: Counter[Task] = Counter()
        self._errors: dict[Task, list[str]] = {}
        self._read: set[int] = set()  # numbers of finished trials that were looked at
        self._open: dict[Task, FrozenTrial] = {}
        self._nameless_since: dict[int, float] = {}
        self._swept = -SWEEP_S

    # -- the process that leads the search ---------------------------------------------------------------------------

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
            self._refresh()
            self._give_up(rung, missing)
            for id_ in [i for i in missing if (rung.name, i) in self._results]:
                on_done(self._results[rung.name, id_])
                del missing[id_]
            if not missing:
                return {wanted[i]: self._results[rung.name, i] for i in wanted}
            self._enqueue(rung, missing.values())
            self._sweep()
            meanwhile()
            time.sleep(POLL_S)

    def _refresh(self) -> None:
        self._open = {}
        for trial in self.study.get_trials(deepcopy=False):
            if trial.number in self._read:
                continue
            task = _task(trial)
            if task is None:
                continue
            if not trial.state.is_finished():
                self._open[task] = trial
            else:
                self._read.add(trial.number)
                if trial.state is TrialState.COMPLETE:
                    # Twice, where a worker that was thought dead came back: the first one counts.
                    self._results.setdefault(task, Evaluation.from_json(trial.user_attrs[EVALUATION]))
                elif ERROR in trial.user_attrs:
                    self._errors.setdefault(task, []).append(trial.user_attrs[ERROR])
                elif trial.state is TrialState.FAIL:
                    self._deaths[task] += 1

    def _give_up(self, rung: Rung, missing: Mapping[str, Architecture]) -> None:
        for id_ in missing:
            task = rung.name, id_
            if len(errors := self._errors.get(task, [])) >= MOST_ERRORS:
                raise EvaluationError(f"{rung.title} failed {len(errors)} times for architecture {id_}: {errors[-1]}")
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
        for trial in self.study.get_trials(deepcopy=False, states=(TrialState.RUNNING,)):
            if trial.user_attrs.get(WORKER) in names:
                self._end(trial, TrialState.PRUNED)

    def _end(self, trial: FrozenTrial, state: TrialState) -> None:
        with contextlib.suppress(ValueError, UpdateFinishedTrialError):  # it was finished in the meantime
            self.study.tell(trial.number, state=state)

    def announce(self, stage: Mapping[str, Any]) -> None:
        """Tell those who look at the search from outside what it is doing."""
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
            over.set()
            thread.join()
            self.study.set_user_attr(LED, None)

    @property
    def last_led(self) -> float | None:
        """The leading process' last sign of life, in seconds by its own clock; None where no process leads."""
        return self.study.user_attrs.get(LED)

    # -- workers -----------------------------------------------------------------------------------------------------

    def work(self, evaluate: Evaluate, is_over: Callable[[bool], bool]) -> int:
        """Evaluate what is enqueued, one after the other, and return how many evaluations that were.

        Args:
            evaluate: does it.
            is_over: asked before each evaluation, and told whether there is nothing to do; ends the work.

        Raises:
            Exception: whatever `evaluate` raises, after it was recorded.
        """
        worker, done = str(WorkerId.of_this_process()), 0
        interrupted: list[bool] = []

        def objective(trial: Trial) -> float:
            if RUNG not in trial.user_attrs:
                raise TrialPruned("another worker was faster")
            trial.set_user_attr(WORKER, worker)
            rung = Rung.from_json(trial.user_attrs[RUNG])
            architecture = Architecture.from_json(trial.user_attrs[ARCHITECTURE])
            started = time.monotonic()
            try:
                score = evaluate(rung, architecture)
            except KeyboardInterrupt:
                interrupted.append(True)
                raise TrialPruned("interrupted") from None  # which does not count against the evaluation
            except Exception as error:
                line = " ".join(traceback.format_exception_only(error)[-1].split())
                trial.set_user_attr(ERROR, f"{line} (worker {worker})")
                raise _EvaluateError from error
            seconds = time.monotonic() - started
            evaluation = Evaluation(score=score, cost_patches=rung.cost_patches, seconds=seconds)
            trial.set_user_attr(EVALUATION, evaluation.to_json())
            nonlocal done
            done += 1
            return 0.0 if score.dsc != score.dsc else score.dsc  # Optuna takes no NaN for a result

        pause = POLL_S
        while True:
            idle = not self.study.get_trials(deepcopy=False, states=(TrialState.WAITING,))
            if is_over(idle):
                return done
            if idle:
                time.sleep(pause)
                pause = min(1.2 * pause, LONGEST_PAUSE_S)
                continue
            pause = POLL_S
            try:
                self.study.optimize(objective, n_trials=1)
            except _EvaluateError as error:
                assert error.__cause__ is not None
                raise error.__cause__ from None
            except (ValueError, UpdateFinishedTrialError):
                pass  # this worker stood still for so long that its evaluation was given to another
            if interrupted:
                raise KeyboardInterrupt


class _EvaluateError(Exception):
    """Tells errors of an evaluation from those of its bookkeeping."""


def _task(trial: FrozenTrial) -> Task | None:
    if RUNG not in trial.user_attrs:
        return None
    return Rung.from_json(trial.user_attrs[RUNG]).name, trial.user_attrs[ARCHITECTURE]["id"]
