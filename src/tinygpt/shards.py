"""Read the ids of a corpus from files that may be larger than memory.

:func:`~tinygpt.prepare` writes a directory of shards, ``shard-00000.bin`` and so on, each a file of little-endian ids
and nothing else, and a ``manifest.json`` that describes them. So a corpus of any size opens at once, and
:func:`check_shard` finds any bit that has changed since. The names of the files are computed, never read.

Files of other programs have no manifest. Those of nanoGPT are 16-bit ids. Those of llm.c and modded-nanogpt begin with
a header of 256 integers, which says how many ids follow and of how many bits. The ids of such files are checked
whenever they are read.
"""

import glob
import hashlib
import mmap
import operator
import os
import stat
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from tinygpt.errors import ConfigError, DataError, DataNotFoundError, check_integer, check_number, short, show
from tinygpt.files import check_path, no_file
from tinygpt.ids import Joined
from tinygpt.manifests import MANIFEST, PROGRESS, Manifest, shard_path
from tinygpt.tokenizer import Tokenizer, check_tokenizer

__all__ = ["Shard", "Stored", "check_shard", "open_corpus", "open_files", "open_shards", "reading_ahead"]

_HEADER = 256  # 32-bit integers
_HEADERS = {(20240520, 1): "<u2", (20240801, 7): "<u4"}  # magic number and version: GPT-2 and Llama 3 in llm.c
_AT_ONCE = 1 << 22  # ids that a check reads


@dataclass(frozen=True, eq=False)
class Shard:
    """A file of ids, mapped into memory: the system reads the pages that are used, and no others.

    Attributes:
        path: The file.
        pages: The file in memory; None in a copy.
        array: Its ids.
        limit: If the ids are not known to be below it, the number of ids in the vocabulary, else None.
        entry: What the manifest says about the file; empty without a manifest.
    """

    path: Path
    pages: mmap.mmap | None
    array: np.ndarray
    limit: int | None
    entry: Mapping[str, Any]

    def __getstate__(self) -> dict[str, Any]:
        """Return the state for a copy or a pickle, which has the ids but not the file."""
        return vars(self) | {"pages": None}

    @property
    def dtype(self) -> Any:
        """The dtype of the ids."""
        return self.array.dtype

    def __len__(self) -> int:
        return len(self.array)

    def __getitem__(self, index: slice, /) -> Any:
        ids = self.array[index]
        if self.limit is not None and len(ids) and (highest := int(ids.max())) >= self.limit:
            raise DataError(
                f"ids must be from 0 to {self.limit - 1}, got {highest} in {show(self.path)}; use the tokenizer of the "
                "file, or a larger vocab_size"
            )
        return ids

    def __iter__(self) -> Iterator[Any]:
        return iter(self[:])

    def tolist(self) -> Any:
        """Return all ids as a list."""
        return self[:].tolist()


class Stored(NamedTuple):
    """A corpus on the disk.

    Attributes:
        tokenizer: Its tokenizer, or None.
        vocab_size: Number of distinct ids.
        splits: The ids to train on and those to validate on.
        shards: The files.
        digest: SHA-256 of its manifest, or None.
        characters: Mean number of characters per id of each split, as far as it is known.
    """

    tokenizer: Tokenizer | None
    vocab_size: int
    splits: tuple[Joined, Joined]
    shards: Sequence[Shard]
    digest: str | None
    characters: Mapping[str, float]


def open_corpus(
    path: str | os.PathLike[str],
    tokenizer: Tokenizer | None,
    *,
    vocab_size: int | None,
    val: str | os.PathLike[str] | None,
    val_fraction: float | None,
) -> Stored:
    """Open a corpus with the arguments of :meth:`tinygpt.TokenDataset.open`."""
    directory = check_path("path", path)
    if tokenizer is not None:
        check_tokenizer(tokenizer)
    if not directory.exists() and not glob.has_magic(str(directory)):
        raise DataNotFoundError(no_file(directory, kind="corpus"))
    if directory.is_dir() and (val is not None or val_fraction is not None):
        raise ConfigError(f"a directory has splits of its own, got val or val_fraction with {show(directory)}")
    if (directory / MANIFEST).exists():
        return _open_prepared(directory, tokenizer, vocab_size)
    if directory.is_dir():
        path, val = directory / "train.bin", directory / "val.bin"
        if not (path.exists() and val.exists()):
            unfinished = (directory / PROGRESS).exists()
            way = "call prepare again, which goes on" if unfinished else "make one with prepare, or pass a file"
            raise DataError(
                f"a corpus must be a directory with {MANIFEST}, or with train.bin and val.bin, got {show(directory)} "
                f"without; {way}"
            )
    if tokenizer is None and vocab_size is None:
        raise ConfigError(
            f"ids without a manifest need a tokenizer or vocab_size, got neither for {show(directory)}; GPT-2 has "
            "vocab_size=50257"
        )
    size = _vocab_size(vocab_size, 1 if tokenizer is None else operator.index(tokenizer.vocab_size))
    share = 0.1 if val_fraction is None else val_fraction
    check_number("val_fraction", share, "in [0, 1)", lambda share: 0 <= share < 1)
    shards = open_files("path", path, size)
    held_out = [] if val is None else open_files("val", val, size)
    ids = _joined([*shards, *held_out])
    boundary = sum(map(len, shards)) if held_out else int(round((1 - share) * len(ids), 6))
    return Stored(tokenizer, size, ids.divided(boundary), [*shards, *held_out], None, {})


