"""Plots show the numbers that they are made from, and a curve needs no torch."""

import json
import subprocess
import sys
from itertools import pairwise
from pathlib import Path
from typing import Any

import faults
import matplotlib.colors
import matplotlib.image
import numpy as np
import pytest
import torch
from builders import DATA, TEXT, TOKENIZER, make_gpt
from faults import broken_by

from tinygpt import BigramLanguageModel, CharTokenizer, Trainer, TrainerConfig
from tinygpt.errors import ConfigError, DataError, InputTypeError
from tinygpt.models.config import Layout
from tinygpt.views import plot_embedding, plot_head, plot_runs, read

EVALUATIONS = [
    {"step": 0, "train_loss": 4.0, "val_loss": 4.1, "even_guess": 4.05, "bigram": 2.5},
    {"step": 10, "train_loss": 2.0, "val_loss": 2.2, "even_guess": 4.05, "bigram": 2.5},
]


def write(directory: Path, *lines: Any) -> Path:
    directory.mkdir()
    texts = [line if isinstance(line, str) else json.dumps(line) for line in lines]
    (directory / "metrics.jsonl").write_text("".join(f"{text}\n" for text in texts), encoding="utf-8")
    return directory


def lines_of(axes: Any) -> list[tuple[list[float], list[float], str]]:
    return [
        (np.asarray(line.get_xdata()).tolist(), np.asarray(line.get_ydata()).tolist(), line.get_linestyle())
        for line in axes.get_lines()
    ]


def words_of(axes: Any) -> set[str]:
    return {text.get_text() for text in axes.texts}


# --- runs -------------------------------------------------------------------------------------------------------------


@broken_by(faults.validation_drawn_as_training)
def test_runs_are_drawn_from_their_logs(tmp_path: Path) -> None:
    step = {"step": 1, "loss": 3.0, "learning_rate": 0.1, "grad_norm": 1.0}
    damaged = ["{half a", "[1]", '{"step": "x", "val_loss": 1}']
    small = write(tmp_path / "small", EVALUATIONS[0], step, *damaged, EVALUATIONS[1])
    wide = write(tmp_path / "wide", EVALUATIONS[0], {"step": 10, "train_loss": None, "val_loss": 1.9})
    axes = plot_runs({"small": small, "wide": wide / "metrics.jsonl"}).axes[0]
    assert lines_of(axes) == [
        ([0, 10], [4.0, 2.0], "--"),
        ([0, 10], [4.1, 2.2], "-"),
        ([0], [4.0], "--"),
        ([0, 10], [4.1, 1.9], "-"),
        ([0, 1], [4.05, 4.05], ":"),
        ([0, 1], [2.5, 2.5], ":"),
    ]
    assert words_of(axes) == {"small 2.200", "wide 1.900", "even guess 4.050", "bigram 2.500"}


def test_a_notebook_shows_a_figure_as_an_image(tmp_path: Path) -> None:
    """Without pyplot, which alone tells a notebook to show the figures of matplotlib."""
    figure: Any = plot_runs({"gpt": write(tmp_path / "gpt", *EVALUATIONS)})
    assert figure._repr_png_().startswith(b"\x89PNG")


def test_a_step_that_was_evaluated_again_counts_once(tmp_path: Path) -> None:
    run = write(tmp_path / "run", *EVALUATIONS, EVALUATIONS[1] | {"val_loss": 2.1})
    assert lines_of(plot_runs({"run": run}).axes[0])[1][:2] == ([0, 10], [4.1, 2.1])


def test_the_log_of_a_trainer_is_drawn_like_its_history(tmp_path: Path) -> None:
    config = TrainerConfig(max_iters=4, eval_interval=2, batch_size=2, preview_tokens=0)
    history = Trainer(make_gpt(), DATA, config, run_dir=tmp_path / "run").fit(progress=False)
    drawn, own = (lines_of(figure.axes[0]) for figure in (plot_runs({"": tmp_path / "run"}), history.plot()))
    assert drawn == own[1:]
    assert len(drawn) == 4


def test_runs_differ_in_grey_and_labels_do_not_overlap(tmp_path: Path) -> None:
    runs = {f"run {i}": write(tmp_path / f"{i}", *EVALUATIONS) for i in range(5)}
    figure = plot_runs(runs, tmp_path / "runs.png")
    axes = figure.axes[0]
    lines = axes.get_lines()[1:10:2]
    greys = sorted(matplotlib.colors.to_rgb(line.get_color()) @ np.array([0.299, 0.587, 0.114]) for line in lines)
    assert min(np.diff(greys)) > 0.03
    assert len({line.get_marker() for line in lines}) == 5
    figure.draw_without_rendering()
    boxes = sorted((t.get_window_extent() for t in axes.texts if "run" in t.get_text()), key=lambda box: box.y0)
    assert all(lower.y1 <= upper.y0 + 1 for lower, upper in pairwise(boxes))
    assert (tmp_path / "runs.png").read_bytes().startswith(b"\x89PNG")


