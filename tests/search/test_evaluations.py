"""Evaluations with real worker processes, killed and interrupted, in all of the storages."""

import math
import os
import random
import signal
import subprocess
import sys
import threading
import time
from collections import Counter
from dataclasses import replace
from pathlib import Path

import optuna
import pytest
from optuna.trial import TrialState

from nnunet_hypersegnas.search import (
    Evaluation,
    EvaluationError,
    Lead,
    Rung,
    Score,
    StorageError,
    Way,
    WorkerId,
    leading,
    open_storage,
    open_study,
    storage,
    work,
)
from nnunet_hypersegnas.search.evaluations import task_of
from nnunet_hypersegnas.search.status import SearchStatus
from nnunet_hypersegnas.space import rng_for, sample
from tests.search.worker_process import made_up
from tests.spaces import FULL_RESOLUTION

# The tests play workers that die, which needs ask and tell.
pytestmark = pytest.mark.filterwarnings("ignore:Heartbeat of storage is supposed to be used")

ROOT = Path(__file__).parents[2]
ARCHITECTURES = list(dict.fromkeys(sample(FULL_RESOLUTION, rng_for(0, "t", i)) for i in range(100)))[:60]
RUNG = Rung(way=Way.PATCHES, amount=3, keep=60, cost_patches=3)
EXPECTED = {a: made_up(RUNG, a) for a in ARCHITECTURES}


@pytest.fixture(params=["sqlite", "journal", pytest.param("postgresql", marks=pytest.mark.postgres)])
def url(request, tmp_path):
    if request.param == "postgresql":
        return request.getfixturevalue("postgres_url")
    return f"sqlite:///{tmp_path / 'a.db'}" if request.param == "sqlite" else f"journal:{tmp_path / 'a.log'}"


@pytest.fixture
def lead(url):
    return Lead(open_study(open_storage(url), "test", create=True))


class Crew:
    """Worker processes of a test."""

    def __init__(self, url, seconds=0.0, broken=()):
        self.command = [sys.executable, "-m", "tests.search.worker_process", url, "test", str(seconds), *broken]
        self.processes = []

    def start(self, count=1):
        for _ in range(count):
            process = subprocess.Popen(self.command, cwd=ROOT, stdout=subprocess.PIPE, text=True)
            self.processes.append(process)
        return self

    def wait_until_working(self):
        for process in self.processes:
            assert process.stdout.readline() == "working\n"
        return self

    def reap(self):
        for process in self.processes:
            if process.poll() is not None:
                process.stdout.close()
        self.processes = [process for process in self.processes if process.returncode is None]

    def __enter__(self):
        return self

    def __exit__(self, *exception):
        for process in self.processes:
            process.kill()
            process.wait()
            process.stdout.close()


def in_thread(url, evaluate, is_over):
    """Work in a thread of this process, which starts sooner than a process."""
    study = open_study(open_storage(url), "test")
    thread = threading.Thread(target=work, args=(study, evaluate, is_over))
    thread.start()
    return thread


def test_all_are_evaluated_once_by_several_workers(url, lead):
    told = []
    with Crew(url).start(2):
        found = lead.evaluate(RUNG, ARCHITECTURES, on_done=told.append)
    assert {a: e.score for a, e in found.items()} == EXPECTED
    assert len(told) == len(ARCHITECTURES) and all(e.cost_patches == 3 for e in told)
    trials = [t for t in lead.study.get_trials() if t.state is TrialState.COMPLETE]
    assert len(trials) == len(ARCHITECTURES)
    assert lead.study.best_value == max(score.dsc for score in EXPECTED.values())  # what a dashboard shows
    # Who asks again, or later, is told what is known.
    again = Lead(open_study(open_storage(url), "test")).evaluate(RUNG, ARCHITECTURES)
    assert {a: e.score for a, e in again.items()} == EXPECTED


