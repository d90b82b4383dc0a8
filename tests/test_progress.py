"""The progress of a run: on one stream, in a form that the stream allows, and never at the cost of the run."""

import contextlib
import fcntl
import io
import itertools
import os
import pty
import re
import struct
import subprocess
import sys
import termios
import warnings
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import faults
import pytest
from faults import broken_by
from killable import exit_code, in_child

from tinygpt import BigramLanguageModel, CharTokenizer, TokenDataset, Trainer, TrainerConfig
from tinygpt.errors import CheckpointNotFoundError, RunExistsError, harmless
from tinygpt.training import progress

SYMBOLS = "ab→\x1b[2J\r\x07\x9b\u202e\ud800é\t"
TEXT = SYMBOLS * 40
DATA = TokenDataset(TEXT, CharTokenizer.from_text(TEXT))
SETTINGS: dict[str, Any] = {"max_iters": 4, "eval_interval": 2, "batch_size": 2, "preview_tokens": 60}


def make(directory: Path | None = None, **changes: Any) -> Trainer:
    model = BigramLanguageModel(DATA.vocab_size)
    return Trainer(model, DATA, TrainerConfig(**(SETTINGS | changes)), run_dir=directory)


PROGRAM = """
import sys
from pathlib import Path
from tinygpt import BigramLanguageModel, CharTokenizer, TokenDataset, Trainer, TrainerConfig
text = "ab\u2192\x1b[2J" * 40
data = TokenDataset(text, CharTokenizer.from_text(text))
config = TrainerConfig(max_iters=4, eval_interval=2, batch_size=2, preview_tokens=60)
history = Trainer(BigramLanguageModel(data.vocab_size), data, config).fit()
Path(sys.argv[1]).write_text(str(history.last.step))
"""


def run(tmp_path: Path, shell: str) -> subprocess.CompletedProcess[bytes]:
    """Train in a process of its own, started by a shell, and check that it came to its end."""
    command = [sys.executable, "-W", "error", "-c", PROGRAM, str(tmp_path / "done")]
    line = ["bash", "-c", f"set -o pipefail; {shell}", "bash", *command]
    done = subprocess.run(line, check=False, capture_output=True)
    assert (tmp_path / "done").read_text() == "4"
    return done


class FakeNotebook(io.StringIO):
    """Stands in for a stream of a notebook's cell, which is no terminal."""

    def text(self) -> str:
        """Return the text after all returns of the carriage, as a notebook shows it."""
        lines = (line.split("\r") for line in self.getvalue().split("\n"))
        return "\n".join(next((part for part in reversed(parts) if part.strip()), "") for parts in lines)


class EncodedNotebook(io.TextIOWrapper):
    """The same for a stream with an encoding."""


FakeNotebook.__module__ = EncodedNotebook.__module__ = "ipykernel.iostream"


def as_notebook(monkeypatch: pytest.MonkeyPatch) -> tuple[FakeNotebook, FakeNotebook]:
    """Replace standard output and standard error by those of a notebook, and return them."""
    out, err = FakeNotebook(), FakeNotebook()
    monkeypatch.setattr(sys, "stdout", out)
    monkeypatch.setattr(sys, "stderr", err)
    return out, err


def is_plain(shown: str) -> bool:
    return all(symbol in "\n\t" or symbol >= " " for symbol in shown) and not re.search("[\x7f-\x9f\u202e]", shown)


def test_everything_goes_to_standard_error_in_plain_lines(capfd: pytest.CaptureFixture[str]) -> None:
    history = make(preview_tokens=0, max_iters=40, eval_interval=10).fit()
    shown = capfd.readouterr()
    assert shown.out == ""
    lines = shown.err.splitlines()
    assert [line[:14] for line in lines[:-1]] == [f"step {step:>6}: t" for step in (0, 10, 20, 30, 40)]
    assert f"val {history.last.val_loss:.4f}, " in lines[-2]
    assert lines[-2].endswith(" tokens/s")
    assert lines[-1] == history.verdict
    assert is_plain(shown.err)


