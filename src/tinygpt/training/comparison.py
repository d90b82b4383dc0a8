"""Several models side by side: loss, size, time and a sample of each."""

import math
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from html import escape
from pathlib import Path
from statistics import fmean, stdev
from typing import TYPE_CHECKING, Any, NamedTuple

from tinygpt.data import TokenDataset
from tinygpt.errors import (
    ConfigError,
    InputTypeError,
    check_choice,
    check_integer,
    check_truth,
    checked_names,
    cut,
    short,
    warn,
)
from tinygpt.files import check_path
from tinygpt.models import LanguageModel
from tinygpt.models.base import WINDOW
from tinygpt.sampling import Sampler
from tinygpt.training.evaluation import evaluate
from tinygpt.training.history import History, Loss
from tinygpt.training.progress import named
from tinygpt.training.trainer import Trainer

if TYPE_CHECKING:
    from matplotlib.figure import Figure


@dataclass(frozen=True)
class Contender:
    """One row of a comparison: one model, or several seeds of it.

    Attributes:
        name: The name in the call of :func:`compare`.
        parameters: Number of parameters of the model.
        loss: The loss on the whole validation split, with the best weights; the mean over its trainers.
        losses: The loss of each trainer, in nats.
        seconds: Time of the training steps, the mean over its trainers; 0 for a model without a trainer.
        block_size: Length of the windows of training and measurement.
        sample: A sample of the first trainer; empty without a tokenizer.
        histories: The record of each trainer by its name, ``"gpt"``, or ``"gpt/0"`` for the first one of a list. Empty
            for a model without a trainer.
    """

    name: str
    parameters: int
    loss: Loss
    losses: list[float]
    seconds: float
    block_size: int
    sample: str = field(repr=False)
    histories: Mapping[str, History] = field(repr=False)

    @property
    def spread(self) -> float:
        """The standard deviation of ``losses``, 0 for a single trainer."""
        return stdev(self.losses) if len(self.losses) > 1 else 0.0