def test_workers_killed_at_twenty_random_moments_change_nothing(url, lead):
    """The leading process is the one that tells the killed from the slow: they run on its machine."""
    rng, killed = random.Random(0), []
    with Crew(url, seconds=0.02).start(2) as crew:
        crew.wait_until_working()
        next_kill = time.monotonic()

        def meanwhile():
            nonlocal next_kill
            crew.reap()
            if len(killed) < 20 and time.monotonic() > next_kill and crew.processes:
                victim = rng.choice(crew.processes)
                victim.send_signal(signal.SIGKILL)
                victim.wait()
                killed.append(victim.pid)
                next_kill = time.monotonic() + rng.uniform(0.0, 0.6)
            crew.reap()
            crew.start(2 - len(crew.processes))

        rungs = [RUNG, Rung(way=Way.CROPS, amount=2, keep=30, cost_patches=30)]
        found = [lead.evaluate(rung, ARCHITECTURES, meanwhile=meanwhile) for rung in rungs]
        while len(killed) < 20:
            meanwhile()
    for rung, of_rung in zip(rungs, found, strict=True):
        assert {a: e.score for a, e in of_rung.items()} == {a: made_up(rung, a) for a in ARCHITECTURES}
    complete = Counter(task_of(t) for t in lead.study.get_trials() if t.state is TrialState.COMPLETE)
    assert set(complete.values()) == {1} and len(complete) == 2 * len(ARCHITECTURES)


def test_an_evaluation_that_kills_its_workers_is_given_up(lead, url, monkeypatch):
    monkeypatch.setattr(leading, "SWEEP_S", 0.0)
    monkeypatch.setattr(leading, "MOST_DEATHS", 3)
    dead = WorkerId(WorkerId.of_this_process().machine, _dead_pid())
    victim, deaths = ARCHITECTURES[0], []

    def meanwhile():
        """What a worker leaves that dies over the victim, and what one does that has luck with the others."""
        for trial in lead.study.get_trials(states=(TrialState.WAITING,)):
            asked = lead.study.ask()
            if asked.user_attrs["architecture"]["id"] == victim.id:
                asked.set_user_attr("worker", str(dead))
                deaths.append(trial.number)
            else:
                evaluation = Evaluation(score=Score(dsc_by_label={"a": 0.5}), cost_patches=3, seconds=1)
                asked.set_user_attr("evaluation", evaluation.to_json())
                lead.study.tell(asked, 0.5)

    with pytest.warns(UserWarning, match=f"given up for architecture {victim.id}: 3 workers died over it"):
        found = lead.evaluate(RUNG, ARCHITECTURES[:3], meanwhile=meanwhile)
    assert len(deaths) == 3 and math.isnan(found[victim].score.dsc)
    assert found[ARCHITECTURES[1]].score.dsc == 0.5
    # Who continues tries anew, perhaps with more memory.
    assert evaluated_now(url, [victim]) == {victim: EXPECTED[victim]}


def evaluated_now(url, architectures):
    """Continue with a worker that can evaluate everything."""
    lead, over = Lead(open_study(open_storage(url), "test")), threading.Event()
    thread = in_thread(url, made_up, lambda idle: over.is_set())
    try:
        return {a: e.score for a, e in lead.evaluate(RUNG, architectures).items()}
    finally:
        over.set()
        thread.join()


def test_an_error_is_tried_once_more_and_then_told(url, lead):
    with (
        Crew(url, broken=[ARCHITECTURES[1].id]).start(2),
        pytest.raises(EvaluationError, match=r"failed 2 times for .*: RuntimeError: this one cannot be evaluated \("),
    ):
        lead.evaluate(RUNG, ARCHITECTURES[:3])
    # When the cause is gone, so are its errors: the same command goes on.
    assert evaluated_now(url, ARCHITECTURES[:3]) == {a: EXPECTED[a] for a in ARCHITECTURES[:3]}


def test_what_an_earlier_process_left_running_counts_against_nothing(url, lead, monkeypatch):
    """Its workers were killed with it."""
    monkeypatch.setattr(leading, "SWEEP_S", 0.0)
    monkeypatch.setattr(leading, "MOST_DEATHS", 1)
    dead = WorkerId(WorkerId.of_this_process().machine, _dead_pid())

    def meanwhile():
        lead.study.ask().set_user_attr("worker", str(dead))
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        lead.evaluate(RUNG, ARCHITECTURES[:1], meanwhile=meanwhile)
    assert evaluated_now(url, ARCHITECTURES[:1]) == {ARCHITECTURES[0]: EXPECTED[ARCHITECTURES[0]]}


