"""The directory of a run: one trainer at a time, only files of its own, and a log that cannot end a run."""

import gc
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
import warnings
from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import pytest
import torch
from builders import DATA
from killable import exit_code, in_child

import tinygpt
from tinygpt import BigramLanguageModel, Trainer, TrainerConfig
from tinygpt.errors import (
    CheckpointNotFoundError,
    CheckpointSaveError,
    ConfigError,
    InputTypeError,
    RunExistsError,
    RunLockedError,
)
from tinygpt.training.preparation import check_checkpoint_size

QUICK: dict[str, Any] = {"max_iters": 6, "batch_size": 2, "eval_interval": 3, "save_interval": 2, "preview_tokens": 0}
NAMES = ["best.safetensors", "config.json", "metrics.jsonl", "step-00000000.safetensors"]


def make(directory: Path | str, **changes: Any) -> Trainer:
    torch.manual_seed(0)
    model = BigramLanguageModel(DATA.vocab_size)
    return Trainer(model, DATA, TrainerConfig(**(QUICK | changes)), run_dir=directory)


def begun(directory: Path, steps: int = 1) -> tuple[Trainer, Any]:
    """Return a trainer after some steps, and the loop in which it is: while that lives, it is at work."""
    trainer = make(directory)
    loop = iter(trainer)
    for _ in range(steps):
        next(loop)
    return trainer, loop


def contents(directory: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in directory.iterdir() if path.is_file()}


def is_free(directory: Path) -> bool:
    """Say whether another process can take the run over."""
    return exit_code(in_child(lambda: make(directory).resume())) == 0


# --- one trainer at a time --------------------------------------------------------------------------------------------


def test_a_child_that_outlives_its_parent_does_not_keep_the_lock(tmp_path: Path) -> None:
    def parent() -> None:
        _, loop = begun(tmp_path)
        if not os.fork():
            time.sleep(10)
            os._exit(0)
        os._exit(0 if loop else 1)  # at once, as a process that is killed

    assert exit_code(in_child(parent)) == 0
    make(tmp_path).resume()


@pytest.mark.parametrize("parent_is_at_work", [True, False])
def test_a_child_cannot_write_into_the_run_of_its_parent(parent_is_at_work: bool, tmp_path: Path) -> None:
    trainer, loop = begun(tmp_path)
    if not parent_is_at_work:
        loop.close()
    before = contents(tmp_path)

    def child() -> None:
        works: list[Callable[[], object]] = [lambda: next(iter(trainer)), trainer.save, trainer.fit]
        if parent_is_at_work:
            works.append(lambda: next(loop))
        message = rf"process that began it, got .* in process {os.getpid()} where process {os.getppid()} has begun it"
        for work in works:
            with pytest.raises(RunLockedError, match=message):
                work()

    assert exit_code(in_child(child)) == 0
    assert contents(tmp_path) == before
    assert trainer.save()


def test_a_child_may_take_over_where_its_parent_has_ended(tmp_path: Path) -> None:
    trainer, loop = begun(tmp_path)
    loop.close()

    def child() -> None:
        trainer.resume()
        assert trainer.fit(progress=False).last.step == 6

    assert exit_code(in_child(child)) == 0


@pytest.mark.parametrize("is_at_work", [True, False])
def test_a_former_owner_does_not_write_to_a_new_directory(is_at_work: bool, tmp_path: Path) -> None:
    """The directory was removed and made again."""
    former, loop = begun(tmp_path / "run")
    if not is_at_work:
        loop.close()
    shutil.rmtree(tmp_path / "run")
    _, new_loop = begun(tmp_path / "run", steps=2)
    before = contents(tmp_path / "run")
    if is_at_work:
        with pytest.warns(UserWarning, match=r"cannot lock .*\.lock.: it was removed and made again since this run"):
            list(loop)
    for _ in range(2):
        with pytest.raises(
            (CheckpointSaveError, RunLockedError), match=r"removed and made again|one trainer at a time"
        ):
            former.save()
        assert contents(tmp_path / "run") == before
        new_loop.close()
    with pytest.raises(CheckpointSaveError, match="removed and made again since this run began; use another run_dir"):
        former.fit(progress=False)
    assert contents(tmp_path / "run") == before


