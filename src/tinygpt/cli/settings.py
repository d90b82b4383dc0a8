"""The settings of a training as flags, and as a TOML file."""

import re
import tomllib
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Annotated, Any

from tyro.conf import Fixed, Suppress, arg

from tinygpt.errors import ConfigError, cut, short, show
from tinygpt.models.config import GPTConfig, Layout
from tinygpt.suggestions import did_you_mean
from tinygpt.training.config import TrainerConfig

_MOST_BYTES = 1 << 20  # of a file of settings


_CHOSEN = "(default: chosen)"
_Count = Annotated[int | None, arg(metavar="INT", help_behavior_hint=_CHOSEN)]


@dataclass(frozen=True, kw_only=True)
class ModelFlags:
    """The settings of :class:`GPTConfig` without ``vocab_size``, which the text decides."""

    block_size: _Count = None
    n_layer: _Count = None
    n_head: _Count = None
    n_embd: _Count = None
    dropout: Annotated[float | None, arg(metavar="FLOAT", help_behavior_hint=_CHOSEN)] = None
    layout: Layout = "modern"


@dataclass(frozen=True, kw_only=True)
class PlannedTraining(TrainerConfig):
    """The settings of :class:`TrainerConfig` without ``block_size``, which is the model's; unchecked."""

    block_size: Suppress[Fixed[None]] = None

    def __post_init__(self) -> None:
        """Leave the checks to the :class:`TrainerConfig` that is made in the end."""


@dataclass(frozen=True, kw_only=True)
class TrainerFlags(PlannedTraining):
    """The same, of which some are chosen for the text and the machine."""

    max_iters: _Count = None  # type: ignore[assignment] # chosen later, as the next ones
    batch_size: _Count = None  # type: ignore[assignment]
    eval_interval: _Count = None  # type: ignore[assignment]
    eval_iters: Annotated[int | None, arg(help_behavior_hint=_CHOSEN)] = None
    preview_tokens: _Count = None  # type: ignore[assignment]


@dataclass(frozen=True, kw_only=True)
class PlannedModel(GPTConfig):
    """The settings of :class:`GPTConfig`, by default of the modern layout; unchecked."""

    dropout: float = 0.0
    layout: Layout = "modern"

    def __post_init__(self) -> None:
        """Leave the checks to the :class:`GPTConfig` that is made in the end."""


def plain(text: str) -> str:
    """Return a docstring without the markup of Sphinx.

    Example:
        >>> plain("``None`` uses :class:`~tinygpt.models.GPTConfig` and :func:`torch.compile`")
        'None uses GPTConfig and torch.compile'
    """
    text = re.sub(r":\w+:`(?:~(?:\w+\.)*)?([^`]+)`", r"\1", text)
    return text.replace("``", "")


def _helped(flags: type, config: type, title: str) -> None:
    """Give flags the help of a config's attributes."""
    attributes = (config.__doc__ or "").partition("Attributes:")[2].partition("Raises:")[0]
    seeds = "Seed of batches, dropout and previews. The initial weights have their own: ``config.build(seed=...)``."
    attributes = attributes.replace(seeds, "Seed of the initial weights, batches, dropout and previews.")
    flags.__doc__ = f"{title}\n\nAttributes:{plain(attributes)}"


_helped(ModelFlags, GPTConfig, "The model.")
_helped(TrainerFlags, TrainerConfig, "The training.")
_helped(PlannedModel, GPTConfig, "The model.")
_helped(PlannedTraining, TrainerConfig, "The training.")

# The names of the settings by the table of a TOML file; no name is in two of them.
TABLES = {
    "model": tuple(each.name for each in fields(ModelFlags)),
    "trainer": tuple(each.name for each in fields(TrainerFlags) if each.name != "block_size"),
}


def read_table(path: Path) -> dict[str, Any]:
    """Return the settings of a TOML file by name.

    Raises:
        ConfigError: If it is not TOML, or has an unknown table or setting; the message has the nearest known one.
    """
    if path.stat().st_size > _MOST_BYTES:
        raise ConfigError(f"a file of settings must have at most {_MOST_BYTES:,} bytes, got {show(path)}")
    try:
        tables = tomllib.loads(path.read_text(encoding="utf-8"))
    except (ValueError, RecursionError) as error:  # of TOML or of UTF-8
        raise ConfigError(f"{show(path)} is not a TOML file: {cut(str(error))}") from error
    settings: dict[str, Any] = {}
    for table, values in tables.items():
        if not isinstance(values, dict):
            raise ConfigError(f"{show(path)} has {short(table)} outside a table{_home(table)}")
        if table not in TABLES:
            raise ConfigError(f"{show(path)} has no table [{cut(table, 50)}]{did_you_mean(table, TABLES)}")
        for name, value in values.items():
            if name not in TABLES[table]:
                way = _home(name) or did_you_mean(name, TABLES[table])
                raise ConfigError(f"{show(path)} has no setting {short(name)} in [{table}]{way}")
            settings[name] = _plain_value(value)
    return settings


def _home(name: str) -> str:
    """Return the table that a setting belongs to, as advice, or nothing."""
    return "".join(f"; put it under [{table}]" for table, names in TABLES.items() if name in names)


def _plain_value(value: Any) -> Any:
    """Return a value as a config takes it: TOML has neither tuples nor None."""
    if value == "None":
        return None
    return tuple(value) if isinstance(value, list) else value