def test_a_worker_that_died_before_its_first_heartbeat_is_found(lead, monkeypatch):
    """Optuna itself leaves such a trial running for ever."""
    monkeypatch.setattr(leading, "SWEEP_S", 0.0)
    monkeypatch.setattr(leading, "GRACE_S", 0.2)
    asked = []

    def meanwhile():
        if not asked:
            asked.append(lead.study.ask())  # popped, and nothing more
        elif lead.study.get_trials()[asked[0].number].state is TrialState.FAIL:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        lead.evaluate(RUNG, ARCHITECTURES[:1], meanwhile=meanwhile)


def has_finished(lead):
    return bool(lead.study.get_trials(states=(TrialState.COMPLETE,)))


def test_a_worker_of_another_machine_is_known_by_its_heartbeat(url, monkeypatch):
    """Evaluated under `Study.optimize`, by a worker whose machine is switched off."""
    monkeypatch.setattr(storage, "HEARTBEAT_S", 1)
    monkeypatch.setattr(storage, "GRACE_S", 2)
    monkeypatch.setattr(leading, "SWEEP_S", 0.1)
    lead = Lead(open_study(open_storage(url), "test", create=True))
    monkeypatch.setattr(WorkerId, "is_dead", False)
    with Crew(url, seconds=60).start() as crew:
        working = []

        def meanwhile():
            if lead.study.get_trials(states=(TrialState.RUNNING,)) and crew.processes:
                time.sleep(0.5)
                crew.__exit__()
                crew.processes = []
            if not crew.processes and not working:
                working.append(in_thread(url, made_up, lambda idle: has_finished(lead)))

        found = lead.evaluate(RUNG, ARCHITECTURES[:1], meanwhile=meanwhile)
        working[0].join()
    assert {a: e.score for a, e in found.items()} == {ARCHITECTURES[0]: EXPECTED[ARCHITECTURES[0]]}
    assert [t.state for t in lead.study.get_trials()][:2] == [TrialState.FAIL, TrialState.COMPLETE]


def test_a_worker_that_stood_still_loses_its_evaluation_and_goes_on(lead, url):
    """A laptop that was closed: its evaluation was given to another one in the meantime."""
    evaluated = []

    def evaluate(rung, architecture):
        if not evaluated:
            (trial,) = lead.study.get_trials(states=(TrialState.RUNNING,))
            lead.study.tell(trial.number, state=TrialState.FAIL)
        evaluated.append(architecture)
        return made_up(rung, architecture)

    over = threading.Event()
    thread = in_thread(url, evaluate, lambda idle: over.is_set())
    found = lead.evaluate(RUNG, ARCHITECTURES[:3])
    over.set()
    thread.join()
    assert {a: e.score for a, e in found.items()} == {a: EXPECTED[a] for a in ARCHITECTURES[:3]}
    assert len(evaluated) == 4


def test_what_was_interrupted_on_purpose_does_not_count_against_the_evaluation(url, lead):
    with Crew(url, seconds=60).start() as crew:
        released = []

        def meanwhile():
            if lead.study.get_trials(states=(TrialState.RUNNING,)):
                (worker,) = crew.processes
                time.sleep(0.3)
                worker.kill()
                worker.wait()
                lead.release([WorkerId(WorkerId.of_this_process().machine, worker.pid)])
                released.append(worker)
                raise KeyboardInterrupt

        with pytest.raises(KeyboardInterrupt):
            lead.evaluate(RUNG, ARCHITECTURES[:1], meanwhile=meanwhile)
    assert released and [t.state for t in lead.study.get_trials()] == [TrialState.PRUNED]
    over = threading.Event()
    thread = in_thread(url, made_up, lambda idle: over.is_set())
    found = Lead(open_study(open_storage(url), "test")).evaluate(RUNG, ARCHITECTURES[:1])
    over.set()
    thread.join()
    assert found[ARCHITECTURES[0]].score == EXPECTED[ARCHITECTURES[0]]


