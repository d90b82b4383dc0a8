"""What a run leaves on the disk."""

import json
import os
from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

from tinygpt.checkpoint import save
from tinygpt.errors import RunExistsError, check_path, short
from tinygpt.models import LanguageModel
from tinygpt.tokenizer import CharTokenizer, Tokenizer
from tinygpt.training.config import TrainerConfig


class RunDirectory:
    """A directory for one run: its settings, its metrics, its models. Without a path it keeps nothing."""

    def __init__(self, path: str | os.PathLike[str] | None) -> None:
        self._path = None if path is None else check_path("run_dir", path)

    def check_unused(self) -> None:
        """Raise if there is a run in the directory: nothing is ever overwritten.

        Raises:
            RunExistsError: If so.
        """
        if self._path is not None and (self._path / "metrics.jsonl").exists():
            raise RunExistsError(f"run_dir must be new or empty, got {short(str(self._path))}, which holds a run")

    def open(self, config: TrainerConfig, model: LanguageModel) -> None:
        """Make the directory and write down the settings."""
        if self._path is not None:
            self._path.mkdir(parents=True, exist_ok=True)
            settings = json.dumps({"trainer": asdict(config), "model": repr(model)}, indent=2)
            (self._path / "config.json").write_text(settings + "\n", encoding="utf-8", newline="\n")

    def log(self, record: Mapping[str, Any]) -> None:
        """Append a line to ``metrics.jsonl``."""
        if self._path is not None:
            with (self._path / "metrics.jsonl").open("a", encoding="utf-8", newline="\n") as file:
                file.write(json.dumps(record) + "\n")

    def save(self, name: str, model: LanguageModel, tokenizer: Tokenizer | None) -> None:
        """Write the model to ``name.safetensors``, with the tokenizer if it is one that can be written."""
        if self._path is not None:
            kept = tokenizer if isinstance(tokenizer, CharTokenizer) else None
            save(self._path / f"{name}.safetensors", model, kept)