def test_a_directory_that_was_removed_is_not_made_again(tmp_path: Path) -> None:
    trainer, loop = begun(tmp_path / "run")
    loop.close()
    shutil.rmtree(tmp_path / "run")
    with pytest.raises(CheckpointSaveError, match=r"cannot lock .*: No such file or directory"):
        trainer.fit(progress=False)
    assert list(tmp_path.iterdir()) == []


def test_overlapping_loops_of_one_trainer_hold_one_lock(tmp_path: Path) -> None:
    trainer, first = begun(tmp_path)
    second: Any = iter(trainer)
    next(second)
    second.close()
    assert not is_free(tmp_path)
    third: Any = iter(trainer)
    next(third)
    del first
    gc.collect()  # an abandoned loop
    assert not is_free(tmp_path)
    trainer.save()
    assert not is_free(tmp_path)
    third.close()
    assert is_free(tmp_path)


def test_the_holder_is_named_and_a_killed_one_lets_go(tmp_path: Path) -> None:
    def hold() -> None:
        _, loop = begun(tmp_path)
        time.sleep(60 if loop else 0)

    child = in_child(hold)
    while not (tmp_path / "metrics.jsonl").exists() or '"loss"' not in (tmp_path / "metrics.jsonl").read_text():
        time.sleep(0.01)
    message = rf"one trainer at a time, got .*, where process {child} on {os.uname().nodename} is at work"
    with pytest.raises(RunLockedError, match=message):
        make(tmp_path).fit(resume=True, progress=False)
    with pytest.raises(RunLockedError, match=message):
        make(tmp_path).fit(progress=False)
    os.kill(child, signal.SIGKILL)
    exit_code(child)
    assert make(tmp_path).fit(resume=True, progress=False).last.step == 6


@pytest.mark.parametrize("left", [b"", bytes(40), b"process 7 on elsewhere", b" process 7 on elsewhere\n0123"])
def test_a_lock_that_a_crash_left_behind_can_be_taken(left: bytes, tmp_path: Path) -> None:
    (tmp_path / ".lock").write_bytes(left)
    make(tmp_path).fit(progress=False)
    assert b"process" in (tmp_path / ".lock").read_bytes()


def test_saving_outside_a_loop_takes_the_lock(tmp_path: Path) -> None:
    trainer, loop = begun(tmp_path)
    loop.close()
    other = make(tmp_path)
    other.resume()
    other_loop = iter(other)
    next(other_loop)
    with pytest.raises(RunLockedError, match=f"where process {os.getpid()} on"):
        trainer.save()


def test_a_change_of_the_working_directory_does_not_move_a_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    trainer = make("run")
    loop = iter(trainer)
    next(loop)
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    list(loop)
    assert (tmp_path / "run" / "step-00000006.safetensors").exists()
    assert not list((tmp_path / "elsewhere").iterdir())


# --- files of others --------------------------------------------------------------------------------------------------


def plant_directory(path: Path) -> Path:
    path.mkdir()
    return path


def plant_pipe(path: Path) -> Path:
    os.mkfifo(path)
    return path


def plant_socket(path: Path) -> Path:
    here = Path.cwd()
    os.chdir(path.parent)  # the name of a socket is short
    try:
        with socket.socket(socket.AF_UNIX) as bound:
            bound.bind(path.name)
    finally:
        os.chdir(here)
    return path


def plant_link(path: Path) -> Path:
    target = path.parent.parent / f"target of {path.name}"
    target.write_bytes(b"precious")
    path.symlink_to(target)
    return target


def plant_dangling_link(path: Path) -> Path:
    path.symlink_to(path.parent.parent / "nowhere")
    return path


def plant_link_to_device(path: Path) -> Path:
    path.symlink_to("/dev/full")
    return path


PLANTS: list[Callable[[Path], Path]] = [
    plant_directory,
    plant_pipe,
    plant_socket,
    plant_link,
    plant_dangling_link,
    plant_link_to_device,
]


def state_of(path: Path) -> tuple[int, bytes]:
    return os.lstat(path).st_mode, path.read_bytes() if path.is_file() else b""


