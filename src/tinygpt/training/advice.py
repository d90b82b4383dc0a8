"""Settings for a text, a machine and a number of minutes, with the reasons for them.

The rule takes the widest model within three limits. Time: in the minutes, at the measured speed, each weight should see
at least ``TOKENS_PER_WEIGHT`` tokens. Text: with more than ``WEIGHTS_PER_TOKEN`` weights for each token of the
training split, or more than ``MOST_EPOCHS`` passes over it, a model learns the text by heart. Steps: a short text still
needs ``STEPS_PER_EPOCH`` steps in a pass, so its batches and windows are smaller.
"""

import math
import os
from collections.abc import Mapping
from dataclasses import dataclass, fields, replace
from typing import Any

from tinygpt.data import TokenDataset
from tinygpt.errors import DataError, InputTypeError, check_integer, check_number, short
from tinygpt.files import check_path
from tinygpt.models import GPTConfig
from tinygpt.runtime import choose_device
from tinygpt.suggestions import did_you_mean
from tinygpt.training.config import TrainerConfig
from tinygpt.training.timing import seconds_per_step

WIDTHS = (32, 48, 64, 96, 128, 192, 256, 384, 512, 768)
TOKENS_PER_WEIGHT = 8
WEIGHTS_PER_TOKEN = 16
MOST_EPOCHS = 16
STEPS_PER_EPOCH = 7
EVALUATIONS = 10

OF_MODEL = tuple(field.name for field in fields(GPTConfig) if field.name != "vocab_size")
OF_TRAINER = tuple(field.name for field in fields(TrainerConfig) if field.name != "block_size")  # the model's counts

_SIZES = ("n_layer", "n_head", "n_embd", "block_size", "batch_size", "max_iters")
_SHARE_OF_STEPS = 0.75  # of the time; the rest is for evaluations, previews and files
_SHARE_OF_EVALUATIONS = 0.15
_STEPS_PER_PREVIEWED = 25  # for each token of a preview; a token takes up to a third of a step
_FEWEST_STEPS = 10
_SHORTEST = 8  # tokens in a window


@dataclass(frozen=True)
class Advice:
    """Settings of a model and its training, and the reasons for them.

    Printed, it is the code of both configs and the reasons.

    Attributes:
        model: The sizes of the model.
        config: How to train it.
        reasons: The reasons for the choices, a sentence each.
    """

    model: GPTConfig
    config: TrainerConfig
    reasons: tuple[str, ...] = ()

    def __str__(self) -> str:
        settings = ", ".join(f"{name}={value!r}" for name, value in self._of_trainer().items())
        return "\n".join([repr(self.model), f"TrainerConfig({settings})", *(f"- {each}" for each in self.reasons)])

    @property
    def flags(self) -> list[str]:
        """The flags by which ``tinygpt train`` repeats the run without a measurement."""
        flags: list[str] = []
        for name, value in ({name: getattr(self.model, name) for name in OF_MODEL} | self._of_trainer()).items():
            flags.append(f"--{name.replace('_', '-')}")
            if value is not True:  # a switch
                flags += map(str, value if isinstance(value, tuple) else [value])
        return flags

    def _of_trainer(self) -> dict[str, Any]:
        """Return the settings of the trainer that :func:`advise` chooses, and those that are not the defaults."""
        usual, chosen = TrainerConfig(), ("max_iters", "batch_size", "eval_interval", "eval_iters")
        values = {name: getattr(self.config, name) for name in OF_TRAINER}
        return {name: value for name, value in values.items() if name in chosen or value != getattr(usual, name)}


