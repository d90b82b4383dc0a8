"""Ctrl-C and SIGTERM: the current step is finished first."""

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any


class Interruption:
    """A signal handler, true once a signal has come."""

    def __init__(self) -> None:
        self.signal: signal.Signals | None = None
        self.handlers: dict[signal.Signals, Any] = {}  # the previous ones
        self._is_passed_on = False

    def __bool__(self) -> bool:
        return self.signal is not None

    def __call__(self, number: int, frame: Any) -> None:
        """Record a signal; a second one goes to the previous handler."""
        self.signal = signal.Signals(number)
        self.put_back()

    def put_back(self) -> None:
        """Restore the previous handlers."""
        for number, handler in self.handlers.items():
            signal.signal(number, handler)

    def pass_on(self) -> None:
        """Pass a SIGTERM on to the previous handler, once.

        Without one the process exits with the code of the signal. Ctrl-C is not passed on: the user sees the result,
        and a notebook or a script continues.
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
    """Record the first Ctrl-C or SIGTERM inside the block.

    A second one goes to the previous handler. The previous handlers are restored at the end. Only the main thread
    receives signals; others do nothing here.
    """
    caught = Interruption()
    if threading.current_thread() is threading.main_thread():
        for number in (signal.SIGINT, signal.SIGTERM):
            handler = signal.getsignal(number)
            if handler not in (None, signal.SIG_IGN):  # None: not set from Python
                caught.handlers[number] = handler
                signal.signal(number, caught)
    try:
        yield caught
    finally:
        caught.put_back()


@contextmanager
def deferring_signals() -> Iterator[None]:
    """Deliver a signal that comes inside the block at its end.

    A second one acts at once. Inside :func:`finishing_the_step` the block does nothing.
    """
    if isinstance(signal.getsignal(signal.SIGINT), Interruption):
        yield
        return
    with finishing_the_step() as caught:
        yield
    if caught.signal is not None:
        signal.raise_signal(caught.signal)
