"""Checkpoints of a sharded run: a directory with a file of each process, and a manifest that is written last.

A file is one of :mod:`tinygpt.checkpoint`. Its payload lists which rows of each tensor it has; tensors that every
process has whole are in the first file. The manifest names the digest of each file. A directory is a checkpoint from
the moment at which its manifest is written.
"""

import errno
import re
import stat
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from tinygpt.checkpoint import read_with_digest, write
from tinygpt.errors import (
    CheckpointCorruptError,
    CheckpointError,
    CheckpointNotFoundError,
    CheckpointVersionError,
    InputTypeError,
    short,
    show,
)
from tinygpt.files import check_regular, parse_json, read_whole, sweep, to_json, write_whole
from tinygpt.sharded_tensors import is_sharded, local, rows_of, share_of_rows
from tinygpt.training.values import require

MANIFEST = "manifest.json"
FORMAT_VERSION = 1
_MOST_BYTES = 16 << 20  # of a manifest
_FILE = re.compile(r"rank-\d{5}\.(\d{1,9})\.safetensors")

Share = Callable[[int], tuple[int, int]]  # from the rows of a tensor to those wanted: the first, and after the last


def all_rows(count: int) -> tuple[int, int]:
    """Return the rows of a whole tensor."""
    return 0, count


def is_checkpoint(directory: Path) -> bool:
    """Return whether a path is a directory with a manifest, not a link to one."""
    try:
        mode = (directory / MANIFEST).lstat().st_mode
    except OSError:
        return False
    return stat.S_ISREG(mode) and not directory.is_symlink()


def next_save(directory: Path) -> int:
    """Return the number of the next save to a directory, which decides the names of its files."""
    numbers = [int(match[1]) for path in directory.glob("rank-*") if (match := _FILE.fullmatch(path.name))]
    return max(numbers, default=-1) + 1


def write_rank(directory: Path, rank: int, save: int, tensors: Mapping[str, Tensor], payload: Mapping[str, Any]) -> str:
    """Write the file of one process, and return its digest.

    Raises:
        CheckpointSaveError, OSError: If the file cannot be written.
        InputTypeError: If a tensor is sharded in another way than by rows.
    """
    rows = {name: rows_of(tensor) for name, tensor in tensors.items() if is_sharded(tensor)}
    if other := [name for name, some in rows.items() if some is None]:
        raise InputTypeError(
            f"tensors must be sharded by rows to be saved, got another placement of {short(other[0])}; use an "
            "optimizer that keeps its state in the shape of the parameters"
        )
    held = {name: local(tensor).contiguous() for name, tensor in tensors.items() if name in rows or rank == 0}
    training = payload["training"] | {"rows": rows}
    if directory.is_symlink():
        raise OSError(errno.ELOOP, "it is a symbolic link")
    directory.mkdir(exist_ok=True)
    path = _file(directory, rank, save)
    check_regular(path)
    return write(path, held, dict(payload) | {"training": training})


def write_manifest(directory: Path, step: int, save: int, digests: list[str]) -> None:
    """Make the files of all processes a checkpoint, and remove those of earlier saves.

    Raises:
        OSError: If the manifest cannot be written, or the file of a process is not there.
    """
    for rank in range(len(digests)):
        if not (path := _file(directory, rank, save)).is_file():
            raise FileNotFoundError(2, f"{path.name} is missing: all processes must use one file system")
    manifest = {"format": FORMAT_VERSION, "step": step, "save": save, "digests": digests}
    write_whole(directory / MANIFEST, to_json(manifest).encode())
    _remove_files(directory, keep={_file(directory, rank, save).name for rank in range(len(digests))})


def remove(directory: Path) -> None:
    """Remove a checkpoint, its manifest first, or what an interrupted save has left of one.

    Raises:
        OSError: If a file cannot be removed, or the directory has other files.
    """
    (directory / MANIFEST).unlink(missing_ok=True)
    _remove_files(directory)
    directory.rmdir()


def discard_save(directory: Path, save: int) -> None:
    """Remove the files of a save that failed; an earlier checkpoint in the directory stays."""
    _remove_files(directory, keep={path.name for path in directory.glob("*") if f".{save}." not in path.name})
    if directory.is_dir() and not is_checkpoint(directory):
        directory.rmdir()


