"""Checks of the values in a checkpoint, before they are used."""

import math
import types
from typing import Any, get_args

import torch
from torch import Tensor

MOST = 1 << 53  # the largest count that a float64 holds exactly


def require(holds: bool, what: str) -> None:
    """Raise a ValueError with the missing content of a file, unless a condition holds."""
    if not holds:
        raise ValueError(f"expected {what}")


def fits(value: Any, kind: Any) -> bool:
    """Return whether a JSON value has a type; a count must not be negative, a number must be finite."""
    if isinstance(kind, types.UnionType):
        return any(fits(value, each) for each in get_args(kind))
    if kind is int:
        return type(value) is int and 0 <= value < MOST
    if kind is float:
        return type(value) in (int, float) and math.isfinite(value) and value >= 0
    return isinstance(value, kind)


def is_plain(value: object) -> bool:
    """Return whether JSON stores a value without loss, except that a tuple becomes a list."""
    if isinstance(value, tuple | list):
        return all(map(is_plain, value))
    return math.isfinite(value) if isinstance(value, float) else isinstance(value, int | str | None)


def is_alike(value: object, like: object) -> bool:
    """Return whether two values have one type, and tensors one shape and dtype."""
    if isinstance(value, Tensor) and isinstance(like, Tensor):
        return value.shape == like.shape and value.dtype == like.dtype
    if isinstance(value, tuple | list) and isinstance(like, tuple | list):
        return len(value) == len(like) and all(map(is_alike, value, like))
    kinds = (bool, int | float, str, type(None))  # a bool is also an int, so it comes first
    kind = next((kind for kind in kinds if isinstance(like, kind)), None)
    return kind is not None and is_plain(value) and next(kind for kind in kinds if isinstance(value, kind)) is kind


def is_same(value: object, other: object) -> bool:
    """Return whether two values or tensors are equal."""
    if isinstance(value, Tensor) or isinstance(other, Tensor):
        return is_alike(value, other) and torch.equal(value, other)  # type: ignore[arg-type] # both are tensors
    return value is other or value == other


def are_names(value: object) -> bool:
    """Return whether a value is a list of str."""
    return isinstance(value, list) and all(isinstance(name, str) for name in value)
