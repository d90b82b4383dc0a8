"""Convert ids to one-dimensional NumPy arrays, and check them.

Ids may come as a sequence, an iterator, or an array or tensor of any library.
"""

from collections.abc import Iterable, Iterator, Mapping, Set
from typing import Any, Protocol, runtime_checkable

import numpy as np
from jaxtyping import Integer

from tinygpt.errors import InputTypeError, short

__all__ = ["IGNORED", "Ids", "as_integers", "first_outside"]

IGNORED = -100  # a target without a loss, as in torch.nn.functional.cross_entropy


@runtime_checkable
class Ids(Protocol):
    """A sequence of ids of which slices are arrays: an array, or ids that stay on the disk."""

    @property
    def dtype(self) -> Any:
        """The dtype of the arrays."""

    def __len__(self) -> int: ...

    def __getitem__(self, index: slice, /) -> Any: ...

    def __iter__(self) -> Iterator[Any]: ...

    def tolist(self) -> Any:
        """Return all ids as a list."""


def as_integers(ids: Any, name: str = "ids") -> Integer[np.ndarray, " N"]:
    """Return ids as an array of integers.

    Bools, floats, digits and objects, which NumPy would convert, are errors. Integers beyond 64 bits give an
    array of objects, which ``first_outside`` can search.

    Args:
        ids: A sequence, array, tensor or iterator.
        name: Name of the ids in a message.

    Raises:
        InputTypeError: If they are anything but integers in one dimension.
    """
    if not isinstance(ids, np.ndarray):
        return _from_numbers(ids, name)
    # numpy.ma is slow to import, so that only an array with a mask is checked for one.
    is_masked = hasattr(ids, "mask") and np.ma.is_masked(ids)
    if ids.ndim == 1 and (ids.dtype.kind in "iu" or not ids.size) and not is_masked:
        return ids if ids.size else np.empty(0, np.int64)
    hint = "; use one row of it, e.g. ids[0]" if ids.ndim > 1 else "; convert it, e.g. ids.astype(int)"
    raise InputTypeError(
        f"{name} must be a one-dimensional array of integers, got {ids.dtype} of shape {ids.shape}, {short(ids)}{hint}"
    )


def _from_numbers(ids: Any, name: str) -> np.ndarray:
    """Return other ids than an array as one, with the type of each checked."""
    try:
        numbers = ids.tolist() if hasattr(ids, "tolist") else ids  # an array or a tensor of any library
    except (TypeError, RuntimeError) as error:  # a sparse tensor, one without data
        raise InputTypeError(
            f"{name} must be integers that can be read, got {short(ids)}: {short(str(error))}"
        ) from error
    if isinstance(numbers, str | Mapping | Set) or not isinstance(numbers, Iterable):
        hint = "; use its ids, e.g. encode(text).ids" if hasattr(ids, "ids") else ""
        hint = "; use its entry 'input_ids'" if isinstance(ids, Mapping) and "input_ids" in ids else hint
        raise InputTypeError(f"{name} must be a one-dimensional sequence of integers, got {short(ids)}{hint}")
    numbers = list(numbers)
    for kind in set(map(type, numbers)):
        if not issubclass(kind, int | np.integer) or kind in (bool, np.timedelta64):
            position, value = next((i, number) for i, number in enumerate(numbers) if type(number) is kind)
            raise InputTypeError(
                f"{name} must be integers, got {short(value)} of type {kind.__name__} at position {position}"
            )
    fits = not numbers or (min(numbers) >= -(2**63) and max(numbers) < 2**63)
    return np.array(numbers, np.int64 if fits else object)


def first_outside(ids: Integer[np.ndarray, " N"] | np.ndarray, limit: int) -> int | None:
    """Return the position of the first id outside ``range(limit)``, or None.

    Valid ids are not copied.
    """
    if not len(ids) or (int(ids.min()) >= 0 and int(ids.max()) < limit):
        return None
    return int(np.flatnonzero((ids < 0) | (ids >= limit))[0])