@pytest.mark.parametrize("name", [*NAMES, ".lock"])
@pytest.mark.parametrize("plant", PLANTS)
def test_links_in_place_of_files_are_not_followed(plant: Callable[[Path], Path], name: str, tmp_path: Path) -> None:
    """Neither are pipes, sockets and devices written to."""
    run = tmp_path / "run"
    run.mkdir()
    target = plant(run / name)
    before = state_of(run / name), state_of(target)
    with pytest.raises(
        (RunExistsError, CheckpointSaveError), match=r"not a regular|symbolic link|new or empty"
    ) as error:
        make(run).fit(progress=False)
    assert run.name in str(error.value)
    assert (state_of(run / name), state_of(target)) == before
    assert [path.name for path in run.iterdir()] == [name]
    assert not (tmp_path / "nowhere").exists()


@pytest.mark.parametrize("name", ["best.safetensors", "config.json", "metrics.jsonl", ".lock"])
@pytest.mark.parametrize("plant", PLANTS)
def test_links_that_appear_during_a_run_are_not_followed(
    plant: Callable[[Path], Path], name: str, tmp_path: Path
) -> None:
    """Neither are pipes, sockets and devices written to."""
    run = tmp_path / "run"
    trainer, loop = begun(run)
    loop.close()
    (run / name).unlink()
    target = plant(run / name)
    before = state_of(run / name), state_of(target)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for resume in (False, True):
            refused = pytest.raises(CheckpointSaveError, match="cannot lock") if name == ".lock" else nullcontext()
            with refused:  # all else is a warning
                (make(run) if resume else trainer).fit(resume=resume, progress=False)
    assert (state_of(run / name), state_of(target)) == before
    assert not (tmp_path / "nowhere").exists()


@pytest.mark.parametrize("plant", PLANTS)
def test_a_checkpoint_that_is_not_a_regular_file_stays(plant: Callable[[Path], Path], tmp_path: Path) -> None:
    """It is neither read nor replaced."""
    run = tmp_path / "run"
    _, loop = begun(run, 2)
    loop.close()
    for name in ("step-00000001.safetensors", "step-00000005.safetensors", "step-00000006.safetensors"):
        plant(run / name)
    before = {path: state_of(path) for path in run.glob("step-0000000[156]*")}
    again = make(run)
    with pytest.warns(UserWarning, match=r"step-0000000[156].*(symbolic link|not a regular file)"):
        again.resume()
    assert again.steps_taken == 2
    with (
        pytest.warns(UserWarning, match=r"cannot write .*step-00000006.*(symbolic link|not a regular file)"),
        pytest.raises(CheckpointSaveError, match=r"cannot write .*step-00000006"),
    ):
        again.fit(progress=False)
    assert {path: state_of(path) for path in before} == before


@pytest.mark.parametrize("name", NAMES)
def test_files_of_others_are_refused_before_anything_is_written(name: str, tmp_path: Path) -> None:
    (tmp_path / name).write_bytes(b"of somebody else")
    for work in (lambda: make(tmp_path).fit(progress=False), lambda: next(iter(make(tmp_path))), make(tmp_path).save):
        with pytest.raises(RunExistsError, match=r"must be new or empty, got .*use another") as error:
            work()
        assert name in str(error.value) or name.startswith("step-")
    assert contents(tmp_path) == {name: b"of somebody else"}


def test_a_model_folder_is_not_taken_for_a_run_to_resume(tmp_path: Path) -> None:
    (tmp_path / "best.safetensors").write_bytes(b"of somebody else")
    with pytest.raises(CheckpointNotFoundError, match="nothing to resume"):
        make(tmp_path).fit(resume=True, progress=False)
    with pytest.raises(CheckpointNotFoundError, match="nothing to resume"):
        make(tmp_path / "missing").resume()
    assert contents(tmp_path) == {"best.safetensors": b"of somebody else"}
    assert not (tmp_path / "missing").exists()


def test_a_lock_of_another_program_is_refused(tmp_path: Path) -> None:
    (tmp_path / ".lock").write_bytes(b'{"pid": 12}')
    with pytest.raises(
        CheckpointSaveError, match=r"cannot lock .*: it is not a lock that tinygpt made; use another run_d"
    ):
        make(tmp_path).fit(progress=False)
    assert contents(tmp_path) == {".lock": b'{"pid": 12}'}


FOREIGN = [
    "step-keep-this.safetensors",
    "step-1.safetensors",
    "step-0000000\N{ARABIC-INDIC DIGIT ONE}.safetensors",
    "step-000000001.safetensors",
    "step--0000001.safetensors",
    "step-00000001.safetensors.bak",
    "step-" + "9" * 40 + ".safetensors",
    "Step-00000001.safetensors",
]


