"""The progress of a run, on a terminal, in a notebook, or in a log file.

==============  ===========================================================================
standard error  shown
==============  ===========================================================================
a terminal      a bar, below the evaluations and previews
a notebook      the same on standard output, since Jupyter colours standard error as a fault
anything else   a line for each evaluation, and one for each minute without a line
==============  ===========================================================================

An error of the display never ends the run.
"""

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from contextvars import ContextVar
from time import monotonic
from typing import Any, NoReturn

from tqdm import tqdm

from tinygpt.errors import harmless
from tinygpt.training.history import Evaluation, History
from tinygpt.training.step import Step

_SILENCE = 60  # seconds without a line in a log file
_NAME = ContextVar("name", default="")


@contextmanager
def named(name: str) -> Iterator[None]:
    """Show a name with the progress of each run inside the block."""
    token = _NAME.set(name)
    try:
        yield
    finally:
        _NAME.reset(token)


class Progress:
    """Shows a run while it trains: its evaluations, and how far it is.

    Evaluations that the history has already are not shown again.

    Args:
        history: The record of the run.
        total: Number of steps of the run.
        done: Number of steps already taken.
        is_shown: Whether to show anything.
    """

    def __init__(self, history: History, total: int, done: int, *, is_shown: bool) -> None:
        self._history = history
        self._shown = len(history.evaluations)
        self._screen = Screen(_stream() if is_shown else None)
        self._bar: tqdm[NoReturn] | None = None
        self._started, self._done = monotonic(), done
        self._written = self._started
        name = harmless(_NAME.get())
        if name:
            self.write(f"--- {name}")
        with suppress(Exception):
            if self._screen.redraws:
                shape: dict[str, Any] = {"file": self._screen, "ncols": self._screen.width()}
                shape["mininterval"] = 1.0 if self._screen.is_notebook else 0.1  # a notebook stores each refresh
                shape["bar_format"] = "{l_bar}{bar}| {n_fmt}/{total_fmt} [{elapsed}<{remaining}{postfix}]"
                self._bar = tqdm(desc=name or None, total=total, initial=done, unit="step", **shape)

    def __enter__(self) -> "Progress":
        return self

    def __exit__(self, *_: object) -> None:
        with suppress(Exception):
            if self._bar is not None:
                self._bar.close()

    def show_step(self, step: Step, *, total: int) -> None:
        """Show that a step is taken, after its evaluation if it has one."""
        self.show_evaluations()
        with suppress(Exception):
            speed = f"{step.tokens_per_second:,.0f} tokens/s"
            if self._bar is not None:
                self._bar.total = total
                val_loss = self._history.last.val_loss
                self._bar.set_postfix_str(f"loss {step.loss:.3f}, val {val_loss:.3f}, {speed}", refresh=False)
                self._bar.update()
            elif monotonic() - self._written >= _SILENCE:
                each = (monotonic() - self._started) / (step.number - self._done)
                left = f"about {each * (total - step.number) / 60:,.0f} min left"
                self.write(f"step {step.number:>6,} of {total:,}: loss {step.loss:.4f}, {speed}, {left}")

    def show_evaluations(self) -> None:
        """Show the new evaluations; their previews not in a log file."""
        for evaluation in self._history.evaluations[self._shown :]:
            self.write(_describe(evaluation, has_preview=self._bar is not None))
        self._shown = len(self._history.evaluations)

    def write(self, text: str) -> None:
        """Write lines, above the bar if there is one."""
        self._written = monotonic()
        with suppress(Exception):
            if self._bar is not None:
                self._bar.write(harmless(text), file=self._screen)
            else:
                self._screen.write(harmless(text) + "\n")


def _stream() -> Any:
    """Return the stream to show progress on."""
    return sys.stdout if _is_of_kernel(sys.stderr) else sys.stderr


def _is_of_kernel(stream: Any) -> bool:
    """Return whether a stream is that of a notebook: one of an IPython kernel."""
    return type(stream).__module__.startswith("ipykernel.")


class Screen:
    """A text stream on which writing never fails.

    None, which ``sys.stderr`` is in a program without a console, shows nothing.
    """

    def __init__(self, stream: Any) -> None:
        self._stream = stream
        self.encoding = "utf-8"  # tqdm reads it
        with suppress(Exception):
            self.encoding = str(stream.encoding or "utf-8")

    @property
    def is_notebook(self) -> bool:
        """Whether the stream is that of a notebook."""
        return _is_of_kernel(self._stream)

    @property
    def redraws(self) -> bool:
        """Whether a line can be overwritten, as on a terminal or in a notebook."""
        return self._stream is not None and (self.is_notebook or bool(self._stream.isatty()))

    def width(self) -> int:
        """Return the number of columns of a bar; 80 if the width is unknown."""
        try:
            columns = os.get_terminal_size(self._stream.fileno()).columns
        except Exception:
            columns = 0
        return max(10, (columns or 80) - 1)

    def write(self, text: str) -> None:
        """Write text, with an escape for each character that the stream cannot encode."""
        try:
            self._stream.write(text.encode(self.encoding, "backslashreplace").decode(self.encoding))
            self._stream.flush()
        except Exception:  # an unknown encoding, a closed stream, a full disk, a reader that left
            with suppress(Exception):
                self._discard()

    def flush(self) -> None:
        """Do nothing: each write is flushed."""

    def _discard(self) -> None:
        """Drop the buffer of a broken stream, or Python fails when it exits."""
        handle = self._stream.fileno()
        kept, nowhere = os.dup(handle), os.open(os.devnull, os.O_WRONLY)
        try:
            os.dup2(nowhere, handle)
            with suppress(Exception):
                self._stream.flush()
        finally:
            os.dup2(kept, handle)
            os.close(kept)
            os.close(nowhere)


def _describe(evaluation: Evaluation, *, has_preview: bool) -> str:
    line = f"step {evaluation.step:>6,}: train {evaluation.train_loss:.4f}, val {evaluation.val_loss:.4f}"
    if evaluation.tokens_per_second:
        line += f", {evaluation.tokens_per_second:,.0f} tokens/s"
    return line + (f"\n{evaluation.sample.strip()}\n" if evaluation.sample and has_preview else "")
