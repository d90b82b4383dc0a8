"""The verbs that train: train and compare."""

import math
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from tyro.conf import Fixed, OmitArgPrefixes, Positional, Suppress, arg

from tinygpt.cli.inspection import model_facts, settings_of
from tinygpt.cli.messages import note
from tinygpt.cli.paths import BEST, existing, text_file
from tinygpt.cli.reading import show
from tinygpt.cli.settings import TABLES, ModelFlags, TrainerFlags, read_table
from tinygpt.errors import ConfigError, DataError, RunExistsError
from tinygpt.errors import show as shown
from tinygpt.models.config import GPTConfig
from tinygpt.training.config import TrainerConfig

if TYPE_CHECKING:
    from tinygpt import TokenDataset, Trainer

_HEAD = ("", "nats", "bits/char", "best step", "steps", "parameters", "seconds")
_OF_A_NEW_RUN = {"run_dir", "encoding", "val_fraction"}


def train(
    file: Annotated[Positional[str | None], arg(metavar="[FILE]", help_behavior_hint="")] = None,
    *,
    run_dir: Annotated[str | None, arg(aliases=["-o"], metavar="RUN", help_behavior_hint="")] = None,
    resume: Annotated[str | None, arg(metavar="RUN", help_behavior_hint="")] = None,
    config: Annotated[str | None, arg(metavar="X.toml", help_behavior_hint="")] = None,
    encoding: str = "utf-8",
    val_fraction: float = 0.1,
    model: OmitArgPrefixes[ModelFlags] = ModelFlags(),  # noqa: B008 # frozen
    trainer: OmitArgPrefixes[TrainerFlags] = TrainerFlags(),  # noqa: B008
    given: Suppress[Fixed[frozenset[str]]] = frozenset(),
) -> int:
    """Train a model on a text.

    Args:
        file: A text file.
        run_dir: Directory of the run, by default runs/ and the name of the text.
        resume: Resume the run in this directory. Its settings and its text need not be named again.
        config: A TOML file of settings in tables [model] and [trainer]; flags win.
        encoding: Encoding of the text file.
        val_fraction: Share of the text, at its end, to validate on.
        model: The model.
        trainer: The training.
        given: The names of the flags in the command line.
    """
    settings = {} if config is None else read_table(existing(config))
    flags = vars(trainer) | vars(model)
    settings |= {name: flags[name] for names in TABLES.values() for name in names if name in given}
    if resume is not None:
        if run_dir is not None or given & _OF_A_NEW_RUN:
            raise ConfigError(
                "--resume takes the text and the directory from the run, so leave out -o, --encoding and --val-fraction"
            )
        return _resume(existing(resume), file, settings)
    if file is None:
        raise ConfigError("train needs a text or a run: tinygpt train FILE, or tinygpt train --resume RUN")
    path = text_file(file)
    run = Path("runs", path.stem) if run_dir is None else Path(run_dir)
    _check_free(run)
    made(flags | settings, vocab_size=1)  # an invalid setting shows before the text is read
    data = _dataset(path, encoding, val_fraction)
    gpt, how = made(flags | settings, vocab_size=data.vocab_size)
    return _fit(_trainer(gpt, how, data, run), run)


def compare(
    paths: Annotated[Positional[tuple[str, ...]], arg(metavar="RUN")],
) -> int:
    """Compare runs by their losses.

    Args:
        paths: Directories of runs.
    """
    if not paths:
        raise ConfigError("compare needs runs, e.g. tinygpt compare runs/*")
    return _compare_runs([existing(path) for path in paths])


def _compare_runs(runs: list[Path]) -> int:
    """Show the losses of runs, the best last."""
    rows = []
    for run in runs:
        facts = model_facts(run)
        if "loss" not in facts:
            raise DataError(f"{shown(run)} has no evaluation in its metrics.jsonl; train it first")
        nats, steps = facts["loss"], facts["steps"]
        bits = f"{nats / math.log(2):.3f}" if facts["symbols"] else ""
        numbers = f"{nats:.4f}", bits, f"{facts['best_step']:,}", f"{steps:,}", f"{facts['parameters']:,}"
        rows.append((nats, (str(run), *numbers, f"{facts['seconds']:.1f}")))
    rows.sort(key=lambda row: -row[0])
    digests = {stored.text.sha256 for run in runs if (stored := settings_of(run)) and stored.text}
    if len(digests) > 1:
        note("tinygpt: warning: these runs have different texts, so their losses cannot be compared")
    show(_table([_HEAD, *(cells for _, cells in rows)]))
    return 0


