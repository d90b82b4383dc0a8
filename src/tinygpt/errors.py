"""The kinds of errors, and the small checks that raise them.

Every error that tinygpt raises for a user's mistake is a :class:`TinyGPTError`, and also the built-in exception that
fits, so ``except ValueError`` keeps working. A message states the rule, then what it got, then the way out.
"""

import math
import operator
import os
import reprlib
from collections.abc import Callable, Iterable
from dataclasses import MISSING, fields
from difflib import get_close_matches
from functools import wraps
from pathlib import Path
from textwrap import shorten
from typing import Any, TypeVar

Settings = TypeVar("Settings", bound=type)

_SHORT = reprlib.Repr()
_SHORT.maxstring = _SHORT.maxother = _SHORT.maxlong = 50
_PATH = reprlib.Repr()
_PATH.maxstring = 120


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


class RunLockedError(TinyGPTError, RuntimeError):
    """Another trainer is at work in the run directory."""


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
    """A model file could not be written; what was there before is untouched. ``errno`` is the system's reason."""

    def __init__(self, errno: int | None, message: str) -> None:
        super().__init__(errno, message)
        self.errno = errno

    def __str__(self) -> str:
        return str(self.args[1])


def short(value: object) -> str:
    """Return ``repr(value)``, cut to a length that fits into a message.

    Example:
        >>> short("to be, or not to be, " * 1000)
        "'to be, or not to be, t..., to be, or not to be, '"
    """
    return _SHORT.repr(value)


def cut(text: str) -> str:
    """Return a text for a message, a long one cut between two words.

    Example:
        >>> cut("to be, or not to be, " * 1000)[-22:]
        'to be, or not to [...]'
    """
    return shorten(text, 200)


def show(path: Path) -> str:
    """Return a path for a message: quoted, with what is not printable escaped, and only a long one cut."""
    return _PATH.repr(str(path))


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


def check_truth(name: str, value: Any) -> bool:
    """Return ``value`` if it is True or False.

    Raises:
        ConfigError: If it is anything else.
    """
    if not isinstance(value, bool):
        raise ConfigError(f"{name} must be True or False, got {name}={short(value)}")
    return value


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
    if not isinstance(value, str) or value not in words:
        allowed = ", ".join(map(repr, words))
        raise ConfigError(f"{name} must be one of {allowed}, got {short(value)}{did_you_mean(value, words)}")


def check_path(name: str, value: Any) -> Path:
    """Return ``value`` as a :class:`~pathlib.Path` if it names a place in the file system.

    Raises:
        InputTypeError: If it is anything else, such as None.

    Example:
        >>> check_path("run_dir", 7)
        Traceback (most recent call last):
            ...
        tinygpt.errors.InputTypeError: run_dir must be a str or a path, got 7
    """
    if not isinstance(value, str | os.PathLike):
        raise InputTypeError(f"{name} must be a str or a path, got {short(value)}")
    return Path(value)


def checked_settings(cls: Settings) -> Settings:
    """Let a dataclass of settings refuse an unknown or a missing name with an error of ours, not Python's.

    Example:
        >>> from dataclasses import dataclass
        >>> @checked_settings
        ... @dataclass(kw_only=True)
        ... class Sizes:
        ...     n_head: int
        >>> Sizes(n_heads=4)
        Traceback (most recent call last):
            ...
        tinygpt.errors.ConfigError: Sizes has no setting 'n_heads'; did you mean 'n_head'?
    """
    make = cls.__init__  # type: ignore[misc] # a subclass might take other arguments; none is made
    known = {field.name: field.default is field.default_factory is MISSING for field in fields(cls)}

    @wraps(make)
    def checked(self: Any, *values: Any, **settings: Any) -> None:
        if values:
            raise InputTypeError(f"{cls.__name__} takes its settings by name, got {short(values[0])} without one")
        for name in settings:
            if name not in known:
                raise ConfigError(f"{cls.__name__} has no setting {short(name)}{did_you_mean(name, known)}")
        for name, needed in known.items():
            if needed and name not in settings:
                given = ", ".join(settings) or "no settings"
                raise ConfigError(f"{cls.__name__} needs {name}, got {given}; use {cls.__name__}({name}=...)")
        make(self, **settings)

    cls.__init__ = checked  # type: ignore[misc] # the same
    return cls


def did_you_mean(word: object, words: Iterable[str]) -> str:
    """Return ``"; did you mean 'n_head'?"`` for a near miss, else nothing."""
    nearest = get_close_matches(str(word), words, n=1)
    return f"; did you mean {nearest[0]!r}?" if nearest else ""
