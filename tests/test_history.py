"""The history of a run: it keeps what happened within bounds, and says what it means."""

import json
import math
import os
import signal
import tracemalloc
from dataclasses import asdict, replace
from itertools import pairwise
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import numpy as np
import pytest
import torch
from hypothesis import example, given
from hypothesis import strategies as st
from matplotlib.figure import Figure
from quick import plays
from torch import Tensor

from tinygpt import (
    BigramLanguageModel,
    CharTokenizer,
    GPTConfig,
    GPTLanguageModel,
    TokenDataset,
    Trainer,
    TrainerConfig,
)
from tinygpt.errors import DataError
from tinygpt.models.config import Layout
from tinygpt.training import Evaluation, History, Loss, Step
from tinygpt.training import history as history_module
from tinygpt.training.baseline import bigram_loss
from tinygpt.training.config import Optimizer
from tinygpt.training.resume import pack_history, unpack_history
from tinygpt.windows import Split

TEXT = plays()
DATA = TokenDataset(TEXT, CharTokenizer.from_text(TEXT))


def make_gpt(data: TokenDataset = DATA, layout: Layout = "notebook", **changes: Any) -> GPTLanguageModel:
    torch.manual_seed(1)
    sizes: dict[str, Any] = {"block_size": 16, "n_layer": 1, "n_head": 2, "n_embd": 32, "dropout": 0.0} | changes
    return GPTConfig(vocab_size=data.vocab_size, layout=layout, **sizes).build()


def run(model: Any = None, data: TokenDataset = DATA, **changes: Any) -> History:
    """Train on the CPU for a second or two."""
    settings: dict[str, Any] = {
        "max_iters": 150,
        "batch_size": 16,
        "eval_interval": 15,
        "eval_iters": 5,
        "preview_tokens": 0,
        "optimizer": "adamw",
        "device": "cpu",
        "precision": "fp32",
    }
    trainer = Trainer(make_gpt(data) if model is None else model, data, TrainerConfig(**settings | changes))
    return trainer.fit(progress=False)


def measured(*losses: tuple[float, float], rates: list[float | None] | None = None, **facts: Any) -> History:
    """Return a history with an evaluation each 100 steps, of these losses in training and validation."""
    shares = rates or [None] * len(losses)
    return History(
        [
            Evaluation(100 * i, train, val, 0, 0, schedule=share)
            for i, ((train, val), share) in enumerate(zip(losses, shares, strict=True))
        ],
        **facts,
    )


# --- the verdict of real runs -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(("layout", "optimizer"), [("notebook", "adamw"), ("gpt2", "muon"), ("modern", "adamw")])
def test_a_rate_far_too_low_learns_nothing(layout: Layout, optimizer: Optimizer) -> None:
    history = run(make_gpt(layout=layout), optimizer=optimizer, learning_rate=1e-8, max_iters=40)
    assert ": nothing was learnt beyond an even guess; use a higher learning rate" in history.verdict


@pytest.mark.parametrize(
    ("layout", "optimizer", "rate", "said"),
    [
        ("notebook", "adamw", 0.3, "stuck"),
        ("gpt2", "adamw", 0.3, "stuck"),
        ("notebook", "adamw", 3.0, "diverged"),
        ("gpt2", "adamw", 3.0, "diverged"),
        ("notebook", "muon", 0.8, "diverged"),
        pytest.param("modern", "adamw", 3.0, "diverged", marks=pytest.mark.slow),
        pytest.param("gpt2", "muon", 0.8, "diverged", marks=pytest.mark.slow),
        pytest.param("modern", "muon", 2.0, "diverged", marks=pytest.mark.slow),
    ],
)
def test_a_rate_far_too_high_is_named(layout: Layout, optimizer: Optimizer, rate: float, said: str) -> None:
    history = run(make_gpt(layout=layout), optimizer=optimizer, learning_rate=rate, max_iters=100)
    assert f": {said} " in history.verdict
    assert "use a lower learning rate" in history.verdict


def test_a_diverging_bigram_is_named_with_the_step() -> None:
    history = run(BigramLanguageModel(DATA.vocab_size), learning_rate=100.0, max_iters=60)
    assert ": diverged at step 1, the training loss rose from " in history.verdict


