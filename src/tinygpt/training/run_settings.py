"""The settings of a run, as ``config.json`` holds them: the format, its writer and its reader.

The file may come from a stranger. Its size is limited, each value is checked, and nothing is written to a path in it.
"""

import json
import os
import re
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import tinygpt
from tinygpt.corpora import TextFile
from tinygpt.errors import (
    CheckpointCorruptError,
    CheckpointError,
    CheckpointNotFoundError,
    CheckpointVersionError,
    ConfigError,
    TinyGPTError,
    cut,
    harmless,
    short,
    show,
)
from tinygpt.files import check_path, check_regular, parse_json, read_whole
from tinygpt.models.config import GPTConfig
from tinygpt.training.config import TrainerConfig

SETTINGS_FILE = "config.json"
FORMAT_VERSION = 1

_MOST_BYTES = 1 << 20
_KINDS = {"format": int, "tinygpt": str, "text": dict | None, "model": dict | None, "trainer": dict, "parts": str}
_OF_TEXT = {"path": str, "encoding": str, "sha256": str, "val_fraction": float}


@dataclass(frozen=True, kw_only=True)
class RunSettings:
    """The settings of a run.

    Attributes:
        trainer: How the run trains.
        model: The sizes of its model; None for a model composed or changed by hand, and for a bigram.
        text: The file of its text; None for data from another source.
        val_fraction: Share of the text for validation.
        parts: The printed model.
    """

    trainer: TrainerConfig
    model: GPTConfig | None = None
    text: TextFile | None = None
    val_fraction: float = 0.1
    parts: str = ""

    def to_json(self) -> str:
        """Return the content of ``config.json``."""
        text = None if self.text is None else asdict(self.text) | {"val_fraction": self.val_fraction}
        model = None if self.model is None else self.model.to_dict()
        entries = {"text": text, "model": model, "trainer": asdict(self.trainer), "parts": self.parts}
        return json.dumps({"format": FORMAT_VERSION, "tinygpt": tinygpt.__version__} | entries, indent=2) + "\n"

    @classmethod
    def from_dict(cls, found: Any) -> "RunSettings":
        """Return the settings of a parsed ``config.json``.

        Raises:
            ValueError: If an entry is missing, unknown, or of another type.
            TinyGPTError: If a setting of the trainer or of the model is invalid.
        """
        _check_entries("the file", found, _KINDS)
        if found["format"] != FORMAT_VERSION:
            raise ValueError(f"expected format {FORMAT_VERSION}, got {short(found['format'])}")
        betas = found["trainer"].get("betas")
        trainer = found["trainer"] | {"betas": tuple(betas) if isinstance(betas, list) else betas}
        file = found["text"]
        if file is not None:
            _check_entries("text", file, _OF_TEXT)
            if not re.fullmatch("[0-9a-f]{64}", file["sha256"]) or not 0 <= file["val_fraction"] < 1:
                raise ValueError(f"expected a sha256 and a val_fraction in text, got {short(file)}")
        return cls(
            trainer=TrainerConfig(**trainer),
            model=None if found["model"] is None else GPTConfig.from_dict(found["model"]),
            text=None if file is None else TextFile(file["path"], file["encoding"], file["sha256"]),
            val_fraction=0.1 if file is None else file["val_fraction"],
            parts=found["parts"],
        )


def read_settings(run_dir: str | os.PathLike[str]) -> RunSettings:
    """Read the settings of the run in a directory.

    Raises:
        CheckpointNotFoundError: If the directory has no ``config.json``.
        CheckpointCorruptError: If the file is not the settings of a run.
        CheckpointVersionError: If a newer tinygpt wrote it.
        CheckpointError: If it is not a regular file, is too large, or cannot be read.
        ConfigError: If it is from before the format had a number. The message has the settings to give.
    """
    path = check_path("run_dir", run_dir) / SETTINGS_FILE
    try:
        check_regular(path)
        raw = read_whole(path, _MOST_BYTES)
    except (FileNotFoundError, NotADirectoryError) as error:
        raise CheckpointNotFoundError(
            f"there is no run in {show(path.parent)}: no file {SETTINGS_FILE}; pass the run_dir of a Trainer"
        ) from error
    except OSError as error:
        raise CheckpointError(f"cannot read {show(path)}: {error.strerror or error}") from error
    refusal = f"{show(path)} does not contain the settings of a run"
    try:
        found = parse_json(raw)
    except ValueError as error:
        raise CheckpointCorruptError(f"{refusal}: {cut(str(error))}") from error
    _check_version(path, found)
    try:
        return RunSettings.from_dict(found)
    except (TinyGPTError, ValueError) as error:
        raise CheckpointCorruptError(f"{refusal}: {cut(str(error))}") from error


def _check_version(path: Path, found: Any) -> None:
    """Raise if the file has an older or a newer format."""
    if not isinstance(found, dict):
        return
    version = found.get("format")
    if type(version) is int and version > FORMAT_VERSION:
        raise CheckpointVersionError(
            f"{show(path)} has format {short(version)}, this tinygpt reads up to {FORMAT_VERSION}; upgrade tinygpt"
        )
    if found.keys() == {"trainer", "model"} and isinstance(found["trainer"], dict):
        usual = asdict(TrainerConfig())
        stored = {harmless(name): value for name, value in found["trainer"].items()}
        changed = [f"{name}={short(value)}" for name, value in stored.items() if value != usual.get(name)]
        raise ConfigError(
            f"{show(path)} is from an older tinygpt and names no text; make data and model as before, and use "
            f"Trainer(model, data, TrainerConfig({cut(', '.join(changed), 90)}), run_dir=...).fit(resume=True)"
        )


def _check_entries(where: str, found: Any, kinds: dict[str, Any]) -> None:
    """Raise a ValueError unless an object has exactly these entries, each of its kind."""
    if not isinstance(found, dict) or found.keys() != kinds.keys():
        raise ValueError(f"expected the entries {', '.join(kinds)} in {where}, got {short(found)}")
    for name, kind in kinds.items():
        value = found[name]
        allowed = int | float if kind is float else kind
        if not isinstance(value, allowed) or isinstance(value, bool):
            raise ValueError(f"expected another type of {name} in {where}, got {short(value)}")
