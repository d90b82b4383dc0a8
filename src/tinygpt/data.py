"""Split a corpus, and cut it into batches of windows."""

import hashlib
import operator
import os
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from jaxtyping import Int64, Integer
from torch import Tensor

from tinygpt.corpora import TextFile, read_file
from tinygpt.errors import (
    DataError,
    InputTypeError,
    check_choice,
    check_integer,
    check_number,
    checked_names,
)
from tinygpt.ids import as_integers, first_outside
from tinygpt.randomness import check_seed, derive_seed, permutation, uniforms
from tinygpt.tokenizer import (
    CharTokenizer,
    Tokenizer,
    check_corpus,
    check_tokenizer,
    decode_ids,
    encode_text,
)

__all__ = ["Batch", "TokenDataset"]

SPLITS = ("train", "val")
_INTEGERS = (torch.uint8, torch.int8, torch.uint16, torch.int16, torch.uint32, torch.int32, torch.uint64, torch.int64)
_HASHED_TOGETHER = 1 << 24  # ids, so that a memory-mapped file is read in pieces


class Batch(NamedTuple):
    """Hold windows of ids, and the ids that follow them.

    In the corpus, ``y[:, t]`` comes right after ``x[:, t]``.

    Attributes:
        x: Inputs.
        y: Targets.
    """

    x: Int64[Tensor, "B T"]
    y: Int64[Tensor, "B T"]


