"""Files are written completely or not at all, and read without trusting them."""

import errno
import itertools
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from killable import exit_code, in_child

from tinygpt import files
from tinygpt.files import parse_json, write_whole

OLD, NEW = b"the old text, which is longer than the new", b"the new text " * 3
CHUNK = 16  # bytes that one call writes, so that a file takes several


class Disk:
    """Stands in for the module ``os``: counts the calls that touch the disk, and lets something happen at one."""

    WATCHED = ("open", "write", "fsync", "close", "chmod", "replace", "unlink", "stat")

    def __init__(self, at: int = -1, happen: Callable[[str], Any] = lambda name: None, after: bool = False) -> None:
        self.at, self.happen, self.after = at, happen, after
        self.calls: list[tuple[str, tuple[Any, ...], Any]] = []

    def __getattr__(self, name: str) -> Any:
        real = getattr(os, name)
        return self.watch(name, real) if name in self.WATCHED else real

    def watch(self, name: str, real: Callable[..., Any]) -> Callable[..., Any]:
        def call(*arguments: Any) -> Any:
            number = len(self.calls)
            self.calls.append((name, arguments, None))
            if number == self.at and not self.after:
                replacement = self.happen(name)
                if replacement is not None:
                    return replacement(*arguments)
            if name == "write":
                arguments = (arguments[0], arguments[1][:CHUNK])
            result = real(*arguments)
            self.calls[number] = (name, arguments, result)
            if number == self.at and self.after:
                self.happen(name)
            return result

        return call


@pytest.fixture
def path(tmp_path: Path) -> Path:
    (tmp_path / "file").write_bytes(OLD)
    return tmp_path / "file"


def calls_of_a_save(path: Path) -> list[tuple[str, tuple[Any, ...], Any]]:
    """Return the calls of a save that nothing happens to, and put the old file back."""
    with pytest.MonkeyPatch.context() as patch:
        disk = Disk()
        patch.setattr(files, "os", disk)
        write_whole(path, NEW)
    path.write_bytes(OLD)
    return disk.calls


def test_a_save_is_forced_to_the_disk(path: Path) -> None:
    """Between the pieces that are written, nothing else happens."""
    names = [name for name, _, _ in calls_of_a_save(path)]
    assert names == [
        "stat",
        "open",
        "write",
        "write",
        "write",
        "fsync",
        "chmod",
        "replace",
        "close",  # and with that the lock, by which others see that it is still being written
        "open",
        "fsync",
        "close",
    ]


@pytest.mark.parametrize("after", [False, True], ids=["before", "after"])
@pytest.mark.parametrize("call", range(12))
def test_a_kill_leaves_the_old_file_or_the_new_one(call: int, after: bool, path: Path) -> None:
    """The process is killed before and after each call to the system."""
    calls = calls_of_a_save(path)
    assert len(calls) == 12

    def work() -> None:
        vars(files)["os"] = Disk(call, lambda name: os._exit(137), after)
        write_whole(path, NEW)

    assert exit_code(in_child(work)) == 137
    replaced = call > 7 or (call == 7 and after)
    assert path.read_bytes() == (NEW if replaced else OLD)
    files.sweep(path.parent)
    assert [file.name for file in path.parent.iterdir()] == ["file"]


# --- what may be on a disk after a loss of power ----------------------------------------------------------------------


@dataclass
class Crash:
    """A state in which a loss of power may leave the two names: their contents, None where there is no file."""

    target: bytes | None
    temporary: bytes | None


