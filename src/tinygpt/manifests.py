"""Describe the shards of a prepared corpus in ``manifest.json``.

The manifest says how many ids each shard has, and has the SHA-256 of its bytes, the smallest and the largest id, the
tokenizer and the splits. It has a SHA-256 of its own.
"""

import hashlib
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from tinygpt.errors import DataError, TinyGPTError, TokenizerError, cut, short, show
from tinygpt.files import parse_json, read_whole, to_json
from tinygpt.fingerprints import entry_of, fingerprint, tokenizer_of
from tinygpt.tokenizer import Tokenizer

__all__ = ["MANIFEST", "PROGRESS", "Manifest", "dtype_of", "shard_path"]

MANIFEST, PROGRESS = "manifest.json", "progress.json"
_FORMAT = 1
_DTYPES = ("u1", "<u2", "<u4")
_MOST_MANIFEST = 32 << 20  # bytes


def dtype_of(vocab_size: int) -> str:
    """Return the smallest of the dtypes of shards for some number of ids.

    Example:
        >>> dtype_of(256), dtype_of(50_257), dtype_of(128_256)
        ('u1', '<u2', '<u4')
    """
    return next(name for name in _DTYPES if vocab_size - 1 <= np.iinfo(name).max)


def shard_path(directory: Path, number: int) -> Path:
    """Return the path of a shard by its number, from 0."""
    return directory / f"shard-{number:05d}.bin"


@dataclass(frozen=True)
class Manifest:
    """What ``manifest.json`` says about a prepared corpus.

    Attributes:
        dtype: ``"u1"``, ``"<u2"`` or ``"<u4"``.
        vocab_size: Number of distinct ids.
        tokenizer: Its settings, or the fingerprint of a tokenizer that a file cannot contain; None for ids alone.
        shards: For each shard, the number of ``ids``, their ``sha256``, the ``lowest`` and ``highest`` of them, and the
            number of ``characters`` that they were encoded from, or None.
        train: Number of ids in the training split, the first ones.
    """

    dtype: str
    vocab_size: int
    tokenizer: Mapping[str, Any] | None
    shards: Sequence[Mapping[str, Any]]
    train: int

    @property
    def total(self) -> int:
        """The number of ids."""
        return sum(shard["ids"] for shard in self.shards)

    def to_bytes(self) -> bytes:
        """Return the content of the file, the same for equal manifests."""
        values = {name: getattr(self, name) for name in ("dtype", "vocab_size", "tokenizer", "shards")}
        splits = {"train": [0, self.train], "val": [self.train, self.total]}
        described = {"format": _FORMAT, **values, "splits": splits}
        digest = hashlib.sha256(to_json(described).encode()).hexdigest()
        return (to_json(described | {"sha256": digest}) + "\n").encode()

    def digest(self) -> str:
        """Return the SHA-256 of everything in the file, which has those of the shards."""
        return hashlib.sha256(self.to_bytes()).hexdigest()

    @classmethod
    def read(cls, directory: Path) -> "Manifest":
        """Read the manifest of a directory, and check every value in it.

        Raises:
            DataError: If the file is missing, too large or invalid, or was changed since it was written.
        """
        path = directory / MANIFEST
        try:
            raw = read_whole(path, _MOST_MANIFEST)
            found = parse_json(raw)
            if not isinstance(found, dict):
                raise ValueError("it is not an object")
            if found.get("format") != _FORMAT:
                raise ValueError(f"format={short(found.get('format'))}, and this version reads {_FORMAT}")
            shards, splits = found["shards"], found["splits"]
            manifest = cls(found["dtype"], found["vocab_size"], found["tokenizer"], shards, splits["train"][1])
            manifest.check()
            if manifest.to_bytes() != raw:
                raise ValueError("it was changed since it was written")
        except (OSError, ValueError, KeyError, TypeError, IndexError, OverflowError, AttributeError) as error:
            reason = f"no {error}" if isinstance(error, KeyError) else cut(str(error))
            raise DataError(
                f"{show(path)} must be the manifest of a prepared corpus: {reason}; prepare the corpus again"
            ) from error
        return manifest

    def check(self) -> None:
        """Check every value.

        Raises:
            ValueError: If one is invalid. A missing name is a KeyError, a value of another kind maybe a TypeError.
        """
        if self.dtype not in _DTYPES:
            raise ValueError(f"dtype={short(self.dtype)}")
        most = np.iinfo(self.dtype).max
        if not _is_count(self.vocab_size, 1, most + 1):
            raise ValueError(f"vocab_size={short(self.vocab_size)}")
        if not isinstance(self.shards, list) or not self.shards:
            raise ValueError(f"shards={short(self.shards)}")
        for number, shard in enumerate(self.shards):
            lowest, highest, characters = shard["lowest"], shard["highest"], shard["characters"]
            if (
                shard.keys() != {"ids", "sha256", "lowest", "highest", "characters"}
                or not _is_count(shard["ids"], 1)
                or not _is_count(highest, 0, self.vocab_size - 1)
                or not _is_count(lowest, 0, highest)
                or not (characters is None or _is_count(characters, 0))
                or not re.fullmatch("[0-9a-f]{64}", shard["sha256"])
            ):
                raise ValueError(f"shard {number} is {short(shard)}")
        if not _is_count(self.train, 0, self.total):
            raise ValueError(f"train={short(self.train)} of {self.total} ids")
        if self.tokenizer is not None and not isinstance(self.tokenizer, dict):
            raise ValueError(f"tokenizer={short(self.tokenizer)}")

    def characters_per_id(self, start: int, stop: int) -> float | None:
        """Return the mean number of characters per id between two positions, if the shards there have it."""
        characters, before = 0.0, 0
        for shard in self.shards:
            overlap = min(stop, before + shard["ids"]) - max(start, before)
            if overlap > 0:
                if shard["characters"] is None:
                    return None
                characters += shard["characters"] * overlap / shard["ids"]
            before += shard["ids"]
        return characters / (stop - start) if stop > start else None

    def tokenizer_for(self, directory: Path, given: Tokenizer | None) -> Tokenizer | None:
        """Return the tokenizer of the corpus: the one in the manifest, or ``given`` if it is the same.

        Raises:
            DataError: If the tokenizer in the manifest is invalid.
            TokenizerError: If ``given`` is another one.
        """
        entry = self.tokenizer
        if given is not None:
            ours = entry_of(given)
            if entry is not None and entry not in (ours, fingerprint(given)):
                theirs, got = (short(each.get("name", each.get("type"))) for each in (entry, ours))
                raise TokenizerError(
                    f"tokenizer must be the one that {show(directory)} was prepared with, {theirs} of "
                    f"{self.vocab_size} ids, got {got} of {given.vocab_size} ids, which gives other ids or texts; "
                    "leave it out, or prepare the corpus again"
                )
            return given
        try:
            return None if entry is None else tokenizer_of(entry)
        except TinyGPTError as error:
            raise DataError(f"{show(directory / MANIFEST)} contains an invalid tokenizer: {error}") from error


def _is_count(value: Any, least: int, most: int | None = None) -> bool:
    return type(value) is int and least <= value and (most is None or value <= most)
