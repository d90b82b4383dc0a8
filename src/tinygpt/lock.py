"""A lock on a file, by which one process keeps others from writing beside it."""

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

from tinygpt.files import AS_IT_IS, check_regular, try_lock

__all__ = ["Lock"]

_LOCK_TEXT = re.compile(r" ?process \d+ on [^\n]*(?:\n([0-9a-f]{16})\n)?|\0|\Z")  # or what power loss leaves


class Lock:
    """A lock on a file, made if needed, that one process holds while it writes beside it.

    It is held while at least one caller has taken it and not given it back; when the process ends, or is killed, the
    system lets go of it. A forked child holds nothing. The file says who holds the lock, and bears a mark drawn at
    random when it was made, by which a file that was removed and made again is told from the one before.
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
        """Take any file for the right one next time, in any process, unless the lock is held."""
        if self._handle < 0:
            self._process, self._mark = 0, ""

    @property
    def was_taken(self) -> bool:
        """Whether the lock was ever taken, since it was told to forget so."""
        return bool(self._process)

    def acquire(self) -> None:
        """Take the lock, or take it once more.

        Raises:
            BlockingIOError: If another holds it; its text is what that one wrote about itself.
            ChildProcessError: If it was taken before this process was forked.
            OSError: If the file was removed or made again since it was first taken, is not a file of this kind, or
                cannot be made.
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
        """Give the lock back, as often as it was taken."""
        with self._mutex:
            if self._handle >= 0:  # not in a forked child
                self._holders -= 1
                if not self._holders:
                    os.close(self._handle)
                    self._handle = -1

    def leave_to_parent(self) -> None:
        """Let go in a forked child, which would keep the lock of a parent that ends before it does."""
        self._mutex = threading.Lock()
        if self._handle >= 0:
            os.close(self._handle)
        self._handle, self._holders = -1, 0

    def _is_at_path(self, handle: int) -> bool:
        return os.path.samestat(os.lstat(self.path), os.fstat(handle))

    def _open(self) -> int:
        """Open the file, lock it and write into it who holds it; return the handle."""
        check_regular(self.path)
        flags = os.O_RDWR | AS_IT_IS | (0 if self.was_taken else os.O_CREAT)
        handle = os.open(self.path, flags, 0o666)
        try:
            if not try_lock(handle):
                os.lseek(handle, 1, os.SEEK_SET)  # the first byte is what Windows locks
                holder = os.read(handle, 300).decode("utf-8", "replace").partition("\n")[0].strip()
                raise BlockingIOError(errno.EAGAIN, holder or "another process")
            found = _LOCK_TEXT.match(os.read(handle, 300).decode("utf-8", "replace"))
            if found is None:
                raise OSError(errno.EEXIST, "it is not a lock that tinygpt made")
            mark = found[1] or secrets.token_hex(8)
            if not self._is_at_path(handle) or (self._mark and self._mark != mark):
                raise OSError(errno.ESTALE, "it was removed and made again since this run began")
            text = f" process {os.getpid()} on {platform.node()}\n{mark}\n".encode("utf-8", "replace")
            with suppress(OSError):  # a full disk: the lock is held all the same
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
