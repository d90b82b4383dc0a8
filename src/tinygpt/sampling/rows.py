"""What a text being written consists of: its last ids, the text that is certain, and the window that is read."""

from collections import deque
from collections.abc import Callable
from typing import Any

import torch
from jaxtyping import Float, Int64
from torch import Tensor

from tinygpt.layers.cache import room_for
from tinygpt.models import LanguageModel
from tinygpt.tokenizer import Tokenizer, decode_ids

DECODED_TOGETHER = 16  # ids: few enough that decoding them again for each new one costs little


class Row:
    """One text being written: its last ids, how long it is in all, and where it ends."""

    def __init__(self, ids: list[int], end: int, key: int, pieces: "Pieces", block_size: int) -> None:
        self.ids = deque(ids, maxlen=block_size)
        self.length = len(ids)
        self.end = end
        self.key = key
        self.pieces = pieces

    @property
    def done(self) -> bool:
        """Whether nothing more is to be written."""
        return self.length >= self.end or self.pieces.stopped

    def append(self, new: int) -> str:
        """Take an id, and return the text that is certain now."""
        self.ids.append(new)
        self.length += 1
        return self.pieces.add(new, last=self.length == self.end)


class Pieces:
    """Turns ids into text, holding back what is not yet certain: half a character, half a stop string.

    Args:
        tokenizer: Turns ids into text.
        prompt: The text before the first; a stop string may begin in it, but not end.
        before: The id before the first.
        stops: Texts at which to stop.
        together: How many ids to decode at a time; 1 gives out each as soon as it is certain.
    """

    def __init__(self, tokenizer: Tokenizer, prompt: str, before: int, stops: list[str], together: int = 1) -> None:
        self._tokenizer = tokenizer
        self._stops = stops
        self._reach = max((len(stop) - 1 for stop in stops), default=0)
        self._given = prompt[len(prompt) - self._reach :] if self._reach < len(prompt) else prompt  # its end only
        self._together = together
        self._known = 0  # characters of the text of `_ids` that were given out
        self._restart(before)
        self._waiting = 0  # ids that are not decoded yet
        self._held = ""
        self.stopped = False

    def add(self, new: int, *, last: bool) -> str:
        """Take an id, and return the text that is certain now: all of it, if it is the last."""
        self._ids.append(new)
        self._waiting += 1
        if self._waiting < self._together and not last:
            return ""
        self._waiting = 0
        text = decode_ids(self._tokenizer, self._ids)
        if not text.endswith("\ufffd") or last:  # else the bytes of a character are incomplete
            self._held += text[self._known :]
            self._known = len(text)
            if len(self._ids) >= DECODED_TOGETHER:
                self._restart(new)
        text = self._given + self._held
        begun = len(self._given)
        starts = {stop: text.find(stop, max(0, begun - len(stop) + 1)) for stop in self._stops}
        found = [(start + len(stop), start) for stop, start in starts.items() if start >= 0]
        self.stopped = bool(found)
        if found:  # the one that is complete first, whatever the ids that it came in
            certain = max(begun, min(found)[1])
        else:
            certain = len(text) if last else max(begun, len(text) - self._may_be_stop(text))
        self._held = text[certain:]
        self._given = text[max(0, certain - self._reach) : certain]
        return text[begun:certain]

    def _restart(self, before: int) -> None:
        """Go on from one id, which is decoded again with the next: a tokenizer may treat the first id specially."""
        self._ids = [before]
        self._known = len(decode_ids(self._tokenizer, self._ids))

    def _may_be_stop(self, text: str) -> int:
        """Return the length of the longest end of a text that a stop string starts with."""
        for length in range(min(self._reach, len(text)), 0, -1):
            if any(stop.startswith(text[-length:]) for stop in self._stops):
                return length
        return 0


def read_one(model: LanguageModel, idx: Int64[Tensor, "B 1"], cache: Any) -> Float[Tensor, "B V"]:
    """Return the logits after one more id of each row."""
    return model.compute_logits(idx, cache=cache)[:, -1]


class Reader:
    """Gives the logits after the last id of some rows, with a cache while it fits and afresh where it does not.

    Args:
        model: What reads.
        read_compiled: :func:`read_one`, or the same compiled.
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
        if continues and set(rows) <= set(self._rows):  # rows that are done stay in the batch until it is remade
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
