"""What a run leaves on the disk, and how it is found again."""

import json
import os
import warnings
from collections.abc import Callable, Container, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any, TypeVar

from torch import Tensor

from tinygpt.checkpoint import read, save, write
from tinygpt.errors import (
    CheckpointCorruptError,
    CheckpointNotFoundError,
    CheckpointSaveError,
    RunExistsError,
    RunLockedError,
    TinyGPTError,
    check_path,
    show,
)
from tinygpt.files import check_writable, locked, sweep, write_whole
from tinygpt.models import LanguageModel
from tinygpt.tokenizer import CharTokenizer, Tokenizer
from tinygpt.training.config import TrainerConfig

Accepted = TypeVar("Accepted")


class RunDirectory:
    """A directory for one run: its settings, its metrics, its models. Without a path it keeps nothing.

    Raises:
        InputTypeError: If the path is none.
        CheckpointSaveError: If nothing can be written there.
    """

    def __init__(self, path: str | os.PathLike[str] | None) -> None:
        self.path = None if path is None else check_path("run_dir", path)
        self._is_locked = False
        self._log_works = True
        if self.path is not None:
            try:
                check_writable(self.path)
            except OSError as error:
                reason = f"{error.strerror or error}; use another run_dir"
                raise CheckpointSaveError(error.errno, f"cannot write to {show(self.path)}: {reason}") from error

    @property
    def place(self) -> str:
        """The directory, as a message shows it."""
        return show(self.path or Path())

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Keep other trainers out while the block runs; within such a block another one is free.

        Raises:
            RunLockedError: If another trainer is in.
        """
        if self.path is None or self._is_locked:
            yield
            return
        self.path.mkdir(parents=True, exist_ok=True)
        with ExitStack() as stack:
            try:
                stack.enter_context(locked(self.path / ".lock"))
            except BlockingIOError as error:
                raise RunLockedError(
                    f"run_dir must have one trainer at a time, got {self.place}, where {error} is at work"
                ) from error
            sweep(self.path)
            self._is_locked = True
            stack.callback(setattr, self, "_is_locked", False)
            yield

    def start(self, config: TrainerConfig, model: LanguageModel) -> None:
        """Write down the settings of a new run.

        Raises:
            RunExistsError: If there is a run in the directory: nothing is ever overwritten.
        """
        if self.path is None:
            return
        if self.checkpoints() or (self.path / "metrics.jsonl").exists():
            raise RunExistsError(
                f"run_dir must be new or empty, got {self.place}, which contains a run; use another, or "
                "fit(resume=True) to resume it, or fit(resume='auto') to start or resume"
            )
        settings = json.dumps({"trainer": asdict(config), "model": repr(model)}, indent=2) + "\n"
        write_whole(self.path / "config.json", settings.encode())

    def checkpoints(self) -> list[Path]:
        """Return the files from which the run can go on, by their steps, the newest first."""
        if self.path is None or not self.path.is_dir():
            return []
        return sorted(self.path.glob("step-*.safetensors"), key=_step_of, reverse=True)

    def save(self, step: int, tensors: Mapping[str, Tensor], payload: Mapping[str, Any], keep: int) -> Path | None:
        """Write a checkpoint, return its path, and then remove those that are no longer wanted.

        Files of later steps are left alone: a run that was resumed from an older one found them spoilt.

        Raises:
            CheckpointSaveError: If it cannot be written. All that was there is still there then.
        """
        if self.path is None:
            return None
        target = self.path / f"step-{step:08d}.safetensors"
        write(target, tensors, payload)
        for path in [path for path in self.checkpoints() if _step_of(path) <= step][keep:]:
            try:
                path.unlink()
            except OSError as error:
                warnings.warn(f"cannot remove the old checkpoint {show(path)}: {error}", stacklevel=2)
        return target

    def newest(self, accept: Callable[[Path, dict[str, Any], dict[str, Tensor]], Accepted]) -> Accepted:
        """Return what a function makes of the newest checkpoint that it accepts, with a warning for each newer one.

        Args:
            accept: Called with the path, the payload and the tensors of a file that verifies.

        Raises:
            CheckpointNotFoundError: If there is no checkpoint.
            CheckpointCorruptError: If each is corrupt, with the reasons.
            TinyGPTError: If a file that is not corrupt is refused and no other accepted, what was said of the newest.
        """
        failures: list[TinyGPTError] = []
        for path in self.checkpoints():
            try:
                payload, tensors = read(path)
                if payload["training"] is None or payload["training"].get("step") != _step_of(path):
                    raise CheckpointCorruptError(f"{show(path)} does not contain a run at the step of its name")
                accepted = accept(path, payload, tensors)
            except TinyGPTError as error:
                failures.append(error)
            else:
                for failure in failures:
                    warnings.warn(f"{failure}; going back to an older checkpoint", stacklevel=4)
                return accepted
        for failure in failures:
            if not isinstance(failure, CheckpointCorruptError):
                raise failure
        if failures:
            reasons = "; ".join(map(str, failures))
            raise CheckpointCorruptError(
                f"no checkpoint in {self.place} verifies, and whether to start again is yours to decide: {reasons}"
            )
        raise CheckpointNotFoundError(
            f"there is nothing to resume in {self.place}: no file step-*.safetensors; use fit() to start"
        )

    def log(self, record: Mapping[str, Any]) -> None:
        """Append a line to ``metrics.jsonl``. A disk that takes no more of it does not end the training."""
        if self.path is None or not self._log_works:
            return
        try:
            with (self.path / "metrics.jsonl").open("a", encoding="utf-8", newline="\n") as file:
                file.write(json.dumps(record) + "\n")
        except OSError as error:
            self._log_works = False
            warnings.warn(f"cannot write metrics.jsonl any more: {error}; the training goes on", stacklevel=2)

    def rewind_log(self, step: int, evaluated: Container[int]) -> None:
        """Drop the lines that a checkpoint of this step, with its evaluations, knows nothing of."""
        if self.path is None or not (self.path / "metrics.jsonl").exists():
            return

        def is_known(line: str) -> bool:
            try:
                record = json.loads(line)
            except ValueError:  # a process that was killed leaves half a line
                return False
            return record["step"] in evaluated if "val_loss" in record else record["step"] <= step

        lines = (self.path / "metrics.jsonl").read_text(encoding="utf-8").splitlines(keepends=True)
        kept = "".join(line for line in lines if line.endswith("\n") and is_known(line))
        write_whole(self.path / "metrics.jsonl", kept.encode())

    def save_best(self, model: LanguageModel, tokenizer: Tokenizer | None) -> None:
        """Write the model to ``best.safetensors``, with the tokenizer if it is one that can be written."""
        if self.path is not None:
            save(self.path / "best.safetensors", model, savable(tokenizer))


def savable(tokenizer: Tokenizer | None) -> CharTokenizer | None:
    """Return the tokenizer if a file can hold it, else None."""
    return tokenizer if isinstance(tokenizer, CharTokenizer) else None


def _step_of(path: Path) -> int:
    digits = path.stem.removeprefix("step-")
    return int(digits) if digits.isdecimal() else -1
