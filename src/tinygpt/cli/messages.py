"""Notes, warnings and errors on standard error, one line each, in the words of the command line."""

import os
import re
import sys
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Any

from tinygpt.errors import harmless

# Messages of the library that speak of Python, and what to type instead.
_IN_FLAGS = (
    (r"pass encoding='([\w-]+)'", r"use --encoding \1"),
    (r"pass its encoding, perhaps encoding='([\w-]+)'", r"name its encoding, perhaps --encoding \1"),
    (r"fit on more text, or use CharTokenizer.*?'skip'\)", "leave it out, or train on a text that has it"),
    (r"use read_text\(path, newline=.*?\)", "save it with the line ends of Unix, LF"),
    (r"use read_text\(path, normalize=.*?\)", "save it in normal form NFC"),
    (r"; look at text\[:500\]", ""),
    (
        r"it looks like a text, which tinygpt\.read_text reads\):.*",
        "it looks like a text; use tinygpt train FILE first)",
    ),
    (r"use tinygpt\.load\(path\) for a model of tinygpt", "use a text file"),
    (r"(?:pass its new path|pass it): train\(.*?\)", "name it: tinygpt train FILE --resume RUN"),
    (r"use TokenDataset\(text\)$", "save it in a file first"),
    (r", or TokenDataset\(text\) for a text$", ""),
    (r"its encoding=\.\.\.", "its --encoding"),
    (r"train with layout='(\w+)'", r"train with --layout \1"),
    (r"another run_dir\b", "another directory with -o"),
    (r"use port=0", "use --port 0"),
    (r"call trainer\.fit\(\)", "resume it to train"),
    (r"use fit\(\) to start", "use tinygpt train FILE to start"),
    (r"make a Trainer with more (\w+)_(\w+) and .*", r"use a larger --\1-\2"),
)


def note(text: str) -> None:
    """Write a line to standard error; a closed or full one is ignored."""
    try:
        print(harmless(text), file=sys.stderr, flush=True)
    except (OSError, ValueError, AttributeError):
        abandon(sys.stderr)


def abandon(stream: Any) -> None:
    """Discard what a broken stream still holds, or Python fails when it flushes the stream at its exit."""
    with suppress(OSError, ValueError, AttributeError):
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, stream.fileno())
        os.close(nowhere)


def described(error: BaseException) -> str:
    """Return the message of an error in one line, with flags in place of Python."""
    text = str(error)
    if isinstance(error, OSError) and error.strerror and error.filename is not None and not is_ours(error):
        text = f"{error.strerror}: {error.filename!r}"
    return in_flags(text)


def is_ours(error: BaseException) -> bool:
    """Return whether the library raised an error with a message of its own."""
    return type(error).__module__.startswith("tinygpt.")


def in_flags(text: str) -> str:
    """Return a message in one line, with flags in place of Python.

    Example:
        >>> in_flags("byte 0xe9 does not fit; pass its encoding, perhaps encoding='latin-1'")
        'byte 0xe9 does not fit; name its encoding, perhaps --encoding latin-1'
    """
    for pattern, words in _IN_FLAGS:
        text = re.sub(pattern, words, text)
    return " ".join(text.split())


@contextmanager
def warnings_in_one_line() -> Iterator[None]:
    """Show each warning inside the block as one line, without a line of code."""

    def show(message: Warning | str, *_: object, **__: object) -> None:
        note(f"tinygpt: warning: {in_flags(str(message))}")

    with warnings.catch_warnings():
        if not sys.warnoptions:  # python -W and PYTHONWARNINGS decide themselves
            warnings.simplefilter("default", UserWarning)
        warnings.showwarning = show
        yield
