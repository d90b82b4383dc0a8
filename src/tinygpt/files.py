"""What touches the disk, and reads what lies there without trusting it.

A file is written whole or not at all: into a temporary one beside it, which is forced to the disk and then takes its
name in one step. A process that is killed, a full disk or a loss of power at any instant leaves the old file or the
new one.

Source:
    Pillai et al., *All File Systems Are Not Created Equal: On the Complexity of Crafting Crash-Consistent
    Applications*, OSDI 2014 (why the file and then the directory must be forced to the disk).
    https://www.usenix.org/conference/osdi14/technical-sessions/presentation/pillai
"""

import errno
import json
import os
import re
import secrets
import stat
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

from tinygpt.errors import ConfigError, InputTypeError, short, show

_TEMPORARY = re.compile(r"\.tinygpt-[0-9a-f]{16}\.tmp")
AS_IT_IS = sum(getattr(os, name, 0) for name in ("O_NOFOLLOW", "O_NONBLOCK", "O_BINARY"))  # no link, no waiting
_MOST_LINE = 1 << 20  # bytes; no line of ours comes near


def check_path(name: str, value: Any) -> Path:
    """Return ``value`` as a :class:`~pathlib.Path`, with ``~`` or ``~user`` at its start expanded.

    Raises:
        InputTypeError: If it is neither a str nor a path, such as None.
        ConfigError: If it is empty, has a character that no file name can have, or names an unknown user.

    Example:
        >>> check_path("run_dir", 7)
        Traceback (most recent call last):
            ...
        tinygpt.errors.InputTypeError: run_dir must be a str or a path, got 7
    """
    text = os.fspath(value) if isinstance(value, str | os.PathLike) else value
    if not isinstance(text, str):
        raise InputTypeError(f"{name} must be a str or a path, got {short(value)}")
    if not text:
        raise ConfigError(f"{name} must not be empty, got {name}=''; the current directory is '.'")
    try:
        path = Path(text).expanduser()
        is_name = b"\0" not in os.fsencode(path)
    except UnicodeEncodeError:
        is_name = False
    except RuntimeError as error:
        raise ConfigError(
            f"{name} must begin with ~ only for a home directory that is known, got {name}={show(Path(text))}; use "
            "'./~...' for a file of that name, or write the directory out"
        ) from error
    if not is_name:
        raise ConfigError(f"{name} must have only characters that a file name can have, got {name}={short(text)}")
    return path


def check_regular(path: Path) -> None:
    """Raise unless the path is free or has a regular file; a link is never followed.

    Raises:
        OSError: If a link, a directory, a device, a pipe or a socket is there.
    """
    try:
        mode = os.lstat(path).st_mode
    except FileNotFoundError:
        return
    if stat.S_ISLNK(mode):
        raise OSError(errno.ELOOP, "it is a symbolic link")
    if not stat.S_ISREG(mode):
        raise OSError(errno.EEXIST, "it is not a regular file")


def write_whole(path: Path, raw: bytes) -> None:
    """Put the bytes at the path. When this returns they survive a loss of power; until then the old file does.

    The mode of an existing file stays, and a link stays a link. What killed processes left half written in the
    directory is removed.

    Raises:
        OSError: If it cannot be done, or the path is not that of a file. Until the new file has taken its name, the
            old one is untouched, and nothing is left beside it.
    """
    try:
        target = path.resolve()
    except RuntimeError as error:  # links in a circle, before Python 3.13
        raise OSError(errno.ELOOP, os.strerror(errno.ELOOP)) from error
    check_regular(target)
    mode = stat.S_IMODE(os.stat(target).st_mode) if target.exists() else None
    sweep(target.parent)
    temporary, handle = _open_temporary(target.parent)
    try:
        rest = memoryview(raw)
        while rest:
            rest = rest[os.write(handle, rest) :]  # a disk that is nearly full takes less than it was given
        os.fsync(handle)
        if mode is not None:
            os.chmod(temporary, mode)
        if os.name == "nt":  # where an open file cannot be renamed, and none can be removed that another writes
            os.close(handle)
            handle = -1
        os.replace(temporary, target)  # still locked, so that nobody takes it for abandoned
    except BaseException:
        with suppress(OSError):
            os.unlink(temporary)
        raise
    finally:
        if handle >= 0:
            os.close(handle)
    _force_directory(target.parent)


def _open_temporary(directory: Path) -> tuple[Path, int]:
    """Make an empty file and lock it: the system lets go of the lock of a writer that is killed."""
    while True:
        path = directory / f".tinygpt-{secrets.token_hex(8)}.tmp"
        handle = os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | AS_IT_IS, 0o666)
        with suppress(OSError):  # a file system without locks: there nothing is taken for abandoned either
            if not try_lock(handle) or not os.fstat(handle).st_nlink:
                os.close(handle)  # another process was sweeping just now, and takes this file away
                continue
        return path, handle


def try_lock(handle: int) -> bool:
    """Lock an open file if nobody else has."""
    from filelock import lock_descriptor  # here, since it sets hooks when it is imported

    return lock_descriptor(handle, blocking=False)


def sweep(directory: Path) -> None:
    """Remove the temporary files of ours whose writers are dead. Where that is not possible they stay."""
    with suppress(OSError):
        found = [entry.name for entry in os.scandir(directory) if _TEMPORARY.fullmatch(entry.name)]
        for path in (directory / name for name in found):
            with suppress(OSError):
                check_regular(path)
                handle = os.open(path, os.O_RDWR | AS_IT_IS)
                try:
                    if try_lock(handle):
                        if os.name == "nt":
                            os.close(handle)
                            handle = -1
                        os.unlink(path)
                finally:
                    if handle >= 0:
                        os.close(handle)


def _force_directory(directory: Path) -> None:
    """Make the new name survive a loss of power; Windows does so by itself."""
    if os.name == "nt":
        return
    handle = os.open(directory, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def check_writable(directory: Path) -> None:
    """Raise unless files can be written in a directory, or one can be made there; nothing is left behind.

    Raises:
        OSError: If not.
    """
    existing = next(place for place in (directory, *directory.absolute().parents) if os.path.lexists(place))
    probe, handle = _open_temporary(existing)
    os.close(handle)
    os.unlink(probe)


def append_line(path: Path, line: bytes) -> None:
    """Append a line to a file, which is made if needed. One that fails leaves the file as it was, if it can.

    A line that was cut short before is ended first, so that no two lines ever merge.

    Raises:
        OSError: If it cannot be done, or the path is not that of a regular file.
    """
    check_regular(path)
    handle = os.open(path, os.O_RDWR | os.O_APPEND | os.O_CREAT | AS_IT_IS, 0o666)
    try:
        size = os.fstat(handle).st_size
        if size and os.lseek(handle, -1, os.SEEK_END) >= 0 and os.read(handle, 1) != b"\n":
            line = b"\n" + line
        rest = memoryview(line + b"\n")
        try:
            while rest:
                rest = rest[os.write(handle, rest) :]
        except OSError:
            with suppress(OSError):
                os.ftruncate(handle, size)
            raise
    finally:
        os.close(handle)


def read_lines(path: Path) -> Iterator[bytes]:
    """Yield the lines of a regular file with their ends; one that is cut short or far too long is left out.

    Raises:
        OSError: If it is not a regular file, or cannot be read.
    """
    check_regular(path)
    with open(path, "rb") as file:
        while line := file.readline(_MOST_LINE):
            if line.endswith(b"\n"):
                yield line
            while line and not line.endswith(b"\n"):
                line = file.readline(_MOST_LINE)


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
