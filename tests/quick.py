"""A small budget, on which examples and snippets of the documentation run as they stand, in moments."""

import string
from dataclasses import replace
from functools import cache
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest

import tinygpt

CHARACTERS = 20_000
STEPS = 2
TINY_SYMBOLS = "\n !$&',-.3:;?" + string.ascii_letters  # the 65 of tiny Shakespeare


@cache
def plays() -> str:
    """Return the beginning of the plays, and once every character that they have: a prompt may have it too."""
    text = tinygpt.shakespeare()
    return text[:CHARACTERS] + "".join(sorted(set(text)))


@cache
def tiny_plays() -> str:
    """Return the same in the symbols of tiny Shakespeare."""
    return "".join(symbol for symbol in plays() if symbol in TINY_SYMBOLS)


def cap_budget(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let each training take two steps and each corpus be short, without a download."""
    text, tiny_text = plays(), tiny_plays()
    real_config, real_read = tinygpt.TrainerConfig, tinygpt.read_text

    def config(**settings: Any) -> tinygpt.TrainerConfig:
        asked = real_config(**settings)  # what is written must be valid before it is cut short
        steps = min(asked.max_iters, STEPS)
        return replace(
            asked,
            max_iters=steps,
            eval_interval=min(asked.eval_interval, steps),
            eval_iters=None if asked.eval_iters is None else min(asked.eval_iters, STEPS),
            warmup_iters=None if asked.warmup_iters is None else min(asked.warmup_iters, steps),
            sample_length=min(asked.sample_length, 10),
        )

    def read_text(path: str | Path, **options: Any) -> str:
        return real_read(path, **options)[:CHARACTERS] if Path(path).exists() else tiny_text

    rooms = ["tinygpt", "tinygpt.corpora", "tinygpt.training", "tinygpt.training.trainer", "tinygpt.training.compare"]
    for room in map(import_module, rooms):
        for name, stand_in in {
            "TrainerConfig": config,
            "read_text": read_text,
            "shakespeare": lambda: text,
            "tinyshakespeare": lambda **options: tiny_text,
        }.items():
            if hasattr(room, name):
                monkeypatch.setattr(room, name, stand_in)
