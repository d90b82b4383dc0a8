"""Errors, warnings, and the checks of arguments that raise them.

Every error for a user's mistake is a :class:`TinyGPTError` and the matching built-in exception, so ``except
ValueError`` keeps working. A message states the rule, the value it got, and the fix.
"""

import inspect
import math
import operator
import re
import reprlib
import sys
import unicodedata
import warnings
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from functools import wraps
from pathlib import Path
from textwrap import shorten
from typing import Any, TypeVar

from tinygpt.suggestions import did_you_mean, way_out

Target = TypeVar("Target", bound=Callable[..., Any])

_HERE = str(Path(__file__).parent)
_ARGUMENTS: dict[str, tuple[str, ...]] = {}  # of configs, trainer and sampler, to say where an argument belongs
_TURNING = (
    "\u061c\u200e\u200f\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069"  # these change the direction of text
)
_is_muted = False
_SHORT = reprlib.Repr()
_SHORT.maxstring = _SHORT.maxother = _SHORT.maxlong = 50
_PATH = reprlib.Repr()
_PATH.maxstring = 120


class TinyGPTError(Exception):
    """The base class of all errors of tinygpt."""


class ConfigError(TinyGPTError, ValueError):
    """A setting is out of range, or contradicts another."""


class TokenizerError(TinyGPTError, ValueError):
    """A symbol or an id is not in the vocabulary, or the vocabulary is invalid."""


class DataError(TinyGPTError, ValueError):
    """A corpus is missing, unreadable, too short for a window, or without a target."""


class DataNotFoundError(DataError, FileNotFoundError):
    """There is no file of a text, a corpus or a run at that path."""


class ShapeError(TinyGPTError, ValueError):
    """A tensor of ids has the wrong shape, or ids outside the vocabulary."""


class InputTypeError(TinyGPTError, TypeError):
    """An argument has the wrong type or dtype."""


class NonFiniteError(TinyGPTError, ArithmeticError):
    """A loss, a gradient or a logit is NaN or infinite."""


class DeviceError(TinyGPTError, RuntimeError):
    """The requested device is not available."""


class MissingExtraError(TinyGPTError, ImportError):
    """A package that a function needs is not installed."""


class RankLostError(TinyGPTError, RuntimeError):
    """Another process of the run ended, or did not answer in time."""


class RunExistsError(TinyGPTError, FileExistsError):
    """The run directory contains a run, or a file that a run would overwrite."""


class RunLockedError(TinyGPTError, RuntimeError):
    """Another trainer or another process is using the run directory."""


class CheckpointError(TinyGPTError, RuntimeError):
    """A model file cannot be read or written."""


class CheckpointNotFoundError(CheckpointError, FileNotFoundError):
    """There is no model file at that path."""


class CheckpointCorruptError(CheckpointError):
    """A file is corrupt, or tinygpt did not write it."""


class CheckpointMismatchError(CheckpointError):
    """A valid file does not fit the model or the run it is loaded into."""


class CheckpointVersionError(CheckpointError):
    """A newer tinygpt wrote the file."""


class CheckpointSaveError(CheckpointError, OSError):
    """A model file cannot be written; an older file at the path is intact. ``errno`` is the system's reason."""

    def __init__(self, errno: int | None, message: str) -> None:
        super().__init__(errno, message)
        self.errno = errno

    def __str__(self) -> str:
        return str(self.args[1])


def mute_warnings() -> None:
    """Issue no more warnings from this process: the first process of its run issues them."""
    global _is_muted
    _is_muted = True


def warn(message: str) -> None:
    """Issue a warning that points to the first line outside tinygpt, and ignore a broken standard error."""
    if _is_muted:
        return
    frame, level = sys._getframe(), 1
    while frame.f_back is not None and frame.f_code.co_filename.startswith(_HERE):
        frame, level = frame.f_back, level + 1
    try:
        warnings.warn(message, stacklevel=level)
    except Warning:
        raise  # a filter of the user turns it into an error
    except Exception:
        pass


