"""Plots for people and papers: losses of runs, embeddings, heads. They need matplotlib, and most need no torch."""

import math
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from jaxtyping import Float, Float64

from tinygpt.errors import (
    DataError,
    DataNotFoundError,
    InputTypeError,
    check_choice,
    check_integer,
    checked_names,
    short,
    show,
)
from tinygpt.files import check_path, no_file, read_log
from tinygpt.tokenizer import Tokenizer, check_tokenizer, symbols_of
from tinygpt.views.colours import shown

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    from tinygpt.models import LanguageModel
    from tinygpt.views.reading import Reading

# Ordered by luminance: distinct in grey, and safe for colour-blind readers.
_COLOURS = ("#1b3a6b", "#d1602b", "#4f9bb8", "#e0a92f", "#7a2d5e", "#9a9a9a")
_MARKERS = "os^Dv*"
_MOST_LABELS = 200  # of ids in a plot: more cannot be read
_MOST_TICKS = 80  # tokens along an axis
Points = Sequence[tuple[float, float]]


class Curves(NamedTuple):
    """The losses of a run over its steps, in nats.

    Attributes:
        train: Step and loss on the training split, at each evaluation.
        val: Step and loss on the validation split.
        floors: Losses to compare with, by name, drawn as lines.
    """

    train: Points
    val: Points
    floors: Mapping[str, float]


@checked_names
def plot_runs(runs: Mapping[str, str | os.PathLike[str]], path: str | os.PathLike[str] | None = None) -> "Figure":
    """Draw the losses of several runs, from their ``metrics.jsonl`` alone.

    Validation is solid and training dashed. Damaged lines of a file are skipped. It needs no torch.

    Args:
        runs: The directory of each run by name, or its ``metrics.jsonl``.
        path: A file to save the figure to, or None.

    Raises:
        ConfigError: If a path cannot be the name of a file.
        DataError: If a run is missing or has no evaluation.
        InputTypeError: If ``runs`` is not a mapping of paths, with at least one.
        OSError: If a file cannot be read or written.

    Example:
        >>> from tinygpt.views import plot_runs
        >>> figure = plot_runs({"small": "runs/small", "wide": "runs/wide"}, "runs.png")  # doctest: +SKIP
    """
    from tinygpt.views.figure import Figure

    if not isinstance(runs, Mapping) or not runs:
        raise InputTypeError(f"runs must be directories by name, e.g. {{'small': 'runs/small'}}, got {short(runs)}")
    target = None if path is None else check_path("path", path)
    curves = {name: read_curves(check_path(f"runs[{name!r}]", run)) for name, run in runs.items()}
    figure = Figure(figsize=(7, 4), layout="constrained")
    axes = figure.subplots()
    draw_losses(axes, curves)
    return _saved(figure, target)


def read_curves(path: Path) -> Curves:
    """Return the losses of a run from its directory or its ``metrics.jsonl``.

    If a step was evaluated twice, the later line is used.
    """
    if not path.exists():
        raise DataNotFoundError(no_file(path, kind="run"))
    file = path / "metrics.jsonl" if path.is_dir() else path
    if not file.exists():
        raise DataNotFoundError(no_file(file, kind="log"))
    found: dict[int, dict[str, Any]] = {}
    for _, record in read_log(file):
        if "val_loss" in record:
            found[record["step"]] = record
    if not found:
        raise DataError(f"a run must have an evaluation to be drawn, got none in {show(file)}")

    def points(key: str) -> Points:
        return [(step, record[key]) for step, record in sorted(found.items()) if _is_number(record.get(key))]

    last = found[max(found)]
    floors = {"even guess": "even_guess", "bigram": "bigram"}
    known = {name: float(last[key]) for name, key in floors.items() if _is_number(last.get(key))}
    return Curves(points("train_loss"), points("val_loss"), known)


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def draw_losses(axes: "Axes", runs: Mapping[str, Curves]) -> None:
    """Draw losses over steps: validation solid, training dashed, each labelled at its end."""
    ends: list[tuple[float, float, str, str]] = []
    for number, (name, curves) in enumerate(runs.items()):
        colour, marker = _COLOURS[number % len(_COLOURS)], _MARKERS[number % len(_MARKERS)]
        for points, line, split in ((curves.train, "--", "training"), (curves.val, f"{marker}-", "validation")):
            axes.plot([step for step, _ in points], [loss for _, loss in points], line, color=colour, markersize=4)
            if points and (split == "validation" or len(runs) == 1):  # of several runs each has one label
                ends.append((*points[-1], f"{name or split} {points[-1][1]:.3f}", colour))
    for name in ("even guess", "bigram"):
        for level in sorted({curves.floors[name] for curves in runs.values() if name in curves.floors}):
            axes.axhline(level, color="0.45", linestyle=":", linewidth=1)
            ends.append((axes.get_xlim()[1], level, f"{name} {level:.3f}", "0.35"))
    _label_ends(axes, ends)
    axes.set(xlabel="step; validation solid, training dashed", ylabel="loss (nats per token)")
    axes.spines[["top", "right"]].set_visible(False)