@pytest.mark.parametrize(("optimizer", "rate"), [("adamw", 3e-3), pytest.param("muon", 8e-3, marks=pytest.mark.slow)])
def test_a_schedule_that_ends_at_zero_has_not_converged(optimizer: str, rate: float) -> None:
    history = run(optimizer=optimizer, learning_rate=rate, final_learning_rate=0.0, max_iters=80)
    assert "the learning rate reached zero, not converged; more steps with a longer schedule" in history.verdict
    longer = run(optimizer=optimizer, learning_rate=rate, final_learning_rate=0.0, max_iters=240, eval_interval=240)
    assert longer.best.val_loss < history.best.val_loss - 0.1


def test_a_constant_rate_that_still_gains_is_to_train_longer() -> None:
    history = run(learning_rate=1e-3, final_learning_rate=1e-3, max_iters=80)
    assert ": still falling at full learning rate; train longer" in history.verdict


def test_ids_without_a_pattern_are_overfitted() -> None:
    ids = np.random.default_rng(0).integers(0, 8, 400)
    data = TokenDataset(ids, val_fraction=0.5)
    history = run(make_gpt(data, n_embd=48), data, learning_rate=1e-2, eval_iters=None)
    assert f": overfitting from step {history.best.step}; keep those weights, or use more text" in history.verdict
    assert history.best.step < history.last.step


@pytest.mark.parametrize(("optimizer", "floor"), [("adamw", 0.0), ("adamw", 0.1), ("muon", 0.0)])
def test_a_bigram_at_the_entropy_of_its_text_has_converged(optimizer: str, floor: float) -> None:
    text = "abac" * 500
    data = TokenDataset(text, CharTokenizer.from_text(text))
    model = BigramLanguageModel(data.vocab_size)
    history = run(model, data, optimizer=optimizer, learning_rate=0.2, final_learning_rate=floor, max_iters=200)
    assert ": converged, a gain of less than 0.01 nats since step " in history.verdict
    assert "worse than a bigram" not in history.verdict
    assert history.best.val_loss == pytest.approx(bigram_loss(data), abs=0.01)


def test_a_model_at_a_plateau_above_the_bigram_is_told_so() -> None:
    history = run(learning_rate=3e-4, max_iters=80)
    assert history.bigram is not None
    assert history.best.val_loss > history.bigram + 0.3
    assert history.verdict.endswith(
        ". The model is worse than a bigram, which counts pairs; use another learning rate or more steps"
    )


class Interrupted(BigramLanguageModel):
    """Presses Ctrl-C in its fortieth step."""

    steps = 0

    def compute_logits(self, idx: Tensor, cache: Any = None) -> Tensor:
        self.steps += self.training
        if self.training and self.steps == 40:
            os.kill(os.getpid(), signal.SIGINT)
        return super().compute_logits(idx, cache)


def test_an_interrupted_run_is_judged_by_what_it_was_at() -> None:
    history = run(Interrupted(DATA.vocab_size), learning_rate=0.05)
    assert history.verdict.startswith("interrupted after step 40: best validation loss ")
    assert ": still falling at full learning rate; train longer" in history.verdict


def test_before_a_second_evaluation_there_is_no_judgement() -> None:
    trainer = Trainer(make_gpt(), DATA, TrainerConfig(batch_size=4, eval_interval=500, preview_tokens=0))
    next(iter(trainer))
    assert trainer.history.verdict.endswith("): no other evaluation to compare with; use a lower eval_interval")


def test_the_result_stands_beside_the_even_guess_and_the_bigram() -> None:
    history = run(learning_rate=3e-3, max_iters=3)
    assert history.even_guess == pytest.approx(math.log(DATA.vocab_size))
    assert history.bigram == bigram_loss(DATA)
    assert f" (even guess {history.even_guess:.3f}, bigram {history.bigram:.3f}): " in history.verdict


