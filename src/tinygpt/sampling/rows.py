"""What a text being written consists of: its last ids, the text that is certain, and the window that is read."""

from collections import deque
from typing import Any

import torch
from jaxtyping import Float, Int64
from torch import Tensor

from tinygpt.models import LanguageModel
from tinygpt.tokenizer import Tokenizer

_DECODED_TOGETHER = 16  # ids: few enough that decoding them again for each new one costs nothing


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
    """Turns ids into text one by one, holding back what is not yet certain: half a character, half a stop string."""

    def __init__(self, tokenizer: Tokenizer, before: int, stops: list[str]) -> None:
        self._tokenizer = tokenizer
        self._stops = stops
        self._known = 0  # characters of the text of `_ids` that were given out
        self._restart(before)
        self._held = ""
        self.stopped = False

    def add(self, new: int, *, last: bool) -> str:
        """Take an id, and return the text that is certain now: all of it, if it is the last."""
        self._ids.append(new)
        text = self._tokenizer.decode(self._ids)
        if not text.endswith("\ufffd") or last:  # else the bytes of a character are incomplete
            self._held += text[self._known :]
            self._known = len(text)
            if len(self._ids) >= _DECODED_TOGETHER:
                self._restart(new)
        found = [place for place in (self._held.find(stop) for stop in self._stops) if place >= 0]
        self.stopped = bool(found)
        certain = min(found) if found else len(self._held) - (0 if last else self._may_be_stop())
        piece, self._held = self._held[:certain], self._held[certain:]
        return piece

    def _restart(self, before: int) -> None:
        """Go on from one id, which is decoded again with the next: a tokenizer may treat the first id specially."""
        self._ids = [before]
        self._known = len(self._tokenizer.decode(self._ids))

    def _may_be_stop(self) -> int:
        """Return the length of the longest end of the held text that a stop string starts with."""
        longest = max((len(stop) - 1 for stop in self._stops), default=0)
        for length in range(min(longest, len(self._held)), 0, -1):
            if any(stop.startswith(self._held[-length:]) for stop in self._stops):
                return length
        return 0


class Reader:
    """Gives the logits after the last id of some rows, with a cache while it fits and afresh where it does not."""

    def __init__(self, model: LanguageModel) -> None:
        self._model = model
        self._rows: list[Row] = []
        self._cache: Any = None
        self._start = self._length = 0

    def read(self, rows: list[Row], length: int, start: int) -> Float[Tensor, "B V"]:
        """Read rows of one length, whose window starts at ``start``."""
        places = {row: place for place, row in enumerate(self._rows)}
        continues = self._cache is not None and start == self._start and length == self._length + 1
        if continues and all(row in places for row in rows):  # rows that are done stay in the batch until it is remade
            idx = self._ids(self._rows, 1)
            logits = self._model.compute_logits(idx, cache=self._cache)[:, -1]
            if len(rows) < len(self._rows):
                logits = logits[[places[row] for row in rows]]
        else:
            self._rows, self._start = rows, start
            self._cache = self._model.new_cache(len(rows))
            idx = self._ids(rows, length - start)
            logits = self._model.compute_logits(idx, cache=self._cache)[:, -1]
        self._length = length
        return logits

    def _ids(self, rows: list[Row], count: int) -> Int64[Tensor, "B T"]:
        return torch.tensor([list(row.ids)[-count:] for row in rows], device=self._model.device)