def test_curves_need_no_torch(tmp_path: Path) -> None:
    run = write(tmp_path / "run", *EVALUATIONS)
    program = (
        f"import sys, tinygpt; tinygpt.views.plot_runs({{'run': {str(run)!r}}}); assert 'torch' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", program], check=True)


@pytest.mark.usefixtures("unchecked_types")
def test_runs_that_cannot_be_drawn_are_named(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"a run must have an evaluation to be drawn, got none in '.*metrics\.jsonl'"):
        plot_runs({"a": write(tmp_path / "empty")})
    with pytest.raises(InputTypeError, match=r"runs must be directories by name, e\.g\. {'small': .*, got 'runs/a'"):
        plot_runs("runs/a")  # type: ignore[arg-type]
    with pytest.raises(InputTypeError, match=r"got {}"):
        plot_runs({})
    with pytest.raises(OSError, match=r"there is no run .*missing"):
        plot_runs({"a": tmp_path / "missing"})


# --- embeddings and heads ---------------------------------------------------------------------------------------------


@broken_by(faults.components_without_a_sign)
@pytest.mark.parametrize("layout", ["notebook", "gpt2", "modern"])
def test_the_embedding_is_drawn_along_its_principal_components(layout: Layout) -> None:
    """The plane of the two largest variances, whichever sign the decomposition gives."""
    model = make_gpt(layout)
    table = model.table_parameters()[0].detach()
    with torch.no_grad():
        table.copy_(torch.randn_like(table) * torch.tensor([1.0, 9, 1, 1, 1, 1, 3, 1]))
    points = np.array([text.xy for text in plot_embedding(model, TOKENIZER).axes[0].texts])  # type: ignore[attr-defined]
    centred = table - table.mean(dim=0)
    assert points.shape == (TOKENIZER.vocab_size, 2)
    np.testing.assert_allclose(points.var(axis=0), np.linalg.eigvalsh(np.cov(centred.T, bias=True))[:-3:-1], rtol=1e-9)
    assert [points[np.abs(points[:, i]).argmax(), i] > 0 for i in (0, 1)] == [True, True]
    assert [text.get_text() for text in plot_embedding(model, TOKENIZER).axes[0].texts][:2] == ["␣", "."]


def test_a_bigram_and_a_table_of_one_row_are_drawn(tmp_path: Path) -> None:
    plot_embedding(BigramLanguageModel(3), CharTokenizer("a$\n"), tmp_path / "table.png")
    assert len(matplotlib.image.imread(tmp_path / "table.png")) > 100
    plot_embedding(BigramLanguageModel(1), CharTokenizer("a"))


@pytest.mark.usefixtures("unchecked_types")
def test_what_cannot_be_drawn_is_named() -> None:
    with pytest.raises(DataError, match="a row for each id of the tokenizer, got 28 ids in the model and 2"):
        plot_embedding(make_gpt(), CharTokenizer("ab"))
    reading = read(make_gpt(), TOKENIZER, "the quick")
    with pytest.raises(DataError, match="the reading must have attention to be drawn, got none in Reading"):
        plot_head(reading, "blocks.0.attention", 0)
    reading = read(make_gpt(), TOKENIZER, "the")
    with pytest.raises(ConfigError, match=r"got 'block.0.attention'; did you mean 'blocks.0.attention'"):
        plot_head(reading, "block.0.attention", 0)
    with pytest.raises(ConfigError, match="head must be an integer from 0 to 1, got head=2"):
        plot_head(reading, "blocks.0.attention", 2)


def test_a_head_is_drawn_with_its_tokens() -> None:
    reading = read(make_gpt(), TOKENIZER, TEXT[:6])
    axes = plot_head(reading, "blocks.1.attention", 1).axes[0]
    np.testing.assert_array_equal(axes.images[0].get_array(), reading.attention["blocks.1.attention"][1])
    assert [label.get_text() for label in axes.get_xticklabels()] == ["⊢", *"the␣q"]
    assert [label.get_text() for label in axes.get_yticklabels()] == list("the␣qu")
