"""Write files completely or not at all, and read untrusted files.

A file is first written to a temporary file in the same directory. That file is forced to the disk, and then renamed in
one step. A process that is killed, a full disk or a loss of power at any instant leaves the old file or the new one.

Source:
    Pillai et al., *All File Systems Are Not Created Equal: On the Complexity of Crafting Crash-Consistent
    Applications*, OSDI 2014: why the file and then the directory must be forced to the disk.
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
from difflib import get_close_matches
from itertools import islice
from pathlib import Path
from typing import Any

from tinygpt.errors import ConfigError, InputTypeError, short, show

__all__ = [
    "OPEN_FLAGS",
    "append_line",
    "check_path",
    "check_regular",
    "check_writable",
    "memory_bytes",
    "no_file",
    "parse_json",
    "read_log",
    "read_whole",
    "sweep",
    "to_json",
    "try_lock",
    "write_whole",
]

_TEMPORARY = re.compile(r"\.tinygpt-[0-9a-f]{16}\.tmp")
# Flags of an open call that does not follow a link, wait for a writer, or translate newlines.
OPEN_FLAGS = sum(getattr(os, name, 0) for name in ("O_NOFOLLOW", "O_NONBLOCK", "O_BINARY"))
_MOST_NAMES = 10_000  # of a directory that are compared with a missing one
_MOST_LINE = 1 << 20  # bytes; the lines of a metrics file are far shorter


def check_path(name: str, value: Any) -> Path:
    """Return a path as a :class:`~pathlib.Path`, with ``~`` expanded.

    Raises:
        InputTypeError: If ``value`` is neither a str nor a path.
        ConfigError: If ``value`` is empty or too long, has a character that no file name can have, or names an unknown
            user.

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
    try:
        os.lstat(path)
    except OSError as error:
        if error.errno == errno.ENAMETOOLONG:
            raise ConfigError(
                f"{name} must be short enough for a file system, got {len(text):,} characters, "
                f"{name}={short(text)}; use a shorter path, or TokenDataset(text) for a text"
            ) from error
    return path


def no_file(path: Path, *folders: Path, kind: str = "file") -> str:
    """Return the message about a missing file, with the nearest name in the folders or in that of the path."""
    for folder in (*folders, path.parent):
        with suppress(OSError):
            names = [each.name for each in islice(folder.iterdir(), _MOST_NAMES)]
            if near := get_close_matches(path.name, names, n=1) or get_close_matches(path.stem, names, n=1):
                return f"there is no {kind} {show(path)}; did you mean {show(folder / near[0])}?"
    if kind == "file" and not path.suffix and len(path.name.split()) > 1:
        return f"there is no file {show(path)}; if it is a text, use TokenDataset(text)"
    where = ""
    with suppress(OSError):  # the working directory may have been removed
        where = "" if path.is_absolute() else f" in {show(Path.cwd())}"
    return f"there is no {kind} {show(path)}{where}; check the path"


def check_regular(path: Path) -> None:
    """Raise unless a path is unused or that of a regular file.

    A link is not followed.

    Raises:
        OSError: If the path is that of a link, a directory, a device, a pipe or a socket.
    """
    try:
        mode = os.lstat(path).st_mode
    except FileNotFoundError:
        return
    if stat.S_ISLNK(mode):
        raise OSError(errno.ELOOP, "it is a symbolic link")
    if not stat.S_ISREG(mode):
        raise OSError(errno.EEXIST, "it is not a regular file")


def write_whole(path: Path, raw: bytes | Iterator[bytes]) -> None:
    """Write a file, given whole or in pieces, completely or not at all.

    When this returns, the bytes survive a loss of power; until then the old file does. The mode of an existing file is
    kept, and a link stays a link. Temporary files that killed processes left in the directory are removed.

    Raises:
        OSError: If the file cannot be written, or the path is not that of a file. Then the old file is unchanged, and
            no temporary file is left, unless only the last step failed: forcing the new name to the disk.
    """
    try:
        target = path.resolve()
    except RuntimeError:  # links in a circle, before Python 3.13; from then on such a link is its own target
        target = path
    check_regular(target)
    mode = stat.S_IMODE(os.stat(target).st_mode) if target.exists() else None
    sweep(target.parent)
    try:
        temporary, handle = _open_temporary(target.parent)
    except OSError as error:
        error.filename = str(path)  # not that of the temporary file
        raise
    try:
        for piece in raw if isinstance(raw, Iterator) else [raw]:
            rest = memoryview(piece)
            while rest:
                rest = rest[os.write(handle, rest) :]  # a call may write less than it was given
        os.fsync(handle)
        if mode is not None:
            os.chmod(temporary, mode)
        if os.name == "nt":  # Windows cannot rename an open file, and protects one that another process writes
            os.close(handle)
            handle = -1
        os.replace(temporary, target)  # still locked, so that no other process removes it
    except BaseException:
        with suppress(OSError):
            os.unlink(temporary)
        raise
    finally:
        if handle >= 0:
            os.close(handle)
    _force_directory(target.parent)