class TokenDataset:
    """Split a corpus into tokens to train on and tokens to validate on.

    An array of ids is not copied, so a memory-mapped file may be larger than memory.

    Args:
        source: A text, or token ids as a one-dimensional sequence, array, tensor, iterator or :class:`numpy.memmap`.
        tokenizer: Converts the text to ids, and later ids to samples. By default, a text gets a
            :class:`CharTokenizer` of its characters, and ids get none.
        val_fraction: Share of the corpus, at its end, for validation. The first ``int((1 - val_fraction) * n)`` of
            ``n`` tokens are the training split, as in the notebook and in nanoGPT.

    Attributes:
        train: Ids of the training split.
        val: Ids of the validation split.
        tokenizer: The tokenizer, or None.
        vocab_size: Number of distinct ids ``V``: that of the tokenizer, or else the largest id plus one.
        val_fraction: Share of the corpus for validation.
        file: The :class:`~tinygpt.corpora.TextFile` that :meth:`from_file` read, otherwise None.

    Raises:
        InputTypeError: If ``source`` is neither a text nor integers, or is the name of a file.
        DataError: If ``source`` is empty, or contains ids that are negative or outside the tokenizer's vocabulary.
        TokenizerError: If the tokenizer returns such ids for a text, or does not know a character.
        ConfigError: If ``val_fraction`` is outside ``[0, 1)``.

    Example:
        >>> text = "to be, or not to be: " * 20
        >>> data = TokenDataset(text)
        >>> data
        TokenDataset(420 characters: 378 train, 42 val; vocab_size=9)
        >>> x, y = data.batch("train", step=0, batch_size=3, block_size=5)
        >>> x.shape, bool((x[:, 1:] == y[:, :-1]).all())
        (torch.Size([3, 5]), True)
    """

    @checked_names
    def __init__(
        self,
        source: str | Sequence[int] | np.ndarray | Tensor,
        tokenizer: Tokenizer | None = None,
        *,
        val_fraction: float = 0.1,
    ) -> None:
        check_number("val_fraction", val_fraction, "in [0, 1)", lambda share: 0 <= share < 1)
        if tokenizer is None and isinstance(source, str) and source:
            tokenizer = CharTokenizer.from_text(check_corpus("source", source))
        self.tokenizer = None if tokenizer is None else check_tokenizer(tokenizer)
        self.val_fraction = float(val_fraction)
        self.file: TextFile | None = None
        ids = _as_ids(source, self.tokenizer)
        if not len(ids):
            raise DataError("corpus is empty; each split needs at least block_size + 1 tokens")
        self.vocab_size = int(ids.max()) + 1 if tokenizer is None else operator.index(tokenizer.vocab_size)
        # As int(0.9 * n) in the notebook and in nanoGPT. Rounding first makes 0.58 * 100 = 57.99999999999999 58.
        boundary = int(round((1 - val_fraction) * len(ids), 6))
        self.train, self.val = ids[:boundary], ids[boundary:]

    @classmethod
    def from_file(
        cls, path: str | os.PathLike[str], *, encoding: str = "utf-8", val_fraction: float = 0.1
    ) -> "TokenDataset":
        """Read a text file, with a :class:`CharTokenizer` of its characters.

        The dataset remembers the file, so that a run on it can be resumed without naming it again.

        Args:
            path: A file that :func:`~tinygpt.corpora.read_text` reads, with the same errors and warnings.
            encoding: Name of its encoding.
            val_fraction: Share of the text, at its end, for validation.

        Example:
            >>> path = getfixture("tmp_path") / "verse.txt"
            >>> _ = path.write_text("to be, or not to be: " * 20)
            >>> TokenDataset.from_file(path)
            TokenDataset(420 characters: 378 train, 42 val; vocab_size=9)
        """
        text, file = read_file(path, encoding=encoding)
        data = cls(text, val_fraction=val_fraction)
        data.file = file
        return data

    def __repr__(self) -> str:
        sizes = [len(self.train), len(self.val)]
        shown = f"{sum(sizes):,} {self._unit}: {sizes[0]:,} train, {sizes[1]:,} val"
        return f"TokenDataset({shown}; vocab_size={self.vocab_size})"

    def _repr_html_(self) -> str:
        sizes = {"train": len(self.train), "val": len(self.val)}
        total = sum(sizes.values())
        rows = "".join(f"<tr><td>{name}</td><td>{n:,}</td><td>{n / total:.1%}</td></tr>" for name, n in sizes.items())
        return (
            f"<p>TokenDataset: {total:,} {self._unit}, vocab_size={self.vocab_size}</p>"
            f"<table><tr><th>split</th><th>{self._unit}</th><th>share</th></tr>{rows}</table>"
        )

    @property
    def _unit(self) -> str:
        return "characters" if isinstance(self.tokenizer, CharTokenizer) else "tokens"

    def split(self, name: str, *, block_size: int = 1) -> Integer[np.ndarray, " N"]:
        """Return the ids of ``"train"`` or ``"val"``.

        Raises:
            ConfigError: If there is no such split.
            DataError: If the split is shorter than ``block_size + 1``, too short for a window.
        """
        check_choice("split", name, SPLITS)
        ids: np.ndarray = self.train if name == "train" else self.val
        if len(ids) <= check_integer("block_size", block_size, minimum=1):
            total = len(self.train) + len(self.val)
            if name == "val" and total >= 2 * (block_size + 1):
                hint = f"val_fraction={min(0.5, 1.05 * (block_size + 1) / total):.2g} or a lower block_size"
            else:
                hint = "a lower block_size or more text"
            raise DataError(
                f"the {name} split has {len(ids)} of {total} tokens, need at least block_size+1 = {block_size + 1}; "
                f"use {hint}"
            )
        return ids

    def batch(self, split: str, *, step: int, batch_size: int, block_size: int, seed: int = 0) -> Batch:
        """Return random windows, as a pure function of the arguments.

        Every window of the split can be drawn. In a run of several processes, rank ``r`` of ``world`` takes the rows
        ``r::world``.

        Args:
            split: ``"train"`` or ``"val"``.
            step: Number of the batch in the stream, from 0.
            batch_size: Number of windows ``B``.
            block_size: Length ``T`` of a window in tokens.
            seed: Number of the stream.

        Returns:
            ``(x, y)``, each ``B T`` int64 on the CPU.

        Raises:
            DataError: If the split is shorter than ``block_size + 1``.
            ConfigError: If a number is out of range.
        """
        ids = self.split(split, block_size=block_size)
        check_integer("batch_size", batch_size, minimum=1)
        check_integer("step", step, minimum=0)
        draws = uniforms(derive_seed(check_seed(seed), split, step), np.arange(batch_size))
        return _gather(ids, (draws * (len(ids) - block_size)).astype(np.int64), block_size)

    def epoch(
        self,
        split: str,
        *,
        batch_size: int,
        block_size: int,
        epoch: int = 0,
        stride: int | None = None,
        seed: int = 0,
    ) -> Iterator[Batch]:
        """Return an iterator over a split in random order, without replacement.

        Args:
            split: ``"train"`` or ``"val"``.
            batch_size: Number of windows ``B``; the last batch may have fewer.
            block_size: Length ``T`` of a window in tokens.
            epoch: Number of the pass, from 0. Each pass has its own order.
            stride: Distance in tokens between the starts of windows. By default it is ``block_size``, so that windows
                do not overlap, except the last one, which ends where the split ends. With 1, every window of the split
                comes once.
            seed: Number of the stream.

        Returns:
            Batches of ``B T`` int64 on the CPU.

        Raises:
            DataError: If the split is shorter than ``block_size + 1``.
            ConfigError: If a number is out of range.

        Example:
            >>> data = TokenDataset(range(11), val_fraction=0)
            >>> sorted(x.tolist() for x, y in data.epoch("train", batch_size=1, block_size=4))
            [[[0, 1, 2, 3]], [[4, 5, 6, 7]], [[6, 7, 8, 9]]]
        """
        ids = self.split(split, block_size=block_size)
        check_integer("batch_size", batch_size, minimum=1)
        stride = check_integer("stride", block_size if stride is None else stride, minimum=1)
        last = len(ids) - block_size - 1
        starts = np.append(np.arange(0, last, stride), last)
        starts = starts[permutation(derive_seed(check_seed(seed), "epoch", split, epoch), len(starts))]
        batches = np.split(starts, range(batch_size, len(starts), batch_size))
        return (_gather(ids, batch, block_size) for batch in batches)

    def windows(self, split: str, *, batch_size: int, block_size: int, limit: int | None = None) -> Iterator[Batch]:
        """Return an iterator over a split in order, each token predicted once.

        Args:
            split: ``"train"`` or ``"val"``.
            batch_size: Number of windows ``B``; the last batches may have fewer.
            block_size: Length ``T`` of a window in tokens; the last window may be shorter.
            limit: Largest number of windows, which are then spread evenly over the split; None for all.

        Returns:
            Batches of ``B T`` int64 on the CPU.

        Raises:
            DataError: If the split is shorter than ``block_size + 1``.
            ConfigError: If a number is out of range.
        """
        ids = self.split(split, block_size=block_size)
        check_integer("batch_size", batch_size, minimum=1)
        whole, rest = divmod(len(ids) - 1, block_size)
        starts = np.arange(whole) * block_size
        if limit is not None and check_integer("limit", limit, minimum=1) < whole:
            starts, rest = starts[np.linspace(0, whole - 1, limit).astype(np.int64)], 0
        batches = np.split(starts, range(batch_size, len(starts), batch_size))
        tail = [(np.array([whole * block_size]), rest)] if rest else []
        return (_gather(ids, rows, length) for rows, length in [*((rows, block_size) for rows in batches), *tail])

    def digest(self) -> str:
        """Return the SHA-256 of the ids, their dtype and the sizes of the splits."""
        digest = hashlib.sha256(f"{self.train.dtype.str} {len(self.train)} {len(self.val)}".encode())
        for ids in (self.train, self.val):
            for start in range(0, len(ids), _HASHED_TOGETHER):
                digest.update(np.ascontiguousarray(ids[start : start + _HASHED_TOGETHER]).data)
        return digest.hexdigest()

    def characters_per_id(self, split: str) -> float:
        """Return the mean number of characters per token of a split.

        It is 1 for a :class:`CharTokenizer` and without a tokenizer, and about 4 for byte-pair encodings.
        """
        if self.tokenizer is None or isinstance(self.tokenizer, CharTokenizer):
            return 1.0
        ids = self.split(split)
        return len(decode_ids(self.tokenizer, ids.tolist())) / len(ids)


