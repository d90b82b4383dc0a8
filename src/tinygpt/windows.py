"""Cut ids into windows, each a row of inputs and a row of targets.

:class:`~tinygpt.TokenDataset` has a :class:`Split` for training and one for validation.
"""

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Bool, Int, Int64, Integer
from torch import Tensor

from tinygpt.ids import IGNORED

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
        lengths: Number of ids in each row after its first, each a target unless masked.
        longest: The largest of them.
    """

    def __init__(
        self,
        ids: Integer[np.ndarray, " N"],
        mask: Bool[np.ndarray, " N"] | None = None,
        rows: tuple[Int64[np.ndarray, " R"], Int64[np.ndarray, " R"]] | None = None,
        numbers: Int[np.ndarray, " R"] | None = None,
    ) -> None:
        self.ids, self.mask, self.rows, self.numbers = ids, mask, rows, numbers
        whole = np.zeros(1, np.int64), np.array([len(ids) - 1], np.int64)
        self._first: np.ndarray = (whole if rows is None else rows)[0]
        self._last: np.ndarray = (whole if rows is None else rows)[1]
        self.lengths = self._last - self._first
        self.longest = int(self.lengths.max(initial=0))
        self._ends: tuple[int, np.ndarray] = (0, np.empty(0, np.int64))  # block_size, and windows up to each row's end

    def count(self, block_size: int) -> int:
        """Return the number of different windows."""
        return int(self._count(block_size)[-1])

    def numbered(self, numbers: Int[np.ndarray, " B"], block_size: int) -> Batch:
        """Return windows by their numbers, below :meth:`count`."""
        ends = self._count(block_size)
        rows = np.searchsorted(ends, numbers, side="right")
        before = numbers - ends[rows]  # negative: windows to the last one of the row, and one more
        sizes = np.maximum(self.lengths[rows] - block_size + 1, 1)
        return self._gather(rows, self._first[rows] + sizes + before, block_size)

    def spread(
        self, block_size: int, stride: int, *, overlapping: bool
    ) -> tuple[Int64[np.ndarray, " W"], Int64[np.ndarray, " W"]]:
        """Return the rows and starts of windows that cover each row, ``stride`` tokens apart.

        The last window of a row ends where the row ends if windows may overlap, and else is shorter.
        """
        lengths = self.lengths
        latest = np.maximum(lengths - block_size, 0) if overlapping else lengths - 1
        counts = np.where(lengths > 0, -(-latest // stride) + 1 if overlapping else latest // stride + 1, 0)
        rows = np.repeat(np.arange(len(counts)), counts)
        within = np.arange(len(rows)) - np.repeat(np.cumsum(counts) - counts, counts)
        return rows, self._first[rows] + np.minimum(within * stride, latest[rows])

    def batches(self, rows: np.ndarray, starts: np.ndarray, batch_size: int, block_size: int) -> Iterator[Batch]:
        """Return an iterator over the windows that begin at some starts."""
        pieces = ((rows[i : i + batch_size], starts[i : i + batch_size]) for i in range(0, len(rows), batch_size))
        return (self._gather(*piece, block_size) for piece in pieces)

    def _count(self, block_size: int) -> np.ndarray:
        """Return the number of windows in each row and the rows before it."""
        if self._ends[0] != block_size:
            counts = np.where(self.lengths > 0, np.maximum(self.lengths - block_size + 1, 1), 0)
            self._ends = block_size, np.cumsum(counts)
        return self._ends[1]

    def _gather(self, rows: np.ndarray, starts: np.ndarray, block_size: int) -> Batch:
        """Cut all windows out of the ids in one indexing operation."""
        index = starts[:, None] + np.arange(block_size + 1)
        last = self._last[rows]
        kept = None
        if (starts + block_size > last).any():
            kept = index[:, 1:] <= last[:, None]
            index = np.minimum(index, last[:, None])
        windows = torch.from_numpy(self.ids[index].astype(np.int64))
        if self.mask is not None:
            masked = self.mask[index[:, 1:]]
            kept = masked if kept is None else kept & masked
        x, y = windows[:, :-1], windows[:, 1:]
        return Batch(x, y if kept is None else y.masked_fill(torch.from_numpy(~kept), IGNORED))