@dataclass(frozen=True)
class Comparison:
    """The result of :func:`compare`: a table and samples when printed.

    Attributes:
        contenders: The models that were trained and measured, the best first.
        even_guess: The loss of guessing evenly among all ids, ``ln V`` nats.
        left_out: The trainers without a result by name, each with its error or the interruption.
    """

    contenders: list[Contender]
    even_guess: Loss
    left_out: Mapping[str, str] = field(default_factory=dict)

    def __str__(self) -> str:
        table = self._table()
        name, nats, *others = [max(map(len, column)) for column in zip(*table, strict=True)]
        lines = ["  ".join([row[0].ljust(name), row[1].ljust(nats), *map(str.rjust, row[2:], others)]) for row in table]
        lines.insert(1, "-" * len(lines[0]))
        samples = [line for name, text in self._samples() for line in ("", f"--- {name} writes:", text)]
        return "\n".join([*lines, *self._notes(), *samples])

    def __repr__(self) -> str:
        return f"Comparison({', '.join(f'{each.name} {each.loss.nats:.4f}' for each in self.contenders)})"

    def _repr_html_(self) -> str:
        """Return the table and the samples for a notebook."""
        head, *rows = ([escape(cell.strip()) for cell in row] for row in self._table())
        cells = [f"<tr><th>{row[0]}</th>{''.join(f'<td>{cell}</td>' for cell in row[1:])}</tr>" for row in rows]
        table = f"<table><tr>{''.join(f'<th>{cell}</th>' for cell in head)}</tr>{''.join(cells)}</table>"
        notes = "".join(f"<p>{escape(note)}</p>" for note in self._notes())
        samples = (f"<h4>{escape(name)}</h4><pre>{escape(text)}</pre>" for name, text in self._samples())
        return table + notes + "".join(samples)

    def plot(self, x: str = "parameters") -> "Figure":
        """Draw the loss of each model over its parameters or its training time.

        Needs matplotlib: ``pip install "tinygpt[plots]"``.

        Args:
            x: ``"parameters"`` or ``"seconds"``.

        Raises:
            ConfigError: If ``x`` is another word.
        """
        from matplotlib.ticker import LogLocator

        from tinygpt.views.figure import Figure

        check_choice("x", x, ("parameters", "seconds"))
        figure = Figure(figsize=(7, 4), layout="constrained")
        axes = figure.subplots()
        for contender in self.contenders:
            point = getattr(contender, x), contender.loss.nats
            axes.errorbar(*point, yerr=contender.spread, fmt="o", capsize=3)
            axes.annotate(contender.name, point, xytext=(6, 4), textcoords="offset points")
        axes.set(xscale="log", xlabel=x, ylabel="validation loss (nats per token)")
        axes.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))  # powers of 10 alone are too few for a sweep
        axes.xaxis.set_major_formatter("{x:,g}")
        axes.minorticks_off()
        axes.margins(x=0.2)
        axes.spines[["top", "right"]].set_visible(False)
        return figure

    def _table(self) -> list[list[str]]:
        """Return the cells of the head and of each row, the worst model first."""
        has_seeds = any(len(contender.losses) > 1 for contender in self.contenders)
        rows = [["", "   nats", *(["n"] if has_seeds else []), "bits/char", "perplexity", "parameters", "seconds"]]
        guess = [("even guess", self.even_guess, 0.0, 0, 0, 0.0)]
        models = [(c.name, c.loss, c.spread, len(c.losses), c.parameters, c.seconds) for c in self.contenders]
        for name, loss, spread, count, parameters, seconds in guess + models[::-1]:
            nats = f"{loss.nats:7.4f}" + (f" ± {spread:.4f}" if count > 1 else "")
            counts = [str(count) if count else ""] if has_seeds else []
            units = f"{loss.bits_per_character:.3f}", f"{loss.perplexity:.2f}"
            rows.append([name, nats, *counts, *units, f"{parameters:,}", f"{seconds:.1f}"])
        return rows

    def _notes(self) -> list[str]:
        """Return the lines below the table."""
        lengths = {contender.name: contender.block_size for contender in self.contenders}
        notes = [
            f"{name} was interrupted after step {history.last.step:,}"
            for contender in self.contenders
            for name, history in contender.histories.items()
            if history.stopped == "interrupted"
        ]
        notes += [f"{name} is left out: {reason}" for name, reason in self.left_out.items()]
        if len(set(lengths.values())) > 1:
            windows = ", ".join(f"{name} {length}" for name, length in lengths.items())
            notes.append(f"measured on the same tokens, in windows of different lengths: {windows}")
        return notes

    def _samples(self) -> list[tuple[str, str]]:
        return [(contender.name, contender.sample.strip()) for contender in self.contenders if contender.sample]


_WAY = 'e.g. {"gpt": Trainer(model, data)}'


class _Run(NamedTuple):
    """A trainer or a model, with the name of its contender and a label of its own."""

    name: str
    label: str
    trainer: Trainer | None
    model: LanguageModel
    block_size: int