# --- the verdict of losses made up ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("losses", "said"),
    [
        ([(4, 4)], "best validation loss 4.0000 at step 0, the last: no step taken yet; call trainer.fit()"),
        ([(4, 4), (1, 1.2)], "at step 100, the last: still falling; train longer"),
        (
            [(4, 4), (1, 1.2), (1, 1.195)],
            "at step 200, the last: converged, a gain of less than 0.01 nats since step 100",
        ),
        ([(4, 4), (1, 1.2), (0.9, 1.4)], "the last 1.4000: overfitting from step 100; keep those weights"),
        ([(4, 4), (3.5, 4.1)], "best validation loss 4.0000 at step 0; the last 4.1000: overfitting from step 0"),
        ([(4, 4), (1, 1.2), (1.5, 1.9)], "got worse from step 100, and so did the training loss; use a lower"),
        ([(4, 4), (1, 1.2), (2.5, 2.6)], "diverged at step 200, the training loss rose from 1.00 to 2.50; use a lower"),
        ([(4, 4), (1, 1.2), (math.inf, math.nan)], "the last nan: diverged at step 200, the training loss rose"),
        ([(4, 4), (1, 1.2), (2.5, 2.6), (0.9, 1.0)], "at step 300, the last: still falling"),
        ([(4, 4), (1, 1.2), (1, 1.205)], "the last 1.2050: converged"),
        ([(4, 4), (3.999, 3.999)], "nothing was learnt since the first evaluation; use a higher learning rate"),
    ],
)
def test_the_verdict_says_what_the_losses_show(losses: list[tuple[float, float]], said: str) -> None:
    assert said in measured(*losses).verdict


@pytest.mark.parametrize(
    ("rates", "said"),
    [
        ([0, 1, 1, 1, 1], "still falling at full learning rate; train longer"),
        ([0, 1, 0.6, 0.3, 0.1], "flat because the learning rate fell to 10% of its peak, not converged; more steps"),
        ([0, 1, 0.6, 0.3, 0.001], "flat because the learning rate reached zero, not converged; more steps"),
    ],
)
def test_the_verdict_looks_at_the_learning_rate(rates: list[float | None], said: str) -> None:
    steps, losses = [0, 100, 200, 350, 400], [4, 2, 1.8, 1.7, 1.695]
    rows = zip(steps, losses, rates, strict=True)
    history = History([Evaluation(step, loss, loss, 0, 0, schedule=rate) for step, loss, rate in rows])
    assert said in history.verdict


def test_the_verdict_looks_at_the_last_quarter_of_the_run() -> None:
    """Not only at the last evaluations."""
    history = History([Evaluation(step, 1, val, 0, 0) for step, val in ((0, 3.4), (20, 2.9), (40, 2.68), (41, 2.679))])
    assert ": still falling; train longer" in history.verdict


def test_a_gain_among_noisy_losses_is_no_convergence() -> None:
    """The gain is 0.18 nats, and the losses differ from their trend by more."""
    losses = [3.4, 2.9, 2.4, 2.7, 2.3, 2.55, 2.32, 2.45, 2.2, 2.3, 2.14]
    rows = [Evaluation(40 * i, loss, loss, 0, 0, schedule=1 - i / 10) for i, loss in enumerate(losses)]
    assert "not converged" in History(rows).verdict


def test_losses_that_jump_about_have_not_got_worse() -> None:
    jumping = [1.2 + 0.04 * (-1) ** i for i in range(12)]
    history = measured((4, 4), *((val, val) for val in jumping))
    assert ": converged, a gain of less than 0." in history.verdict
    steady = measured((4, 4), *((1, 1.2) for _ in range(11)), (1.01, 1.24))
    assert ": got worse from step 100" in steady.verdict


@example([(4, 4), (3, 3)], [], [0.0] * 9, (None, None), 0)  # a learning rate of zero has no half
@example([(4, 4), (3, 3)], [], [1.0, 0.1] * 5, (None, None), 10_000)  # and no evaluation before the last tenth
@given(
    losses=st.lists(st.tuples(*[st.floats(0, 20) | st.just(math.nan) | st.just(math.inf)] * 2), min_size=1, max_size=9),
    batches=st.lists(st.floats(0, 20), max_size=60),
    rates=st.lists(st.none() | st.floats(0, 1), min_size=9, max_size=9),
    facts=st.tuples(*[st.none() | st.floats(0.5, 5)] * 2),
    first=st.sampled_from([0, 10_000]),
)
def test_there_is_a_verdict_of_any_losses(
    losses: list[tuple[float, float]],
    batches: list[float],
    rates: list[float | None],
    facts: tuple[float | None, float | None],
    first: int,
) -> None:
    history = measured(*losses, rates=rates[: len(losses)], losses=batches, even_guess=facts[0], bigram=facts[1])
    history.evaluations = [replace(each, step=each.step + first) for each in history.evaluations]
    assert history.verdict.startswith(f"best validation loss {history.best.val_loss:.4f} at step ")
    assert len(history.verdict) < 400
    assert len(repr(history).splitlines()) == 1
    assert history._repr_html_().startswith("<svg viewBox=")  # else a narrow page cuts the curve