def _gather(ids: np.ndarray, starts: np.ndarray, block_size: int) -> Batch:
    """Cut all windows out of the ids in one indexing operation."""
    windows = torch.from_numpy(ids[starts[:, None] + np.arange(block_size + 1)].astype(np.int64))
    return Batch(windows[:, :-1], windows[:, 1:])


def _as_ids(source: Any, tokenizer: Tokenizer | None) -> np.ndarray:
    """Return the ids of a text, or ids as an array.

    An array, or a tensor on the CPU, is not copied.
    """
    if isinstance(source, str):
        text = check_corpus("source", source)
        return np.empty(0, np.int64) if tokenizer is None else encode_text(tokenizer, text)
    if isinstance(source, bytes | bytearray):
        raise InputTypeError("source must be a text or ids, got bytes; decode them first, e.g. source.decode('utf-8')")
    if isinstance(source, os.PathLike) or hasattr(source, "read"):
        check_corpus("source", source)
    if (
        isinstance(source, Tensor)
        and source.dtype in _INTEGERS
        and source.layout == torch.strided
        and not source.is_meta
    ):
        source = source.numpy(force=True)
    ids = as_integers(source, "source must be a text or ids, and ids")
    limit = 2**63 - 1 if tokenizer is None else operator.index(tokenizer.vocab_size)  # ids are counted in int64
    outside = first_outside(ids, limit)
    if outside is not None:
        rule = "0 or more, and below 2**63 - 1"
        if tokenizer is not None:
            rule = f"from 0 to {limit - 1}, the tokenizer's range"
        raise DataError(
            f"ids must be {rule}, got ids from {ids.min()} to {ids.max()}, {ids[outside]} at position {outside}"
        )
    return ids
