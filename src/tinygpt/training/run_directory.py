"""The directory of a run: its files, their names, and its lock."""

import json
import math
import os
from collections.abc import Callable, Container, Iterable, Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

import torch
from torch import Tensor

from tinygpt.checkpoint import distinct, pack, read, write
from tinygpt.envelope import SUPPORTED
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
from tinygpt.files import append_line, check_path, check_regular, check_writable, read_log, write_whole
from tinygpt.fingerprints import contains
from tinygpt.lock import Lock
from tinygpt.models import LanguageModel
from tinygpt.ranks import Ranks, from_first
from tinygpt.sharded_tensors import whole_on_first
from tinygpt.tokenizer import Tokenizer
from tinygpt.training import shard_files
from tinygpt.training.run_settings import SETTINGS_FILE, RunSettings
from tinygpt.training.shard_files import Share, all_rows

Accepted = TypeVar("Accepted")
Restored = TypeVar("Restored")


class RunDirectory:
    """The directory of a run: settings, metrics and models.

    Without a path nothing is written. Only files of these names are touched, and only if they are regular files, not
    links. Rank 0 alone touches files; :class:`ShardedRunDirectory` lets each process write and read its own.

    Args:
        path: The directory.
        ranks: The processes of the run; by default this one alone.

    Raises:
        InputTypeError: If the path is neither a str nor a path.
        CheckpointSaveError: If nothing can be written to it.
    """

    def __init__(self, path: str | os.PathLike[str] | None, ranks: Ranks | None = None) -> None:
        self.ranks = ranks or Ranks()
        # Absolute, so that a later change of the working directory does not move the run.
        self.path = None if path is None else check_path("run_dir", path).absolute()
        self._lock = None if self.path is None else Lock(self.path / ".lock")
        self._log_fails = False
        self._check_writable()

    @from_first
    def _check_writable(self) -> None:
        if self.path is not None:
            with self._naming("write to", self.path):
                check_writable(self.path)

    @property
    def shown(self) -> str:
        """The directory as a message shows it."""
        return show(self.path or Path())

    @contextmanager
    def locked(self, *, starting: bool = False, adopting: bool = False) -> Iterator[None]:
        """Keep other trainers out inside the block.

        Blocks may be nested and may overlap.

        Args:
            starting: Whether a new run begins in the block, which needs a new directory.
            adopting: Whether the block resumes the run in the directory, which another trainer may have begun.

        Raises:
            RunLockedError: If another trainer holds the lock, or this process was forked from the one that began the
                run.
            RunExistsError: If a new run would overwrite a file.
            CheckpointNotFoundError: If there is no run to resume.
            CheckpointSaveError: If the directory was removed or made again since the run began, or the lock cannot be
                made.
        """
        with self.ranks.within_first(partial(self._locked, starting=starting, adopting=adopting)):
            yield

    @contextmanager
    def _locked(self, *, starting: bool = False, adopting: bool = False) -> Iterator[None]:
        if self.path is None or self._lock is None:
            yield
            return
        if starting and not os.path.lexists(self._lock.path):
            self.check_new()  # before the lock is made: a refused directory is not written to
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
                    f"run_dir must have one trainer at a time, got {self.shown}, where {error.__cause__.strerror} is "
                    "at work; wait for it, or use another run_dir"
                ) from error.__cause__
            if isinstance(error.__cause__, ChildProcessError):
                raise RunLockedError(
                    f"a run must go on in the process that began it, got {self.shown} in process {os.getpid()} where "
                    f"{error.__cause__.strerror}; make a Trainer here and use fit(resume=True)"
                ) from error.__cause__
            raise
        is_refused = starting
        try:
            if starting:
                self.check_new()  # a run that was killed before its first checkpoint leaves only the lock
                is_refused = False
            yield
        finally:
            self._lock.release()
            if is_refused:
                self._lock.forget()

    def check_new(self) -> None:
        """Raise if the directory has a run, or a file that a run would overwrite.

        Raises:
            RunExistsError: If it does.
        """
        if self.path is None:
            return
        if self.checkpoints():
            raise RunExistsError(
                f"run_dir must be new or empty, got {self.shown}, which contains a run; use another, or "
                "fit(resume=True) to resume it, or fit(resume='auto') to start or resume"
            )
        for name in ("best.safetensors", SETTINGS_FILE, "metrics.jsonl"):  # the first checkpoint comes before them
            if os.path.lexists(self.path / name):
                raise RunExistsError(
                    f"run_dir must be new or empty, got {self.shown}, which has a file {name} but no checkpoint of a "
                    "run; use another directory, so that the file is not overwritten"
                )

    def _check_begun(self) -> None:
        if not self.checkpoints():
            raise CheckpointNotFoundError(
                f"there is nothing to resume in {self.shown}: no checkpoint step-*; use fit() to start, in a new "
                "or empty directory"
            )

    @contextmanager
    def _naming(self, action: str, path: Path) -> Iterator[None]:
        """Name the file in an error of the system inside the block."""
        try:
            yield
        except CheckpointError:
            raise
        except OSError as error:
            reason = f"{error.strerror or error}; use another run_dir"
            raise CheckpointSaveError(error.errno, f"cannot {action} {show(path)}: {reason}") from error

    @contextmanager
    def _writing(self, name: str) -> Iterator[Path]:
        """Yield the path of a file to write to, with the lock held."""
        assert self.path is not None
        with self._locked(), self._naming("write", self.path / name):
            check_regular(self.path / name)
            yield self.path / name

    @property
    def is_described(self) -> bool:
        """Whether there is a ``config.json``; a run that was killed at its start has none."""
        return self.path is not None and os.path.lexists(self.path / SETTINGS_FILE)

    @from_first
    def describe(self, settings: RunSettings) -> None:
        """Write the settings to ``config.json``; a disk error is a warning."""
        if self.path is None:
            return
        try:
            with self._writing(SETTINGS_FILE) as path:
                write_whole(path, settings.to_json().encode())
        except CheckpointSaveError as error:
            warn(f"{error}; the training goes on without it")

    @property
    @from_first
    def has_checkpoints(self) -> bool:
        """Whether there is a checkpoint, as rank 0 sees it."""
        return bool(self.checkpoints())

    def checkpoints(self) -> list[Path]:
        """Return the checkpoints that this process sees, the newest first."""
        if self.path is None or not self.path.is_dir():
            return []
        files = filter(_has_name, self.path.glob("step-*.safetensors"))
        return sorted([*files, *filter(shard_files.is_checkpoint, self._directories())], key=_step_of, reverse=True)

    def _directories(self) -> list[Path]:
        """Return the directories of checkpoints, complete or not."""
        assert self.path is not None
        found = [path for path in self.path.glob("step-*") if _has_name(path) and not path.suffix]
        return [path for path in found if path.is_dir() and not path.is_symlink()]

    def save(self, step: int, tensors: Mapping[str, Tensor], payload: Mapping[str, Any], keep: int) -> str:
        """Write a checkpoint, remove older ones beyond ``keep``, and return the name of the file.

        Checkpoints of later steps stay: a run that was resumed from an older one found them corrupt.

        Raises:
            CheckpointSaveError: If the file cannot be written; the earlier checkpoints are intact then.
        """
        with self._writing(f"step-{step:08d}.safetensors") as target:
            write(target, tensors, payload)
            self._prune(step, keep, target)
        return target.name

    def _prune(self, step: int, keep: int, written: Path) -> None:
        """Remove the checkpoints up to a step except ``written`` and the next newest, and what saves have left."""
        mine = [path for path in self.checkpoints() if not path.suffix or (path.is_file() and not path.is_symlink())]
        old = [path for path in mine if _step_of(path) <= step and path.name != written.name][keep - 1 :]
        for path in [*old, *(path for path in self._directories() if not shard_files.is_checkpoint(path))]:
            try:
                path.unlink() if path.suffix else shard_files.remove(path)
            except OSError as error:
                warn(f"cannot remove the old checkpoint {show(path)}: {error.strerror or error}")

    def newest(self, accept: Callable[[Path, dict[str, Any], dict[str, Tensor]], Accepted]) -> Accepted:
        """Return the result of ``accept`` for the newest valid checkpoint.

        Each newer one that is corrupt is a warning. ``accept`` takes the path, the payload and the tensors. Rank 0
        reads the file, and sends it to the others.

        Raises:
            CheckpointNotFoundError: If there is no checkpoint.
            CheckpointCorruptError: If every checkpoint is corrupt, with the reasons.
            CheckpointMismatchError: If a valid checkpoint belongs to another run.
            ConfigError: If a valid checkpoint has other settings.
            CheckpointError: If one cannot be read, such as a link, and no other is accepted.
        """
        found: list[tuple[Path, tuple[dict[str, Any], dict[str, Tensor], Accepted]]] = []

        def restore(path: Path) -> tuple[dict[str, Any], dict[str, Tensor], Accepted]:
            payload, tensors, _ = self._read(path)
            return payload, tensors, accept(path, payload, tensors)

        def find() -> tuple[str, dict[str, Any], dict[str, Any]]:
            self._check_begun()
            found.append(self._first_valid(self.checkpoints(), restore))
            path, (payload, tensors, _) = found[0]
            shapes = {name: [str(tensor.dtype), tensor.shape] for name, tensor in tensors.items()}
            return str(path), payload, shapes

        name, payload, shapes = self.ranks.from_first(find)
        if self.ranks.is_first:
            _, (_, tensors, accepted) = found[0]
            self.ranks.broadcast_(tensors.values())
            return accepted
        dtypes = {str(dtype): dtype for dtype in SUPPORTED}
        tensors = {key: torch.empty(shape, dtype=dtypes[dtype]) for key, (dtype, shape) in shapes.items()}
        self.ranks.broadcast_(tensors.values())
        return accept(Path(name), payload, tensors)

    def _read(
        self, path: Path, share: Share = all_rows, sizes: Iterable[int] = ()
    ) -> tuple[dict[str, Any], dict[str, Tensor], dict[str, int]]:
        """Return payload and tensors of a checkpoint, and the rows in all of the tensors of which it has only some."""
        if not path.suffix:
            payload, tensors, counts = shard_files.read_shards(path, share, sizes)
        else:
            with self._naming("read", path):
                check_regular(path)
            payload, tensors = read(path)
            counts = {}
        if payload["training"] is None or payload["training"].get("step") != _step_of(path):
            raise CheckpointCorruptError(f"{show(path)} does not contain a run at the step of its name")
        return payload, tensors, counts

    def _first_valid(self, paths: list[Path], restore: Callable[[Path], Restored]) -> tuple[Path, Restored]:
        """Return the first checkpoint that can be restored, with the result; each one before it is a warning."""
        failures: list[TinyGPTError] = []
        for path in paths:
            try:
                restored = restore(path)
            except (CheckpointMismatchError, ConfigError):
                raise  # a valid checkpoint of another run: older ones belong to it too
            except TinyGPTError as error:
                failures.append(error)
            else:
                for failure in failures:
                    warn(f"{failure}; going back to an older checkpoint")
                return path, restored
        for failure in failures:
            if not isinstance(failure, CheckpointCorruptError):
                raise failure
        reasons = "; ".join(cut(str(failure), 400) for failure in failures[:3])
        raise CheckpointCorruptError(
            f"no checkpoint in {self.shown} verifies; use another copy, or another run_dir to start again: {reasons}"
        )

    def log(self, record: Mapping[str, Any]) -> None:
        """Append a line to ``metrics.jsonl``; an error of the disk is a warning."""
        if self.path is None or not self.ranks.is_first:
            return
        try:
            with self._writing("metrics.jsonl") as path:
                known = {name: value if math.isfinite(value) else None for name, value in record.items()}
                append_line(path, json.dumps(known, allow_nan=False).encode())  # JSON has no NaN
            self._log_fails = False
        except CheckpointSaveError as error:
            if not self._log_fails:  # one warning until a line is written
                warn(f"{error}; the training goes on, and the next line of the log is tried")
            self._log_fails = True

    @from_first
    def rewind_log(self, step: int, evaluated: Container[int]) -> None:
        """Remove damaged lines and lines later than a checkpoint.

        A log that cannot be read or written is a warning.
        """
        if self.path is None:
            return
        try:
            with self._writing("metrics.jsonl") as path:
                if not path.exists():
                    return
                kept = b"".join(line for line, record in read_log(path) if _is_known(record, step, evaluated))
                if len(kept) < path.stat().st_size:
                    write_whole(path, kept)
        except CheckpointSaveError as error:
            warn(f"{error}; the training goes on with the log as it is")

    def save_best(self, model: LanguageModel, tokenizer: Tokenizer | None) -> None:
        """Write model and tokenizer to ``best.safetensors``."""
        if self.path is not None:
            self._write_best(model, tokenizer, whole_on_first(distinct(model), is_first=self.ranks.is_first))

    @from_first
    def _write_best(self, model: LanguageModel, tokenizer: Tokenizer | None, weights: Mapping[str, Tensor]) -> None:
        with self._writing("best.safetensors") as path:
            write(path, *pack(model, savable(tokenizer), weights))


def _is_known(record: Mapping[str, Any], step: int, evaluated: Container[int]) -> bool:
    """Return whether a record of the log is not later than a checkpoint."""
    return record["step"] in evaluated if "val_loss" in record else record["step"] <= step


def savable(tokenizer: Tokenizer | None) -> Tokenizer | None:
    """Return the tokenizer if a file can contain it, else None."""
    return tokenizer if contains(tokenizer) else None


def _step_of(path: Path) -> int:
    return int(path.stem.removeprefix("step-"))


def _has_name(path: Path) -> bool:
    """Return whether a run would write a checkpoint of this name."""
    digits = path.stem.removeprefix("step-")
    names = [f"step-{int(digits):08d}{suffix}" for suffix in ("", ".safetensors") if digits.isdecimal()]
    return len(digits) < 20 and path.name in names