def test_two_evaluations_know_that_the_rate_came_down() -> None:
    """The highest rate lies between them."""
    history = run(max_iters=40, eval_interval=40)
    assert len(history.evaluations) == 2
    assert "still falling while the learning rate" in history.verdict
    assert "full learning rate" not in history.verdict
    assert "at full learning rate" in run(max_iters=40, eval_interval=40, final_learning_rate=3e-4).verdict


def test_an_evaluation_made_by_hand_is_seen_at_once() -> None:
    history = measured((4, 4), (2, 2))
    assert history.best.step == 100
    history.evaluations.append(Evaluation(200, 1, 1, 0, 0))
    assert history.best.step == 200
    history.evaluations[1] = Evaluation(100, 0.5, 0.5, 0, 0)
    assert history.best.step == 100


# --- the bigram -------------------------------------------------------------------------------------------------------


def counted(train: list[int], val: list[int], size: int) -> float:
    """Return the same loss from its definition, a pair at a time."""
    total = 0.0
    for first, second in pairwise(val):
        after = [b for a, b in pairwise(train) if a == first]
        alone = (train[1:].count(second) + 1) / (len(train) - 1 + size)
        kinds = len(set(after))
        chance = (after.count(second) + kinds * alone) / (len(after) + kinds) if after else alone
        total -= math.log(chance)
    return total / (len(val) - 1)


@given(ids=st.lists(st.integers(0, 4), min_size=4, max_size=40))
def test_the_bigram_is_counted_as_it_is_defined(ids: list[int]) -> None:
    data = TokenDataset(ids, val_fraction=0.5)
    expected = counted(data.train.tolist(), data.val.tolist(), data.vocab_size)
    assert bigram_loss(data) == pytest.approx(expected, rel=1e-12)


@given(ids=st.lists(st.integers(0, 3), min_size=4, max_size=9))
def test_the_chances_after_an_id_add_up_to_one(ids: list[int]) -> None:
    train = np.array([*ids, 3])
    for first in range(4):
        data = [TokenDataset(np.array([*train, first, second])) for second in range(4)]
        for each, second in zip(data, range(4), strict=True):
            each.splits = {"train": Split(train), "val": Split(np.array([first, second]))}
        assert sum(math.exp(-bigram_loss(each)) for each in data) == pytest.approx(1)


def test_a_long_corpus_is_counted_in_pieces(monkeypatch: pytest.MonkeyPatch) -> None:
    whole = bigram_loss(DATA)
    monkeypatch.setattr("tinygpt.training.baseline._PAIRS_IN_A_PIECE", 200)
    assert bigram_loss(DATA) == bigram_loss(DATA) != whole
    assert bigram_loss(DATA) == pytest.approx(whole, abs=0.1)


def test_a_large_vocabulary_needs_no_table_of_pairs() -> None:
    """A vocabulary ten times as large takes less than ten times the memory, and a table would take a hundred times."""

    def peak(vocab_size: int) -> int:
        data = TokenDataset(np.random.default_rng(0).integers(0, vocab_size, 20_000))
        tracemalloc.start()
        bigram_loss(data)
        allocated = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        return allocated

    peak(100)  # what is imported at the first call
    assert peak(50_000) < 10 * peak(5_000)


# --- the losses of the batches ----------------------------------------------------------------------------------------


@pytest.fixture
def most(monkeypatch: pytest.MonkeyPatch) -> int:
    monkeypatch.setattr(history_module, "MOST_LOSSES", 8)
    return 8


def after(losses: list[float]) -> History:
    history = History()
    for loss in losses:
        history.add_loss(loss)
    return history


def test_up_to_the_limit_losses_are_those_of_the_steps(most: int) -> None:
    history = after([0.5 * i for i in range(most)])
    assert history.losses == [0.5 * i for i in range(most)]
    assert (history.steps_per_loss, history.pending) == (1, [])


def test_beyond_the_limit_each_loss_is_a_mean_of_steps(most: int) -> None:
    history = after([float(i) for i in range(20)])
    assert history.losses == [1.5, 5.5, 9.5, 13.5, 17.5]
    assert (history.steps_per_loss, history.pending) == (4, [])
    history.add_loss(7.0)
    assert history.pending == [7.0]


