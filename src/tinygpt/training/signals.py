"""Ctrl-C and SIGTERM: the current step is finished first."""

import signal
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch

from tinygpt.ranks import Ranks

_ECHO = 5.0  # seconds within which a launcher may deliver one signal twice


class Interruption:
    """A signal handler, true once a signal has come.

    Of several processes, all act on a signal that one of them received, once they have agreed on it.

    Args:
        ranks: The processes of the run.
    """

    def __init__(self, ranks: Ranks) -> None:
        self.heard: signal.Signals | None = None  # by this process
        self.handlers: dict[signal.Signals, Any] = {}  # the previous ones
        self._ranks = ranks
        self._agreed: signal.Signals | None = None
        self._when = 0.0
        self._is_passed_on = False

    @property
    def signal(self) -> signal.Signals | None:
        """The signal to act on."""
        return self.heard if self._ranks.world == 1 else self._agreed

    def __bool__(self) -> bool:
        return self.signal is not None

    def __call__(self, number: int, frame: Any) -> None:
        """Record a signal; a second one goes to the previous handler."""
        if self.heard is None:
            self.heard, self._when = signal.Signals(number), time.monotonic()
            if self._ranks.world == 1:
                self.put_back()
        elif number != self.heard or time.monotonic() - self._when > _ECHO:
            self.put_back()
            signal.raise_signal(number)

    def agree(self) -> None:
        """Tell all ranks whether a signal has come to one of them; SIGTERM wins over Ctrl-C."""
        if self._ranks.world > 1:
            kinds = (signal.SIGTERM, signal.SIGINT)
            counts = torch.tensor([float(self.heard is kind) for kind in kinds])
            self._ranks.sum_([counts])
            self._agreed = next((kind for kind, count in zip(kinds, counts, strict=True) if count), None)

    def put_back(self) -> None:
        """Restore the previous handlers."""
        for number, handler in self.handlers.items():
            signal.signal(number, handler)

    def pass_on(self) -> None:
        """Pass a SIGTERM on to the previous handler, once, on all ranks.

        Without one the process exits with the code of the signal. Ctrl-C is not passed on: the user sees the result,
        and a notebook or a script continues.
        """
        self.agree()
        if self.signal is not signal.SIGTERM or self._is_passed_on:
            return
        self._is_passed_on = True
        previous = self.handlers.get(self.signal)
        if callable(previous):
            previous(self.signal, None)
        else:
            raise SystemExit(128 + self.signal)


@contextmanager
def finishing_the_step(ranks: Ranks | None = None) -> Iterator[Interruption]:
    """Record the first Ctrl-C or SIGTERM inside the block.

    A second one goes to the previous handler. The previous handlers are restored at the end. Only the main thread
    receives signals; others do nothing here.
    """
    caught = Interruption(ranks or Ranks())
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
    if caught.heard is not None:
        signal.raise_signal(caught.heard)