def advise(source: str | os.PathLike[str] | TokenDataset, *, minutes: float = 1.0, **settings: Any) -> Advice:
    """Choose a model and its training for a text and a number of minutes.

    A few training steps are timed on this machine, for some seconds.

    Args:
        source: The path of a text file in UTF-8 or of a prepared corpus, a text of several lines, or a dataset.
        minutes: Time for the training, evaluations included. A short text takes less.
        settings: Settings of :class:`GPTConfig` or :class:`TrainerConfig` that are already decided. The others are
            chosen to suit them.

    Raises:
        DataError: If the text is too short, or as :func:`~tinygpt.corpora.read_text` says.
        ConfigError: If ``minutes`` is not above 0, or a setting is out of range.
        InputTypeError: If ``source`` is not a path, a text or a dataset, or a setting is unknown.

    Example:
        >>> advice = advise(TokenDataset("to be, or not to be: " * 50), max_iters=100, device="cpu")
        >>> advice.model.n_embd, advice.config.max_iters
        (32, 100)
    """
    check_number("minutes", minutes, "above 0", lambda number: number > 0)
    data = dataset_of(source)
    check_settings("advise", settings, "minutes")
    _check_long_enough(data)
    time_for_steps = 60 * minutes * _SHARE_OF_STEPS
    seconds = 0.0
    if "n_embd" in settings:
        model, config = _sized(data, settings["n_embd"], settings)
        if "max_iters" not in settings:
            seconds = seconds_per_step(model, config, data)
    else:
        model, config, seconds = _widest(data, time_for_steps, settings)
    tokens = config.batch_size * model.block_size
    in_text, in_time = MOST_EPOCHS * len(data.train) / tokens, time_for_steps / seconds if seconds else math.inf
    steps = settings.get("max_iters", max(_FEWEST_STEPS, int(min(in_text, in_time))))
    epochs = steps * tokens / len(data.train)
    previews = {"preview_tokens": min(100, int(min(in_time, 2500) / _STEPS_PER_PREVIEWED))}
    chosen = {"max_iters": steps} | previews | _evaluations(data, steps, tokens) | settings
    model = replace(model, dropout=settings.get("dropout", _dropout(epochs)))
    config = replace(config, **{name: chosen[name] for name in OF_TRAINER if name in chosen})

    reasons = [f"{len(data.train):,} tokens to train on, {len(data.val):,} to validate on, {data.vocab_size} distinct"]
    if "n_embd" not in settings:
        reasons.append(f"{_weights(model):,} weights in the blocks: {_reason(data, model, settings)}")
    if "max_iters" not in settings:
        limit = f"a step takes {1000 * seconds:.3g} ms here" if in_time < in_text else "more passes tend to overfit"
        reasons.append(f"{steps:,} steps, {epochs:.2g} passes over the text: {limit}")
    if model.dropout and "dropout" not in settings:
        reasons.append(f"dropout {model.dropout:g}, because the text is read {epochs:.2g} times")
    if settings:
        reasons.append(f"as given: {', '.join(f'{name}={value!r}' for name, value in settings.items())}")
    return Advice(model, config, tuple(reasons))


def dataset_of(source: Any, **options: Any) -> TokenDataset:
    """Return the dataset of a text file, a prepared corpus or a text, or the dataset itself.

    Args:
        source: A path, a text of several lines, or a dataset.
        options: Those of :meth:`TokenDataset.from_file`.

    Raises:
        InputTypeError: If ``source`` is something else.
    """
    if isinstance(source, TokenDataset):
        return source
    if not isinstance(source, str | os.PathLike):
        raise InputTypeError(f"source must be the path of a text file or a TokenDataset, got {short(source)}")
    if isinstance(source, str) and ("\n" in source or len(source) > 1000):  # no path looks like this
        options.pop("encoding", None)
        return TokenDataset(source, **options)
    if check_path("path", source).is_dir():
        return TokenDataset.open(source)
    return TokenDataset.from_file(source, **options)


def check_settings(called: str, settings: Mapping[str, Any], *others: str) -> None:
    """Raise unless all names are settings of a model or a trainer, and the sizes are integers.

    Raises:
        InputTypeError: If a name is unknown.
        ConfigError: If a size is not an integer of at least 1.
    """
    known = (*OF_MODEL, *OF_TRAINER)
    for name, value in settings.items():
        if name not in known:
            way = did_you_mean(name, (*known, *others)) or "; see help(GPTConfig) and help(TrainerConfig)"
            raise InputTypeError(f"{called} has no argument {short(name)}{way}")
        if name in _SIZES:
            check_integer(name, value, minimum=1)


def _check_long_enough(data: TokenDataset) -> None:
    """Raise unless each split has a window of the shortest length."""
    if min(len(data.train), len(data.val)) > _SHORTEST:
        return
    share = data.val_fraction
    if not share:
        raise DataError("the data must have a validation split, got val_fraction=0; use e.g. val_fraction=0.1")
    least = max(int(_SHORTEST / share) + 1, math.ceil((_SHORTEST + 1) / (1 - share)))
    got = len(data.train) + len(data.val)
    raise DataError(f"a text must have at least {least} tokens for both splits, got {got}; use a longer text")