@given(losses=st.lists(st.floats(0, 20), max_size=100), cut=st.integers(0, 100))
def test_a_history_that_was_packed_goes_on_as_if_it_had_not_been(losses: list[float], cut: int) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(history_module, "MOST_LOSSES", 8)
        begun = after(losses[:cut])
        begun.evaluations.append(Evaluation(len(losses[:cut]), 1.0, 1.0, 0.0, 0.0, "", 0.5))
        tensors, evaluations = pack_history(begun)
        history = unpack_history(tensors, json.loads(json.dumps(evaluations)), len(losses[:cut]))
        assert history == begun
        for loss in losses[cut:]:
            history.add_loss(loss)
        assert asdict(history)["losses"] == after(losses).losses
        assert history.pending == after(losses).pending
        assert len(history.losses) <= 8
        assert tensors["training/losses"].numel() <= 8 + history.steps_per_loss


def test_a_resumed_run_has_the_losses_of_an_uninterrupted_one(most: int, tmp_path: Path) -> None:
    def trainer(directory: Path | None) -> Trainer:
        config = TrainerConfig(max_iters=25, batch_size=2, eval_interval=11, save_interval=9, preview_tokens=0)
        torch.manual_seed(1)
        return Trainer(BigramLanguageModel(DATA.vocab_size), DATA, config, run_dir=directory)

    whole = trainer(None).fit(progress=False)
    for stop in (9, 18):
        directory = tmp_path / str(stop)
        for step in trainer(directory):
            if step.number == stop:
                break
        history = trainer(directory).fit(resume=True, progress=False)
        assert (history.losses, history.pending, history.steps_per_loss) == (whole.losses, whole.pending, 4)
        assert history.verdict == whole.verdict


def test_losses_of_another_number_of_steps_are_refused() -> None:
    tensors, evaluations = pack_history(after([1.0, 2.0, 3.0]))
    with pytest.raises(ValueError, match="expected 4 losses after 4 steps"):
        unpack_history(tensors, evaluations, 4)


# --- patience ---------------------------------------------------------------------------------------------------------


def test_steps_without_an_evaluation_do_not_look_for_the_best(monkeypatch: pytest.MonkeyPatch) -> None:
    looked = 0

    def best(self: History) -> Evaluation:
        nonlocal looked
        looked += 1
        return min(self.evaluations, key=lambda evaluation: evaluation.val_loss)

    monkeypatch.setattr(History, "best", property(best))
    config = TrainerConfig(max_iters=40, batch_size=2, eval_interval=20, patience=3, preview_tokens=0)
    for _ in Trainer(BigramLanguageModel(DATA.vocab_size), DATA, config):
        pass
    assert looked < 10


# --- what a notebook shows --------------------------------------------------------------------------------------------


def test_a_repr_is_one_line_of_rounded_numbers() -> None:
    history = after([0.123456789 * i for i in range(2000)])
    assert repr(history) == "History(no evaluations)"
    history.evaluations += [Evaluation(i, 1 / (i + 1), 1 / (i + 1), 1.23456, 9.87654) for i in range(0, 2001, 100)]
    shown = "History(2,000 steps, 21 evaluations, best val_loss 0.0005 at step 2,000, 1.2 seconds)"
    assert repr(history) == shown


def test_a_notebook_shows_the_curves_and_the_verdict() -> None:
    history = measured((4, 4.5), (math.nan, 2), (1, 1.5))
    shown = history._repr_html_()
    image, table, verdict = ElementTree.fromstring(f"<div>{shown}</div>")
    assert [[cell.text for cell in row] for row in table][1:] == [
        ["first", "0", "4.0000", "4.5000"],
        ["best", "200", "1.0000", "1.5000"],
        ["last", "200", "1.0000", "1.5000"],
    ]
    assert verdict.text == history.verdict
    train, val = (each.get("points", "").split() for each in image.iter("polyline"))
    assert (len(train), len(val)) == (2, 3)
    assert (val[0], train[-1]) == ("60.0,20.0", "460.0,140.0")
    assert {each.text for each in image.iter("text")} >= {"4.500", "1.000", "200"}
    assert History()._repr_html_() == "<pre>History(no evaluations)</pre>"
    assert "polyline" in measured((math.nan, math.nan))._repr_html_()


