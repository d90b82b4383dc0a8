"""A small budget, on which examples and snippets of the documentation run as they stand, in moments."""

import string
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
    real_check, real_read = tinygpt.TrainerConfig.__post_init__, tinygpt.read_text

    def check(config: tinygpt.TrainerConfig) -> None:
        real_check(config)  # what is written must be valid before it is cut short
        steps = min(config.max_iters, STEPS)
        for name, most in {
            "max_iters": steps,
            "eval_interval": steps,
            "eval_iters": STEPS,
            "warmup_iters": steps,
            "sample_length": 10,
        }.items():
            value = getattr(config, name)
            object.__setattr__(config, name, value and min(value, most))

    def read_text(path: str | Path, **options: Any) -> str:
        return real_read(path, **options)[:CHARACTERS] if Path(path).exists() else tiny_text

    monkeypatch.setattr(tinygpt.TrainerConfig, "__post_init__", check)
    for room in map(import_module, ["tinygpt", "tinygpt.corpora"]):
        monkeypatch.setattr(room, "read_text", read_text)
        monkeypatch.setattr(room, "shakespeare", lambda: text)
        monkeypatch.setattr(room, "tinyshakespeare", lambda **options: tiny_text)
