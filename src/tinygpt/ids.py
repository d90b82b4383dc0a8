"""Convert ids to one-dimensional NumPy arrays, and check them.

Ids may come as a sequence, an iterator, or an array or tensor of any library.
"""

from bisect import bisect_right
from collections.abc import Iterable, Iterator, Mapping, Sequence, Set
from itertools import accumulate
from typing import Any, Protocol, runtime_checkable

import numpy as np
from jaxtyping import Integer

from tinygpt.errors import InputTypeError, short

__all__ = ["IGNORED", "Ids", "Joined", "as_integers", "first_outside"]

IGNORED = -100  # a target without a loss, as in torch.nn.functional.cross_entropy
_AT_ONCE = 1 << 16  # ids that an iterator reads


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


class Joined:
    """Read several sequences of ids as one, without a copy of all.

    A slice is an array, and its step must be 1. :func:`numpy.asarray` reads everything.

    Args:
        pieces: The sequences, end to end.
        start: Position of the first id.
        stop: Position after the last id; None for the end of the last piece.

    Example:
        >>> ids = Joined([np.array([5, 6, 7]), np.array([8, 9])], start=1)
        >>> len(ids), ids[1:3].tolist(), ids.tolist()
        (4, [7, 8], [6, 7, 8, 9])
    """

    def __init__(self, pieces: Sequence[Ids], start: int = 0, stop: int | None = None) -> None:
        self._pieces = pieces
        self._bounds = [0, *accumulate(map(len, pieces))]
        self._start, self._stop = start, self._bounds[-1] if stop is None else stop
        self.dtype = np.result_type(*(piece.dtype for piece in pieces))

    def __len__(self) -> int:
        return self._stop - self._start

    def __getitem__(self, index: slice, /) -> Any:
        if not isinstance(index, slice) or index.step not in (None, 1):
            raise InputTypeError(f"joined ids are read by slices with a step of 1, got {short(index)}; use ids[a:b]")
        bounds, first = self._bounds, self._start
        start, stop, _ = index.indices(self._stop - first)
        start, stop = start + first, stop + first
        found: list[np.ndarray] = []
        while start < stop:
            number = bisect_right(bounds, start) - 1
            before, end = bounds[number], bounds[number + 1]
            if stop <= end and not found:  # almost always
                return self._pieces[number][start - before : stop - before]
            found.append(self._pieces[number][start - before : min(stop, end) - before])
            start = end
        return np.concatenate([np.empty(0, self.dtype), *found])

    def divided(self, boundary: int) -> tuple["Joined", "Joined"]:
        """Return the ids before a position, and those from there on."""
        middle = self._start + boundary
        return Joined(self._pieces, self._start, middle), Joined(self._pieces, middle, self._stop)

    def __iter__(self) -> Iterator[Any]:
        for start in range(0, len(self), _AT_ONCE):
            yield from self[start : start + _AT_ONCE]

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> np.ndarray:
        return np.asarray(self[:], dtype)

    def tolist(self) -> list[int]:
        """Return all ids as a list."""
        ids: list[int] = self[:].tolist()
        return ids


def as_integers(ids: Any, name: str = "ids") -> Integer[np.ndarray, " N"]:
    """Return ids as an array of integers.

    Bools, floats, digits and objects, which NumPy would convert, are errors. Integers beyond 64 bits give an
    array of objects, which ``first_outside`` can search.

    Args:
        ids: A sequence, array, tensor or iterator, or :class:`Joined` ids.
        name: Name of the ids in a message.

    Raises:
        InputTypeError: If they are anything but integers in one dimension.
    """
    if isinstance(ids, Joined):  # a list of a corpus on the disk would take many times its memory
        ids = ids[:]
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
        hint = "; encode it first, e.g. tokenizer.encode(text)" if isinstance(ids, str) else hint
        hint = "; use the ids of a split, e.g. data.train" if hasattr(ids, "splits") else hint
        raise InputTypeError(f"{name} must be a one-dimensional sequence of integers, got {short(ids)}{hint}")
    numbers = list(numbers)
    for kind in set(map(type, numbers)):
        if not issubclass(kind, int | np.integer) or kind in (bool, np.timedelta64):
            hint = "; encode the text first, e.g. tokenizer.encode(text)" if kind is str else ""
            position, value = next((i, number) for i, number in enumerate(numbers) if type(number) is kind)
            raise InputTypeError(
                f"{name} must be integers, got {short(value)} of type {kind.__name__} at position {position}{hint}"
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
