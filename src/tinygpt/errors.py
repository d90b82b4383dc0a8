"""The kinds of errors, and the small checks that raise them.

Every error that tinygpt raises for a user's mistake is a :class:`TinyGPTError`, and also the built-in exception that
fits, so ``except ValueError`` keeps working. A message states the rule, then what it got, then the way out.
"""

import math
import operator
import reprlib
from collections.abc import Callable, Iterable
from difflib import get_close_matches
from typing import Any

_SHORT = reprlib.Repr()
_SHORT.maxstring = _SHORT.maxother = _SHORT.maxlong = 50


class TinyGPTError(Exception):
    """Any error that tinygpt raises on purpose."""


class ConfigError(TinyGPTError, ValueError):
    """A setting is outside what is allowed."""


class TokenizerError(TinyGPTError, ValueError):
    """A symbol or an id is not in the vocabulary, or the vocabulary itself is not one."""


class DataError(TinyGPTError, ValueError):
    """A corpus is missing, unreadable, or too short for what is asked of it."""


class ShapeError(TinyGPTError, ValueError):
    """A tensor of ids has the wrong shape, or ids outside the vocabulary."""


class InputTypeError(TinyGPTError, TypeError):
    """An argument has the wrong type or dtype."""


class NonFiniteError(TinyGPTError, ArithmeticError):
    """A loss, a gradient or a logit is NaN or infinite."""


class DeviceError(TinyGPTError, RuntimeError):
    """The device that was asked for is not on this machine."""


class RunExistsError(TinyGPTError, FileExistsError):
    """The run directory already holds a run."""


class CheckpointError(TinyGPTError, RuntimeError):
    """A model file cannot be written or read."""


class CheckpointNotFoundError(CheckpointError, FileNotFoundError):
    """There is no model file at that path."""


class CheckpointCorruptError(CheckpointError):
    """A file is not, or is no longer, what tinygpt wrote."""


class CheckpointMismatchError(CheckpointError):
    """A file is sound, but does not fit the model it is loaded into."""


class CheckpointVersionError(CheckpointError):
    """A file was written by a newer tinygpt."""


class CheckpointSaveError(CheckpointError, OSError):
    """A model file could not be written; what was there before is untouched."""


def short(value: object) -> str:
    """Return ``repr(value)``, cut to a length that fits into a message.

    Example:
        >>> short("to be, or not to be, " * 1000)
        "'to be, or not to be, t..., to be, or not to be, '"
    """
    return _SHORT.repr(value)


def check_integer(name: str, value: Any, minimum: int, maximum: int | None = None) -> int:
    """Return ``value`` as an ``int`` if it is one within the bounds, both included.

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
    """Return ``value`` as a ``float`` if it is a finite number for which the rule holds.

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


def check_dropout(dropout: Any) -> float:
    """Return ``dropout`` if it is a probability below 1; everywhere in tinygpt the same rule.

    Raises:
        ConfigError: If it is not.
    """
    return check_number("dropout", dropout, "in [0, 1)", lambda p: 0 <= p < 1)


def check_choice(name: str, value: Any, choices: Iterable[str]) -> None:
    """Raise unless ``value`` is one of the words.

    Raises:
        ConfigError: Naming the words, and the nearest one.

    Example:
        >>> check_choice("precision", "fp61", ["auto", "fp32", "bf16", "fp16"])
        Traceback (most recent call last):
            ...
        tinygpt.errors.ConfigError: precision must be one of 'auto', 'fp32', 'bf16', 'fp16', got 'fp61'; did you mean 'fp16'?
    """  # noqa: E501 - the message is shown whole
    words = list(choices)
    if value not in words:
        allowed = ", ".join(map(repr, words))
        raise ConfigError(f"{name} must be one of {allowed}, got {short(value)}{did_you_mean(value, words)}")


def did_you_mean(word: object, words: Iterable[str]) -> str:
    """Return ``"; did you mean 'n_head'?"`` for a near miss, else nothing."""
    nearest = get_close_matches(str(word), words, n=1)
    return f"; did you mean {nearest[0]!r}?" if nearest else ""
