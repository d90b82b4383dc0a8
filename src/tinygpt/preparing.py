"""Write a corpus that may be larger than memory to the disk, as :meth:`TokenDataset.open` reads it.

The texts are read, encoded and written in pieces, so that memory does not depend on the length of a text or of a shard.
After each shard, ``progress.json`` says where in the sources the next one begins. So a process that is killed loses at
most one shard.
"""

import codecs
import hashlib
import os
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from tinygpt.data import TokenDataset
from tinygpt.documents import ending_of
from tinygpt.encoder import Encoder, Text, check_sendable, cuts_anywhere, encode_all
from tinygpt.errors import (
    ConfigError,
    DataError,
    InputTypeError,
    check_integer,
    check_number,
    checked_names,
    short,
    show,
)
from tinygpt.files import check_path, to_json, write_whole
from tinygpt.fingerprints import entry_of
from tinygpt.manifests import MANIFEST, Manifest, dtype_of
from tinygpt.shard_writer import ShardWriter
from tinygpt.shards import open_files
from tinygpt.texts import paths_of
from tinygpt.tokenizer import CharTokenizer, Tokenizer, check_tokenizer

__all__ = ["prepare"]

_PIECE = 1 << 20  # bytes of a file that are read at once
_Paths = str | os.PathLike[str] | Sequence[str | os.PathLike[str]]


@checked_names
def prepare(
    sources: _Paths | Iterator[str],
    out: str | os.PathLike[str],
    tokenizer: Tokenizer | None = None,
    *,
    val_fraction: float = 0.1,
    shard_ids: int = 1 << 27,
    workers: int = 0,
    separator: str | None = None,
) -> TokenDataset:
    r"""Encode texts into a directory of ids, which :meth:`TokenDataset.open` opens.

    Neither the texts nor the ids have to fit into memory. If the process is stopped, the same call goes on after the
    last shard that was complete, and ends with the same bytes. After the end, it only opens the corpus.

    Args:
        sources: A file, a folder, a pattern such as ``"books/*.txt"``, or several of them, read as UTF-8 in this order.
            A ``.bin`` file has ids of the tokenizer, in one of the formats that :meth:`TokenDataset.open` reads. Or an
            iterator over documents, each a text.
        out: The directory to write to.
        tokenizer: Converts the texts to ids. By default, a :class:`CharTokenizer` of all characters in the files, which
            are then read twice.
        val_fraction: Share of the tokens, at their end, for validation.
        shard_ids: Number of tokens in a shard.
        workers: Number of processes that encode. With 0 this process does, which is as fast for a
            :class:`CharTokenizer`. A script that uses others must be protected by ``if __name__ == "__main__":``.
        separator: Text at the end of each document in the files, such as ``"<|endoftext|>"`` or ``"\n\n"``. A tokenizer
            other than a :class:`CharTokenizer` needs it for text files, since it encodes each document alone. An
            iterator over documents gets it after each document, by default the tokenizer's ``end_id``.

    Returns:
        The dataset.

    Raises:
        ConfigError: If a number is out of range, a separator is missing, or the tokenizer cannot be sent to workers.
        DataError: If ``out`` contains a corpus of other sources or arguments, or a source is empty or not UTF-8.
        DataNotFoundError: If a file is missing; the message has the nearest name that exists.
        InputTypeError: If ``sources`` are neither paths nor an iterator over texts.
        TokenizerError: If a text has a character that the tokenizer does not know.

    Example:
        >>> folder = getfixture("tmp_path")
        >>> _ = (folder / "verse.txt").write_text("to be, or not to be: " * 20)
        >>> prepare(folder / "*.txt", folder / "corpus")
        TokenDataset(420 characters: 378 train, 42 val; vocab_size=9)
        >>> sorted(path.name for path in (folder / "corpus").iterdir())
        ['manifest.json', 'progress.json', 'shard-00000.bin']
    """
    check_number("val_fraction", val_fraction, "in [0, 1)", lambda share: 0 <= share < 1)
    check_integer("shard_ids", shard_ids, minimum=1)
    check_integer("workers", workers, minimum=0)
    if separator is not None and not (isinstance(separator, str) and separator):
        raise ConfigError(f"separator must be a text of at least one character, got separator={short(separator)}")
    directory, paths = check_path("out", out), _paths_in(sources)
    if tokenizer is None:
        tokenizer = _tokenizer_of(paths)
    entry = entry_of(check_tokenizer(tokenizer))
    _check_cuts(paths, tokenizer, separator)
    encoder = Encoder(tokenizer, paths, ending_of(tokenizer, separator) if paths is None else None)
    if workers:
        check_sendable(tokenizer)
    files = None if paths is None else [[str(path), path.stat().st_size] for path in paths]
    arguments = to_json([files, entry, val_fraction, shard_ids, separator])
    manifest = Manifest(dtype_of(tokenizer.vocab_size), tokenizer.vocab_size, entry, [], 0)
    writer = ShardWriter(directory, hashlib.sha256(arguments.encode()).hexdigest(), manifest, shard_ids)
    if not (directory / MANIFEST).exists():
        if paths is None:
            texts = _documents(sources, writer.offset)
        else:
            texts = _pieces(paths, (writer.source, writer.offset), tokenizer, separator)
        shards = writer.write(encode_all(texts, encoder, workers))
        total = sum(shard["ids"] for shard in shards)
        if not total:
            raise DataError(f"corpus is empty; the sources of {show(directory)} have no text")
        boundary = int(round((1 - val_fraction) * total, 6))  # as TokenDataset splits
        write_whole(directory / MANIFEST, replace(manifest, shards=shards, train=boundary).to_bytes())
    return TokenDataset.open(directory, tokenizer)