def test_previews_stand_below_their_evaluations(monkeypatch: pytest.MonkeyPatch) -> None:
    notebook, _ = as_notebook(monkeypatch)
    history = make().fit()
    shown = notebook.text()
    for evaluation in history.evaluations:
        line = f"step {evaluation.step:>6,}: train"
        assert harmless(evaluation.sample.strip()) in shown.partition(line)[2].partition("step ")[0]
    assert is_plain(shown.replace("\r", ""))


def test_a_log_file_has_no_preview(capfd: pytest.CaptureFixture[str]) -> None:
    history = make().fit()
    assert len(capfd.readouterr().err.splitlines()) == len(history.evaluations) + 1
    assert all(evaluation.sample for evaluation in history.evaluations)


@broken_by(faults.lines_are_not_counted)
def test_a_log_file_has_a_line_a_minute_between(
    capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    seconds = iter(range(0, 10**6, 7))
    monkeypatch.setattr(progress, "monotonic", lambda: next(seconds))
    make(max_iters=100, eval_interval=50, preview_tokens=0).fit()
    lines = capfd.readouterr().err.splitlines()[:-1]
    steps = [int(re.sub(r"step +(\d+).*", r"\1", line)) for line in lines]
    assert [step for step, line in zip(steps, lines, strict=True) if "val" in line] == [0, 50, 100]
    between = [(step, line) for step, line in zip(steps, lines, strict=True) if "val" not in line]
    assert len(between) > 4
    for step, line in between:
        assert re.fullmatch(rf"step +{step} of 100: loss \d\.\d{{4}}, [\d,]+ tokens/s, about \d+ min left", line)
    gaps = [b - a for a, b in itertools.pairwise(steps)]
    assert min(gap for gap, line in zip(gaps, lines[1:], strict=True) if "val" not in line) >= 8  # of 7 seconds or more


def test_no_bar_is_made_that_is_not_shown(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Neither without progress, nor for a run that is refused."""

    def refuse(*_: Any, **__: Any) -> None:
        raise AssertionError("no bar is needed")

    make(tmp_path).fit(progress=False)
    streams = as_notebook(monkeypatch)
    monkeypatch.setattr(progress, "tqdm", refuse)
    make().fit(progress=False)
    for resume, directory in [(False, tmp_path), (True, tmp_path / "new")]:
        with pytest.raises((RunExistsError, CheckpointNotFoundError)):
            make(directory).fit(resume=resume)
    assert [stream.getvalue() for stream in streams] == ["", ""]


def test_what_would_steer_a_terminal_is_written_out() -> None:
    assert harmless("\x1b[2J\r\x07\x9b\u202e\ud800\x00\x7f\u2028") == r"\x1b[2J\r\x07\x9b\u202e\ud800\x00\x7f\u2028"
    plain = "né → ☃ 語\u3000\xa0\n\tאב \U0001f469\u200d\U0001f680"
    assert harmless(plain) == plain
    assert harmless("one\r\ntwo") == "one\ntwo"


@pytest.mark.parametrize("encoding", ["cp1252", "ascii", "latin-1", "utf-8", "utf-16", "cp037"])
def test_characters_that_the_stream_cannot_encode_are_escaped(encoding: str, monkeypatch: pytest.MonkeyPatch) -> None:
    raw = io.BytesIO()
    stream = EncodedNotebook(raw, encoding, "strict")
    for name in ("stdout", "stderr"):
        monkeypatch.setattr(sys, name, stream)
    make().fit()
    shown = raw.getvalue().decode(encoding)
    assert "step      4: train" in shown
    assert ("→" in shown) == encoding.startswith("utf")
    assert r"\u2192" in shown or encoding.startswith("utf")


@pytest.mark.parametrize(
    "shell",
    [
        '"$@" 2>&1 | head -c 1',
        '"$@" >&- 2>&-',
        '"$@" >/dev/full 2>&1',
        'PYTHONIOENCODING=cp1252 "$@" >/dev/null 2>&1',
    ],
)
def test_a_stream_that_is_closed_or_full_ends_nothing(shell: str, tmp_path: Path) -> None:
    done = run(tmp_path, shell)
    assert done.returncode == 0, done  # nor does the interpreter complain when it exits
    assert b"Exception ignored" not in done.stderr


class Failing:
    """Fails at whatever is asked of it."""

    def __init__(self, error: Exception) -> None:
        vars(self)["error"] = error

    def __getattr__(self, name: str) -> Any:
        raise vars(self)["error"]


def closed(stream: io.IOBase) -> io.IOBase:
    stream.close()
    return stream


BROKEN: dict[str, Callable[[], Any]] = {
    "None": lambda: None,
    "no stream": object,
    "closed text": lambda: closed(io.StringIO()),
    "closed bytes": lambda: closed(io.TextIOWrapper(io.BytesIO())),
    "bytes": io.BytesIO,
    **{
        type(error).__name__: partial(Failing, error)
        for error in (BlockingIOError(11, "x"), OSError(5, "x"), RuntimeError(), KeyError("x"), AttributeError("x"))
    },
}


@pytest.mark.parametrize("broken", BROKEN)
@pytest.mark.parametrize("which", ["stdout", "stderr", "both"])
def test_a_stream_that_is_broken_ends_nothing(broken: str, which: str, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("stdout", "stderr"):
        if which in (name, "both"):
            monkeypatch.setattr(sys, name, BROKEN[broken]())
    assert make().fit().last.step == 4


def test_a_warning_that_cannot_be_shown_ends_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A closed stream lets ``warnings.warn`` itself raise."""
    trainer = make(tmp_path)
    next(iter(trainer))
    (tmp_path / "metrics.jsonl").unlink()
    (tmp_path / "metrics.jsonl").mkdir()

    def show(*_: Any, **__: Any) -> None:
        raise ValueError("I/O operation on closed file")

    with warnings.catch_warnings():
        warnings.simplefilter("always")
        monkeypatch.setattr(warnings, "_showwarnmsg_impl", show)
        monkeypatch.setattr(warnings, "showwarning", show)
        assert trainer.fit().last.step == 4


def test_a_notebook_has_a_bar_on_standard_output(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of one refresh a second at most, beside those below a line."""
    notebook, errors = as_notebook(monkeypatch)
    print("before")
    history = make(preview_tokens=0, max_iters=300, eval_interval=100).fit()
    print("after")
    assert errors.getvalue() == ""
    shown = notebook.text()
    assert re.findall("before|after|step +[0-9]+:|best|300/300", shown) == [
        "before",
        *(f"step {step:>6}:" for step in (0, 100, 200, 300)),
        "best",
        "300/300",
        "after",
    ]
    assert history.verdict in shown
    assert notebook.getvalue().count("/300 [") < 30


def test_a_notebook_whose_output_is_kept_has_lines(monkeypatch: pytest.MonkeyPatch) -> None:
    notebook, _ = as_notebook(monkeypatch)
    kept = io.StringIO()
    with contextlib.redirect_stdout(kept):
        history = make().fit()
    assert notebook.getvalue() == ""
    assert len(kept.getvalue().splitlines()) == len(history.evaluations) + 1


@pytest.mark.parametrize("columns", [0, 1, 12, 80, 300])
def test_a_terminal_has_a_bar_that_fits(columns: int, tmp_path: Path) -> None:
    outer, inner = pty.openpty()
    fcntl.ioctl(inner, termios.TIOCSWINSZ, struct.pack("HHHH", 24 if columns else 0, columns, 0, 0))

    def work() -> None:
        os.dup2(inner, 2)
        sys.stderr = open(2, "w", encoding="utf-8", closefd=False)  # noqa: SIM115
        os._exit(0 if make(preview_tokens=20).fit().last.step == 4 else 1)

    child = in_child(work)
    os.close(inner)
    shown = b""
    while True:
        try:
            shown += os.read(outer, 10_000)
        except OSError:  # the other end is closed
            break
    os.close(outer)
    assert exit_code(child) == 0
    text = shown.decode()
    assert "step      4: train" in text
    assert not re.search("[\x1b\x07\x9b\u202e]", text.replace("\x1b[A", ""))
    bars = [bar for bar in re.split("[\r\n]+", text) if "/4 [" in bar]
    assert all(len(bar) <= max(columns or 80, 11) for bar in bars)
    assert bars or 0 < columns < 80  # of a narrow one only the beginning is shown
