"""Lock a file, so that one process at a time writes to its directory."""

import errno
import os
import platform
import re
import secrets
import threading
from contextlib import suppress
from functools import cache
from pathlib import Path
from weakref import WeakSet

from tinygpt.files import OPEN_FLAGS, check_regular, try_lock

__all__ = ["Lock"]

# The text of a lock file with its mark; a loss of power may leave zeros or an empty file.
_LOCK_TEXT = re.compile(r" ?process \d+ on [^\n]*(?:\n([0-9a-f]{16})\n)?|\0|\Z")


class Lock:
    """Lock a file, which is created if needed, for one process.

    The lock is held until :meth:`release` was called as often as :meth:`acquire`. The system releases the lock of a
    process that ends or is killed, and a forked child does not inherit the lock. The file states which process holds
    the lock. It also contains a random mark, which shows whether the file was removed and created again.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._handle = -1
        self._holders = 0
        self._mutex = threading.Lock()
        self.forget()
        _close_in_forked_children()
        _LOCKS.add(self)

    def forget(self) -> None:
        """Accept any lock file and process next time, unless the lock is held."""
        if self._handle < 0:
            self._process, self._mark = 0, ""

    @property
    def was_taken(self) -> bool:
        """Whether the lock was taken since it was created or last told to forget."""
        return bool(self._process)

    def acquire(self) -> None:
        """Take the lock, or take it once more.

        Raises:
            BlockingIOError: If another process holds the lock; the message names that process.
            ChildProcessError: If the lock was taken before this process was forked.
            OSError: If the file was removed or replaced since the lock was first taken, is not a lock file, or cannot
                be created.
        """
        with self._mutex:
            if self.was_taken and self._process != os.getpid():
                raise ChildProcessError(errno.ECHILD, f"process {self._process} has begun it")
            if self._handle < 0:
                self._handle = self._open()
            elif not self._is_at_path(self._handle):
                raise OSError(errno.ESTALE, "it was removed and made again since this run began")
            self._process = os.getpid()
            self._holders += 1

    def release(self) -> None:
        """Release the lock once; it is free after as many calls as it was taken."""
        with self._mutex:
            if self._handle >= 0:  # not in a forked child
                self._holders -= 1
                if not self._holders:
                    os.close(self._handle)
                    self._handle = -1

    def leave_to_parent(self) -> None:
        """Close the file in a forked child.

        Otherwise the child would hold the lock after its parent ended.
        """
        self._mutex = threading.Lock()
        if self._handle >= 0:
            os.close(self._handle)
        self._handle, self._holders = -1, 0

    def _is_at_path(self, handle: int) -> bool:
        return os.path.samestat(os.lstat(self.path), os.fstat(handle))

    def _open(self) -> int:
        """Open and lock the file, write its holder into it, return the handle."""
        check_regular(self.path)
        flags = os.O_RDWR | OPEN_FLAGS | (0 if self.was_taken else os.O_CREAT)
        handle = os.open(self.path, flags, 0o666)
        try:
            if not try_lock(handle):
                os.lseek(handle, 1, os.SEEK_SET)  # Windows locks the first byte
                holder = os.read(handle, 300).decode("utf-8", "replace").partition("\n")[0].strip()
                raise BlockingIOError(errno.EAGAIN, holder or "another process")
            found = _LOCK_TEXT.match(os.read(handle, 300).decode("utf-8", "replace"))
            if found is None:
                raise OSError(errno.EEXIST, "it is not a lock that tinygpt made")
            mark = found[1] or secrets.token_hex(8)
            if not self._is_at_path(handle) or (self._mark and self._mark != mark):
                raise OSError(errno.ESTALE, "it was removed and made again since this run began")
            text = f" process {os.getpid()} on {platform.node()}\n{mark}\n".encode("utf-8", "replace")
            with suppress(OSError):  # the lock is held even if the disk is full
                os.lseek(handle, 0, os.SEEK_SET)
                os.write(handle, text)
                self._mark = mark
                os.ftruncate(handle, len(text))
        except BaseException:
            os.close(handle)
            raise
        return handle


_LOCKS: WeakSet[Lock] = WeakSet()


@cache
def _close_in_forked_children() -> None:
    def leave_all() -> None:
        for lock in _LOCKS:
            lock.leave_to_parent()

    if hasattr(os, "register_at_fork"):
        os.register_at_fork(after_in_child=leave_all)