def crash_states(calls: list[tuple[str, tuple[Any, ...], Any]]) -> Iterator[tuple[Crash, bool]]:
    """Yield every state that a disk may be in after every prefix of the calls, and whether all calls were done.

    What was not forced to the disk may be there, in part, not at all, or as zeros; a name that was not forced may be
    the old one or the new one.
    """
    for length in range(len(calls) + 1):
        pieces: list[bytes] = []
        is_forced, is_named, name_is_forced, exists = False, False, False, False
        directory: Any = None
        for name, arguments, result in calls[:length]:
            if name == "open" and arguments[1] & os.O_CREAT:
                exists = True
            elif name == "open":
                directory = result
            elif name == "write":
                pieces.append(bytes(arguments[1]))
                is_forced = False
            elif name == "fsync" and arguments[0] == directory:
                name_is_forced = True
            elif name == "fsync":
                is_forced = True
            elif name == "replace":
                is_named = True
        contents = {b"".join(pieces)}
        if not is_forced:  # any of the pieces may have come down, the others be zeros, and the end be missing
            for kept in itertools.product([True, False], repeat=len(pieces)):
                data = b"".join(p if k else bytes(len(p)) for p, k in zip(pieces, kept, strict=True))
                contents |= {data[:length] for length in (0, CHUNK // 2, CHUNK, len(data) - 1, len(data))}
        for content in contents:
            if is_named:
                yield Crash(content, None), length == len(calls)
            if not (is_named and name_is_forced):
                yield Crash(OLD, content if exists else None), length == len(calls)


def faults(calls: list[tuple[str, tuple[Any, ...], Any]]) -> list[Crash]:
    """Return the states in which the file is neither the old one nor the new one, or after the save not the new one."""
    return [state for state, is_done in crash_states(calls) if state.target not in ({NEW} if is_done else {OLD, NEW})]


def test_a_power_loss_leaves_the_old_file_or_the_new_one(path: Path) -> None:
    calls = calls_of_a_save(path)
    assert len(list(crash_states(calls))) > 50
    assert faults(calls) == []


@pytest.mark.parametrize("left_out", [5, 10], ids=["force the file", "force the name"])
def test_a_save_without_fsync_would_be_noticed(left_out: int, path: Path) -> None:
    calls = calls_of_a_save(path)
    assert calls[left_out][0] == "fsync"
    assert faults(calls[:left_out] + calls[left_out + 1 :])


def test_a_save_in_place_would_be_noticed(path: Path) -> None:
    calls = [call for call in calls_of_a_save(path) if call[0] in ("open", "write", "fsync", "close", "replace")]
    replace = next(call for call in calls if call[0] == "replace")
    calls.remove(replace)
    calls.insert(1, replace)  # named before it is written
    assert faults(calls)


# --- a disk that fails ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EIO, errno.EDQUOT, errno.EROFS])
def test_a_failed_call_leaves_the_old_file(code: int, path: Path) -> None:
    """The next save works."""

    def fail(name: str) -> Callable[..., Any]:
        def failing(*arguments: Any) -> None:
            if name == "close":
                os.close(*arguments)  # the system lets go of it all the same
            raise OSError(code, os.strerror(code))

        return failing

    for call in range(len(calls_of_a_save(path))):
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(files, "os", Disk(call, fail))
            with pytest.raises(OSError, match=os.strerror(code)) as caught:
                write_whole(path, NEW)
        assert caught.value.errno == code
        assert path.read_bytes() == (NEW if call > 7 else OLD)  # beyond, only the new name may not be durable
        assert [file.name for file in path.parent.iterdir()] == ["file"]
        write_whole(path, NEW)
        assert path.read_bytes() == NEW
        path.write_bytes(OLD)


def test_a_partial_write_continues_with_the_rest(path: Path) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(files, "os", Disk(2, lambda _: lambda handle, data: os.write(handle, data[:1])))
        write_whole(path, NEW)
    assert path.read_bytes() == NEW


def test_a_write_without_the_rest_would_be_noticed(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(files, "os", Disk(2, lambda _: lambda handle, data: (os.write(handle, data[:1]), len(data))[1]))
    write_whole(path, NEW)
    assert path.read_bytes() != NEW


FILL_THE_DISK = """
import sys, resource
from pathlib import Path
from tinygpt import BigramLanguageModel, save, load
from tinygpt.errors import CheckpointSaveError
directory, limited = Path(sys.argv[1]), len(sys.argv) > 2
save(directory / "model", BigramLanguageModel(20))
if limited:
    resource.setrlimit(resource.RLIMIT_FSIZE, (60_000, 60_000))
before = (directory / "model").read_bytes()
try:
    save(directory / "model", BigramLanguageModel(300))
except CheckpointSaveError as error:
    print(error)
    assert error.errno
else:
    sys.exit("it was written")
assert (directory / "model").read_bytes() == before
assert [path.name for path in directory.iterdir()] == ["model"]
assert load(directory / "model")[0].vocab_size == 20
"""


def test_a_real_full_disk_leaves_the_old_file(tmp_path: Path) -> None:
    (tmp_path / "disk").mkdir()
    mount = f"mount -t tmpfs -o size=64k none {tmp_path}/disk"
    arguments = [sys.executable, "-c", FILL_THE_DISK, str(tmp_path / "disk")]
    has_mount = (
        bool(shutil.which("unshare"))
        and not subprocess.run(["unshare", "-rm", "sh", "-c", mount], check=False, capture_output=True).returncode
    )
    if has_mount:
        command = ["unshare", "-rm", "sh", "-c", f'{mount} && exec "$@"', "sh", *arguments]
    else:  # where no disk can be mounted, a limit on the size of files stands in for it
        command = [*arguments, "limited"]
    done = subprocess.run(command, check=False, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    reason = "No space left on device" if has_mount else "File too large"
    assert f"model': {reason}; it needs 36" in done.stdout
    assert has_mount == ("bytes, 6" in done.stdout) or not has_mount


# --- names and modes --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["a b", "ü☃", "100%d", "two\nlines", "x" * 255, "~", "-rf"])
def test_any_name_of_the_system_is_accepted(name: str, tmp_path: Path) -> None:
    write_whole(tmp_path / name, NEW)
    assert (tmp_path / name).read_bytes() == NEW
    assert len(list(tmp_path.iterdir())) == 1


def test_a_relative_name_and_a_directory_that_is_a_link(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "real").mkdir()
    (tmp_path / "link").symlink_to("real")
    monkeypatch.chdir(tmp_path)
    write_whole(Path("link/file"), NEW)
    assert (tmp_path / "real" / "file").read_bytes() == NEW
    assert (tmp_path / "link").is_symlink()


# --- JSON -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('{"a": NaN}', "NaN is not a JSON number"),
        ("[-Infinity]", "-Infinity is not a JSON number"),
        ('{"a": 1, "b": {"c": 1, "c": 1}}', "the name 'c' comes twice in one object"),
        ("[" * 200_000, "it is nested too deeply"),
        ("9" * 5000, "Exceeds the limit"),
        ("\ufeff{}", "Unexpected UTF-8 BOM"),
        ("{", "Expecting property name"),
    ],
    ids=lambda value: value[:12],
)
def test_json_is_read_strictly(text: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        parse_json(text)