@contextmanager
def needs(name: str, *, extra: str) -> Iterator[None]:
    """Turn a failed import inside the block into the :class:`MissingExtraError` of the function ``name``."""
    try:
        yield
    except ModuleNotFoundError as error:
        raise MissingExtraError(
            f'{name} needs the package {error.name}, which is not installed; run: pip install "tinygpt[{extra}]"'
        ) from error


def short(value: object) -> str:
    """Return ``repr(value)``, shortened for a message.

    Example:
        >>> short("to be, or not to be, " * 1000)
        "'to be, or not to be, t..., to be, or not to be, '"
    """
    return _SHORT.repr(value)


def harmless(text: str) -> str:
    r"""Escape the characters that would control a terminal.

    Example:
        >>> print(harmless("\x1b[2J to be\r\nor not"))
        \x1b[2J to be
        or not
    """
    return "".join(map(_shown, text.replace("\r\n", "\n")))


def _shown(symbol: str) -> str:
    is_control = unicodedata.category(symbol) in ("Cc", "Cs", "Zl", "Zp") or symbol in _TURNING
    return repr(symbol)[1:-1] if is_control and symbol not in "\n\t" else symbol


def cut(text: str, width: int = 200) -> str:
    """Return a text, shortened between two words to ``width`` characters.

    Example:
        >>> cut("to be, or not to be, " * 1000)[-22:]
        'or not to be, to [...]'
    """
    return shorten(text, width)


def listed(names: Iterable[str], most: int = 6) -> str:
    """Return names for a message; names that differ only in the number of a layer become one.

    Example:
        >>> listed(["blocks.0.norm", "blocks.1.norm", "head"])
        'blocks.*.norm, head'
    """
    alike: dict[str, list[str]] = {}
    for name in sorted(names):
        alike.setdefault(re.sub(r"(?<=\.)\d+(?=\.)", "*", name), []).append(name)
    shown = [pattern if len(some) > 1 else some[0] for pattern, some in alike.items()]
    return ", ".join(shown[:most]) + (f" and {len(shown) - most} more" if len(shown) > most else "")


def show(path: Path) -> str:
    """Return a path for a message: quoted, escaped, and shortened if it is long."""
    return _PATH.repr(str(path))


def check_integer(name: str, value: Any, minimum: int, maximum: int | None = None) -> int:
    """Return ``value`` as an ``int``, if it is an integer within the bounds.

    Raises:
        ConfigError: If it is a float, a bool, a string, or out of bounds.

    Example:
        >>> check_integer("n_layer", 0, minimum=1)
        Traceback (most recent call last):
            ...
        tinygpt.errors.ConfigError: n_layer must be an integer of at least 1, got n_layer=0
    """
    try:
        number = None if isinstance(value, bool) else operator.index(value)
    except TypeError:
        number = None
    if number is None or number < minimum or (maximum is not None and number > maximum):
        rule = f"of at least {minimum}" if maximum is None else f"from {minimum} to {maximum}"
        raise ConfigError(f"{name} must be an integer {rule}, got {name}={short(value)}")
    return number


def check_number(name: str, value: Any, rule: str, holds: Callable[[float], bool]) -> float:
    """Return ``value`` as a ``float``, if it is a finite number and the rule holds.

    Raises:
        ConfigError: If it is not a number, not finite, or breaks the rule.

    Example:
        >>> check_number("dropout", 1.5, "in [0, 1)", lambda p: 0 <= p < 1)
        Traceback (most recent call last):
            ...
        tinygpt.errors.ConfigError: dropout must be a number in [0, 1), got dropout=1.5
    """
    try:
        number = math.nan if isinstance(value, bool | str) else float(value)
    except (TypeError, ValueError, OverflowError):
        number = math.nan
    if not (math.isfinite(number) and holds(number)):
        raise ConfigError(f"{name} must be a number {rule}, got {name}={short(value)}")
    return number


def check_seed(seed: Any) -> int:
    """Return a seed if it is an integer from 0 to 2**64 - 1.

    Raises:
        ConfigError: If it is anything else.
    """
    return check_integer("seed", seed, minimum=0, maximum=2**64 - 1)


