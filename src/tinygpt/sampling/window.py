"""The window of tokens that a model reads, and the cache behind it."""

from collections import deque
from collections.abc import Callable, Collection, Iterator
from typing import Any

import torch
from jaxtyping import Float, Float64, Int64
from torch import Tensor

from tinygpt.layers.cache import room_for
from tinygpt.models import LanguageModel
from tinygpt.models.base import check_finite
from tinygpt.sampling.text_stream import Pieces


def window_start(length: int, block_size: int, stride: int) -> int:
    """Return the position at which the window starts after some tokens.

    It depends on these numbers alone. Rows of one length therefore share their window, and a text that is continued
    later is read as if it had never stopped.
    """
    over = max(0, length - block_size)
    return -(-over // stride) * stride


def read_windows(
    model: LanguageModel, ids: Int64[Tensor, " N"], block_size: int, stride: int, vocab_size: int
) -> Iterator[Float64[Tensor, "K V"]]:
    """Return an iterator over the log-probabilities after each id but the last, window by window.

    These are the windows of generation. Each one has a row for every id that no earlier window predicted, with the
    first ``vocab_size`` ids of the model.
    """
    done = 1  # ids that need no prediction: the first one is given
    while done < len(ids):
        start = window_start(done, block_size, stride)
        end = min(start + block_size, len(ids) - 1)
        logits = model.compute_logits(ids[None, start:end])[0, done - start - 1 :, :vocab_size]
        check_finite(logits, "after {} ids", range(done, end + 1))
        yield logits.cpu().double().log_softmax(dim=-1)
        done = end + 1


class Row:
    """One text during generation: its last ids, its length, and its end."""

    def __init__(
        self,
        number: int,
        ids: list[int],
        *,
        end: int,
        stop_ids: Collection[int | None],
        key: int,
        pieces: Pieces,
        block_size: int,
    ) -> None:
        self.number = number  # among the prompts
        self.ids = deque(ids, maxlen=block_size)
        self.length = len(ids)
        self.end = end
        self.stop_ids = stop_ids
        self.key = key  # of its stream of random numbers
        self.pieces = pieces

    @property
    def done(self) -> bool:
        """Whether the row needs no more tokens."""
        return self.length >= self.end or self.pieces.stopped

    def append(self, new: int) -> str:
        """Append a token, and return the text that is certain now. A stop id ends the row and is left out."""
        if new in self.stop_ids:
            self.end = self.length
            return self.pieces.add(None, last=True)
        self.ids.append(new)
        self.length += 1
        return self.pieces.add(new, last=self.length == self.end)


def read_one(model: LanguageModel, idx: Int64[Tensor, "B 1"], cache: Any) -> Float[Tensor, "B V"]:
    """Return the logits after one more token of each row."""
    return model.compute_logits(idx, cache=cache)[:, -1]


class Reader:
    """Computes the logits after the last token of each row.

    It reads one token through the cache, with ``read_compiled``, while the window stays, and the whole window after it
    has moved.
    """

    def __init__(self, model: LanguageModel, read_compiled: Callable[..., Tensor]) -> None:
        self._model = model
        self._read_compiled = read_compiled
        self._device = model.device
        self._rows: list[Row] = []
        self._cache: Any = None
        self._start = self._length = 0

    def read(self, rows: list[Row], length: int, start: int) -> Float[Tensor, "B V"]:
        """Read rows of one length, whose window starts at ``start``."""
        continues = self._cache is not None and start == self._start and length == self._length + 1
        self._length = length
        if continues and set(rows) <= set(self._rows):  # finished rows stay in the batch until the window moves
            idx = torch.tensor([[row.ids[-1]] for row in self._rows], device=self._device)
            past = length - start - 1
            is_apart = past < 2 or room_for(past) < room_for(past + 1)  # a past of one, or caches that grow
            read = read_one if is_apart else self._read_compiled  # either would be compiled once more
            logits = read(self._model, idx, self._cache)
            return logits if len(rows) == len(self._rows) else logits[[self._rows.index(row) for row in rows]]
        self._rows, self._start = rows, start
        self._cache = self._model.new_cache(len(rows))
        idx = torch.tensor([list(row.ids)[start - length :] for row in rows], device=self._device)
        return self._model.compute_logits(idx, cache=self._cache)[:, -1]
