"""Ctrl-C and the system's request to end: the step at hand is finished first."""

import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any


class Interruption:
    """Whether a signal came while the block of :func:`finishing_the_step` ran, and what would have become of it."""

    def __init__(self) -> None:
        self.signal: signal.Signals | None = None
        self.previous: Any = None
        self._is_passed_on = False

    def __bool__(self) -> bool:
        return self.signal is not None

    def pass_on(self) -> None:
        """Hand a request to end, once, to whoever handled it before; where nobody did, leave with the code for it.

        Ctrl-C is not passed on: whoever pressed it sees what was learnt, and a notebook or a script goes on.
        """
        if self.signal is not signal.SIGTERM or self._is_passed_on:
            return
        self._is_passed_on = True
        if callable(self.previous):
            self.previous(self.signal, None)
        else:
            raise SystemExit(128 + self.signal)


@contextmanager
def finishing_the_step() -> Iterator[Interruption]:
    """Note the first Ctrl-C or request to end while the block runs; a second one acts as if nobody had noted it.

    Handlers are put back at the end. Signals reach the main thread only; in any other there is nothing to do.
    """
    caught = Interruption()
    previous: dict[signal.Signals, Callable[..., Any] | int] = {}
    if threading.current_thread() is threading.main_thread():
        for number in (signal.SIGINT, signal.SIGTERM):
            handler = signal.getsignal(number)
            if handler not in (None, signal.SIG_IGN):  # not set from Python, or meant to be ignored
                previous[number] = handler

    def put_back() -> None:
        for number, handler in previous.items():
            signal.signal(number, handler)

    def note(number: int, frame: Any) -> None:
        caught.signal = signal.Signals(number)
        caught.previous = previous[caught.signal]
        put_back()

    for number in previous:
        signal.signal(number, note)
    try:
        yield caught
    finally:
        put_back()
