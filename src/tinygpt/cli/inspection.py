"""The verb that describes a file: info."""

import math
from collections import Counter
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from tyro.conf import Positional, arg

from tinygpt.cli.paths import existing, is_model, model_file
from tinygpt.cli.reading import show, show_json
from tinygpt.errors import TinyGPTError
from tinygpt.files import read_log

if TYPE_CHECKING:
    from tinygpt.training.history import History
    from tinygpt.training.run_settings import RunSettings


def info(
    path: Annotated[Positional[str], arg(metavar="PATH")],
    *,
    encoding: str = "utf-8",
    json: bool = False,
) -> int:
    """Describe a model, a run or a text.

    Args:
        path: A model file, the directory of a run, or a text file.
        encoding: Encoding of a text file.
        json: Print the facts as JSON.
    """
    found = existing(path)
    facts = model_facts(found) if found.is_dir() or is_model(found) else _text_facts(found, encoding)
    if json:
        show_json(facts)
    else:
        show_facts(facts)
    return 0


def model_facts(path: Path) -> dict[str, Any]:
    """Return the facts about a model file or a run, without building the model.

    Raises:
        CheckpointError: If there is no model, or the file cannot be read.
    """
    import torch

    from tinygpt.checkpoint import TRAINING, read, unpack_tokenizer
    from tinygpt.tokenizer import symbols_of

    file = model_file(str(path))
    payload, tensors = read(file)
    tokenizer = unpack_tokenizer(file, payload)
    weights = {name: tensor for name, tensor in tensors.items() if not name.startswith(TRAINING)}
    is_quantised = any(tensor.dtype == torch.int8 for tensor in weights.values())
    counted = [  # without the integers of an n-gram table, and the scales of int8 rows
        tensor.numel()
        for name, tensor in weights.items()
        if tensor.dtype == torch.int8 or (tensor.is_floating_point() and not (is_quantised and name.endswith(".scale")))
    ]
    facts: dict[str, Any] = {
        "file": str(file),
        "model": payload["model"],
        "parameters": sum(counted),
        "settings": payload["config"],
        "symbols": None if tokenizer is None else list(symbols_of(tokenizer)),
    }
    return facts | (run_facts(path, (payload["config"] or {}).get("vocab_size")) if path.is_dir() else {})


def settings_of(run: Path) -> "RunSettings | None":
    """Return the settings of a run, or None if they cannot be read."""
    from tinygpt.training.run_settings import read_settings

    try:
        return read_settings(run)
    except TinyGPTError:
        return None


def run_facts(run: Path, vocab_size: int | None) -> dict[str, Any]:
    """Return the facts about a run from its log, without the lines that are damaged."""
    from tinygpt.training.history import History

    log, history = run / "metrics.jsonl", History(even_guess=math.log(vocab_size) if vocab_size else None)
    for _, record in read_log(log) if log.is_file() else ():
        with suppress(ValueError, TypeError, KeyError, OverflowError):  # a record of something else
            _take_over(record, history)
    if not history.evaluations:
        return {}
    best, last, stored = history.best, history.last, settings_of(run)
    return {
        "text": stored.text.path if stored and stored.text else None,
        "steps": last.step,
        "of_steps": stored.trainer.max_iters if stored else None,
        "seconds": round(last.seconds, 1),
        "best_step": best.step,
        "loss": best.val_loss,
        "verdict": history.verdict,
    }


def _take_over(record: dict[str, Any], history: "History") -> None:
    """Append a line of a log to a history; null stands for NaN in it."""
    from tinygpt.training.history import Evaluation

    numbers = {name: math.nan if value is None else float(value) for name, value in record.items()}
    if "val_loss" not in numbers:
        history.add_loss(numbers["loss"])
        return
    train, val, seconds, speed = (numbers[name] for name in ("train_loss", "val_loss", "seconds", "tokens_per_second"))
    history.evaluations.append(Evaluation(int(numbers["step"]), train, val, seconds, speed, "", numbers["schedule"]))
    history.bigram = numbers.get("bigram", history.bigram)


def _text_facts(path: Path, encoding: str) -> dict[str, Any]:
    """Return the facts about a text."""
    from tinygpt import read_text

    text = read_text(path, encoding=encoding)
    counts = Counter(text)
    return {
        "file": str(path),
        "characters": len(text),
        "lines": text.count("\n") + (not text.endswith("\n")),
        "symbols": sorted(counts),
        "rare": [symbol for symbol, count in sorted(counts.items()) if count < 3] or None,
        "even_guess": math.log(len(counts)),
    }


def show_facts(facts: Mapping[str, Any]) -> None:
    """Write facts to standard output, one in a line."""
    show(
        "".join(f"{name.replace('_', ' '):<17} {_in_words(each)}\n" for name, each in facts.items() if each is not None)
    )


def _in_words(value: Any) -> str:
    if isinstance(value, dict):
        return ", ".join(f"{name}={each}" for name, each in value.items())
    if isinstance(value, list):
        return f"{len(value):,}: {''.join(value)!r}"
    return f"{round(value, 4):,}" if isinstance(value, int | float) else str(value)