@checked_names
def compare(
    trainers: Mapping[str, Trainer | Sequence[Trainer] | LanguageModel],
    *,
    data: TokenDataset | None = None,
    run_dir: str | os.PathLike[str] | None = None,
    prompt: str = "",
    max_new_tokens: int = 300,
    temperature: float = 0.8,
    progress: bool = True,
) -> Comparison:
    """Train several models, and compare their losses and samples.

    All are measured on the same tokens: each model predicts every token of the validation split once, with its best
    weights, in consecutive windows of its trainer's ``block_size``. With equal lengths the windows are the same. With
    different ones a model is measured with the context that it was trained for, and the table names the lengths; pass
    ``TrainerConfig(block_size=...)`` to compare at one length.

    A trainer that fails is left out with a warning, and so is a sample that cannot be written. Ctrl-C ends the current
    training: that model is compared as it is, and those after it are left out. A second call continues where each
    trainer stopped, with the same trainers, or in another process with equal ones and the same ``run_dir``.

    Args:
        trainers: The trainers by name, all on the same data. A list under one name stands for trainers that differ in
            their seed: the table shows their mean and standard deviation. A model under a name is only measured, after
            all trainings, so a mixture may contain the models of trainers.
        data: The corpus that models are measured on; by default that of the trainers.
        run_dir: A directory for trainers without a ``run_dir`` of their own: each gets ``run_dir/name``, those of a
            list ``run_dir/name/0`` and so on.
        prompt: The text that the samples continue.
        max_new_tokens: Number of tokens that each model writes; 0 writes no samples.
        temperature: Temperature of the samples.
        progress: Whether to show each training.

    Raises:
        ConfigError: If trainers have different data or share parameters, models have no data to be measured on, a name
            cannot be that of a directory in ``run_dir``, or a setting of the samples is out of range.
        InputTypeError: If ``trainers`` is not a mapping of trainers and models, with at least one.
        TokenizerError: If the prompt has a symbol that the tokenizer does not know.
        Exception: The error of the first trainer, if all of them fail.

    Example:
        >>> text = "to be, or not to be: that is the question. " * 20
        >>> data = TokenDataset(text, CharTokenizer.from_text(text))
        >>> def trainer(rate):
        ...     config = TrainerConfig(max_iters=100, batch_size=8, learning_rate=rate)
        ...     return Trainer(BigramLanguageModel(data.vocab_size), data, config)
        >>> comparison = compare({f"rate {rate}": trainer(rate) for rate in (0.01, 0.1)}, progress=False)
        >>> comparison.contenders[0].name
        'rate 0.1'
    """
    data = _data_of(trainers, data)
    runs = _checked(trainers, data)
    check_truth("progress", progress)
    check_integer("max_new_tokens", max_new_tokens, minimum=0)
    for run in runs if max_new_tokens else ():
        _write(run, data, prompt, 1, temperature)  # an invalid prompt shows before an hour of training
    if run_dir is not None:
        _give_directories(runs, check_path("run_dir", run_dir))
    losses, left_out = _measure(runs, data, progress)
    groups: dict[str, list[_Run]] = {}
    for run in runs:
        if run.label in losses:
            groups.setdefault(run.name, []).append(run)
    samples = _samples(groups, data, prompt, max_new_tokens, temperature)
    characters = data.characters_per_id("val")
    contenders = []
    for name, group in groups.items():
        histories = {run.label: run.trainer.history for run in group if run.trainer is not None}
        contenders.append(
            Contender(
                name,
                group[0].model.num_parameters(),
                Loss.from_nats(fmean(losses[run.label] for run in group), characters),
                [losses[run.label] for run in group],
                fmean(history.last.seconds for history in histories.values()) if histories else 0.0,
                group[0].block_size,
                samples.get(name, ""),
                histories,
            )
        )
    contenders.sort(key=lambda contender: contender.loss.nats)
    return Comparison(contenders, Loss.from_nats(math.log(data.vocab_size), characters), left_out)


def _measure(runs: list[_Run], data: TokenDataset, progress: bool) -> tuple[dict[str, float], dict[str, str]]:
    """Train, then return losses in nats and reasons for those left out, by label."""
    losses: dict[str, float] = {}
    left_out: dict[str, str] = {}
    errors: list[Exception] = []
    is_interrupted = False
    for _, label, trainer, model, block_size in sorted(runs, key=lambda run: run.trainer is None):
        if is_interrupted:
            left_out[label] = "interrupted before its training"
            continue
        try:
            if trainer is None:
                losses[label] = evaluate(model, data, block_size=block_size).nats
                continue
            with named(label):
                history = trainer.fit(resume="auto", progress=progress)
            is_interrupted = history.stopped == "interrupted"
            losses[label] = trainer.evaluate("val").nats
        except KeyboardInterrupt:  # a second one, or during the measurement
            left_out[label], is_interrupted = "interrupted", True
        except Exception as error:
            left_out[label] = f"{type(error).__name__}: {cut(str(error))}"
            errors.append(error)
            warn(f"{short(label)} is left out of the comparison: {left_out[label]}")
    if not losses:
        raise errors[0] if errors else KeyboardInterrupt
    return losses, left_out


