"""What touches the disk, and reads what lies there without trusting it.

A file is written whole or not at all: into a temporary one beside it, which is forced to the disk and then takes its
name in one step. A process that is killed, a full disk or a loss of power at any instant leaves the old file or the
new one.

Source:
    Pillai et al., *All File Systems Are Not Created Equal: On the Complexity of Crafting Crash-Consistent
    Applications*, OSDI 2014 (why the file and then the directory must be forced to the disk).
    https://www.usenix.org/conference/osdi14/technical-sessions/presentation/pillai
"""

import json
import os
import platform
import secrets
import stat
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

_PREFIX, _SUFFIX = ".tinygpt-", ".tmp"  # a name of our own, so that what a killed process left can be swept away


def write_whole(path: Path, raw: bytes) -> None:
    """Put the bytes at the path. When this returns they survive a loss of power; until then the old file does.

    The mode of an existing file stays, and a link stays a link.

    Raises:
        OSError: If it cannot be done. The old file is then untouched and nothing is left beside it.
    """
    target = path.resolve()
    mode = stat.S_IMODE(os.stat(target).st_mode) if target.exists() else None
    temporary = target.parent / f"{_PREFIX}{secrets.token_hex(8)}{_SUFFIX}"
    handle = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL | getattr(os, "O_BINARY", 0), 0o666)
    try:
        try:
            rest = memoryview(raw)
            while rest:
                rest = rest[os.write(handle, rest) :]  # a disk that is nearly full takes less than it was given
            os.fsync(handle)
        finally:
            os.close(handle)
        if mode is not None:
            os.chmod(temporary, mode)
        os.replace(temporary, target)
    except BaseException:
        with suppress(OSError):
            os.unlink(temporary)
        raise
    _force_directory(target.parent)


def _force_directory(directory: Path) -> None:
    """Make the new name survive a loss of power; Windows does so by itself."""
    if os.name == "nt":
        return
    handle = os.open(directory, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def sweep(directory: Path) -> None:
    """Remove what a killed process left half written. Only for a directory in which nobody else is writing."""
    for path in directory.glob(f"{_PREFIX}*{_SUFFIX}"):
        path.unlink(missing_ok=True)


def check_writable(directory: Path) -> None:
    """Raise unless files can be written in a directory, or one can be made there; nothing is left behind.

    Raises:
        OSError: If not.
    """
    existing = next(place for place in (directory, *directory.absolute().parents) if place.exists())
    probe = existing / f"{_PREFIX}{secrets.token_hex(8)}{_SUFFIX}"
    os.close(os.open(probe, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o666))
    os.unlink(probe)


def read_whole(path: Path, most: int) -> bytes:
    """Return the bytes of a regular file, read once, of at most ``most`` bytes.

    Raises:
        FileNotFoundError: If there is none.
        OSError: If it is a directory, a device or a pipe, is larger, or cannot be read.
    """
    kind = os.stat(path)  # before it is opened: opening a pipe would wait for a writer
    if not stat.S_ISREG(kind.st_mode):
        raise OSError("it is not a regular file")
    if kind.st_size > most:
        raise OSError(f"it has {kind.st_size:,} bytes, more than {most:,}")
    with path.open("rb") as file:
        return file.read(kind.st_size)


def memory_bytes() -> int:
    """Return the size of the machine's memory in bytes, 0 where the system does not say."""
    try:
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (AttributeError, ValueError, OSError):
        return 0


def parse_json(text: str | bytes) -> Any:
    """Return what a JSON text says, read strictly: no NaN, no infinity, and no name twice in one object.

    Raises:
        ValueError: If it is not JSON, or nested too deeply.

    Example:
        >>> parse_json('{"n_head": 4, "n_head": 5}')
        Traceback (most recent call last):
            ...
        ValueError: the name 'n_head' comes twice in one object
    """
    try:
        return json.loads(text, object_pairs_hook=_distinct, parse_constant=_refuse)
    except RecursionError as error:
        raise ValueError("it is nested too deeply") from error


def _distinct(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for name, value in pairs:
        if name in found:
            raise ValueError(f"the name {name[:50]!r} comes twice in one object")
        found[name] = value
    return found


def _refuse(word: str) -> Any:
    raise ValueError(f"{word} is not a JSON number")


def to_json(value: object) -> str:
    """Return the one JSON text that stands for a value: plain ASCII, names sorted, equal for equal values."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"), allow_nan=False)


@contextmanager
def locked(path: Path) -> Iterator[None]:
    """Hold the lock of a file, which is made if needed, while the block runs; the system lets go of a killed process's.

    Raises:
        BlockingIOError: If another holds it; its text is what that one wrote about itself.
    """
    handle = os.open(path, os.O_RDWR | os.O_CREAT, 0o666)
    try:
        if not _take_lock(handle):
            raise BlockingIOError(os.read(handle, 200).decode("utf-8", "replace").strip())
        os.ftruncate(handle, 0)
        os.write(handle, f"process {os.getpid()} on {platform.node()}".encode())
        yield
    finally:
        os.close(handle)


def _take_lock(handle: int) -> bool:
    """Lock an open file if nobody else has; imported here, since neither module is on every system."""
    try:
        if sys.platform == "win32":
            import msvcrt

            os.lseek(handle, 1 << 30, os.SEEK_SET)  # far beyond the text, which others must be able to read
            msvcrt.locking(handle, msvcrt.LK_NBLCK, 1)
            os.lseek(handle, 0, os.SEEK_SET)
        else:
            import fcntl

            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except (BlockingIOError, PermissionError):
        return False
    return True