def test_files_of_other_names_are_never_read_or_removed(tmp_path: Path) -> None:
    for name in FOREIGN:
        (tmp_path / name).write_bytes(b"of somebody else")
    (tmp_path / "notes.txt").write_text("mine")
    make(tmp_path, keep_checkpoints=1).fit(progress=False)
    assert make(tmp_path, keep_checkpoints=1).fit(resume=True, progress=False).last.step == 6
    kept = contents(tmp_path)
    assert all(kept[name] == b"of somebody else" for name in FOREIGN)
    assert sorted(name for name in kept if name.endswith("006.safetensors")) == ["step-00000006.safetensors"]


@pytest.mark.parametrize("call", range(26))
def test_a_run_killed_at_any_write_of_its_start_can_go_on(call: int, tmp_path: Path) -> None:
    """Ends the process at each forced write and each renaming of the first files."""

    def start() -> None:
        left = [call]

        def count(real: Callable[..., Any]) -> Callable[..., Any]:
            def counted(*arguments: Any, **options: Any) -> Any:
                if not left[0]:
                    os._exit(137)
                left[0] -= 1
                return real(*arguments, **options)

            return counted

        for name in ("write", "fsync", "replace", "open", "ftruncate"):
            setattr(os, name, count(getattr(os, name)))
        next(iter(make(tmp_path)))

    assert exit_code(in_child(start)) == 137
    trainer = make(tmp_path)
    has_begun = any(tmp_path.glob("step-*"))
    assert trainer.fit(resume=has_begun, progress=False).last.step == 6


# --- saving onto what is no file --------------------------------------------------------------------------------------


