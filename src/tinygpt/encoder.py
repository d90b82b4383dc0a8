"""Encode pieces of texts, in this process or in workers.

The module needs no torch, so that a worker starts at once.
"""

from collections import deque
from collections.abc import Iterable, Iterator
from concurrent.futures import ProcessPoolExecutor
from itertools import chain
from multiprocessing import get_context
from multiprocessing.reduction import ForkingPickler
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from tinygpt.errors import ConfigError, TinyGPTError, cut, show
from tinygpt.shard_writer import Piece
from tinygpt.tokenizer import CharTokenizer, Tokenizer, encode_text

__all__ = ["Encoder", "Text", "check_sendable", "cuts_anywhere", "encode_all"]

_BATCH = 1 << 20  # characters that are sent to a worker together


class Text(NamedTuple):
    """A piece of a source: a text or ids, and where they begin."""

    source: int  # number of the file
    offset: int  # bytes, ids or documents before it
    content: Any


def cuts_anywhere(tokenizer: Tokenizer) -> bool:
    """Return whether the ids of a text are those of its parts, wherever it is cut."""
    return isinstance(tokenizer, CharTokenizer) and type(tokenizer).encode is CharTokenizer.encode


def check_sendable(tokenizer: Tokenizer) -> None:
    """Raise a ConfigError if a tokenizer cannot be sent to another process."""
    try:
        ForkingPickler.dumps(tokenizer)  # as the pool will
    except Exception as error:  # whatever a foreign tokenizer raises
        raise ConfigError(
            f"a tokenizer must be one that pickle can send to workers, got {type(tokenizer).__name__}: "
            f"{cut(str(error), 100)}; use workers=0"
        ) from error


class Encoder(NamedTuple):
    """Convert pieces to ids; it is sent to the workers."""

    tokenizer: Tokenizer
    paths: list[Path] | None
    ending: np.ndarray | None  # ids after each document of an iterator

    def __call__(self, texts: list[Text]) -> list[Piece]:
        """Return the ids of some pieces."""
        return [self._encode(*text) for text in texts]

    def _encode(self, source: int, offset: int, content: Any) -> Piece:
        if not isinstance(content, str):
            return Piece(source, offset, content, None)
        try:
            ids = encode_text(self.tokenizer, content)
        except TinyGPTError as error:
            where = f"document {offset}" if self.paths is None else f"{show(self.paths[source])} from byte {offset}"
            raise type(error)(f"{where}: {cut(str(error), 200)}") from error
        if self.ending is not None:
            ids = np.concatenate([ids, self.ending])
        return Piece(source, offset, ids, len(ids) if cuts_anywhere(self.tokenizer) else len(content))


def encode_all(texts: Iterable[Text], encoder: Encoder, workers: int) -> Iterator[Piece]:
    """Yield the ids of pieces in their order."""
    if not workers:
        yield from chain.from_iterable(encoder([text]) for text in texts)
        return
    pool = ProcessPoolExecutor(workers, get_context("spawn"), _start_worker, (encoder,))
    try:
        waiting: deque[Any] = deque()
        for batch in _batched(texts):
            waiting.append(pool.submit(_work, batch))
            if len(waiting) >= 2 * workers:
                yield from waiting.popleft().result()
        for future in waiting:
            yield from future.result()
    finally:
        pool.shutdown(cancel_futures=True)


def _batched(texts: Iterable[Text]) -> Iterator[list[Text]]:
    """Yield lists of pieces that are together long enough to send."""
    batch: list[Text] = []
    size = 0
    for text in texts:
        batch.append(text)
        size += len(text.content)
        if size >= _BATCH:
            yield batch
            batch, size = [], 0
    if batch:
        yield batch


_ENCODERS: list[Encoder] = []  # in a worker, its encoder


def _start_worker(encoder: Encoder) -> None:
    _ENCODERS.append(encoder)


def _work(texts: list[Text]) -> list[Piece]:
    return _ENCODERS[0](texts)
