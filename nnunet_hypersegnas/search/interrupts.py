"""Ctrl-C, held back where it would do harm.

Python raises `KeyboardInterrupt` between any two instructions. In the middle of a storage's transaction that leaves
the database locked by a connection which nobody closes, and whoever wants to tidy up waits for it in vain.
"""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType, TracebackType


class InterruptsHeldBack:
    """Context in which the first Ctrl-C waits until its end, or for a `let_through`; a second one is obeyed at once.

    Only the main thread is ever interrupted, so in others this does nothing.
    """

    def __init__(self) -> None:
        self._came = False
        self._holds = False

    def __enter__(self) -> InterruptsHeldBack:
        if threading.current_thread() is threading.main_thread():
            self._hold()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if self._holds:
            self._release()

    @contextmanager
    def let_through(self) -> Iterator[None]:
        """Let Ctrl-C interrupt what is done in here, as it would without the context around it.

        Raises:
            KeyboardInterrupt: it came already.
        """
        if not self._holds:
            yield
            return
        try:
            self._release()
            yield
        finally:
            self._hold()

    def _hold(self) -> None:
        self._before = signal.signal(signal.SIGINT, self._note)
        self._holds = True

    def _release(self) -> None:
        signal.signal(signal.SIGINT, self._before)
        self._holds = False
        if self._came:
            self._came = False
            signal.raise_signal(signal.SIGINT)

    def _note(self, number: int, frame: FrameType | None) -> None:
        if self._came and callable(self._before):
            self._before(number, frame)
        self._came = True