@pytest.mark.parametrize("plant", [plant_directory, plant_pipe, plant_socket, plant_link_to_device])
def test_a_model_is_not_saved_in_place_of_what_is_no_file(plant: Callable[[Path], Path], tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    path = tmp_path / "in" / "model"
    plant(path)
    before = state_of(path)
    with pytest.raises(CheckpointSaveError, match=r"cannot write .*model.: it is not a regular file"):
        tinygpt.save(path, BigramLanguageModel(3))
    assert state_of(path) == before
    assert [found.name for found in path.parent.iterdir()] == ["model"]


@pytest.mark.skipif(not hasattr(os, "mknod") or os.geteuid() != 0, reason="only root can make a device")
def test_a_model_does_not_replace_a_device(tmp_path: Path) -> None:
    try:
        os.mknod(tmp_path / "null", 0o666 | 0o020000, os.makedev(1, 3))
    except PermissionError:
        pytest.skip("devices cannot be made here")
    before = os.lstat(tmp_path / "null").st_mode
    with pytest.raises(CheckpointSaveError, match="it is not a regular file"):
        tinygpt.save(tmp_path / "null", BigramLanguageModel(3))
    assert os.lstat(tmp_path / "null").st_mode == before


def test_outside_a_run_a_link_to_a_file_stays_a_link(tmp_path: Path) -> None:
    (tmp_path / "real").write_bytes(b"old")
    (tmp_path / "link").symlink_to("real")
    tinygpt.save(tmp_path / "link", BigramLanguageModel(3))
    assert (tmp_path / "link").is_symlink()
    assert tinygpt.load(tmp_path / "real")[0].vocab_size == 3
    (tmp_path / "circle").symlink_to("circle")
    with pytest.raises(CheckpointSaveError, match=r"circle.: it is a symbolic link"):
        tinygpt.save(tmp_path / "circle", BigramLanguageModel(3))


# --- paths ------------------------------------------------------------------------------------------------------------


@pytest.mark.usefixtures("unchecked_types")
@pytest.mark.parametrize(
    ("path", "kind", "message"),
    [
        ("", ConfigError, "must not be empty, got .*=''; the current directory is '.'"),
        ("a\0b", ConfigError, r"only characters that a file name can have, got .*='a\\x00b'"),
        ("a\ud800", ConfigError, r"only characters that a file name can have, got .*='a\\ud800'"),
        ("~no-such-user/x", ConfigError, r"home directory that is known, got .*='~no-such-user/x'; use './~"),
        (b"bytes", InputTypeError, "must be a str or a path, got b'bytes'"),
        (None, InputTypeError, "must be a str or a path, got None"),
        (3, InputTypeError, "must be a str or a path, got 3"),
    ],
)
def test_what_cannot_be_a_path_is_named(path: Any, kind: type[Exception], message: str) -> None:
    calls: list[Callable[[], object]] = [
        lambda: tinygpt.save(path, BigramLanguageModel(3)),
        lambda: tinygpt.load(path),
        lambda: tinygpt.read_text(path),
    ]
    if path is not None:
        calls.append(lambda: make(path))
    for call in calls:
        with pytest.raises(kind, match=message) as error:
            call()
        assert len(str(error.value)) <= 300


def test_a_missing_directory_is_named(tmp_path: Path) -> None:
    with pytest.raises(CheckpointSaveError, match=r"cannot write .*model.: No such file or directory"):
        tinygpt.save(tmp_path / "missing" / "model", BigramLanguageModel(3))


@pytest.mark.parametrize("as_path", [str, Path])
def test_a_tilde_is_the_home_directory(
    as_path: Callable[[str], str | Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "home").mkdir()
    (tmp_path / "cwd").mkdir()
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.chdir(tmp_path / "cwd")
    tinygpt.save(as_path("~/model"), BigramLanguageModel(3))
    assert tinygpt.load(as_path("~/model"))[0].vocab_size == 3
    (tmp_path / "home" / "text").write_text("to be", encoding="utf-8")
    assert tinygpt.read_text(as_path("~/text")) == "to be"
    history = make(as_path("~/run")).fit(progress=False)
    history.plot(as_path("~/plot.png"))
    assert {path.name for path in (tmp_path / "home").iterdir()} >= {"model", "plot.png", "run", "text"}
    assert list((tmp_path / "cwd").iterdir()) == []


# --- the log ----------------------------------------------------------------------------------------------------------

DAMAGE = [
    b"\xff\xfe\xfa\n",
    b"null\n",
    b"7\n",
    b"[]\n",
    b'"step"\n',
    b"{}\n",
    b'{"step": null}\n',
    b'{"step": "3"}\n',
    b'{"step": [3], "val_loss": 1}\n',
    b'{"step": true}\n',
    b'{"step": 1e400}\n',
    b'{"step": NaN}\n',
    b"\n",
    b"\0" * 100 + b"\n",
    b"[" * 100_000 + b"\n",
    b"9" * 5_000 + b"\n",
    b'{"step": 1, "loss": "' + b"x" * (3 << 20) + b'"}\n',
    b"\xef\xbb\xbf{}\n",
    b'{"step": 1, "lo',
    b"\0" * 100,
    b"x" * (3 << 20),
]


@pytest.mark.parametrize("where", ["front", "middle", "end", "alone"])
@pytest.mark.parametrize("damage", DAMAGE, ids=lambda raw: repr(raw[:20]))
def test_a_damaged_log_keeps_its_valid_lines(damage: bytes, where: str, tmp_path: Path) -> None:
    """It does not prevent the run."""
    trainer, loop = begun(tmp_path, 4)
    loop.close()
    trainer.save()
    log = tmp_path / "metrics.jsonl"
    lines = log.read_bytes().splitlines(keepends=True)
    odd = lines[2].replace(b", ", b" ,\t") if b", " in lines[2] else lines[2]  # kept as it is, not written again
    kept = [*lines[:2], odd, *lines[3:]]
    ended = damage if damage.endswith(b"\n") else damage + b"\n"
    log.write_bytes(
        {
            "front": ended + b"".join(kept),
            "middle": b"".join(kept[:3]) + ended + b"".join(kept[3:]),
            "end": b"".join(kept) + damage,
            "alone": damage,
        }[where]
    )
    again = make(tmp_path)
    again.resume()
    assert log.read_bytes() == (b"" if where == "alone" else b"".join(kept))
    again.fit(progress=False)
    assert [json.loads(line)["step"] for line in log.read_text().splitlines()][-3:] == [5, 6, 6]


def full_once(monkeypatch: pytest.MonkeyPatch, times: int, after: int = 5) -> None:
    """Let the log take a few bytes of the next lines and no more."""
    left = [times]
    real = os.write

    def write(handle: int, raw: Any) -> int:
        is_log = Path(f"/proc/self/fd/{handle}").readlink().name == "metrics.jsonl"
        if not (is_log and left[0]):
            return real(handle, raw)
        if bytes(raw[:1]) == b"{":
            return real(handle, raw[:after])
        left[0] -= 1
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("tinygpt.files.os.write", write)


@pytest.mark.parametrize("can_shorten", [True, False])
def test_a_line_that_cannot_be_written_is_one_warning(
    can_shorten: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The next lines are written."""
    _, loop = begun(tmp_path)
    if not can_shorten:

        def ftruncate(handle: int, length: int) -> None:
            raise OSError(5, "Input/output error")

        monkeypatch.setattr("tinygpt.files.os.ftruncate", ftruncate)
    for outage in (2, 4):
        full_once(monkeypatch, 1)
        with pytest.warns(
            UserWarning, match=r"cannot write .*metrics.jsonl.: No space left.*next line of the log"
        ) as caught:
            next(loop)
        assert len(caught) == 1, outage
        next(loop)  # warnings are errors here
    list(loop)
    found = []
    for line in (tmp_path / "metrics.jsonl").read_bytes().split(b"\n"):
        try:
            found.append(json.loads(line))
        except ValueError:
            assert len(line) <= 5, line  # no line has merged with another
    assert [record["step"] for record in found if "loss" in record] == [1, 3, 5, 6]


def test_a_long_outage_is_one_warning(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    _, loop = begun(tmp_path)
    full_once(monkeypatch, 3)
    with pytest.warns(UserWarning, match="next line of the log is tried") as caught:
        list(loop)
    assert len(caught) == 1


# --- full disks -------------------------------------------------------------------------------------------------------


def no_space_for(monkeypatch: pytest.MonkeyPatch, *names: str) -> None:
    """Let files of these names, and temporary ones on the way to them, fail to be written."""
    real_open, real_replace = os.open, os.replace

    def open_(path: Any, flags: int, *rest: Any) -> int:
        if flags & os.O_CREAT and Path(path).name in names and not os.path.lexists(path):
            raise OSError(28, "No space left on device")
        return real_open(path, flags, *rest)

    def replace(source: Any, target: Any) -> None:
        if Path(target).name in names:
            raise OSError(28, "No space left on device")
        real_replace(source, target)

    monkeypatch.setattr("tinygpt.files.os.open", open_)
    monkeypatch.setattr("tinygpt.files.os.replace", replace)


@pytest.mark.parametrize("name", [".lock", "step-00000000.safetensors"])
def test_a_run_needs_its_lock_and_its_first_checkpoint(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    trainer = make(tmp_path)
    with monkeypatch.context() as patch:
        no_space_for(patch, name)
        with pytest.raises(CheckpointSaveError, match="No space left on device") as caught:
            trainer.fit(progress=False)
        assert caught.value.errno == 28
    assert not [path for path in tmp_path.iterdir() if path.name != ".lock"]
    assert trainer.fit(progress=False).last.step == 6
    assert (tmp_path / "config.json").exists()


@pytest.mark.parametrize("resume", [False, True])
@pytest.mark.parametrize("name", ["config.json", "metrics.jsonl", "best.safetensors"])
def test_other_files_that_cannot_be_written_are_a_warning(
    name: str, resume: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if resume:
        _, loop = begun(tmp_path, 3)
        loop.close()
        (tmp_path / name).unlink()
    no_space_for(monkeypatch, name)
    with pytest.warns(UserWarning, match=rf"cannot write .*{name}.: No space left on device.*; the training goes on"):
        assert make(tmp_path).fit(resume=resume, progress=False).last.step == 6
    assert (tmp_path / "step-00000006.safetensors").exists()
    assert not (tmp_path / name).exists()


def test_a_log_that_cannot_be_rewound_is_a_warning(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    _, loop = begun(tmp_path, 3)
    loop.close()
    no_space_for(monkeypatch, "metrics.jsonl")
    before = (tmp_path / "metrics.jsonl").read_bytes()
    trainer = make(tmp_path)
    with pytest.warns(
        UserWarning, match=r"cannot write .*metrics.jsonl.: No space .*; the training goes on with the log"
    ):
        trainer.resume()
    assert trainer.steps_taken == 2
    assert (tmp_path / "metrics.jsonl").read_bytes() == before


READ_ONLY = """
import os, sys
from pathlib import Path
sys.path.insert(0, sys.argv[2])
os.environ["OMP_NUM_THREADS"] = "1"
from test_run_directory import make
from tinygpt.errors import CheckpointSaveError
for resume in (False, True):
    try:
        make(Path(sys.argv[1])).fit(resume=resume, progress=False)
    except CheckpointSaveError as error:
        print(error)
"""


def test_a_read_only_disk_is_named(tmp_path: Path) -> None:
    command = ["unshare", "-rm", "sh", "-c", f'mount -t tmpfs -o ro none {tmp_path} && exec "$@"', "sh"]
    if not shutil.which("unshare") or subprocess.run([*command, "true"], check=False, capture_output=True).returncode:
        pytest.skip("no disk can be mounted here")
    arguments = [sys.executable, "-c", READ_ONLY, str(tmp_path), str(Path(__file__).parent)]
    done = subprocess.run([*command, *arguments], check=False, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("Read-only file system; use another run_dir") == 2


# --- temporary files --------------------------------------------------------------------------------------------------


def test_what_a_killed_save_left_is_removed_by_the_next_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def die(handle: int) -> None:
        os._exit(137)

    def save() -> None:
        monkeypatch.setattr("tinygpt.files.os.fsync", die)
        tinygpt.save(tmp_path / "model", BigramLanguageModel(3))

    assert exit_code(in_child(save)) == 137
    (left,) = tmp_path.iterdir()
    others = [".tinygpt-mine.tmp", ".tinygpt-0123456789abcdef.tmp.bak", "x.tinygpt-0123456789abcdef.tmp"]
    for name in others:
        (tmp_path / name).write_text("of somebody else")
    (tmp_path / left.name.replace(left.name[9:13], "0000")).symlink_to("model")
    (tmp_path / left.name.replace(left.name[9:13], "1111")).mkdir()
    tinygpt.save(tmp_path / "model", BigramLanguageModel(3))
    assert not left.exists()
    assert len(list(tmp_path.iterdir())) == len(others) + 3


def test_the_file_of_a_living_writer_is_left_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def slow_save() -> None:
        real = os.fsync

        def fsync(handle: int) -> None:
            (tmp_path / "is-writing").touch()
            while not (tmp_path / "go-on").exists():
                time.sleep(0.01)
            real(handle)

        monkeypatch.setattr("tinygpt.files.os.fsync", fsync)
        tinygpt.save(tmp_path / "slow", BigramLanguageModel(4))

    child = in_child(slow_save)
    while not (tmp_path / "is-writing").exists():
        time.sleep(0.01)
    tinygpt.save(tmp_path / "quick", BigramLanguageModel(3))
    (tmp_path / "go-on").touch()
    assert exit_code(child) == 0
    assert tinygpt.load(tmp_path / "slow")[0].vocab_size == 4
    assert not list(tmp_path.glob(".tinygpt-*"))


def test_many_savers_in_one_directory_do_not_disturb_each_other(tmp_path: Path) -> None:
    def save(number: int) -> None:
        for _ in range(40):
            tinygpt.save(tmp_path / str(number), BigramLanguageModel(3))

    children = [in_child(lambda number=number: save(number)) for number in range(4)]  # type: ignore[misc]
    assert [exit_code(child) for child in children] == [0] * 4
    assert sorted(path.name for path in tmp_path.iterdir()) == ["0", "1", "2", "3"]


def test_a_run_with_too_large_checkpoints_does_not_start(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tinygpt.training.preparation.MOST_BYTES", 1000)
    with pytest.raises(ConfigError, match=r"at most 0.0 GB, got at least .* for [\d,]+ parameters; use run_dir=None"):
        make(tmp_path / "run")
    assert not (tmp_path / "run").exists()
    table = BigramLanguageModel(10).float()  # of 400 bytes
    with pytest.raises(ConfigError, match=r"shard=True in more processes"):
        check_checkpoint_size(table, 1)
    check_checkpoint_size(table, 2)
    with pytest.raises(ConfigError, match="a file of a run"):  # the best weights are in one file
        check_checkpoint_size(BigramLanguageModel(20).float(), 100)
    torch.manual_seed(0)
    Trainer(BigramLanguageModel(DATA.vocab_size), DATA, TrainerConfig(**QUICK))


def test_a_checkpoint_that_nobody_can_read_is_not_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    trainer, loop = begun(tmp_path)
    before = contents(tmp_path)
    monkeypatch.setattr("tinygpt.checkpoint.MOST_BYTES", 1000)
    with pytest.raises(CheckpointSaveError, match="more than the 1,000 that can be read back; an older file is unch"):
        trainer.save()
    assert contents(tmp_path) == before
    loop.close()