def _open_prepared(directory: Path, given: Tokenizer | None, vocab_size: int | None) -> Stored:
    manifest = Manifest.read(directory)
    shards = open_shards(directory, manifest)
    spans = {"train": (0, manifest.train), "val": (manifest.train, manifest.total)}
    characters = {name: manifest.characters_per_id(*span) for name, span in spans.items()}
    return Stored(
        manifest.tokenizer_for(directory, given),
        _vocab_size(vocab_size, manifest.vocab_size),
        _joined(shards).divided(manifest.train),
        shards,
        manifest.digest(),
        {name: share for name, share in characters.items() if share is not None},
    )


def _vocab_size(given: int | None, least: int) -> int:
    """Return the number of ids: some corpora are trained with a few more than they have."""
    return least if given is None else check_integer("vocab_size", given, minimum=least)


def _joined(shards: Sequence[Shard]) -> Joined:
    """Return the ids of some shards as one sequence; those that need no check are read without one."""
    return Joined([shard.array if shard.limit is None else shard for shard in shards])


def open_shards(directory: Path, manifest: Manifest) -> list[Shard]:
    """Open the shards of a prepared corpus.

    Raises:
        DataError: If a file is missing, is not a regular file, or has another size than the manifest says.
    """
    dtype, paths = np.dtype(manifest.dtype), (shard_path(directory, number) for number in range(len(manifest.shards)))
    entries = zip(paths, manifest.shards, strict=True)
    return [_map(path, dtype, entry["ids"], limit=None, entry=entry) for path, entry in entries]


def open_files(name: str, source: str | os.PathLike[str], vocab_size: int) -> list[Shard]:
    """Open the files of ids that a path or a pattern names, in the order of their names.

    Raises:
        DataError: If there is no such file, or one is empty, is not a regular file, or has another size than its header
            says.
    """
    path = check_path(name, source)
    paths = [path]
    if not path.exists() and glob.has_magic(str(path)):
        paths = [Path(each) for each in sorted(glob.glob(str(path)))]  # noqa: PTH207 # Path.glob takes no absolute pattern
        if not paths:
            raise DataError(f"{name} must have a file, got the pattern {show(path)} without one; check the path")
    elif not path.exists():
        raise DataNotFoundError(no_file(path))
    return [_open_file(each, vocab_size) for each in paths]


def _open_file(path: Path, vocab_size: int) -> Shard:
    size = _size_of(path)
    with path.open("rb") as file:
        header = np.frombuffer(file.read(4 * _HEADER), np.uint8)
    dtype, offset, count = np.dtype("<u2"), 0, size // 2
    if len(header) == 4 * _HEADER:
        magic, version, said = header.view("<i4")[:3].tolist()
        if magic in {known for known, _ in _HEADERS}:
            if (magic, version) not in _HEADERS:
                raise DataError(
                    f"{show(path)} must have a header of a known version, got {version} after {magic}; convert it to "
                    "ids of 16 bits without a header"
                )
            dtype, offset, count = np.dtype(_HEADERS[magic, version]), 4 * _HEADER, said
    return _map(path, dtype, count, offset=offset, limit=vocab_size, entry={})


def _map(
    path: Path, dtype: np.dtype, count: int, *, offset: int = 0, limit: int | None, entry: Mapping[str, Any]
) -> Shard:
    """Map a file of ``count`` ids into memory."""
    size, expected = _size_of(path), offset + count * dtype.itemsize
    if size != expected or count < 1:
        raise DataError(
            f"{show(path)} must have {max(count, 1):,} ids in {max(expected, offset + dtype.itemsize):,} bytes, got "
            f"{size:,} bytes; the file is cut short or of another kind, so copy it or prepare it again"
        )
    with path.open("rb") as file:
        pages = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
    _advise(pages, "MADV_RANDOM")  # else each window would read megabytes around it
    array = np.frombuffer(pages, dtype, count, offset)
    return Shard(path, pages, array, None if limit is None or limit > np.iinfo(dtype).max else limit, entry)


@contextmanager
def reading_ahead(shards: Sequence[Shard]) -> Iterator[None]:
    """Let the system read ahead inside the block, in which files are read from start to end."""
    for shard in shards:
        _advise(shard.pages, "MADV_SEQUENTIAL")
    try:
        yield
    finally:
        for shard in shards:
            _advise(shard.pages, "MADV_RANDOM")


def _advise(pages: mmap.mmap | None, advice: str) -> None:
    """Say how a file in memory will be read, where the system asks."""
    if pages is not None and hasattr(mmap, advice):
        pages.madvise(getattr(mmap, advice))


def _size_of(path: Path) -> int:
    """Return the size of a regular file in bytes."""
    try:
        kind = path.stat()  # before the file is opened, since opening a pipe would wait for a writer
    except OSError as error:
        raise DataError(f"a shard must be a file that can be read, got {show(path)}: {error.strerror}") from error
    if not stat.S_ISREG(kind.st_mode):
        raise DataError(f"a shard must be a regular file, got {show(path)}, which is a directory, a pipe or a device")
    return kind.st_size


def check_shard(shard: Shard) -> None:
    """Read a whole file of ids, and compare it with its manifest.

    Raises:
        DataError: If a byte has changed, or without a manifest if an id is outside the vocabulary.
    """
    digest = hashlib.sha256()
    lowest, highest = [], []
    with reading_ahead([shard]):
        for start in range(0, len(shard), _AT_ONCE):
            ids = shard[start : start + _AT_ONCE]
            lowest.append(int(ids.min()))
            highest.append(int(ids.max()))
            digest.update(ids.data)
    found = {"sha256": digest.hexdigest(), "lowest": min(lowest), "highest": max(highest)}
    changed = [name for name, value in found.items() if name in shard.entry and shard.entry[name] != value]
    if changed:
        name = changed[0]
        raise DataError(
            f"{show(shard.path)} was changed since it was prepared, got {name}={short(found[name])} where the manifest "
            f"has {short(shard.entry[name])}; use another copy, or prepare the corpus again"
        )
