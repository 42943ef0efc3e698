"""Ctrl-C while a storage works: the process ends within seconds and leaves nothing locked."""

import os
import signal
import subprocess
import sys
import threading
import time

import pytest

from nnunet_hypersegnas.search.interrupts import InterruptsHeldBack

INTERRUPTED_WHILE_LEADING = """
import contextlib, itertools, os, random, signal, sys, threading, time
from pathlib import Path
from nnunet_hypersegnas.search import Lead, open_storage, open_study

lead = Lead(open_study(open_storage("sqlite:///" + sys.argv[1]), "study", create=True))
moments = random.Random(0)
for times in range(15):
    threading.Timer(moments.uniform(0.02, 0.2), os.kill, (os.getpid(), signal.SIGINT)).start()
    with contextlib.suppress(KeyboardInterrupt), contextlib.ExitStack() as stack:
        stack.enter_context(lead.led())
        stack.callback(lambda: lead.release([]))
        for number in itertools.count():
            lead.announce({"now": number})
print("unlocked")
"""


def test_a_lead_interrupted_at_any_moment_leaves_the_database_unlocked(tmp_path):
    # SQLite would wait for 120 s, for a transaction that nobody ends.
    words = [sys.executable, "-c", INTERRUPTED_WHILE_LEADING, str(tmp_path / "study.db")]
    done = subprocess.run(words, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0 and done.stdout == "unlocked\n", done.stderr
    assert "Exception ignored" not in done.stderr


def test_ctrl_c_waits_for_the_end():
    reached = []
    with pytest.raises(KeyboardInterrupt), InterruptsHeldBack():
        signal.raise_signal(signal.SIGINT)
        reached.append("the end")
    assert reached
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


def test_a_second_ctrl_c_is_obeyed_at_once():
    reached = []
    with pytest.raises(KeyboardInterrupt), InterruptsHeldBack():
        signal.raise_signal(signal.SIGINT)
        signal.raise_signal(signal.SIGINT)
        reached.append("the end")
    assert not reached


def test_what_is_let_through_is_interrupted_in_the_middle():
    reached = []
    with InterruptsHeldBack() as held_back:
        with pytest.raises(KeyboardInterrupt), held_back.let_through():
            threading.Timer(0.1, os.kill, (os.getpid(), signal.SIGINT)).start()
            time.sleep(10)
            reached.append("the end")
        signal.raise_signal(signal.SIGINT)
        with pytest.raises(KeyboardInterrupt), held_back.let_through():
            reached.append("the second end")
    assert not reached
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


def test_other_threads_are_never_interrupted_anyway():
    entered = []

    def work():
        with InterruptsHeldBack() as held_back, held_back.let_through():
            entered.append(True)

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert entered