# --- the plot ---------------------------------------------------------------------------------------------------------


def test_a_plot_of_the_history_is_drawn_and_saved(tmp_path: Path) -> None:
    history = run(max_iters=6, eval_interval=3, learning_rate=1e-3)
    figure = history.plot(tmp_path / "losses.png")
    assert (tmp_path / "losses.png").read_bytes().startswith(b"\x89PNG")
    axes = figure.axes[0]
    batches, train, val, *floors = axes.get_lines()
    assert [len(np.asarray(line.get_xdata())) for line in (batches, train, val)] == [6, 3, 3]
    assert [train.get_linestyle(), val.get_linestyle()] == ["--", "-"]
    assert [np.asarray(line.get_ydata())[0] for line in floors] == [history.even_guess, history.bigram]
    ends = {f"validation {history.last.val_loss:.3f}", f"training {history.last.train_loss:.3f}"}
    assert {text.get_text() for text in axes.texts} >= ends
    assert axes.get_title().replace("\n", " ") == history.verdict
    with pytest.raises(DataError, match="the history must have an evaluation, got none"):
        History().plot()


def test_a_plot_is_drawn_into_axes_of_the_user() -> None:
    left, right = Figure().subplots(1, 2)
    figure = measured((4, 4), (1, 1), (1, 2)).plot(ax=right)
    assert "best 1.000" in {text.get_text() for text in right.texts}
    assert figure is right.figure
    assert [len(left.get_lines()), len(right.get_lines())] == [0, 3]


def test_the_title_of_a_plot_fits_into_the_figure() -> None:
    history = run(learning_rate=3e-4, max_iters=20, eval_interval=5)
    history.stopped = "interrupted"
    figure = history.plot()
    figure.draw_without_rendering()
    box, edge = figure.axes[0].title.get_window_extent(), figure.bbox
    assert edge.x0 <= box.x0 < box.x1 <= edge.x1
    assert box.y1 <= edge.y1


def test_a_plot_puts_means_of_steps_at_the_middle_of_them(most: int) -> None:
    history = after([float(i) for i in range(16)])
    history.evaluations += measured((4, 4), (1, 1)).evaluations
    line = history.plot().axes[0].get_lines()[0]
    assert np.asarray(line.get_xdata()).tolist() == [1.5, 3.5, 5.5, 7.5, 9.5, 11.5, 13.5, 15.5]
    assert line.get_label() == "mean of 2 batches"


# --- what is printed --------------------------------------------------------------------------------------------------


def test_losses_and_steps_print_rounded_numbers() -> None:
    assert repr(Loss.from_nats(1 / 3, 2.0)) == "Loss(nats=0.3333, bits_per_character=0.2404, perplexity=1.396)"
    step = Step(3, 1 / 3, 1 / 300, 2 / 3, 1 / 70, 12345.678)
    shown = (
        "Step(number=3, loss=0.3333, learning_rate=0.00333, grad_norm=0.667, seconds=0.0143, tokens_per_second=12346"
    )
    assert repr(step) == f"{shown})"
    step.evaluation = Evaluation(3, 0.5, 2 / 3, 1.0, 1.0)
    assert repr(step) == f"{shown}, evaluation.val_loss=0.6667)"


def test_a_notebook_shows_trainer_and_sampler(tmp_path: Path) -> None:
    config = TrainerConfig(max_iters=4, eval_interval=2, batch_size=2, preview_tokens=0)
    trainer = Trainer(make_gpt(), DATA, config, run_dir=tmp_path / "<run>")
    assert trainer._repr_html_().startswith("<p>Trainer(GPTLanguageModel, 0 of 4 steps, run_dir=")
    assert "&lt;run&gt;" in trainer._repr_html_()
    assert "History(no evaluations)" in trainer._repr_html_()
    trainer.fit(progress=False)
    assert trainer._repr_html_().endswith(trainer.history._repr_html_())
    sampler = trainer.sampler()
    shown = ElementTree.fromstring(sampler._repr_html_())
    facts = {row[0].text: row[1].text for row in shown}
    assert facts == {
        "model": f"GPTLanguageModel, {trainer.model.num_parameters():,} parameters",
        "tokenizer": repr(DATA.tokenizer),
        "window": f"{trainer.model.block_size} tokens, stride {sampler.stride}",
        "last seed": "None",
    }
