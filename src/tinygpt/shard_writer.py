"""Write ids as shards, so that a process that was stopped goes on after the last complete one."""

import hashlib
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from tinygpt.errors import DataError, check_integer, cut, show
from tinygpt.files import parse_json, read_whole, to_json, write_whole
from tinygpt.manifests import MANIFEST, PROGRESS, Manifest, shard_path
from tinygpt.shards import open_shards

__all__ = ["Piece", "ShardWriter"]

_AT_ONCE = 1 << 20  # bytes of a shard that are written together
_MOST_PROGRESS = 32 << 20  # bytes


class Piece(NamedTuple):
    """Ids, and where they come from.

    Attributes:
        source: Number of the file.
        offset: Bytes, ids or documents before it in the file.
        ids: The ids.
        characters: Number of characters that they stand for, or None.
    """

    source: int
    offset: int
    ids: np.ndarray
    characters: int | None


class ShardWriter:
    """Write pieces of ids into the shards of a directory, each shard completely or not at all.

    Args:
        directory: Where the shards are. The directory is made if needed.
        arguments: Digest of everything that decides about the bytes of the corpus.
        manifest: Describes the corpus, without its shards.
        shard_ids: Number of ids in a shard.

    Attributes:
        source: Number of the file in which the next shard begins.
        offset: Offset in that file of the piece in which the next shard begins.

    Raises:
        DataError: If the directory has a corpus of other arguments, or a shard is missing.
    """

    def __init__(self, directory: Path, arguments: str, manifest: Manifest, shard_ids: int) -> None:
        self._directory, self._arguments, self._manifest, self._shard_ids = directory, arguments, manifest, shard_ids
        self._shards: list[dict[str, Any]] = []
        self.source = self.offset = self._used = 0  # ids of the piece there that are in a shard already
        self._piece: Piece | None = None
        if (directory / PROGRESS).exists():
            self._go_on()
        elif (directory / MANIFEST).exists():
            raise DataError(
                f"{show(directory)} contains a corpus; open it with TokenDataset.open, or use another directory"
            )
        else:
            directory.mkdir(parents=True, exist_ok=True)
            self._save()

    def _go_on(self) -> None:
        """Read the position at which an earlier process stopped."""
        path = self._directory / PROGRESS
        try:
            found = parse_json(read_whole(path, _MOST_PROGRESS))
            position = (check_integer("position", each, minimum=0) for each in found["position"])
            self.source, self.offset, self._used = position
            self._shards = found["shards"]
            is_same = found["arguments"] == self._arguments
            described = replace(self._manifest, shards=self._shards)
            if is_same and self._shards != []:
                described.check()
        except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
            raise DataError(
                f"{show(path)} is invalid: {cut(str(error))}; remove the directory to start again"
            ) from error
        if not is_same:
            raise DataError(
                f"{show(self._directory)} contains a corpus of other sources or arguments; use the same ones to go on, "
                "or another directory"
            )
        open_shards(self._directory, described)

    def write(self, pieces: Iterator[Piece]) -> list[dict[str, Any]]:
        """Write the ids from the position on, and return the entries of all shards for the manifest."""
        self._piece = _next(pieces)
        while self._piece is not None:
            entry: dict[str, Any] = {"ids": 0, "lowest": sys.maxsize, "highest": 0, "characters": 0}
            digest = hashlib.sha256()
            write_whole(shard_path(self._directory, len(self._shards)), self._fill(pieces, entry, digest))
            self._shards.append(entry | {"sha256": digest.hexdigest()})
            end = Piece(sys.maxsize, sys.maxsize, np.empty(0), None)
            self.source, self.offset, *_ = self._piece or end
            self._save()
        return self._shards

    def _fill(self, pieces: Iterator[Piece], entry: dict[str, Any], digest: Any) -> Iterator[bytes]:
        """Yield the bytes of the next shard, and describe them in its entry and digest."""
        buffer = bytearray()
        while self._piece is not None and entry["ids"] < self._shard_ids:
            *_, ids, characters = self._piece
            used, end = self._used, min(len(ids), self._used + self._shard_ids - entry["ids"])
            part = ids[used:end]
            entry["ids"] += len(part)
            entry["lowest"] = min(entry["lowest"], int(part.min()))
            entry["highest"] = max(entry["highest"], int(part.max()))
            if characters is None or entry["characters"] is None:
                entry["characters"] = None
            else:  # those of a piece in two shards are divided between them
                entry["characters"] += characters * end // len(ids) - characters * used // len(ids)
            raw = part.astype(self._manifest.dtype).tobytes()
            digest.update(raw)
            buffer += raw
            if len(buffer) >= _AT_ONCE:
                yield bytes(buffer)
                buffer.clear()
            self._used = end
            if end == len(ids):
                self._piece, self._used = _next(pieces), 0
        yield bytes(buffer)

    def _save(self) -> None:
        position = [self.source, self.offset, self._used]
        described = {"arguments": self._arguments, "shards": self._shards, "position": position}
        write_whole(self._directory / PROGRESS, (to_json(described) + "\n").encode())


def _next(pieces: Iterator[Piece]) -> Piece | None:
    """Return the next piece that has ids, or None."""
    return next((piece for piece in pieces if len(piece.ids)), None)
