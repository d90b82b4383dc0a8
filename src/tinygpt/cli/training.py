"""The verbs that train: train and compare."""

import math
import shlex
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from tyro.conf import Fixed, OmitArgPrefixes, Positional, Suppress, arg

from tinygpt.cli.inspection import model_facts, settings_of
from tinygpt.cli.messages import note
from tinygpt.cli.paths import BEST, RUNS, existing, run_directory, text_file
from tinygpt.cli.reading import show
from tinygpt.cli.settings import TABLES, ModelFlags, TrainerFlags, read_table
from tinygpt.errors import ConfigError, DataError, RunExistsError, TinyGPTError, cut
from tinygpt.errors import show as shown

if TYPE_CHECKING:
    from tinygpt import TokenDataset
    from tinygpt.training import Advice, Trainer

_HEAD = ("", "nats", "bits/char", "best step", "steps", "parameters", "seconds")
_INSTALL = 'use pip install "tinygpt[plots]"'
_ORDER = 7  # of the table beside a model
_MOST_COUNTED = 20_000_000  # tokens, which take 2 GB of memory
_WEIGHTS = (0.4, 0.6)  # of model and table
_OF_A_NEW_RUN = {"minutes", "encoding", "val_fraction"}


def train(
    file: Annotated[Positional[str | None], arg(metavar="[FILE]", help_behavior_hint="")] = None,
    *,
    run_dir: Annotated[str | None, arg(aliases=["-o"], metavar="RUN", help_behavior_hint="")] = None,
    resume: Annotated[str | None, arg(metavar="RUN", help_behavior_hint="")] = None,
    config: Annotated[str | None, arg(metavar="X.toml", help_behavior_hint="")] = None,
    minutes: float = 1.0,
    encoding: str = "utf-8",
    val_fraction: float = 0.1,
    mixture: bool = False,
    model: OmitArgPrefixes[ModelFlags] = ModelFlags(),  # noqa: B008 # frozen
    trainer: OmitArgPrefixes[TrainerFlags] = TrainerFlags(),  # noqa: B008 # frozen
    given: Suppress[Fixed[frozenset[str]]] = frozenset(),
) -> int:
    """Train a model on a text.

    The settings that are not given are chosen for the text and the speed of this machine, and shown as the flags that
    repeat the run.

    Args:
        file: A text file, or a directory that prepare made.
        run_dir: Directory of the run, by default runs/ and the name of the text.
        resume: Resume the run in this directory. Its settings and its text need not be named again.
        config: A TOML file of settings in tables [model] and [trainer]; flags win.
        minutes: About how long to train, if --max-iters does not say.
        encoding: Encoding of the text file.
        val_fraction: Share of the text, at its end, to validate on.
        mixture: Also save the mixture of the model with a table of n-grams, which often has a lower loss than both.
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
                "--resume takes text, time and directory from the run, so leave out -o, --minutes, --encoding and "
                "--val-fraction"
            )
        source = None if file is None else text_file(file)
        return _fit(run_directory(resume), source, mixture, resume=True, **settings)
    if file is None:
        raise ConfigError("train needs a text or a run: tinygpt train FILE, or tinygpt train --resume RUN")
    path = text_file(file)
    if run_dir == "":
        raise ConfigError("-o must name a directory, got an empty text")
    run = RUNS / path.stem if run_dir is None else Path(run_dir)
    _check_new(run)
    if path.is_dir() and given & {"encoding", "val_fraction"}:
        raise ConfigError("a prepared corpus has its splits already, so leave out --encoding and --val-fraction")
    data, advice = _advised(path, minutes, encoding, val_fraction, **settings)
    return _fit(run, data, mixture, advice=advice)


def compare(
    paths: Annotated[Positional[tuple[str, ...]], arg(metavar="RUN")],
    *,
    output: Annotated[str | None, arg(aliases=["-o"], metavar="CURVES.png", help_behavior_hint="")] = None,
    minutes: float = 1.0,
    encoding: str = "utf-8",
) -> int:
    """Compare runs, or a bigram and a GPT on a text.

    Args:
        paths: Directories of runs; or one text file, to train a bigram and a GPT on.
        output: Also draw the losses of the runs into this image.
        minutes: About how long to train each on a text.
        encoding: Encoding of the text file.
    """
    found = [existing(path) for path in paths]
    if found and all(path.is_dir() for path in found):
        return _compare_runs(found, output)
    if len(found) != 1 or output is not None:
        got = ", ".join(map(shown, found)) or "nothing"
        raise ConfigError(f"compare needs the directories of runs, or one text file without -o, got {cut(got)}")
    return _compare_on(found[0], minutes, encoding)


def _compare_runs(runs: list[Path], output: str | None) -> int:
    """Show the losses of runs, the best last, and draw them."""
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
    if output is not None:
        _draw(runs, output)
    return 0


def _draw(runs: list[Path], output: str) -> None:
    """Draw the losses of runs into an image."""
    try:
        from tinygpt.views import plot_runs

        plot_runs({str(run): run for run in runs}, output)
    except ModuleNotFoundError as error:
        raise ConfigError(f"drawing needs matplotlib, which is not installed; {_INSTALL}") from error
    except TinyGPTError:
        raise
    except ValueError as error:  # of an image format that matplotlib does not know
        raise ConfigError(f"cannot draw into {output!r}: {cut(str(error))}") from error


def _table(rows: Sequence[Sequence[str]]) -> str:
    """Return rows as lines, the first column to the left and the others to the right."""
    first, *others = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = ["  ".join([row[0].ljust(first), *map(str.rjust, row[1:], others)]) for row in rows]
    return "\n".join([lines[0], "-" * len(lines[0]), *lines[1:]]) + "\n"


def _compare_on(path: Path, minutes: float, encoding: str) -> int:
    """Train a bigram and a GPT on a text, and show both."""
    import tinygpt

    data, advice = _advised(path, minutes, encoding)
    table = replace(advice.config, block_size=advice.model.block_size, learning_rate=0.1)
    trainers = {
        "bigram": tinygpt.Trainer(tinygpt.BigramLanguageModel(data.vocab_size), data, table),
        "gpt": tinygpt.Trainer(advice.model.build(seed=0), data, advice.config),
    }
    show(f"{tinygpt.compare(trainers)}\n")
    return 0


def _advised(
    path: Path, minutes: float, encoding: str, val_fraction: float = 0.1, **settings: Any
) -> tuple["TokenDataset", "Advice"]:
    """Return a text and the settings that suit it, and show these as flags."""
    import tinygpt

    if path.is_dir():
        data = tinygpt.TokenDataset.open(path)
    else:
        data = tinygpt.TokenDataset.from_file(path, encoding=encoding, val_fraction=val_fraction)
    advice = tinygpt.advise(data, minutes=minutes, **settings)
    for reason in advice.reasons:
        _tell(reason)
    _tell(f"the settings as flags: {shlex.join(advice.flags)}\n")
    return data, advice


def _fit(run: Path, source: "TokenDataset | Path | None", mixture: bool, **options: Any) -> int:
    """Train to the end, and say what to do next."""
    import tinygpt
    from tinygpt.ranks import join
    from tinygpt.training.run_directory import RunDirectory

    def newest() -> str:
        """Return the newest checkpoint, as the first of several processes sees it."""
        return join().from_first(lambda: str(next(iter(RunDirectory(run).checkpoints()), "")))

    name, before = shlex.quote(str(run)), newest()
    try:
        trainer = tinygpt.train(source, run_dir=run, **options)
    except SystemExit:  # after a SIGTERM, with the run saved
        _tell(f"to continue: tinygpt train --resume {name}")
        raise
    if trainer.history.stopped == "interrupted":
        _tell(f"to continue: tinygpt train --resume {name}")
        return 130
    if before and newest() == before:
        _tell(f"the run had no step left to take; use a --max-iters above {trainer.steps_taken:,} to train further")
        return 0
    _tell_of_a_table(trainer, run, mixture)
    _tell(f"the model of {trainer.model.num_parameters():,} parameters is in {run / BEST}; now try:")
    _tell(f"  tinygpt write {name}\n  tinygpt info {name}")
    return 0


def _tell(text: str) -> None:
    """Write a note, in the first of several processes."""
    from tinygpt.ranks import join

    if join().is_first:
        note(text)


def _tell_of_a_table(trainer: "Trainer", run: Path, mixture: bool) -> None:
    """Compare the model with a table of n-grams, and save their mixture if asked to."""
    import tinygpt
    from tinygpt.ranks import join

    data, order = trainer.data, min(_ORDER, len(trainer.data.train))
    if len(data.train) > _MOST_COUNTED:
        _tell(f"the text is too long to count {order}-grams beside the model: over {_MOST_COUNTED:,} tokens")
        return
    own = trainer.evaluate().nats  # by all processes together
    if not join().is_first:
        return
    table = tinygpt.NGramLanguageModel.count(data.train, vocab_size=trainer.model.vocab_size, order=order)
    counted = tinygpt.evaluate(table, data, block_size=trainer.block_size).nats
    counts = f"a table of counted {order}-grams has {counted:.3f}{', which is better' if counted < own else ''}"
    note(f"its loss is {own:.3f} nats on the validation split; {counts}")
    if mixture:
        path = run / "mixture.safetensors"
        model = tinygpt.load(run / BEST)[0] if trainer.config.shard else trainer.model  # whole
        both = tinygpt.MixtureLanguageModel([model, table], weights=_WEIGHTS)
        nats = tinygpt.evaluate(both, data, block_size=trainer.block_size).nats
        tinygpt.save(path, both, data.tokenizer)
        shares = f"{_WEIGHTS[0]:g} of the model and {_WEIGHTS[1]:g} of the table"
        worse = ", which is worse than one of them" if nats > min(own, counted) else ""
        note(f"their mixture, {shares}, has {nats:.3f}{worse}: {path}")


def _check_new(run: Path) -> None:
    """Raise if a directory has a run already or cannot be written to, before the text is read."""
    from tinygpt.training.run_directory import RunDirectory

    directory = RunDirectory(run)
    if directory.checkpoints():
        name = shlex.quote(str(run))
        raise RunExistsError(
            f"{shown(run)} contains a run; continue it with: tinygpt train --resume {name}, choose another "
            "directory with -o, or delete it to start over"
        )
    directory.check_new()
