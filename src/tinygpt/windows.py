"""Cut ids into windows, each a row of inputs and a row of targets.

:class:`~tinygpt.TokenDataset` has a :class:`Split` for training and one for validation. The ids are an array, or any
other sequence that gives arrays for its slices. A batch reads one slice for each of its windows, so that its cost does
not depend on the length of the split.
"""

from collections.abc import Iterator
from itertools import chain
from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Int, Int64
from torch import Tensor

from tinygpt.errors import DataError
from tinygpt.ids import IGNORED, Ids
from tinygpt.randomness import derive_seed, shuffled, uniforms

__all__ = ["Batch", "Split"]


class Batch(NamedTuple):
    """Hold windows of ids, and the ids that follow them.

    In the corpus, ``y[:, t]`` comes right after ``x[:, t]``. A target of -100 has no loss: it is masked, or lies past
    the end of a document.

    Attributes:
        x: Inputs.
        y: Targets.
    """

    x: Int64[Tensor, "B T"]
    y: Int64[Tensor, "B T"]


class Split:
    """Hold the ids of a split, which of them are targets, and its rows.

    A row is the whole split, or a document. Each window lies in one row. The window of a row that is shorter is padded:
    its inputs repeat the last id of the row, and its targets there are -100.

    Args:
        ids: The ids, which are not copied.
        mask: Whether each id is a target; None if all are.
        rows: Positions of the first and of the last id of each row. By default the split is one row.
        numbers: Numbers that the rows had before they were shuffled, if each row must fit into a window.

    Attributes:
        first: Position of the first id of each row.
        last: Position of the last id of each row.
        lengths: Number of ids in each row after its first, each a target unless masked.
        longest: The largest of them.
    """

    def __init__(
        self,
        ids: Ids,
        mask: Ids | None = None,
        rows: tuple[Int64[np.ndarray, " R"], Int64[np.ndarray, " R"]] | None = None,
        numbers: Int[np.ndarray, " R"] | None = None,
    ) -> None:
        self.ids, self.mask, self.rows, self.numbers = ids, mask, rows, numbers
        whole = np.zeros(1, np.int64), np.array([len(ids) - 1], np.int64)
        self.first: np.ndarray = (whole if rows is None else rows)[0]
        self.last: np.ndarray = (whole if rows is None else rows)[1]
        self.lengths = self.last - self.first
        self.longest = int(self.lengths.max(initial=0))
        self._bounds: tuple[tuple[int, int, bool], np.ndarray] = (0, 0, True), self.first
        self._read: Ids = ids.view(np.ndarray) if isinstance(ids, np.ndarray) else ids  # a slice of a memmap is slow

    def check(self, name: str, block_size: int | None, total: int) -> None:
        """Raise unless there is a window in the split, ``name``, of a corpus of ``total`` ids.

        Raises:
            DataError: If the split is shorter than ``block_size + 1``, by default 2, or an example is longer.
        """
        needed = 2 if block_size is None else block_size + 1
        if self.numbers is not None and block_size is not None and self.longest >= needed:
            raise DataError(
                f"an example must have at most block_size + 1 = {needed} tokens, got {self.longest + 1} in example "
                f"{self.numbers[self.lengths.argmax()]} with its end; use a higher block_size, or leave it out"
            )
        if self.longest + 1 < (needed if self.rows is None else 2):
            hint = "a lower block_size or more text"
            if name == "val" and total >= 2 * needed:
                hint = f"val_fraction={min(0.5, 1.05 * needed / total):.2g} or a lower block_size"
            raise DataError(
                f"the {name} split has {len(self.ids)} of {total} tokens, need at least block_size+1 = {needed}; use "
                f"{hint}"
            )

    def count(self, block_size: int, stride: int = 1, *, overlapping: bool = True) -> int:
        """Return the number of windows that cover each row, ``stride`` tokens apart.

        The last window of a row ends where the row ends if windows may overlap, and else is shorter.
        """
        return int(self._bounds_of(block_size, stride, overlapping)[-1])

    def numbered(
        self, numbers: Int[np.ndarray, " B"], block_size: int, stride: int = 1, *, overlapping: bool = True
    ) -> Batch:
        """Return some of these windows by their numbers, from 0 to :meth:`count` less 1."""
        bounds = self._bounds_of(block_size, stride, overlapping)
        rows = np.searchsorted(bounds, numbers, side="right") - 1
        latest = _latest_start(self.lengths[rows], block_size, overlapping)
        return self._gather(rows, self.first[rows] + np.minimum((numbers - bounds[rows]) * stride, latest), block_size)

    def draw(self, seed: int, name: str, step: int, batch_size: int, block_size: int) -> Batch:
        """Return random windows, all equally likely; ``name`` is that of the split."""
        draws = uniforms(derive_seed(seed, name, step), np.arange(batch_size))
        return self.numbered((draws * self.count(block_size)).astype(np.int64), block_size)

    def shuffle(self, key: int, batch_size: int, block_size: int, stride: int) -> Iterator[Batch]:
        """Return an iterator over overlapping windows, each once, in a random order."""
        count = self.count(block_size, stride)
        pieces = (np.arange(start, min(start + batch_size, count)) for start in range(0, count, batch_size))
        return (self.numbered(shuffled(key, count, piece), block_size, stride) for piece in pieces)

    def in_order(self, batch_size: int, block_size: int, limit: int | None) -> Iterator[Batch]:
        """Return an iterator over windows that do not overlap, at most ``limit`` of them, spread evenly."""
        count = self.count(block_size, block_size, overlapping=False)
        # A text ends in a shorter window, and documents are padded.
        rest = (len(self.ids) - 1) % block_size if self.rows is None else 0
        whole = count - bool(rest)
        picked: range | np.ndarray = range(whole)
        if limit is not None and limit < whole:
            picked, rest = np.linspace(0, whole - 1, limit).astype(np.int64), 0

        def cut(numbers: range | np.ndarray, size: int = block_size) -> Batch:
            x, y = self.numbered(np.asarray(numbers), block_size, block_size, overlapping=False)
            return Batch(x[:, :size], y[:, :size])

        pieces = (picked[start : start + batch_size] for start in range(0, len(picked), batch_size))
        return chain(map(cut, pieces), (cut(range(whole, count), rest) for _ in range(bool(rest))))

    def _bounds_of(self, block_size: int, stride: int, overlapping: bool) -> np.ndarray:
        """Return the number of windows before each row, and at the end that of all."""
        asked = block_size, stride, overlapping
        known, bounds = self._bounds
        if known != asked:
            latest = _latest_start(self.lengths, block_size, overlapping)
            counts = np.where(self.lengths > 0, (-(-latest // stride) if overlapping else latest // stride) + 1, 0)
            bounds = np.append(0, np.cumsum(counts))
            self._bounds = asked, bounds
        return bounds

    def _gather(self, rows: np.ndarray, starts: np.ndarray, block_size: int) -> Batch:
        """Copy a slice of the ids into each window, and repeat the last id of a row that is shorter."""
        ends = np.minimum(starts + block_size, self.last[rows]) + 1
        pieces = [self._read[start:end] for start, end in zip(starts.tolist(), ends.tolist(), strict=True)]
        missing = block_size - (ends - starts) + 1
        is_padded = bool(missing.any())
        if is_padded:
            ended = zip(pieces, missing.tolist(), strict=True)
            pieces = [np.append(piece, piece[-1:].repeat(count)) for piece, count in ended]
        windows = np.empty((len(starts), block_size + 1), np.int64)
        np.concatenate(pieces, out=windows.reshape(-1), casting="unsafe")  # faster than row by row
        both = torch.from_numpy(windows)
        x, y = both[:, :-1], both[:, 1:]  # views, as those of a pass are: a compiler tells views apart from others
        if self.mask is None and not is_padded:
            return Batch(x, y)
        kept = np.arange(block_size, 0, -1) > missing[:, None]
        if self.mask is not None:
            for row, start, end in zip(kept, starts.tolist(), ends.tolist(), strict=True):
                row[: end - start - 1] &= self.mask[start + 1 : end]
        return Batch(x, y.masked_fill(torch.from_numpy(~kept), IGNORED))


def _latest_start(lengths: np.ndarray, block_size: int, overlapping: bool) -> np.ndarray:
    """Return where the last window of a row begins, from the start of the row."""
    return np.maximum(lengths - block_size, 0) if overlapping else lengths - 1
