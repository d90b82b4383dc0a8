"""Ctrl-C and the system's request to end: the step at hand is finished first."""

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any


class Interruption:
    """The handler of :func:`finishing_the_step`: whether a signal came, and what would have become of it."""

    def __init__(self) -> None:
        self.signal: signal.Signals | None = None
        self.handlers: dict[signal.Signals, Any] = {}  # those that were there before
        self._is_passed_on = False

    def __bool__(self) -> bool:
        return self.signal is not None

    def __call__(self, number: int, frame: Any) -> None:
        """Note a signal; a second one then acts as if nobody had noted the first."""
        self.signal = signal.Signals(number)
        self.put_back()

    def put_back(self) -> None:
        """Restore the handlers that were there before."""
        for number, handler in self.handlers.items():
            signal.signal(number, handler)

    def pass_on(self) -> None:
        """Hand a request to end, once, to whoever handled it before; where nobody did, leave with the code for it.

        Ctrl-C is not passed on: the user sees what was learnt, and a notebook or a script goes on.
        """
        if self.signal is not signal.SIGTERM or self._is_passed_on:
            return
        self._is_passed_on = True
        previous = self.handlers[self.signal]
        if callable(previous):
            previous(self.signal, None)
        else:
            raise SystemExit(128 + self.signal)


@contextmanager
def finishing_the_step() -> Iterator[Interruption]:
    """Note the first Ctrl-C or request to end while the block runs; a second one acts as if nobody had noted it.

    Handlers are restored at the end. Signals reach the main thread only; in any other there is nothing to do.
    """
    caught = Interruption()
    if threading.current_thread() is threading.main_thread():
        for number in (signal.SIGINT, signal.SIGTERM):
            handler = signal.getsignal(number)
            if handler not in (None, signal.SIG_IGN):  # not set from Python, or meant to be ignored
                caught.handlers[number] = handler
                signal.signal(number, caught)
    try:
        yield caught
    finally:
        caught.put_back()


@contextmanager
def deferring_signals() -> Iterator[None]:
    """Deliver a signal that comes while the block runs at its end; a second one acts at once.

    Within :func:`finishing_the_step` there is nothing to do.
    """
    if isinstance(signal.getsignal(signal.SIGINT), Interruption):
        yield
        return
    with finishing_the_step() as caught:
        yield
    if caught.signal is not None:
        signal.raise_signal(caught.signal)
