"""A small budget, on which examples and snippets of the documentation run as they stand, in moments."""

import hashlib
import string
from functools import cache
from importlib import import_module
from pathlib import Path
from pydoc_data import topics
from typing import Any

import pytest

import tinygpt
from tinygpt import corpora

CHARACTERS = 20_000
HELP_TOPICS = 5  # of Python's help(), about as many characters
STEPS = 2
TOKENS = 40
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


def cut_steps(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let each training take two steps."""
    real_check = tinygpt.TrainerConfig.__post_init__

    def check(config: tinygpt.TrainerConfig) -> None:
        real_check(config)  # what is written must be valid before it is cut short
        steps = min(config.max_iters, STEPS)
        for name, most in {
            "max_iters": steps,
            "eval_interval": steps,
            "eval_iters": STEPS,
            "warmup_iters": steps,
            "preview_tokens": 10,
        }.items():
            value = getattr(config, name)
            object.__setattr__(config, name, value and min(value, most))

    monkeypatch.setattr(tinygpt.TrainerConfig, "__post_init__", check)


def cut_samples(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let each text that is written be short."""
    for name in ("generate", "__call__", "stream"):
        real = getattr(tinygpt.Sampler, name)

        def short(sampler: Any, *texts: Any, real: Any = real, max_new_tokens: Any = TOKENS, **options: Any) -> Any:
            return real(sampler, *texts, max_new_tokens=min(max_new_tokens, TOKENS), **options)

        monkeypatch.setattr(tinygpt.Sampler, name, short)


def cut_texts(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let each text be the beginning of the real one. None is there that would not be there without this."""
    text, real_read = plays(), tinygpt.read_text
    cut_help(monkeypatch)
    for room in map(import_module, ["tinygpt", "tinygpt.corpora"]):
        monkeypatch.setattr(room, "shakespeare", lambda: text)
        monkeypatch.setattr(room, "read_text", lambda path, **options: real_read(path, **options)[:CHARACTERS])


def cut_help(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let the text of Python's help() be its beginning."""
    monkeypatch.setattr(topics, "topics", dict([*topics.topics.items()][:HELP_TOPICS]))


def stand_in_for_the_network(monkeypatch: pytest.MonkeyPatch, cache: Path) -> None:
    """Let a download of tiny Shakespeare arrive without a network; the rest of the function runs as it is."""
    raw = tiny_plays().encode()
    monkeypatch.setenv("XDG_CACHE_HOME", str(cache))
    monkeypatch.setattr(corpora, "TINYSHAKESPEARE_SHA256", hashlib.sha256(raw).hexdigest())
    monkeypatch.setattr(corpora, "_download", lambda url, timeout: raw)


def cap_budget(monkeypatch: pytest.MonkeyPatch, cache: Path) -> None:
    """Let each training take two steps and each text be short, without a download."""
    cut_steps(monkeypatch)
    cut_samples(monkeypatch)
    cut_texts(monkeypatch)
    stand_in_for_the_network(monkeypatch, cache)
