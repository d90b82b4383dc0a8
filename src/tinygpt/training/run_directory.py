"""What a run leaves on the disk, and how it is found again."""

import json
import math
import os
from collections.abc import Callable, Container, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any, TypeVar

from torch import Tensor

from tinygpt.checkpoint import read, save, write
from tinygpt.errors import (
    CheckpointCorruptError,
    CheckpointError,
    CheckpointMismatchError,
    CheckpointNotFoundError,
    CheckpointSaveError,
    ConfigError,
    RunExistsError,
    RunLockedError,
    TinyGPTError,
    cut,
    show,
    warn,
)
from tinygpt.files import append_line, check_path, check_regular, check_writable, parse_json, read_lines, write_whole
from tinygpt.lock import Lock
from tinygpt.models import LanguageModel
from tinygpt.tokenizer import CharTokenizer, Tokenizer
from tinygpt.training.config import TrainerConfig

Accepted = TypeVar("Accepted")


class RunDirectory:
    """A directory for one run: its settings, its metrics, its models. Without a path it keeps nothing.

    It touches only files of these names, and none that is a link or no regular file.

    Raises:
        InputTypeError: If the path is neither a str nor a path.
        CheckpointSaveError: If nothing can be written there.
    """

    def __init__(self, path: str | os.PathLike[str] | None) -> None:
        # Absolute, so that a later change of the working directory does not move the run.
        self.path = None if path is None else check_path("run_dir", path).absolute()
        self._lock = None if self.path is None else Lock(self.path / ".lock")
        self._log_fails = False
        if self.path is not None:
            with self._naming("write to", self.path):
                check_writable(self.path)

    @property
    def place(self) -> str:
        """The directory, as a message shows it."""
        return show(self.path or Path())

    @contextmanager
    def locked(self, *, starting: bool = False, adopting: bool = False) -> Iterator[None]:
        """Keep other trainers out while the block runs; such blocks may be nested and may overlap.

        Args:
            starting: Whether a new run begins in the block, for which the directory must be new.
            adopting: Whether the block goes on with whatever run is there, of whichever trainer.

        Raises:
            RunLockedError: If another trainer is in, or this process was forked from the one that began the run.
            RunExistsError: If a new run would overwrite a file.
            CheckpointNotFoundError: If there is no run to go on with.
            CheckpointSaveError: If the directory was removed, or made again, since the run began in it, or the lock
                cannot be made.
        """
        if self.path is None or self._lock is None:
            yield
            return
        if starting and not os.path.lexists(self._lock.path):
            self._check_new()  # before a lock is made: nothing is written to a directory that is refused
        if adopting:
            self._lock.forget()
            self._check_begun()
        try:
            with self._naming("lock", self.path / ".lock"):
                if not self._lock.was_taken:
                    self.path.mkdir(parents=True, exist_ok=True)
                self._lock.acquire()
        except CheckpointSaveError as error:
            if isinstance(error.__cause__, BlockingIOError):
                raise RunLockedError(
                    f"run_dir must have one trainer at a time, got {self.place}, where {error.__cause__.strerror} is "
                    "at work"
                ) from error.__cause__
            if isinstance(error.__cause__, ChildProcessError):
                raise RunLockedError(
                    f"a run must go on in the process that began it, got {self.place} in process {os.getpid()} where "
                    f"{error.__cause__.strerror}; make a Trainer here and use fit(resume=True)"
                ) from error.__cause__
            raise
        is_refused = starting
        try:
            if starting:
                self._check_new()  # of a run that was killed before its first checkpoint only the lock is left
                is_refused = False
            yield
        finally:
            self._lock.release()
            if is_refused:
                self._lock.forget()

    def _check_new(self) -> None:
        """Raise if the directory holds a run, or a file that a run would overwrite."""
        if self.path is None:
            return
        if self.checkpoints():
            raise RunExistsError(
                f"run_dir must be new or empty, got {self.place}, which contains a run; use another, or "
                "fit(resume=True) to resume it, or fit(resume='auto') to start or resume"
            )
        for name in ("best.safetensors", "config.json", "metrics.jsonl"):  # the first checkpoint comes before them
            if os.path.lexists(self.path / name):
                raise RunExistsError(
                    f"run_dir must be new or empty, got {self.place}, which has a file {name} but no checkpoint of a "
                    "run; use another directory, so that it is not overwritten"
                )

    def _check_begun(self) -> None:
        if not self.checkpoints():
            raise CheckpointNotFoundError(
                f"there is nothing to resume in {self.place}: no file step-*.safetensors; use fit() to start"
            )

    @contextmanager
    def _naming(self, action: str, path: Path) -> Iterator[None]:
        """Turn an error of the system in the block into one of ours that names the file."""
        try:
            yield
        except CheckpointError:
            raise
        except OSError as error:
            reason = f"{error.strerror or error}; use another run_dir"
            raise CheckpointSaveError(error.errno, f"cannot {action} {show(path)}: {reason}") from error

    @contextmanager
    def _writing(self, name: str) -> Iterator[Path]:
        """Give the path of a file of the run to write to, in a directory that is still the run's own."""
        assert self.path is not None
        with self.locked(), self._naming("write", self.path / name):
            check_regular(self.path / name)
            yield self.path / name

    def describe(self, config: TrainerConfig, model: LanguageModel) -> None:
        """Write down the settings of a new run. A disk that does not take them does not end the training."""
        if self.path is None:
            return
        settings = json.dumps({"trainer": asdict(config), "model": repr(model)}, indent=2) + "\n"
        try:
            with self._writing("config.json") as path:
                write_whole(path, settings.encode())
        except CheckpointSaveError as error:
            warn(f"{error}; the training goes on without it")

    def checkpoints(self) -> list[Path]:
        """Return the files from which the run can go on, by their steps, the newest first."""
        if self.path is None or not self.path.is_dir():
            return []
        return sorted(filter(_has_name, self.path.glob("step-*.safetensors")), key=_step_of, reverse=True)

    def save(self, step: int, tensors: Mapping[str, Tensor], payload: Mapping[str, Any], keep: int) -> Path | None:
        """Write a checkpoint, return its path, and then remove those that are no longer wanted.

        Files of later steps are left alone: a run that was resumed from an older one found them spoilt.

        Raises:
            CheckpointSaveError: If it cannot be written. All that was there is still there then.
        """
        if self.path is None:
            return None
        with self._writing(f"step-{step:08d}.safetensors") as target:
            write(target, tensors, payload)
            mine = [path for path in self.checkpoints() if path.is_file() and not path.is_symlink()]
            for path in [path for path in mine if _step_of(path) <= step][keep:]:
                try:
                    path.unlink()
                except OSError as error:
                    warn(f"cannot remove the old checkpoint {show(path)}: {error.strerror or error}")
        return target

    def newest(self, accept: Callable[[Path, dict[str, Any], dict[str, Tensor]], Accepted]) -> Accepted:
        """Return what a function makes of the newest checkpoint that it accepts, with a warning for each newer one.

        Args:
            accept: Called with the path, the payload and the tensors of a file that verifies.

        Raises:
            CheckpointNotFoundError: If there is no checkpoint.
            CheckpointCorruptError: If each is corrupt, with the reasons.
            CheckpointMismatchError: If one is sound, but of a run that is not this one.
            ConfigError: The same.
            CheckpointError: If one cannot be read, such as a link, and no other is accepted.
        """
        self._check_begun()
        failures: list[TinyGPTError] = []
        for path in self.checkpoints():
            try:
                with self._naming("read", path):
                    check_regular(path)
                payload, tensors = read(path)
                if payload["training"] is None or payload["training"].get("step") != _step_of(path):
                    raise CheckpointCorruptError(f"{show(path)} does not contain a run at the step of its name")
                accepted = accept(path, payload, tensors)
            except (CheckpointMismatchError, ConfigError):
                raise  # a sound checkpoint of a run that is not this one: an older one would be none either
            except TinyGPTError as error:
                failures.append(error)
            else:
                for failure in failures:
                    warn(f"{failure}; going back to an older checkpoint")
                return accepted
        for failure in failures:
            if not isinstance(failure, CheckpointCorruptError):
                raise failure
        reasons = "; ".join(cut(str(failure), 400) for failure in failures[:3])
        raise CheckpointCorruptError(
            f"no checkpoint in {self.place} verifies, and whether to start again is yours to decide: {reasons}"
        )

    def log(self, record: Mapping[str, Any]) -> None:
        """Append a line to ``metrics.jsonl``. A disk that does not take it is a warning, and the next one is tried."""
        if self.path is None:
            return
        try:
            with self._writing("metrics.jsonl") as path:
                known = {name: value if math.isfinite(value) else None for name, value in record.items()}
                append_line(path, json.dumps(known, allow_nan=False).encode())  # JSON has no NaN
            self._log_fails = False
        except CheckpointSaveError as error:
            if not self._log_fails:  # one warning as long as it lasts
                warn(f"{error}; the training goes on, and the next line of the log is tried")
            self._log_fails = True

    def rewind_log(self, step: int, evaluated: Container[int]) -> None:
        """Drop the lines that a checkpoint of this step, with its evaluations, knows nothing of, and damaged ones.

        A log that cannot be read or written is a warning.
        """
        if self.path is None:
            return
        try:
            with self._writing("metrics.jsonl") as path:
                if not path.exists():
                    return
                kept = b"".join(line for line in read_lines(path) if _is_known(line, step, evaluated))
                if len(kept) < path.stat().st_size:
                    write_whole(path, kept)
        except CheckpointSaveError as error:
            warn(f"{error}; the training goes on with the log as it is")

    def save_best(self, model: LanguageModel, tokenizer: Tokenizer | None) -> None:
        """Write the model to ``best.safetensors``, with the tokenizer if it is one that can be written."""
        if self.path is not None:
            with self._writing("best.safetensors") as path:
                save(path, model, savable(tokenizer))


def _is_known(line: bytes, step: int, evaluated: Container[int]) -> bool:
    """Say whether a line of the log is one that a checkpoint of this step has behind it."""
    try:
        record = parse_json(line.decode("utf-8"))
    except ValueError:  # a process that was killed leaves half a line, and a disk anything
        return False
    number = record.get("step") if isinstance(record, dict) else None
    if type(number) is not int:
        return False
    return number in evaluated if "val_loss" in record else number <= step


def savable(tokenizer: Tokenizer | None) -> CharTokenizer | None:
    """Return the tokenizer if a file can hold it, else None."""
    return tokenizer if isinstance(tokenizer, CharTokenizer) else None


def _step_of(path: Path) -> int:
    return int(path.stem.removeprefix("step-"))


def _has_name(path: Path) -> bool:
    """Say whether a run would give a checkpoint just this name: files of other names are another's."""
    digits = path.stem.removeprefix("step-")
    return digits.isdecimal() and len(digits) < 20 and path.name == f"step-{int(digits):08d}.safetensors"