def read_shards(
    directory: Path, share: Share = all_rows, sizes: Iterable[int] = ()
) -> tuple[dict[str, Any], dict[str, Tensor], dict[str, int]]:
    """Read the wanted rows of a checkpoint from the files that have them, each verified whole.

    Args:
        directory: The checkpoint.
        share: Which rows to return of a tensor; by default all.
        sizes: Numbers of rows of the tensors, by which the files are chosen; by default all files are read.

    Returns:
        The payload, the tensors, and the number of rows in all of each tensor that was sharded.

    Raises:
        CheckpointCorruptError: If a file is missing, changed, or lacks rows.
        CheckpointError: If the checkpoint cannot be read.
    """
    step, save, digests = _read_manifest(directory)
    world = len(digests)
    wanted = [(share(size), size) for size in sizes]
    pieces: dict[str, list[tuple[int, int, Tensor]]] = {}
    counts: dict[str, int] = {}
    payload: dict[str, Any] = {}
    tensors: dict[str, Tensor] = {}
    for rank, digest in enumerate(digests):
        needed = [_overlap(some, share_of_rows(size, rank, world)) for some, size in wanted]
        if rank and wanted and not any(needed):
            continue
        path = _file(directory, rank, save)
        described, held = _read_file(path, digest, step)
        rows = described["training"].pop("rows", None)
        _check_rows(path, rows, held)
        if rank == 0:
            payload, tensors = described, {name: tensor for name, tensor in held.items() if name not in rows}
            counts = {name: count for name, (_, _, count) in rows.items()}
        if counts != {name: count for name, (_, _, count) in rows.items()}:
            raise CheckpointCorruptError(f"{show(path)} does not have the tensors of the first file; use another copy")
        for name, (first, end, count) in rows.items():
            low, high = share(count)
            low, high = max(low, first), min(high, end)
            if low < high:
                pieces.setdefault(name, []).append((low, high, held[name][low - first : high - first].clone()))
            elif name not in pieces:
                pieces[name] = [(share(count)[0], share(count)[0], held[name][:0].clone())]
    for name, some in pieces.items():
        low, high = share(counts[name])
        for first, end, _ in some:
            if first == low:
                low = end
        if low != high:
            raise CheckpointCorruptError(f"{show(directory)} lacks row {low} of {short(name)}; use another copy")
        tensors[name] = torch.cat([piece for _, _, piece in some])
    return payload, tensors, counts


def _overlap(some: tuple[int, int], others: tuple[int, int]) -> bool:
    return max(some[0], others[0]) < min(some[1], others[1])


def _file(directory: Path, rank: int, save: int) -> Path:
    """Return the path of a file; it is computed, never read from a manifest."""
    return directory / f"rank-{rank:05d}.{save}.safetensors"


def _remove_files(directory: Path, keep: Iterable[str] = ()) -> None:
    """Remove the files of saves except some, and temporary files; others are not touched."""
    sweep(directory)
    for path in directory.glob("rank-*"):
        if _FILE.fullmatch(path.name) and path.name not in keep:
            check_regular(path)
            path.unlink()


def _read_manifest(directory: Path) -> tuple[int, int, list[str]]:
    path = directory / MANIFEST
    try:
        check_regular(path)
        found = parse_json(read_whole(path, _MOST_BYTES))
        if isinstance(found, dict) and type(version := found.get("format")) is int and version > FORMAT_VERSION:
            raise CheckpointVersionError(
                f"{show(path)} has format {short(version)}, this tinygpt reads up to {FORMAT_VERSION}; upgrade tinygpt"
            )
        require(isinstance(found, dict) and found.keys() == {"format", "step", "save", "digests"}, "four entries")
        require(found["format"] == FORMAT_VERSION, f"format {FORMAT_VERSION}, got {short(found['format'])}")
        step, save, digests = found["step"], found["save"], found["digests"]
        require(type(step) is int and type(save) is int and 0 <= save < 10**9, "numbers of a step and a save")
        is_list = isinstance(digests, list) and 0 < len(digests) < 10**5
        require(is_list and all(isinstance(digest, str) for digest in digests), "a digest for each process")
    except ValueError as error:
        raise CheckpointCorruptError(f"{show(path)} is not the manifest of a checkpoint: {error}") from error
    except OSError as error:
        raise CheckpointError(f"cannot read {show(path)}: {error.strerror or error}") from error
    return step, save, digests


def _read_file(path: Path, digest: str, step: int) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """Return payload and tensors of a file that a manifest names."""
    try:
        check_regular(path)
        payload, tensors, found = read_with_digest(path)
    except CheckpointNotFoundError as error:
        raise CheckpointCorruptError(f"{show(path)} is missing; use another copy, or an older checkpoint") from error
    except OSError as error:
        raise CheckpointError(f"cannot read {show(path)}: {error.strerror or error}") from error
    if found != digest or payload["training"] is None or payload["training"].get("step") != step:
        raise CheckpointCorruptError(f"{show(path)} is of another save than its manifest; use another copy")
    return payload, tensors


def _check_rows(path: Path, rows: Any, tensors: Mapping[str, Tensor]) -> None:
    """Raise unless the rows of each sharded tensor are as many as a file has."""
    is_valid = isinstance(rows, dict) and all(
        isinstance(some, list)
        and len(some) == 3
        and all(type(number) is int for number in some)
        and 0 <= some[0] <= some[1] <= some[2]
        and name in tensors
        and tensors[name].ndim > 0
        and len(tensors[name]) == some[1] - some[0]
        for name, some in rows.items()
    )
    if not is_valid:
        raise CheckpointCorruptError(f"{show(path)} does not name the rows of its tensors; use another copy")