def _paths_in(sources: Any) -> list[Path] | None:
    """Return the files that sources name, or None for an iterator over documents."""
    if isinstance(sources, str | os.PathLike):
        sources = [sources]
    if isinstance(sources, Iterator):
        return None
    if not isinstance(sources, Sequence) or isinstance(sources, bytes):
        raise InputTypeError(
            f"sources must be paths or an iterator over texts, got {short(sources)} of type {type(sources).__name__}"
        )
    paths = [path for source in sources for path in paths_of(source)]
    if not paths:
        raise DataError("sources must have a file, got 0 paths; for texts in memory use iter(texts)")
    return paths


def _tokenizer_of(paths: list[Path] | None) -> CharTokenizer:
    """Return a tokenizer of all characters in some text files."""
    if paths is None or any(map(_has_ids, paths)):
        raise ConfigError("ids and an iterator over texts need a tokenizer, got tokenizer=None; pass the one to use")
    symbols = {symbol for path in paths for _, text in _read(path, 0) for symbol in set(text)}
    if not symbols:
        raise DataError(f"corpus is empty; {show(paths[0])} and the other sources have no text")
    return CharTokenizer(sorted(symbols))


def _check_cuts(paths: list[Path] | None, tokenizer: Tokenizer, separator: str | None) -> None:
    """Raise a ConfigError where a text file cannot be cut without other ids."""
    if separator is None and not cuts_anywhere(tokenizer):
        for path in paths or ():
            if not _has_ids(path):
                raise ConfigError(
                    f"{type(tokenizer).__name__} encodes each document of {show(path)} alone, got separator=None; use "
                    r"the text at the end of each, e.g. separator='\n\n'"
                )


def _has_ids(path: Path) -> bool:
    return path.suffix == ".bin"


def _pieces(
    paths: Sequence[Path], start: tuple[int, int], tokenizer: Tokenizer, separator: str | None
) -> Iterator[Text]:
    """Yield the pieces of some files, from a position in one of them on."""
    for number, path in enumerate(paths[start[0] :], start[0]):
        offset = start[1] if number == start[0] else 0
        if _has_ids(path):
            found = _read_ids(path, offset, tokenizer.vocab_size)
        else:
            found = _read(path, offset)
            if not cuts_anywhere(tokenizer):
                found = _divided(found, separator or "")
        yield from (Text(number, at, content) for at, content in found)


def _read_ids(path: Path, offset: int, vocab_size: int) -> Iterator[tuple[int, Any]]:
    """Yield pieces of a file of ids, each with the number of ids before it."""
    (shard,) = open_files("sources", path, vocab_size)
    yield from ((start, shard[start : start + _PIECE]) for start in range(offset, len(shard), _PIECE))


def _read(path: Path, offset: int) -> Iterator[tuple[int, str]]:
    """Yield pieces of a text file, each with the byte where it begins."""
    decoder = codecs.getincrementaldecoder("utf-8")()
    with path.open("rb") as file:
        file.seek(offset)
        raw = b"-"
        while raw:
            raw = file.read(_PIECE)
            waiting = len(decoder.getstate()[0])  # bytes of a character that is not complete yet
            try:
                text = decoder.decode(raw, final=not raw)
            except UnicodeDecodeError as error:
                raise DataError(
                    f"{show(path)} is not utf-8 text: byte 0x{error.object[error.start]:02x} at offset "
                    f"{offset - waiting + error.start} does not fit; convert it to UTF-8 first"
                ) from error
            if text:
                yield offset - waiting, text
            offset += len(raw)


def _divided(pieces: Iterable[tuple[int, str]], separator: str) -> Iterator[tuple[int, str]]:
    """Yield documents, each with the separator at its end and the byte where it begins."""
    rest, begin = "", 0
    for offset, text in pieces:
        begin = begin if rest else offset
        *whole, rest = (rest + text).split(separator)
        for document in whole:
            yield begin, document + separator
            begin += len((document + separator).encode())
    if rest:
        yield begin, rest


def _documents(texts: Any, skipped: int) -> Iterator[Text]:
    """Yield the documents of an iterator that are not empty, from a number on."""
    for number, text in enumerate(texts):
        if not isinstance(text, str):
            raise InputTypeError(f"documents must be texts, got {short(text)} as document {number}")
        if text and number >= skipped:
            yield Text(0, number, text)