def _open_temporary(directory: Path) -> tuple[Path, int]:
    """Create and lock an empty file, and return its path and handle.

    The system releases the lock of a process that is killed.
    """
    while True:
        path = directory / f".tinygpt-{secrets.token_hex(8)}.tmp"
        handle = os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | OPEN_FLAGS, 0o666)
        with suppress(OSError):  # on a file system without locks, no process removes the files of another
            if not try_lock(handle) or not os.fstat(handle).st_nlink:
                os.close(handle)  # another process has locked the file in order to remove it
                continue
        return path, handle


def try_lock(handle: int) -> bool:
    """Lock an open file, and return whether that succeeded."""
    from filelock import lock_descriptor  # imported here, since the import registers hooks

    return lock_descriptor(handle, blocking=False)


def sweep(directory: Path) -> None:
    """Remove the temporary files of killed processes, as far as possible."""
    with suppress(OSError):
        found = [entry.name for entry in os.scandir(directory) if _TEMPORARY.fullmatch(entry.name)]
        for path in (directory / name for name in found):
            with suppress(OSError):
                check_regular(path)
                handle = os.open(path, os.O_RDWR | OPEN_FLAGS)
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
    """Force the names in a directory to the disk."""
    if os.name == "nt":  # Windows does so without being asked
        return
    handle = os.open(directory, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def check_writable(directory: Path) -> None:
    """Raise unless a file can be created in a directory.

    If the directory does not exist, its nearest existing parent counts.

    Raises:
        OSError: If none can be created.
    """
    existing = next(path for path in (directory, *directory.absolute().parents) if os.path.lexists(path))
    probe, handle = _open_temporary(existing)
    os.close(handle)
    os.unlink(probe)


def append_line(path: Path, line: bytes) -> None:
    """Append a line to a file, which is created if needed.

    A last line without an end is ended first, so that two lines never merge. If the line cannot be written, the file is
    cut to its old size.

    Raises:
        OSError: If the line cannot be written, or the path is not that of a regular file.
    """
    check_regular(path)
    handle = os.open(path, os.O_RDWR | os.O_APPEND | os.O_CREAT | OPEN_FLAGS, 0o666)
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


def read_log(path: Path) -> Iterator[tuple[bytes, dict[str, Any]]]:
    """Yield the lines of a log, with their ends, and the record of each: a JSON object with the number of a step.

    Other lines are skipped: half a line of a killed process, a line of more than a megabyte, or what a damaged disk
    returns.

    Raises:
        OSError: If the path is not that of a regular file, or the file cannot be read.
    """
    check_regular(path)
    with open(path, "rb") as file:
        while line := file.readline(_MOST_LINE):
            with suppress(ValueError):
                record = parse_json(line) if line.endswith(b"\n") else None
                if isinstance(record, dict) and type(record.get("step")) is int:
                    yield line, record
            while line and not line.endswith(b"\n"):
                line = file.readline(_MOST_LINE)


def read_whole(path: Path, most: int) -> bytes:
    """Return the bytes of a regular file of at most ``most`` bytes, read once.

    Raises:
        FileNotFoundError: If there is no such file.
        OSError: If the path is that of a directory, a device or a pipe, or the file is larger or cannot be read.
    """
    kind = os.stat(path)  # before the file is opened, since opening a pipe would wait for a writer
    if not stat.S_ISREG(kind.st_mode):
        raise OSError("it is not a regular file")
    if kind.st_size > most:
        raise OSError(f"it has {kind.st_size:,} bytes, more than {most:,}")
    with path.open("rb") as file:
        return file.read(kind.st_size)


def memory_bytes() -> int:
    """Return the size of the machine's memory in bytes, or 0 if it is unknown."""
    try:
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (AttributeError, ValueError, OSError):
        return 0


def parse_json(text: str | bytes) -> Any:
    """Parse JSON strictly.

    NaN, infinity, and a name that comes twice in one object are errors.

    Raises:
        ValueError: If the text is not such JSON, or is nested too deeply.

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
    """Return a value as JSON, the same text for equal values.

    The text is plain ASCII, and names are sorted.
    """
    return json.dumps(value, sort_keys=True, separators=(",", ":"), allow_nan=False)