def check_dropout(dropout: Any) -> float:
    """Return ``dropout`` as a ``float``, if it is a probability below 1.

    Raises:
        ConfigError: If it is not.
    """
    return check_number("dropout", dropout, "in [0, 1)", lambda p: 0 <= p < 1)


def check_head_size(n_embd: int, n_head: int) -> int:
    """Return ``n_embd // n_head``, the width of each head.

    Raises:
        ConfigError: If ``n_head`` does not divide ``n_embd``.

    Example:
        >>> check_head_size(384, 6)
        64
    """
    if n_embd % n_head:
        nearest = max(1, round(n_embd / (2 * n_head))) * 2 * n_head  # heads of an even size suit every layout
        raise ConfigError(f"n_head must divide n_embd, got n_embd={n_embd} and n_head={n_head}; use n_embd={nearest}")
    return n_embd // n_head


def check_truth(name: str, value: Any) -> bool:
    """Return ``value`` if it is True or False.

    Raises:
        ConfigError: If it is anything else.
    """
    if not isinstance(value, bool):
        raise ConfigError(f"{name} must be True or False, got {name}={short(value)}")
    return value


def check_choice(name: str, value: Any, choices: Iterable[str]) -> None:
    """Raise a ConfigError unless ``value`` is one of the words.

    Example:
        >>> check_choice("split", "tran", ["train", "val"])
        Traceback (most recent call last):
            ...
        tinygpt.errors.ConfigError: split must be one of 'train', 'val', got 'tran'; did you mean 'train'?
    """
    words = list(choices)
    if not isinstance(value, str) or value not in words:
        allowed = ", ".join(map(repr, words))
        raise ConfigError(f"{name} must be one of {allowed}, got {short(value)}{did_you_mean(value, words)}")


def checked_names(target: Target, refusal: type[TinyGPTError] | None = None) -> Target:
    """Check the arguments of a function or a config, with suggestions.

    Raises:
        InputTypeError: At a call with too many arguments or too few, or with an unknown keyword.
        ConfigError: At a call of a config with an unknown keyword.

    Example:
        >>> @checked_names
        ... def generate(prompt, max_new_tokens):
        ...     return prompt
        >>> generate("a", max_tokens=3)
        Traceback (most recent call last):
            ...
        tinygpt.errors.InputTypeError: generate has no argument 'max_tokens'; did you mean 'max_new_tokens'?
    """
    if isinstance(target, type):
        target.__init__ = checked_names(target.__init__, ConfigError)  # type: ignore[misc] # configs have no subclasses
        return target
    expected = inspect.signature(target)
    parameters = [each for name, each in expected.parameters.items() if name not in ("self", "cls")]
    known = tuple(each.name for each in parameters)
    called = target.__qualname__.removesuffix(".__init__").split("<locals>.")[-1]
    if called.startswith(("GPTConfig", "Trainer", "Sampler")):
        _ARGUMENTS[called] = known

    @wraps(target)
    def checked(*values: Any, **named: Any) -> Any:
        for name in named:
            if name not in known:
                raise (refusal or InputTypeError)(
                    f"{called} has no argument {short(name)}{way_out(called, name, known, _ARGUMENTS)}"
                )
        try:
            expected.bind(*values, **named)
        except TypeError as error:
            raise InputTypeError(f"{called}: {error}; use {called}({_form(parameters)})") from None
        return target(*values, **named)

    return checked  # type: ignore[return-value] # it takes the arguments of the function


def _form(parameters: Iterable[inspect.Parameter]) -> str:
    """Return how to write the arguments of a call: those that are required, and one by its name."""
    by_name = [each for each in parameters if each.kind is each.KEYWORD_ONLY]
    needed = [each for each in parameters if each.default is each.empty]
    shown = needed if any(each in by_name for each in needed) else [*needed, *by_name[:1]]
    return ", ".join(f"{each.name}=..." if each in by_name else each.name for each in shown)