def _widest(
    data: TokenDataset, time_for_steps: float, settings: Mapping[str, Any]
) -> tuple[GPTConfig, TrainerConfig, float]:
    """Return the widest model that sees enough tokens in the time, its training, and the seconds of its step.

    A step takes a constant time and a time for each operation. Both come from the steps of the narrowest and of the
    widest model that was timed. Three are timed at most.
    """
    candidates = [_sized(data, width, settings) for width in _fitting(data, settings)]
    work = [_operations(*candidate) for candidate in candidates]
    fastest = 1e11 if choose_device(candidates[0][1].device).type == "cpu" else 1e14  # operations per second
    times: dict[int, float] = {}
    choice = 0
    while True:
        times[choice] = seconds_per_step(*candidates[choice], data)
        low, high = min(times), max(times)
        per_operation = max((times[high] - times[low]) / max(1, work[high] - work[low]), 1 / fastest)
        constant = max(0.0, times[high] - per_operation * work[high])
        wanted = 0
        for index, (model, config) in enumerate(candidates):
            steps = time_for_steps / times.get(index, constant + per_operation * work[index])
            if steps * config.batch_size * model.block_size >= TOKENS_PER_WEIGHT * _weights(model):
                wanted = index
        if wanted in times or len(times) == 3:
            choice = wanted if wanted in times else choice
            return *candidates[choice], times[choice]
        choice = wanted


def _fitting(data: TokenDataset, settings: Mapping[str, Any]) -> list[int]:
    """Return the widths that are not too large for the text, and always the smallest one."""
    most = WEIGHTS_PER_TOKEN * len(data.train)
    return [w for w in WIDTHS if 12 * settings.get("n_layer", _layers(w)) * w**2 <= most] or [WIDTHS[0]]


def _sized(data: TokenDataset, width: int, settings: Mapping[str, Any]) -> tuple[GPTConfig, TrainerConfig]:
    """Return the model of a width, and its training before the number of steps is known."""
    if "n_head" in settings and "n_embd" not in settings:
        unit = 2 * settings["n_head"]  # an even size for each head, as rotary positions need it
        width = unit * max(1, round(width / unit))
    usual = 64 if width < 192 else 128 if width < 384 else 256
    longest = min(usual, 2 * math.sqrt(len(data.train) / STEPS_PER_EPOCH), len(data.val) - 1)
    length = max(_SHORTEST, 1 << int(math.log2(longest)))
    block_size = settings.get("block_size", length)
    model = {
        "block_size": block_size,
        "n_layer": _layers(width),
        "n_head": _heads(width),
        "n_embd": width,
        "dropout": 0.0,
        "layout": "modern",
    }
    trainer = {"batch_size": max(1, length**2 // 4 // block_size)}
    model |= {name: settings[name] for name in OF_MODEL if name in settings}
    trainer |= {name: settings[name] for name in OF_TRAINER if name in settings}
    return GPTConfig(vocab_size=data.vocab_size, **model), TrainerConfig(**trainer)


def _reason(data: TokenDataset, model: GPTConfig, settings: Mapping[str, Any]) -> str:
    """Return why a wider model was not chosen."""
    if model.n_embd < _fitting(data, settings)[-1]:
        return "a larger model would see too few tokens for each weight in the time"
    return "a larger model would be too large for the text" if model.n_embd < WIDTHS[-1] else "the most that is advised"


def _weights(model: GPTConfig) -> int:
    """Return the number of weights in the blocks."""
    return 12 * model.n_layer * model.n_embd**2


def _layers(width: int) -> int:
    return max(1, int(2 * math.sqrt(width / 32)))


def _heads(width: int) -> int:
    """Return the number of heads of size 32, or 64 in a wide model, or the nearest that divides the width."""
    most = max(2, width // (32 if width <= 256 else 64))
    return next((count for count in range(most, 0, -1) if width % (2 * count) == 0), 1)


def _dropout(epochs: float) -> float:
    """Return the dropout for a number of passes over the text: none for one, at most 0.4 for many."""
    return round(min(0.4, max(0.0, 0.025 * (epochs - 1))), 2)


def _evaluations(data: TokenDataset, steps: int, tokens: int) -> dict[str, Any]:
    """Return interval and number of batches of the evaluations, so that all of them take a small share of the time."""
    # Two splits in each. A batch without a gradient takes about a third of a step.
    batches = max(4, int(_SHARE_OF_EVALUATIONS * steps * 3 / 2 / (EVALUATIONS + 1)))
    is_whole = batches * tokens >= len(data.val)
    return {"eval_interval": math.ceil(steps / EVALUATIONS), "eval_iters": None if is_whole else batches}


def _operations(model: GPTConfig, config: TrainerConfig) -> float:
    """Return the number of operations of a training step."""
    weights = _weights(model) + model.vocab_size * model.n_embd
    scores = model.n_layer * model.block_size * model.n_embd
    return 6.0 * (weights + scores) * config.batch_size * model.block_size
