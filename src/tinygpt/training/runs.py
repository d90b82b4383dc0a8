"""Train on a text file in one call, or resume a run."""

import os
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

from tinygpt.corpora import TextFile
from tinygpt.data import TokenDataset
from tinygpt.errors import (
    CheckpointMismatchError,
    CheckpointNotFoundError,
    ConfigError,
    DataError,
    DataNotFoundError,
    InputTypeError,
    check_number,
    short,
    show,
)
from tinygpt.models import GPTConfig
from tinygpt.ranks import join
from tinygpt.training.advice import OF_MODEL, OF_TRAINER, Advice, advise, check_settings, dataset_of
from tinygpt.training.config import TrainerConfig
from tinygpt.training.run_directory import RunDirectory
from tinygpt.training.run_settings import read_settings
from tinygpt.training.trainer import Trainer


def train(
    source: str | os.PathLike[str] | TokenDataset | None = None,
    *,
    minutes: float = 1.0,
    advice: Advice | None = None,
    run_dir: str | Path | None = None,
    resume: bool | Literal["auto"] = False,
    progress: bool = True,
    log: Callable[[dict[str, Any]], object] | None = None,
    **settings: Any,
) -> Trainer:
    """Train a GPT on a text file, with settings chosen by :func:`advise`.

    With ``resume``, the settings and the text are those that ``config.json`` in ``run_dir`` names, from any working
    directory.

    Args:
        source: The path of a text file in UTF-8 or of a prepared corpus, a text of several lines, or a dataset. It can
            be left out to resume a run on a text file; a file that was moved is named again.
        minutes: Time for the training, if the settings are chosen.
        advice: Settings from :func:`advise`, instead of new ones.
        run_dir: Directory to write to, as for :class:`Trainer`. None writes nothing.
        resume: Whether to resume the run in ``run_dir``. ``"auto"`` resumes if there is a checkpoint and starts
            otherwise.
        progress: Whether to show the progress.
        log: Called with each record of the run, as by :meth:`Trainer.fit`.
        settings: Settings of :class:`GPTConfig` or :class:`TrainerConfig`, in place of those that are chosen, or of
            those of the run that is resumed.

    Returns:
        The trainer after its last step. Its ``history`` is the record, ``sampler()`` generates text.

    Raises:
        ConfigError: If an argument is invalid, or ``config.json`` does not name what is needed to resume.
        DataError: If the text is too short, cannot be read, or has changed since the run began.
        CheckpointError: If ``config.json`` or all checkpoints are corrupt, missing, or those of another run.
        TinyGPTError: For the reasons that :func:`advise` and :meth:`Trainer.fit` give.

    Example:
        >>> path = getfixture("tmp_path") / "verse.txt"
        >>> _ = path.write_text("to be, or not to be: " * 50)
        >>> trainer = train(path, max_iters=60, progress=False)
        >>> trainer.history.best.val_loss < 1
        True
    """
    check_settings("train", settings, "minutes", "advice", "run_dir", "resume", "progress", "log")
    check_number("minutes", minutes, "above 0", lambda number: number > 0)
    if resume != "auto" and not isinstance(resume, bool):
        raise ConfigError(f"resume must be True, False or 'auto', got resume={short(resume)}")
    if advice is not None and not isinstance(advice, Advice):
        raise InputTypeError(f"advice must be an Advice, got {short(advice)}; use advise(source, minutes=...)")
    run = RunDirectory(run_dir, join())
    if resume is True or (resume == "auto" and run.has_checkpoints):
        if advice is not None:
            raise ConfigError("a run that is resumed has its settings, got an advice as well; leave it out")
        trainer = _resumed(run, source, settings)
    elif source is None:
        raise ConfigError("train needs a text or a run to resume, got neither; use train('novel.txt')")
    else:
        run.check_new()  # before the machine is measured
        data = dataset_of(source)
        chosen = advise(data, minutes=minutes, **settings) if advice is None else advice
        model, config = _changed(chosen.model, chosen.config, settings)
        trainer = Trainer(model.build(seed=config.seed), data, config, run_dir=run_dir)
    trainer.fit(resume=resume, progress=progress, log=log)
    return trainer


def _resumed(run: RunDirectory, source: Any, settings: Mapping[str, Any]) -> Trainer:
    """Return a trainer for the run in a directory, as its ``config.json`` describes it."""
    if run.path is None:
        raise ConfigError("resume=True needs the run_dir of a run, got run_dir=None")
    if run.checkpoints() and not run.is_described:
        raise CheckpointNotFoundError(
            f"{run.shown} has checkpoints but no config.json, which names the settings; make model and data as before "
            "and use Trainer(...).fit(resume=True), or remove the directory to start again"
        )
    stored = read_settings(run.path)
    if stored.model is None:
        raise ConfigError(
            f"{run.shown} has a model that was composed or changed by hand; build it as before, and use "
            "Trainer(model, data, config, run_dir=...).fit(resume=True)"
        )
    model, config = _changed(stored.model, stored.trainer, settings)
    if stored.text is None and source is None:
        raise ConfigError(f"{run.shown} does not name its text; pass it: train('novel.txt', run_dir=..., resume=True)")
    data = dataset_of(source) if stored.text is None else _same_text(run, source, stored.text, stored.val_fraction)
    _check_sizes(run, model, data)
    return Trainer(model.build(seed=config.seed), data, config, run_dir=run.path)


def _same_text(run: RunDirectory, source: Any, text: TextFile, val_fraction: float) -> TokenDataset:
    """Return the dataset of the text that a run began with, also from another path."""
    try:
        data = dataset_of(text.path if source is None else source, encoding=text.encoding, val_fraction=val_fraction)
    except FileNotFoundError as error:
        missing = Path(text.path if source is None else source)
        raise DataNotFoundError(
            f"there is no file {show(missing)}, the text of {run.shown}; pass its new path: "
            "train('novel.txt', run_dir=..., resume=True)"
        ) from error
    if data.file is not None and data.file.sha256 != text.sha256:
        raise DataError(
            f"the text must be that of the run, got {show(Path(data.file.path))} with sha256 {data.file.sha256[:12]}, "
            f"where {run.shown} began with {text.sha256[:12]}; use the old text, or another run_dir to start again"
        )
    return data


def _changed(model: GPTConfig, config: TrainerConfig, settings: Mapping[str, Any]) -> tuple[GPTConfig, TrainerConfig]:
    """Return the configs with some settings changed."""
    of_model = {name: settings[name] for name in OF_MODEL if name in settings}
    of_trainer = {name: settings[name] for name in OF_TRAINER if name in settings}
    return replace(model, **of_model), replace(config, **of_trainer)


def _check_sizes(run: RunDirectory, model: GPTConfig, data: TokenDataset) -> None:
    """Raise before a model is built that is larger than any checkpoint of the run: ``config.json`` may be forged."""
    width = model.n_embd
    weights = 12 * model.n_layer * width**2 + model.vocab_size * width
    if model.layout != "modern":  # the others have learned positions
        weights += model.block_size * width
    files = [[path] if path.suffix else [*path.glob("rank-*")] for path in run.checkpoints()]
    largest = max((sum(path.stat().st_size for path in each) for each in files), default=0)
    if model.vocab_size != data.vocab_size or 2 * weights > largest > 0:
        raise CheckpointMismatchError(
            f"{run.shown} must have checkpoints of the model in its config.json, got a file of {largest:,} bytes and "
            f"{weights:,} weights, vocab_size={model.vocab_size} and {data.vocab_size} in the text"
        )