def _table(rows: Sequence[Sequence[str]]) -> str:
    """Return rows as lines, the first column to the left and the others to the right."""
    first, *others = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = ["  ".join([row[0].ljust(first), *map(str.rjust, row[1:], others)]) for row in rows]
    return "\n".join([lines[0], "-" * len(lines[0]), *lines[1:]]) + "\n"


def made(settings: Mapping[str, Any], *, vocab_size: int) -> tuple[GPTConfig, TrainerConfig]:
    """Return the two configs of settings by name.

    Raises:
        ConfigError: If a setting is out of range.
    """
    model, trainer = ({name: settings[name] for name in TABLES[table]} for table in ("model", "trainer"))
    return GPTConfig(vocab_size=vocab_size, **model), TrainerConfig(**trainer)


def _resume(run: Path, file: str | None, settings: Mapping[str, Any]) -> int:
    """Resume a run with its own settings, except for those that are given."""
    from tinygpt.training.run_settings import read_settings

    stored = read_settings(run)
    if stored.model is None:
        raise ConfigError(
            f"a run is resumed here if it has a GPT that a GPTConfig describes, got {shown(run)}; resume it in Python, "
            "with fit(resume=True)"
        )
    if file is None and stored.text is None:
        raise ConfigError(f"{shown(run)} names no text; name it: tinygpt train FILE --resume {shlex.quote(str(run))}")
    encoding = "utf-8" if stored.text is None else stored.text.encoding
    path = Path(stored.text.path) if file is None and stored.text is not None else text_file(file or "")
    if not path.exists():
        way = f"tinygpt train FILE --resume {shlex.quote(str(run))}"
        raise DataError(f"the text of {shown(run)} is no longer at {shown(path)}; if it was moved, use {way}")
    data = _dataset(path, encoding, stored.val_fraction)
    if stored.text is not None and data.file is not None and data.file.sha256 != stored.text.sha256:
        raise DataError(
            f"the text has changed since {shown(run)} began: the sha256 of {shown(path)} starts with "
            f"{data.file.sha256[:12]}, expected {stored.text.sha256[:12]}; use the old text, or begin a new run"
        )
    known = stored.model.to_dict() | asdict(stored.trainer) | {"block_size": stored.model.block_size}
    gpt, config = made({**known, **settings}, vocab_size=stored.model.vocab_size)
    trainer = _trainer(gpt, config, data, run)
    trainer.resume()
    return _fit(trainer, run)


def _dataset(path: Path, encoding: str, val_fraction: float = 0.1) -> "TokenDataset":
    from tinygpt import TokenDataset

    return TokenDataset.from_file(path, encoding=encoding, val_fraction=val_fraction)


def _trainer(gpt: GPTConfig, config: TrainerConfig, data: "TokenDataset", run: Path) -> "Trainer":
    from tinygpt import Trainer

    return Trainer(gpt.build(seed=config.seed), data, config, run_dir=run)


def _fit(trainer: "Trainer", run: Path) -> int:
    """Train to the end, and say what to do next."""
    name, before = shlex.quote(str(run)), trainer.steps_taken
    try:
        history = trainer.fit()
    except SystemExit:  # after a SIGTERM, with the run saved
        note(f"to continue: tinygpt train --resume {name}")
        raise
    if history.stopped == "interrupted":
        note(f"to continue: tinygpt train --resume {name}")
        return 130
    if trainer.steps_taken == before:
        note(f"all {before:,} steps of this run were taken before; use a larger --max-iters to train further")
        return 0
    note(f"the model of {trainer.model.num_parameters():,} parameters is in {run / BEST}; now try:")
    note(f"  tinygpt write {name}\n  tinygpt info {name}")
    return 0


def _check_free(run: Path) -> None:
    """Raise if a directory has a run already, before the text is read."""
    if any(run.glob("step-*.safetensors")):
        name = shlex.quote(str(run))
        raise RunExistsError(
            f"{shown(run)} contains a run; continue it with: tinygpt train --resume {name}, or choose another "
            "directory with -o"
        )
