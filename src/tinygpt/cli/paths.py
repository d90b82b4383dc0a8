"""The files that a command line names: models, runs and texts."""

import os
import shlex
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from tinygpt.errors import CheckpointNotFoundError, ConfigError, DataError, DataNotFoundError, cut, short, show
from tinygpt.files import check_path, no_file

if TYPE_CHECKING:
    from tinygpt import Sampler

RUNS = Path("runs")
BEST = "best.safetensors"
SETTINGS = "config.json"


def model_file(given: str) -> Path:
    """Return the model file of a path: the file itself, or the best model of a run directory.

    Raises:
        CheckpointNotFoundError: If it is missing; the message has the nearest name that exists.
    """
    path = existing(given)
    if not path.is_dir():
        return path
    if (path / BEST).is_file():
        return path / BEST
    runs = sorted(each.parent for each in path.glob(f"*/{BEST}"))
    way = f"did you mean {str(runs[0])!r}?" if runs else "pass a model file or the directory of a run"
    raise CheckpointNotFoundError(f"{show(path)} is a directory without a model {BEST}; {way}")


def run_directory(given: str) -> Path:
    """Return the directory of a run.

    Raises:
        CheckpointNotFoundError: If it is another directory or a file; the message has the nearest run.
    """
    path = existing(given)
    if (path / SETTINGS).is_file():
        return path
    from tinygpt.training.run_directory import RunDirectory

    if path.is_dir() and RunDirectory(path).checkpoints():
        raise CheckpointNotFoundError(
            f"{show(path)} has checkpoints but no {SETTINGS}, which names text and settings; resume it in Python with "
            "the same Trainer, or remove the directory and train again"
        )
    near = sorted({path.parent / SETTINGS, *path.glob(f"*/{SETTINGS}")})
    runs = [str(each.parent) for each in near if each.is_file()]
    way = f"did you mean {runs[0]!r}?" if runs else f"it has no {SETTINGS}"
    raise CheckpointNotFoundError(f"{show(path)} is not the directory of a run; {way}")


def existing(given: str) -> Path:
    """Return a path that exists.

    Raises:
        CheckpointNotFoundError: If it does not; the message has the nearest name that exists.
        ConfigError: If it is empty.
    """
    path = check_path("path", given)
    if path.exists():
        return path
    raise CheckpointNotFoundError(no_file(path, RUNS, kind="file or directory"))


def text_file(given: str) -> Path:
    """Return the path of a text file, or of a prepared corpus.

    Raises:
        ConfigError: If it is empty.
        DataError: If it does not exist, or is another directory or a model.
    """
    path = check_path("path", given)
    if not path.exists():
        raise DataNotFoundError(no_file(path))
    if path.is_dir() and not (path / "manifest.json").is_file():
        texts = sorted(map(str, path.glob("*.txt")))
        way = f"did you mean {texts[0]!r}?" if texts else "pass a text file, or a corpus that tinygpt prepare made"
        raise DataError(f"{show(path)} is a directory; {way}")
    return path


def is_model(path: Path) -> bool:
    """Return whether a file starts as a model file does."""
    with path.open("rb") as file:
        return file.read(10)[8:] == b'{"'


def load_sampler(given: str) -> "Sampler":
    """Return the model and tokenizer of a file or run directory.

    Raises:
        TinyGPTError: If there is no model, or it cannot be loaded.
    """
    from tinygpt import Sampler

    return Sampler.load(model_file(given))


def given_text(text: str) -> str:
    """Return a text of the command line; ``-`` stands for standard input.

    Raises:
        ConfigError: If it is the name of a file, or looks like a path.
    """
    from tinygpt.tokenizer import is_name_of_a_file

    if text == "-":
        if sys.stdin is None:
            raise DataError("standard input must be open to read the text from it")
        return sys.stdin.read()
    folder = os.path.dirname(text)  # noqa: PTH120 # os.path takes any text, and Path does not
    is_below = len(text.split()) == 1 and bool(folder.strip("/")) and os.path.isdir(folder)  # noqa: PTH112 # as above
    if os.path.isfile(text):  # noqa: PTH113 # as above
        raise ConfigError(f"a text is needed, got the name of a file, {short(text)}; use - < {cut(shlex.quote(text))}")
    if is_name_of_a_file(text) or is_below:
        raise ConfigError(f"a text is needed, got what looks like a path, {short(text)}; use - to read any text")
    return text