def test_few_wait_at_a_time(lead, url):
    """Optuna reads all waiting trials each time that a worker asks for one."""
    waiting = []

    def meanwhile():
        waiting.append(len(lead.study.get_trials(states=(TrialState.WAITING,))))

    over = threading.Event()
    thread = in_thread(url, made_up, lambda idle: over.is_set())
    lead.evaluate(RUNG, ARCHITECTURES, meanwhile=meanwhile)
    over.set()
    thread.join()
    assert 0 < max(waiting) <= leading.SPARE + 2


def test_status_tells_how_far_a_search_is(lead, url):
    assert SearchStatus.of(lead.study).now == "not begun"
    tuning = Rung(way=Way.FINE_TUNING, amount=5, keep=2, cost_patches=33)
    rungs = [replace(RUNG, keep=3).to_json(), tuning.to_json()]
    lead.announce({"rungs": rungs, "budgets": 2, "totals": {RUNG.name: 5}, "now": RUNG.name})  # one more is to come
    over, held = threading.Event(), threading.Event()

    def evaluate(rung, architecture):
        if architecture == ARCHITECTURES[5]:
            held.wait()
        time.sleep(0.01)
        return made_up(rung, architecture)

    thread = in_thread(url, evaluate, lambda idle: over.is_set())
    lead.evaluate(RUNG, ARCHITECTURES[:5])
    seen = []

    def meanwhile():
        status = SearchStatus.of(lead.study)
        if status.workers:
            seen.append(status)
            held.set()

    lead.evaluate(RUNG, ARCHITECTURES[:6], meanwhile=meanwhile)
    over.set()
    thread.join()
    first, second = seen[0].rungs
    assert (first.done, first.planned, second.done, second.planned) == (5, 6, 0, 4)
    assert first.best_dsc == max(EXPECTED[a].dsc for a in ARCHITECTURES[:5]) and math.isnan(second.best_dsc)
    assert seen[0].workers == [str(WorkerId.of_this_process())] and seen[0].per_minute > 0
    # One more of the first rung and four that cost eleven times as much, by one worker.
    assert seen[0].seconds_left == pytest.approx(first.seconds * (1 + 4 * 33 / 3))


def _dead_pid():
    process = subprocess.Popen([sys.executable, "-c", ""])
    process.wait()
    return process.pid


def test_a_process_of_this_machine_is_dead_or_not():
    here = WorkerId.of_this_process()
    assert WorkerId.parse(str(here)) == here and here.pid == os.getpid()
    assert not here.is_dead and WorkerId(here.machine, _dead_pid()).is_dead
    assert not WorkerId("elsewhere", _dead_pid()).is_dead  # only its heartbeat tells


@pytest.mark.parametrize(
    ("url", "message"),
    [
        (
            "postgresql://me:secret@127.0.0.1:1/none",
            r"storage postgresql://me@127.0.0.1:1/none cannot be used: .*refused",
        ),
        ("sqlite:////proc/nowhere/a.db", "storage sqlite:////proc/nowhere/a.db cannot be used"),
        ("journal:/proc/nowhere/a.log", "storage journal:/proc/nowhere/a.log cannot be used"),
        ("nosuchdb://host/name", "storage nosuchdb://host/name"),
    ],
)
def test_storages_that_cannot_be_used(url, message):
    with pytest.raises(StorageError, match=message) as error:
        open_storage(url)
    assert "secret" not in str(error.value)


def test_optuna_keeps_quiet(url, lead, capfd):
    over = threading.Event()
    thread = in_thread(url, made_up, lambda idle: over.is_set())
    lead.evaluate(RUNG, ARCHITECTURES[:2])
    over.set()
    thread.join()
    assert capfd.readouterr() == ("", "")
    assert optuna.logging.get_verbosity() == optuna.logging.ERROR
