"""Working for a search: evaluations are taken from its study, one after the other."""

from __future__ import annotations

import time
import traceback
from collections.abc import Callable

import optuna
from optuna.exceptions import TrialPruned, UpdateFinishedTrialError
from optuna.trial import Trial, TrialState

from nnunet_hypersegnas.search.evaluations import ARCHITECTURE, ERROR, EVALUATION, RUNG, WORKER, Evaluation, WorkerId
from nnunet_hypersegnas.search.interrupts import InterruptsHeldBack
from nnunet_hypersegnas.search.rungs import Rung
from nnunet_hypersegnas.search.score import Score
from nnunet_hypersegnas.space import Architecture

SHORTEST_PAUSE_S, LONGEST_PAUSE_S = 0.1, 1.0  # of a worker that finds nothing to do

Evaluate = Callable[[Rung, Architecture], Score]


def work(study: optuna.Study, evaluate: Evaluate, is_over: Callable[[bool], bool]) -> int:
    """Evaluate what is enqueued, one after the other, and return how many evaluations that were.

    Args:
        study: the search's.
        evaluate: does it.
        is_over: asked before each evaluation, and told whether there is nothing to do; ends the work.

    Raises:
        Exception: whatever `evaluate` raises, after it was recorded.
    """
    worker, done = str(WorkerId.of_this_process()), 0
    held_back = InterruptsHeldBack()
    interrupted: list[bool] = []

    def objective(trial: Trial) -> float:
        if RUNG not in trial.user_attrs:
            raise TrialPruned("another worker was faster")
        trial.set_user_attr(WORKER, worker)
        rung = Rung.from_json(trial.user_attrs[RUNG])
        architecture = Architecture.from_json(trial.user_attrs[ARCHITECTURE])
        started = time.monotonic()
        try:
            with held_back.let_through():
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

    pause = SHORTEST_PAUSE_S
    with held_back:
        while True:
            idle = not study.get_trials(deepcopy=False, states=(TrialState.WAITING,))
            if is_over(idle):
                return done
            if idle:
                with held_back.let_through():
                    time.sleep(pause)
                pause = min(1.2 * pause, LONGEST_PAUSE_S)
                continue
            pause = SHORTEST_PAUSE_S
            try:
                study.optimize(objective, n_trials=1)
            except _EvaluateError as error:
                assert error.__cause__ is not None
                raise error.__cause__ from None
            except (ValueError, UpdateFinishedTrialError):
                pass  # this worker stood still for so long that its evaluation was given to another
            if interrupted:
                raise KeyboardInterrupt


class _EvaluateError(Exception):
    """Tells errors of an evaluation from those of its bookkeeping."""