def _samples(
    groups: Mapping[str, list[_Run]], data: TokenDataset, prompt: str, max_new_tokens: int, temperature: float
) -> dict[str, str]:
    """Return a sample for each name; Ctrl-C returns those so far."""
    samples: dict[str, str] = {}
    try:
        for name, (run, *_) in groups.items():
            try:
                samples[name] = _write(run, data, prompt, max_new_tokens, temperature)
            except Exception as error:
                warn(f"{short(name)} writes no sample: {type(error).__name__}: {cut(str(error))}")
    except KeyboardInterrupt:
        pass
    return samples


def _data_of(trainers: Any, data: Any) -> TokenDataset:
    """Return the data of the trainers, or those that were given for models alone."""
    if not isinstance(trainers, Mapping) or not trainers:
        got = "{}" if isinstance(trainers, Mapping) else type(trainers).__name__
        raise InputTypeError(f"trainers must be trainers by name, {_WAY}, got {got}")
    if data is not None and not isinstance(data, TokenDataset):
        raise InputTypeError(f"data must be a TokenDataset, got {short(data)}")
    if data is not None:
        return data
    flat = (each for given in trainers.values() for each in (given if isinstance(given, Sequence) else [given]))
    found: Any = next((each.data for each in flat if isinstance(each, Trainer)), None)
    if found is None and any(isinstance(each, LanguageModel) for each in trainers.values()):
        raise ConfigError("models without a trainer need data to be measured on; use compare({...}, data=data)")
    return found


def _checked(trainers: Mapping[str, Any], data: TokenDataset) -> list[_Run]:
    """Return the trainers and models in order, or raise unless they can be compared."""
    flat = (each for given in trainers.values() for each in (given if isinstance(given, Sequence) else [given]))
    longest = max((each.block_size for each in flat if isinstance(each, Trainer)), default=WINDOW)
    runs: list[_Run] = []
    for name, given in trainers.items():
        if isinstance(name, str) and isinstance(given, LanguageModel):
            runs.append(_Run(name, name, None, given, given.block_size or min(longest, len(data.val) - 1)))
            continue
        is_list = isinstance(given, Sequence)
        several = list(given) if is_list else [given]
        if not isinstance(name, str) or not several or not all(isinstance(each, Trainer) for each in several):
            got = short([type(each).__name__ for each in several]) if is_list else type(given).__name__
            raise InputTypeError(
                f"trainers must have a Trainer, a list of them or a model under each name, {_WAY}, got {got} under "
                f"{short(name)}"
            )
        for i, each in enumerate(several):
            runs.append(_Run(name, f"{name}/{i}" if is_list else name, each, each.model, each.block_size))
    owners: dict[int, str] = {}
    origin = next((short(run.label) for run in runs if run.trainer is not None and run.trainer.data is data), "data=")
    for _, label, trainer, *_ in runs:
        if trainer is None:
            continue
        for parameter in trainer.model.parameters():
            if owners.setdefault(id(parameter), label) != label:
                raise ConfigError(
                    f"trainers must not share parameters, got some in {short(owners[id(parameter)])} and in "
                    f"{short(label)}; build each model separately"
                )
        if trainer.data is not data and trainer.data.digest() != data.digest():
            raise ConfigError(
                f"trainers must have the same data, got other data in {short(label)} than in {origin}; "
                "make one TokenDataset and pass it to all of them"
            )
    return runs


def _give_directories(runs: list[_Run], path: Path) -> None:
    """Set the run directory of each trainer that has none."""
    for name in {run.name for run in runs}:
        if name in ("", ".", "..") or Path(name).name != name:
            raise ConfigError(
                f"names must be names of directories in run_dir, got {short(name)}; use letters, digits, '_' and '='"
            )
    for run in runs:
        if run.trainer is not None and run.trainer.run_dir is None:
            run.trainer.run_dir = path / run.label


def _write(run: _Run, data: TokenDataset, prompt: str, max_new_tokens: int, temperature: float) -> str:
    """Return a sample of a model, empty without a tokenizer."""
    if not max_new_tokens or data.tokenizer is None:
        return ""
    sampler = Sampler(run.model, data.tokenizer) if run.trainer is None else run.trainer.sampler()
    return sampler.generate(prompt, max_new_tokens=max_new_tokens, temperature=temperature, seed=0)