def _label_ends(axes: "Axes", ends: Sequence[tuple[float, float, str, str]]) -> None:
    """Write each label right of the end of its line, apart from the others."""
    low, high = axes.get_ylim()
    gap, lowest = (high - low) / 18, -math.inf
    for x, y, label, colour in sorted(ends, key=lambda end: end[1]):
        lowest = max(y, lowest + gap)
        plain = label.replace("$", r"\$")  # no formula
        axes.annotate(
            plain, (x, lowest), xytext=(6, 0), textcoords="offset points", color=colour, fontsize=9, va="center",
            annotation_clip=False,
        )  # fmt: skip


def _saved(figure: "Figure", target: Path | None) -> "Figure":
    if target is not None:
        figure.savefig(target, dpi=150)
    return figure


@checked_names
def plot_embedding(
    model: "LanguageModel", tokenizer: Tokenizer, path: str | os.PathLike[str] | None = None
) -> "Figure":
    """Draw the tokens where the model's embedding table has them, in two dimensions.

    The dimensions are the two principal components of the table, computed in float64. The sign of each is such that
    the token farthest from zero lies on the positive side.

    Args:
        model: A model with a table of one row for each id.
        tokenizer: Tells the text of each id.
        path: A file to save the figure to, or None.

    Raises:
        ConfigError: If ``path`` cannot be the name of a file.
        DataError: If the model has no such table.
        InputTypeError: If the tokenizer lacks one of its three names.
    """
    from tinygpt.views.figure import Figure

    target = None if path is None else check_path("path", path)
    symbols = symbols_of(check_tokenizer(tokenizer))
    tables = [table for table in model.table_parameters() if table.ndim == 2 and len(table) == model.vocab_size]
    if not tables or len(symbols) != model.vocab_size:
        got = f"{model.vocab_size} ids in the model and {len(symbols)} in the tokenizer" if tables else "no table"
        raise DataError(f"the model must have a table with a row for each id of the tokenizer, got {got}")
    points, shares = principal_components(tables[0].detach().cpu().double().numpy())
    figure = Figure(figsize=(6, 6), layout="constrained")
    axes = figure.subplots()
    axes.scatter(points[:, 0], points[:, 1], s=4, color="0.7")
    for (x, y), symbol in list(zip(points, symbols, strict=True))[:_MOST_LABELS]:
        axes.annotate(_tick(symbol or ""), (x, y), ha="center", va="center", fontfamily="monospace")
    first, second = (f"component {i}, {share:.0%} of the variance" for i, share in enumerate(shares, start=1))
    axes.set(xlabel=first, ylabel=second)
    axes.spines[["top", "right"]].set_visible(False)
    return _saved(figure, target)


def principal_components(
    table: Float64[np.ndarray, "V C"],
) -> tuple[Float64[np.ndarray, "V 2"], Float64[np.ndarray, "2"]]:
    """Return the coordinates along the two principal components, and their shares of the variance."""
    left, sizes, _ = np.linalg.svd(table - table.mean(axis=0), full_matrices=False)
    missing = max(0, 2 - len(sizes))  # a table of one column or row
    points = np.pad(left * sizes, ((0, 0), (0, missing)))[:, :2]
    points *= np.where(points[np.abs(points).argmax(axis=0), [0, 1]] < 0, -1.0, 1.0)
    shares = np.pad(sizes**2, (0, missing))[:2] / max(float((sizes**2).sum()), np.finfo(float).tiny)
    return points, shares


@checked_names
def plot_head(reading: "Reading", name: str, head: int, path: str | os.PathLike[str] | None = None) -> "Figure":
    """Draw the attention weights of one head on a text.

    A row is the position that predicts a token, a column the token that it reads. Colour grows with the square root of
    the weight.

    Args:
        reading: What :func:`~tinygpt.views.read` returned.
        name: Name of the attention in ``reading.attention``.
        head: Number of the head, from 0.
        path: A file to save the figure to, or None.

    Raises:
        ConfigError: If there is no such attention or head, or ``path`` cannot be the name of a file.
        DataError: If the reading has no attention.
    """
    from matplotlib.colors import PowerNorm

    from tinygpt.views.figure import Figure

    target = None if path is None else check_path("path", path)
    if not reading.attention:
        raise DataError(
            f"the reading must have attention to be drawn, got none in {short(reading)}; read a text of at most "
            "block_size tokens with a model whose attention offers weights"
        )
    check_choice("name", name, reading.attention)
    heads: Float[np.ndarray, "H N N"] = reading.attention[name]
    weights = heads[check_integer("head", head, minimum=0, maximum=len(heads) - 1)]
    figure = Figure(figsize=(6, 5.4), layout="constrained")
    axes = figure.subplots()
    image = axes.imshow(weights, cmap="Blues", norm=PowerNorm(0.5, 0, 1))
    figure.colorbar(image, shrink=0.6, label="weight", ticks=[0, 0.1, 0.5, 1])
    if len(weights) <= _MOST_TICKS:
        tokens = [_tick(piece) for piece in reading.pieces]
        axes.set_xticks(range(len(weights)), ["⊢", *tokens[:-1]], fontfamily="monospace", fontsize=8)
        axes.set_yticks(range(len(weights)), tokens, fontfamily="monospace", fontsize=8)
        axes.tick_params(length=0)
    axes.set(xlabel="token that is read", ylabel="token that is predicted", title=f"{name}, head {head}")
    return _saved(figure, target)


def _tick(piece: str) -> str:
    """Return a token as a label; a dollar sign alone would begin a formula."""
    return shown(piece).replace(" ", "␣").replace("$", r"\$")
