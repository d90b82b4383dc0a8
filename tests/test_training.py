"""Training: the loop does what the config says, exactly, and says how it went."""

import json
import math
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import faults
import numpy as np
import pytest
import torch
from builders import BLOCK, DATA, TEXT, TOKENIZER, make_gpt
from faults import broken_by
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

import tinygpt
from tinygpt import (
    BigramLanguageModel,
    CharTokenizer,
    LanguageModel,
    Sampler,
    TokenDataset,
    Trainer,
    TrainerConfig,
)
from tinygpt.errors import (
    ConfigError,
    DataError,
    DeviceError,
    InputTypeError,
    NonFiniteError,
    RunExistsError,
    ShapeError,
)
from tinygpt.models.config import LAYOUTS, Layout
from tinygpt.optim import adamw, muon, parameter_groups
from tinygpt.runtime import choose_device, choose_precision
from tinygpt.schedules import warmup_cosine
from tinygpt.training import History, Loss, plain_loop
from tinygpt.training.config import Optimizer
from tinygpt.training.step import Objective

QUICK: dict[str, Any] = {"batch_size": 4, "max_iters": 6, "eval_interval": 3, "preview_tokens": 0}
QUICK |= {"optimizer": "adamw", "learning_rate": 0.01}


def make_trainer(model: LanguageModel | None = None, run_dir: Path | None = None, **changes: Any) -> Trainer:
    return Trainer(make_gpt() if model is None else model, DATA, TrainerConfig(**(QUICK | changes)), run_dir=run_dir)


def weights(trainer: Trainer) -> Tensor:
    return torch.cat([parameter.detach().flatten() for parameter in trainer.model.parameters()])


def trained(**changes: Any) -> Tensor:
    """Return all weights after the last step of a run, not the best ones."""
    trainer = make_trainer(make_gpt(dropout=changes.pop("dropout", 0.0)), **changes)
    for _ in trainer:
        pass
    return weights(trainer)


# --- the result is a function of the settings -------------------------------------------------------------------------


@broken_by(faults.mean_of_means, only="3")
@pytest.mark.parametrize("accumulation", [2, 3, 7])
def test_accumulation_is_the_big_batch(accumulation: int) -> None:
    """Cut into micro-batches, also unequal ones, a batch gives the same weights."""
    whole = trained(batch_size=7)
    torch.testing.assert_close(trained(batch_size=7, accumulation=accumulation), whole, rtol=0, atol=1e-12)


OPTIMIZERS: dict[str, Callable[..., torch.optim.Optimizer]] = {"adamw": adamw, "muon": muon}


@settings(max_examples=6)
@given(
    optimizer=st.sampled_from(sorted(OPTIMIZERS)),
    layout=st.sampled_from(LAYOUTS),
    dropout=st.sampled_from([0.0, 0.3]),
    batch_size=st.integers(1, 5),
    block_size=st.integers(1, BLOCK),
    grad_clip=st.sampled_from([None, 0.1]),
    seed=st.integers(0, 3),
)
def test_the_trainer_takes_the_steps_of_the_plain_loop(
    optimizer: Optimizer,
    layout: Layout,
    dropout: float,
    batch_size: int,
    block_size: int,
    grad_clip: float | None,
    seed: int,
) -> None:
    config = TrainerConfig(
        max_iters=3,
        eval_interval=2,
        preview_tokens=0,
        optimizer=optimizer,
        batch_size=batch_size,
        block_size=block_size,
        grad_clip=grad_clip,
        seed=seed,
    )
    trainer, model = Trainer(make_gpt(layout, dropout=dropout), DATA, config), make_gpt(layout, dropout=dropout)
    make = OPTIMIZERS[optimizer]
    own = make(model, learning_rate=config.peak, betas=config.decay_rates, weight_decay=config.weight_decay)
    losses = plain_loop(model, DATA, config, own, block_size=block_size)
    assert [step.loss for step in trainer] == pytest.approx(losses, rel=0, abs=1e-13)
    for ours, plain in zip(trainer.model.parameters(), model.parameters(), strict=True):
        torch.testing.assert_close(ours, plain, rtol=0, atol=1e-13)


@broken_by(faults.evaluations_draw, only="{'eval_interval': 1}")
@pytest.mark.parametrize(
    "changes",
    [{"eval_interval": 1}, {"eval_interval": 100}, {"eval_iters": 2}, {"preview_tokens": 5}, {"patience": 100}],
    ids=str,
)
def test_how_often_it_is_measured_changes_nothing(changes: dict[str, Any]) -> None:
    assert torch.equal(trained(dropout=0.3, **changes), trained(dropout=0.3))


@broken_by(faults.dropout_from_everybodys_stream)
def test_other_draws_in_the_loop_change_nothing() -> None:
    """Neither are they changed."""
    trainer = make_trainer(make_gpt(dropout=0.3))
    torch.manual_seed(7)
    drawn = []
    for _ in trainer:
        drawn.append(torch.rand(1))
        Sampler(trainer.model, TOKENIZER).generate("th", max_new_tokens=3)
    assert torch.equal(weights(trainer), trained(dropout=0.3))
    torch.manual_seed(7)
    assert drawn == [torch.rand(1) for _ in drawn]


def test_the_seed_decides_batches_and_dropout() -> None:
    assert not torch.equal(trained(dropout=0.3, seed=1), trained(dropout=0.3))
    assert torch.equal(trained(dropout=0.3, seed=1), trained(dropout=0.3, seed=1))


def test_breaking_out_and_going_on_is_one_run() -> None:
    trainer = make_trainer(make_gpt(dropout=0.3))
    for step in trainer:
        if step.number == 2:
            break
    assert [step.number for step in trainer] == [3, 4, 5, 6]
    assert list(trainer) == []
    assert torch.equal(weights(trainer), trained(dropout=0.3))


# --- the schedule and the optimizer -----------------------------------------------------------------------------------


@given(max_iters=st.integers(1, 60), data=st.data(), floor=st.floats(0, 1))
def test_the_learning_rate_rises_and_falls_to_its_floor(max_iters: int, data: st.DataObject, floor: float) -> None:
    warmup = data.draw(st.integers(0, max_iters))
    shares = [warmup_cosine(s, max_iters=max_iters, warmup_iters=warmup, floor=floor) for s in range(max_iters + 1)]
    assert all(0 < share <= 1 for share in shares[:max_iters] if floor > 0)
    assert shares[:warmup] == sorted(shares[:warmup])
    assert shares[warmup:] == sorted(shares[warmup:], reverse=True)
    assert shares[0] == (1 / warmup if warmup else 1)
    assert shares[-1] == pytest.approx(floor) or warmup == max_iters


@broken_by(faults.rate_of_zero_at_first)
def test_steps_report_the_rate_that_they_were_taken_with() -> None:
    trainer = make_trainer(max_iters=10, warmup_iters=4, learning_rate=0.02)
    rates = [step.learning_rate for step in trainer]
    assert rates[:4] == [0.005, 0.01, 0.015, 0.02]
    assert rates == [0.02 * warmup_cosine(s, max_iters=10, warmup_iters=4) for s in range(10)]


@pytest.mark.parametrize("layout", ["notebook", "gpt2", "modern"])
def test_matrices_decay_and_norms_biases_and_embeddings_do_not(layout: Layout) -> None:
    model = make_gpt(layout=layout)
    decaying, others = parameter_groups(model, 0.1)
    assert (decaying["weight_decay"], others["weight_decay"]) == (0.1, 0.0)
    n_layer, n_embd, vocab_size = 2, 8, DATA.vocab_size
    head = 0 if layout == "gpt2" else vocab_size * n_embd  # GPT-2's is tied to the embedding
    assert sum(p.numel() for p in decaying["params"]) == n_layer * 12 * n_embd**2 + head
    together = {id(p) for group in (decaying, others) for p in group["params"]}
    assert together == {id(p) for p in model.parameters()}


def test_frozen_parameters_are_left_alone() -> None:
    model = make_gpt()
    frozen = model.get_parameter("head.weight").requires_grad_(False)
    before = frozen.detach().clone()
    trainer = make_trainer(model)
    list(trainer)
    assert torch.equal(frozen, before)


def test_an_optimizer_of_your_own_takes_the_schedule() -> None:
    trainer = Trainer(
        make_gpt(),
        DATA,
        TrainerConfig(**QUICK),
        make_optimizer=lambda model: torch.optim.SGD(
            [{"params": [p], "lr": 0.1 + i} for i, p in enumerate(model.parameters())]
        ),
    )
    list(trainer)
    share = warmup_cosine(5, max_iters=6, warmup_iters=0)
    assert [group["lr"] for group in trainer.optimizer.param_groups][:2] == [0.1 * share, 1.1 * share]


@broken_by(faults.clipping_off)
@pytest.mark.parametrize("limit", [0.01, 0.5])
def test_gradients_are_clipped_to_the_limit(limit: float) -> None:
    trainer, seen = make_trainer(grad_clip=limit), []

    def watch(optimizer: torch.optim.Optimizer, *_: Any) -> None:
        gradients = [parameter.grad for group in optimizer.param_groups for parameter in group["params"]]
        seen.append(float(nn.utils.get_total_norm(gradients)))

    trainer.optimizer.register_step_pre_hook(watch)
    norms = [step.grad_norm for step in trainer]
    assert all(clipped <= limit * (1 + 1e-6) for clipped in seen)
    assert any(norm > limit for norm in norms)


# --- measuring --------------------------------------------------------------------------------------------------------


@settings(max_examples=10)
@given(batch_size=st.integers(1, 9))
def test_the_loss_of_a_split_is_exact(batch_size: int) -> None:
    """It does not depend on the batch size."""
    trainer = make_trainer(batch_size=batch_size)
    ids = torch.from_numpy(DATA.val[:].astype(np.int64))
    total, places = 0.0, range(0, len(ids) - 1, BLOCK)
    for start in places:
        x, y = ids[start : start + BLOCK], ids[start + 1 : start + BLOCK + 1]
        total += trainer.model(x[None, : len(y)], y[None]).loss.item() * len(y)
    assert trainer.evaluate("val").nats == pytest.approx(total / (len(ids) - 1), abs=1e-12)


@broken_by(faults.evaluations_without_a_bound)
def test_an_evaluation_of_a_long_split_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    """A short one is measured whole."""
    whole = make_trainer(max_iters=1).fit(progress=False).evaluations[0]
    assert whole.val_loss == make_trainer().evaluate("val").nats
    monkeypatch.setattr("tinygpt.training.trainer._EVALUATED", 3 * BLOCK)
    trainer = make_trainer(max_iters=1)
    batches = list(DATA.windows("val", limit=3, batch_size=2, block_size=BLOCK))
    expected = Objective(trainer.model, trainer.model.device, torch.float32).mean(batches)
    found = trainer.fit(progress=False).evaluations[0]
    assert found.val_loss == pytest.approx(expected, rel=1e-12)
    assert found.val_loss != whole.val_loss


def test_measuring_is_pure_and_without_dropout() -> None:
    trainer = make_trainer(make_gpt(dropout=0.5))
    trainer.model.train()
    trainer.model.get_submodule("blocks.0").eval()
    modes = [module.training for module in trainer.model.modules()]
    state = torch.get_rng_state()
    assert trainer.evaluate("val") == trainer.evaluate("val")
    assert trainer.estimate_loss("train", 3) == trainer.estimate_loss("train", 3)
    assert [module.training for module in trainer.model.modules()] == modes
    assert torch.equal(torch.get_rng_state(), state)
    assert trainer.evaluate("val").nats == make_trainer(make_gpt()).evaluate("val").nats


def test_the_estimate_comes_near_the_exact_loss() -> None:
    trainer = make_trainer()
    assert trainer.estimate_loss("train", 200).nats == pytest.approx(trainer.evaluate("train").nats, abs=0.02)


def test_a_loss_in_other_units() -> None:
    loss = Loss.from_nats(2 * math.log(2), characters_per_id=4)
    assert (loss.bits_per_character, loss.perplexity) == (0.5, 4.0)
    assert Loss.from_nats(1e6).perplexity == math.inf


class Words:
    """A tokenizer with several characters to an id."""

    vocab_size = 9

    def encode(self, text: str) -> list[int]:
        return [len(word) for word in text.split()]

    def decode(self, ids: list[int]) -> str:
        return " ".join("x" * number for number in ids)


def test_bits_per_character_count_characters_not_ids() -> None:
    data = TokenDataset(TEXT, Words())
    trainer = Trainer(BigramLanguageModel(9), data, TrainerConfig(**QUICK))
    loss = trainer.evaluate("val")
    characters = len(Words().decode(data.val.tolist())) / len(data.val)
    assert loss.bits_per_character == pytest.approx(loss.nats / math.log(2) / characters)


# --- fit --------------------------------------------------------------------------------------------------------------


def scripted(monkeypatch: pytest.MonkeyPatch, val_losses: list[float], train_losses: list[float]) -> None:
    """Let evaluations find these losses: of each pair, the trainer measures the validation split first."""
    found = iter([loss for pair in zip(val_losses, train_losses, strict=True) for loss in pair])
    monkeypatch.setattr(Objective, "mean", lambda self, batches: next(found))


def test_fit_keeps_the_best_weights(monkeypatch: pytest.MonkeyPatch) -> None:
    scripted(monkeypatch, [4, 2, 1, 3], [4, 3, 2, 1])
    trainer = make_trainer(eval_interval=2)
    at_best = None
    for step in trainer:
        if step.number == 4:
            at_best = weights(trainer).clone()
    assert at_best is not None
    assert not torch.equal(weights(trainer), at_best)
    history = trainer.fit(progress=False)
    assert (history.best.step, history.last.step) == (4, 6)
    assert torch.equal(weights(trainer), at_best)
    assert history.verdict.startswith("best validation loss 1.0000 at step 4; the last 3.0000 (even guess ")
    assert ": overfitting from step 4; keep those weights" in history.verdict


def test_patience_ends_a_run_that_does_not_get_better(monkeypatch: pytest.MonkeyPatch) -> None:
    scripted(monkeypatch, [4, 2, 2.5, 2.6, 1], [1] * 5)
    history = make_trainer(max_iters=40, eval_interval=1, patience=2).fit(progress=False)
    assert [evaluation.val_loss for evaluation in history.evaluations] == [4, 2, 2.5, 2.6]
    assert history.stopped == "early"
    assert history.verdict.startswith("stopped early after step 3: best validation loss 2.0000 at step 1; the last 2.6")


def test_evaluations_come_at_the_interval_and_at_both_ends() -> None:
    history = make_trainer(max_iters=7, eval_interval=3, preview_tokens=11).fit(progress=False)
    assert [evaluation.step for evaluation in history.evaluations] == [0, 3, 6, 7]
    assert [len(evaluation.sample) for evaluation in history.evaluations] == [11] * 4
    assert len(history.losses) == 7
    assert history.evaluations[0].val_loss == pytest.approx(math.log(DATA.vocab_size), abs=0.02)


def test_steps_carry_the_evaluation_where_there_is_one() -> None:
    trainer = make_trainer(max_iters=7, eval_interval=3)
    found = {step.number: step.evaluation for step in trainer}
    assert [number for number, evaluation in found.items() if evaluation is not None] == [3, 6, 7]
    assert found[7] is trainer.history.last


@pytest.mark.parametrize("model", ["bigram", "notebook", "modern"])
def test_models_learn_a_text_that_repeats_itself(model: Any) -> None:
    made = BigramLanguageModel(DATA.vocab_size) if model == "bigram" else make_gpt(layout=model)
    history = make_trainer(made, max_iters=150, batch_size=16, learning_rate=0.03, eval_interval=50).fit(progress=False)
    assert history.best.val_loss < (1.3 if model == "bigram" else 0.6)


def test_without_progress_nothing_is_printed(capfd: pytest.CaptureFixture[str]) -> None:
    make_trainer().fit(progress=False)
    assert capfd.readouterr() == ("", "")


def test_ctrl_c_ends_after_the_current_step() -> None:
    """The weights stay."""
    handler = signal.getsignal(signal.SIGINT)
    trainer = make_trainer(max_iters=1000, eval_interval=1000)
    threading.Timer(0.3, os.kill, (os.getpid(), signal.SIGINT)).start()
    history = trainer.fit(progress=False)
    assert history.stopped == "interrupted"
    assert 0 < history.last.step == trainer.steps_taken == len(history.losses) < 1000
    assert history.verdict.startswith(f"interrupted after step {trainer.steps_taken:,}: best validation loss")
    assert signal.getsignal(signal.SIGINT) is handler
    trainer.evaluate("val")


def test_fit_works_outside_the_main_thread() -> None:
    histories: list[History] = []
    thread = threading.Thread(target=lambda: histories.append(make_trainer().fit(progress=False)))
    thread.start()
    thread.join()
    assert histories[0].last.step == 6


# --- the run directory ------------------------------------------------------------------------------------------------


def test_a_run_directory_holds_settings_metrics_and_models(tmp_path: Path) -> None:
    trainer = make_trainer(run_dir=tmp_path / "runs" / "first", max_iters=4, eval_interval=2)
    assert not (tmp_path / "runs").exists()  # nothing is touched before the first step
    history = trainer.fit(progress=False)
    directory = tmp_path / "runs" / "first"
    assert sorted(path.name for path in directory.iterdir()) == [
        ".lock",
        "best.safetensors",
        "config.json",
        "metrics.jsonl",
        "step-00000002.safetensors",
        "step-00000004.safetensors",
    ]
    records = [json.loads(line) for line in (directory / "metrics.jsonl").read_text().splitlines()]
    assert [record["loss"] for record in records if "loss" in record] == history.losses
    assert [record["val_loss"] for record in records if "val_loss" in record] == [
        e.val_loss for e in history.evaluations
    ]
    settings_written = json.loads((directory / "config.json").read_text())
    assert settings_written["trainer"]["max_iters"] == 4
    model, tokenizer = tinygpt.load(directory / "best.safetensors")
    assert tokenizer == TOKENIZER
    assert all(torch.equal(a, b) for a, b in zip(model.parameters(), trainer.model.parameters(), strict=True))


@broken_by(faults.evaluations_are_not_logged)
def test_log_gets_the_records_of_the_file(tmp_path: Path) -> None:
    records: list[dict[str, Any]] = []
    make_trainer(run_dir=tmp_path).fit(progress=False, log=records.append)
    assert records == [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    assert [record["step"] for record in records] == [0, 1, 2, 3, 3, 4, 5, 6, 6]
    without: list[dict[str, Any]] = []
    make_trainer().fit(progress=False, log=without.append)
    assert [record.keys() for record in without] == [record.keys() for record in records]


def test_log_is_called_within_fit_alone() -> None:
    records: list[dict[str, Any]] = []
    trainer = make_trainer()
    trainer.fit(progress=False, log=records.append)
    trainer = make_trainer()
    next(iter(trainer))
    trainer.fit(progress=False)
    assert len(records) == 9


def test_after_a_resume_steps_are_logged_again(tmp_path: Path) -> None:
    for step in make_trainer(run_dir=tmp_path):
        if step.number == 5:  # the last checkpoint is that of step 3
            break
    records: list[dict[str, Any]] = []
    make_trainer(run_dir=tmp_path).fit(resume=True, progress=False, log=records.append)
    assert [record["step"] for record in records] == [4, 5, 6, 6]


def test_a_log_that_fails_is_one_warning_and_not_called_again() -> None:
    calls: list[int] = []

    def log(record: dict[str, Any]) -> None:
        calls.append(record["step"])
        if record["step"] == 2:
            raise RuntimeError("no connection")

    with pytest.warns(UserWarning, match=r"log failed at step 2: RuntimeError: no connection; the training") as caught:
        assert make_trainer().fit(progress=False, log=log).last.step == 6
    assert calls == [0, 1, 2]
    assert len(caught) == 1


def test_a_log_may_change_its_record() -> None:
    """As the recipe for TensorBoard does."""

    def log(record: dict[str, Any]) -> None:
        if record.pop("step") == 3:
            raise KeyError("?")

    trainer = make_trainer()
    with pytest.warns(UserWarning, match="log failed at step 3: KeyError"):
        trainer.fit(progress=False, log=log)
    assert trainer.steps_taken == 6


def test_a_missing_config_json_is_written_on_resuming(tmp_path: Path) -> None:
    """A run that is killed at its start may have none."""
    make_trainer(run_dir=tmp_path).fit(progress=False)
    before = (tmp_path / "config.json").read_bytes()
    (tmp_path / "config.json").unlink()
    make_trainer(run_dir=tmp_path).resume()
    assert (tmp_path / "config.json").read_bytes() == before


def test_a_log_that_is_no_function_is_refused(unchecked_types: None) -> None:
    with pytest.raises(InputTypeError, match=r"log must be a function of a record, .*, got 'wandb'"):
        make_trainer().fit(log="wandb")  # type: ignore[arg-type]


def test_a_directory_with_a_run_is_not_written_to(tmp_path: Path) -> None:
    make_trainer(run_dir=tmp_path / "run").fit(progress=False)
    before = {path: path.read_bytes() for path in (tmp_path / "run").iterdir()}
    trainer = make_trainer(run_dir=tmp_path / "run")
    with pytest.raises(
        RunExistsError, match=r"must be new or empty, got .*run'.*fit\(resume='auto'\) to start or resume"
    ):
        trainer.fit(progress=False)
    assert trainer.steps_taken == 0
    assert {path: path.read_bytes() for path in (tmp_path / "run").iterdir()} == before


# --- time, schedules, and a second call -------------------------------------------------------------------------------


def slowed(monkeypatch: pytest.MonkeyPatch, seconds: float) -> None:
    """Let the clock of a run advance by so much at each reading."""
    now = iter(range(10**9))
    monkeypatch.setattr("time.perf_counter", lambda: next(now) * seconds)


def test_max_seconds_ends_the_schedule_within_the_time(monkeypatch: pytest.MonkeyPatch) -> None:
    """The clock advances at each reading: a step reads it twice, its plan once, an evaluation twice."""
    slowed(monkeypatch, 0.01)
    trainer = make_trainer(max_iters=1000, max_seconds=3.0, eval_interval=1000, final_learning_rate=0.0, batch_size=2)
    steps = list(trainer)
    assert 100 < len(steps) < 300
    assert steps[-1].evaluation is not None
    assert trainer.history.stopped == ""
    assert steps[-1].learning_rate < 0.02 * max(step.learning_rate for step in steps)


def test_a_resumed_run_keeps_the_number_of_steps(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    changes: dict[str, Any] = {"max_iters": 500, "max_seconds": 2.0, "eval_interval": 500, "save_interval": 20}
    slowed(monkeypatch, 0.01)
    whole = make_trainer(run_dir=tmp_path / "whole", **changes)
    count = len(list(whole))
    cut = make_trainer(run_dir=tmp_path / "cut", **changes)
    for step in cut:
        if step.number == 40:
            break
    slowed(monkeypatch, 0.1)  # another speed after the interruption
    again = make_trainer(run_dir=tmp_path / "cut", **changes)
    again.fit(resume=True, progress=False)
    assert again.steps_taken == len(again.history.losses) == cut._end <= count + 5


def test_more_seconds_on_resuming_are_a_new_plan(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    changes: dict[str, Any] = {"max_iters": 500, "eval_interval": 500, "save_interval": 20}
    slowed(monkeypatch, 0.01)
    first = make_trainer(run_dir=tmp_path, max_seconds=1.5, **changes)
    first.fit(progress=False)
    again = make_trainer(run_dir=tmp_path, max_seconds=3.0, **changes)
    with pytest.warns(UserWarning, match=r"with changed settings, .*: max_seconds=3.0 \(checkpoint has 1.5\)"):
        again.fit(resume=True, progress=False)
    assert first.steps_taken < again.steps_taken < 500


def test_a_schedule_of_your_own_sets_every_rate() -> None:
    trainer = Trainer(make_gpt(), DATA, TrainerConfig(**QUICK), lr_schedule=lambda step: 1 / (1 + step))
    assert [step.learning_rate for step in trainer] == pytest.approx([0.01 / (1 + n) for n in range(6)])
    assert trainer.history.last.schedule == pytest.approx(1 / 6)


@pytest.mark.parametrize(
    ("schedule", "changes", "error", "message"),
    [
        (0.1, {}, InputTypeError, "lr_schedule must be a function of the step, got 0.1"),
        (
            lambda step: 1.0,
            {"warmup_iters": 2},
            ConfigError,
            "replaces the schedule of the config, got warmup_iters there",
        ),
    ],
)
def test_a_schedule_that_cannot_be_followed_is_named(
    schedule: Any, changes: dict[str, Any], error: type[Exception], message: str, unchecked_types: None
) -> None:
    with pytest.raises(error, match=message):
        Trainer(make_gpt(), DATA, TrainerConfig(**(QUICK | changes)), lr_schedule=schedule)


def test_a_schedule_that_returns_no_number_is_named() -> None:
    trainer = Trainer(make_gpt(), DATA, TrainerConfig(**QUICK), lr_schedule=lambda step: math.nan)
    with pytest.raises(ConfigError, match=r"lr_schedule\(0\) must be a number of at least 0, got .*=nan"):
        next(iter(trainer))


def test_another_schedule_is_a_changed_setting_of_a_resumed_run(tmp_path: Path) -> None:
    def make(schedule: Callable[[int], float]) -> Trainer:
        return Trainer(make_gpt(), DATA, TrainerConfig(**QUICK), run_dir=tmp_path, lr_schedule=schedule)

    next(iter(make(lambda step: 1.0)))
    with pytest.warns(UserWarning, match=r"with changed settings, .*: lr_schedule=\[0.5, .*\(checkpoint has \[1.0"):
        make(lambda step: 0.5).fit(resume=True, progress=False)


def test_a_rate_set_from_outside_is_reported_once() -> None:
    trainer = make_trainer()
    steps = iter(trainer)
    next(steps)
    trainer.optimizer.param_groups[0]["lr"] = 7
    with pytest.warns(UserWarning, match=r"replaces a learning rate .*lr=7; use Trainer\(..., lr_schedule"):
        next(steps)
    trainer.optimizer.param_groups[0]["lr"] = 7
    next(steps)


def test_a_second_fit_says_how_to_go_on() -> None:
    trainer = make_trainer()
    trainer.fit(progress=False)
    with pytest.warns(UserWarning, match="fit took no step: all 6 steps are taken; make a Trainer with more"):
        trainer.fit(progress=False)


def test_a_second_fit_after_patience_says_how_to_go_on(monkeypatch: pytest.MonkeyPatch) -> None:
    scripted(monkeypatch, [1, 2, 3], [1] * 3)
    trainer = make_trainer(eval_interval=1, patience=2)
    trainer.fit(progress=False)
    with pytest.warns(UserWarning, match="took no step: 2 evaluations passed without a better one; .* more patience"):
        trainer.fit(progress=False)


def test_a_second_fit_after_max_seconds_names_them(monkeypatch: pytest.MonkeyPatch) -> None:
    slowed(monkeypatch, 0.01)
    trainer = make_trainer(max_iters=500, max_seconds=1.0, eval_interval=500)
    trainer.fit(progress=False)
    with pytest.warns(UserWarning, match=r"all \d+ steps are taken; make a Trainer with more max_seconds and trainer"):
        trainer.fit(progress=False)


def test_a_scheduler_in_make_optimizer_keeps_the_peak() -> None:
    def make(model: nn.Module) -> torch.optim.Optimizer:
        optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
        torch.optim.lr_scheduler.ConstantLR(optimizer, factor=0.5)
        return optimizer

    trainer = Trainer(make_gpt(), DATA, TrainerConfig(**QUICK), make_optimizer=make, lr_schedule=lambda step: 1.0)
    assert next(iter(trainer)).learning_rate == trainer.optimizer.param_groups[0]["lr"] == 0.1


def test_nan_gradients_under_a_gradient_scaler_end_the_run() -> None:
    """A scaler skips a step with infinite gradients and halves its scale; at a scale of 1 they are the model's own."""
    trainer = make_trainer()
    trainer._stepper.scaler = torch.amp.GradScaler("cpu", init_scale=4.0)
    next(trainer.model.parameters()).register_hook(lambda gradient: gradient * math.nan)
    before = weights(trainer).clone()
    with pytest.raises(NonFiniteError, match=r"got loss=.* and grad_norm=nan in step 3"):
        list(trainer)
    assert torch.equal(weights(trainer), before)


@pytest.mark.parametrize("leaves", [True, False], ids=["a new loop", "the same loop"])
def test_after_the_best_weights_it_trains_on_from_the_last(leaves: bool, tmp_path: Path) -> None:
    plain, restored = make_trainer(run_dir=tmp_path / "plain"), make_trainer(run_dir=tmp_path / "restored")
    list(plain)
    for _ in restored:
        restored.restore_best()
        if leaves:
            break
    list(restored)
    restored.restore_best()
    restored.save()
    again = make_trainer(run_dir=tmp_path / "restored")
    again.resume()
    assert torch.equal(weights(plain), weights(again))


def test_the_notebooks_settings_are_a_constant_rate() -> None:
    config = TrainerConfig.notebook(max_iters=100)
    assert (config.optimizer, config.peak, config.grad_clip, config.eval_iters) == ("adamw", 3e-4, None, 200)
    assert {config.schedule(step) for step in range(100)} == {1.0}


def test_a_trainer_makes_a_sampler() -> None:
    trainer = make_trainer()
    trainer.fit(progress=False)
    assert trainer.sampler(stride=1).generate("th", max_new_tokens=3, seed=0).startswith("th")
    with pytest.raises(ConfigError, match=r"the data must have a tokenizer, .* use Sampler\(trainer.model, tokenizer"):
        Trainer(BigramLanguageModel(3), TokenDataset([0, 1, 2] * 50)).sampler()


def test_the_directory_can_be_set_until_the_run_begins(tmp_path: Path) -> None:
    trainer = make_trainer()
    trainer.run_dir = tmp_path / "run"
    next(iter(trainer))
    assert trainer.run_dir == tmp_path / "run"
    with pytest.raises(ConfigError, match="run_dir must be set before the run begins"):
        trainer.run_dir = None


# --- what goes wrong --------------------------------------------------------------------------------------------------


class Exploding(BigramLanguageModel):
    """Returns NaN at one of its training steps."""

    def __init__(self, at: int) -> None:
        super().__init__(DATA.vocab_size)
        self.at, self.step = at, 0

    def compute_logits(self, idx: Tensor, cache: Any = None) -> Tensor:
        self.step += self.training
        logits = super().compute_logits(idx, cache)
        return logits * math.nan if self.training and self.step == self.at else logits


def test_a_non_finite_loss_stops_before_the_weights_move() -> None:
    trainer = make_trainer(Exploding(at=3))
    steps = iter(trainer)
    next(steps), next(steps)
    kept = weights(trainer).clone()
    with pytest.raises(NonFiniteError, match=r"got loss=nan and grad_norm=nan in step 3 at learning_rate=0\.0"):
        next(steps)
    assert trainer.steps_taken == 2
    assert torch.equal(weights(trainer), kept)


def test_a_non_finite_evaluation_is_named(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Before anything is written with such weights."""
    scripted(monkeypatch, [4, math.nan], [4, 3])
    previews: list[int] = []

    def preview(self: Trainer) -> str:
        previews.append(self.steps_taken)
        return ""

    monkeypatch.setattr(Trainer, "_preview", preview)
    trainer = make_trainer(run_dir=tmp_path)
    message = "losses must be finite, got nan on the val split after step 3; .*; the last checkpoint is .*step-00000000"
    with pytest.raises(NonFiniteError, match=message):
        trainer.fit(progress=False)
    assert previews == [0]
    assert [evaluation.step for evaluation in trainer.history.evaluations] == [0]


@pytest.mark.usefixtures("unchecked_types")
@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"max_iters": 0}, "max_iters must be an integer of at least 1, got max_iters=0"),
        ({"batch_size": 2.5}, "got batch_size=2.5"),
        ({"block_size": 0}, "got block_size=0"),
        ({"eval_interval": 0}, "got eval_interval=0"),
        ({"eval_iters": 0}, "got eval_iters=0"),
        ({"patience": 0}, "got patience=0"),
        ({"preview_tokens": -1}, "got preview_tokens=-1"),
        ({"accumulation": 0}, "got accumulation=0"),
        ({"accumulation": 5, "batch_size": 4}, "at most batch_size, got accumulation=5 and batch_size=4"),
        ({"learning_rate": 0}, "learning_rate must be a number above 0, got learning_rate=0"),
        ({"learning_rate": math.nan}, "got learning_rate=nan"),
        ({"learning_rate": math.inf}, "got learning_rate=inf"),
        ({"final_learning_rate": 1.0}, "from 0 to learning_rate=0.008, got final_learning_rate=1.0"),
        ({"weight_decay": -0.1}, "got weight_decay=-0.1"),
        ({"grad_clip": 0}, "grad_clip must be a number above 0, or None, got grad_clip=0"),
        ({"betas": (0.9, 1.0)}, r"betas must be a number in \[0, 1\) each, got betas=1.0"),
        ({"betas": 0.9}, "betas must be a tuple of two numbers, got betas=0.9"),
        ({"max_iters": 5, "warmup_iters": 6}, "warmup_iters must be an integer from 0 to 5, got warmup_iters=6"),
        ({"seed": -1}, "got seed=-1"),
        ({"lr": 1e-3}, "TrainerConfig has no argument 'lr'; did you mean 'learning_rate'"),
        ({"max_iter": 3}, "TrainerConfig has no argument 'max_iter'; did you mean 'max_iters'?"),
        ({"precision": "fp8"}, "precision must be one of 'auto', 'fp32', 'bf16', 'fp16', got 'fp8'"),
    ],
    ids=str,
)
def test_settings_out_of_range_are_named(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        TrainerConfig(**changes)


@pytest.mark.usefixtures("unchecked_types")
@pytest.mark.parametrize(
    ("arguments", "kind", "message"),
    [
        ({"model": nn.Linear(2, 2)}, InputTypeError, "model must be a LanguageModel, got Linear"),
        ({"data": TEXT}, InputTypeError, r"data must be a TokenDataset, got str; use TokenDataset\(text\)"),
        ({"model": BigramLanguageModel(3)}, ConfigError, f"got vocab_size={DATA.vocab_size} in the data and 3 in the"),
        ({"config": {"max_iters": 3}}, InputTypeError, r"config must be a TrainerConfig, got {'max_iters': 3}; use "),
        ({"run_dir": 7}, InputTypeError, "run_dir must be a str or a path, got 7"),
        ({"config": TrainerConfig(block_size=9)}, ConfigError, "at most the model's, got 9 and 8 in the model"),
        ({"data": TokenDataset(TEXT[:9], TOKENIZER)}, DataError, r"need at least block_size\+1 = 9"),
        ({"data": TokenDataset(TEXT, TOKENIZER, val_fraction=0)}, DataError, "the val split has 0 of 540 tokens"),
        ({"config": TrainerConfig(device="gpu")}, DeviceError, r"device must be one of \['cpu'\], got 'gpu'"),
        ({"config": TrainerConfig(precision="fp16", device="cpu")}, ConfigError, "on a CPU, got 'fp16'"),
    ],
)
def test_invalid_parts_are_refused_before_anything_is_written(
    arguments: dict[str, Any], kind: type[Exception], message: str, tmp_path: Path
) -> None:
    fitting: dict[str, Any] = {"model": make_gpt(), "data": DATA, "run_dir": tmp_path / "run"}
    with pytest.raises(kind, match=message):
        Trainer(**(fitting | arguments))
    assert list(tmp_path.iterdir()) == []


# --- the autopilot ----------------------------------------------------------------------------------------------------


def test_the_device_is_the_best_that_is_there(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: False)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert choose_device("auto") == torch.device("cpu")
    with pytest.raises(DeviceError, match=r"device must be one of \['cpu'\], got 'cuda'; use device='auto'"):
        choose_device("cuda")
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: True)
    assert choose_device("auto") == torch.device("mps")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    assert choose_device("auto") == torch.device("cuda:0")
    assert choose_device("cuda") == torch.device("cuda")
    with pytest.raises(DeviceError, match=r"\['cuda:0', 'cuda:1', 'mps', 'cpu'\], got 'cuda:7'"):
        choose_device("cuda:7")


@pytest.mark.parametrize(("native", "expected"), [(True, torch.bfloat16), (False, torch.float16)])
def test_bf16_is_chosen_only_where_it_is_native(
    native: bool, expected: torch.dtype, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda including_emulation=True: native or including_emulation)
    model = make_gpt().float()
    assert choose_precision("auto", torch.device("cuda"), model) == expected
    assert choose_precision("fp32", torch.device("cuda"), model) == torch.float32
    monkeypatch.setattr("tinygpt.runtime._cpu_has_bf16", lambda: native)
    assert choose_precision("auto", torch.device("cpu"), model) == (torch.bfloat16 if native else torch.float32)
    assert choose_precision("fp32", torch.device("cpu"), model) == torch.float32


def test_auto_leaves_a_model_of_another_dtype_as_it_is(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tinygpt.runtime._cpu_has_bf16", lambda: True)
    cpu = torch.device("cpu")
    assert choose_precision("auto", cpu, make_gpt().float()) == torch.bfloat16
    assert choose_precision("auto", cpu, make_gpt().double()) == torch.float32


def test_attention_stays_in_float32_on_a_cpu(monkeypatch: pytest.MonkeyPatch) -> None:
    """Under bf16, in which Muon works."""
    seen: set[torch.dtype] = set()
    real: Any = nn.functional.scaled_dot_product_attention

    def spy(*tensors: Any, **options: Any) -> Any:
        seen.update(tensor.dtype for tensor in tensors[:3])
        return real(*tensors, **options)

    monkeypatch.setattr(nn.functional, "scaled_dot_product_attention", spy)
    for precision, works_in in (("bf16", torch.bfloat16), ("fp32", None)):
        trainer = make_trainer(make_gpt().float(), precision=precision, optimizer="muon", max_iters=1)
        list(trainer)
        assert seen == {torch.float32}
        assert getattr(trainer.optimizer, "dtype", None) == works_in


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
@pytest.mark.parametrize("layout", ["notebook", "modern"])
@pytest.mark.parametrize(
    "around",
    [lambda: torch.autocast("cpu", torch.bfloat16), torch.no_grad, torch.inference_mode],
    ids=["cast", "no_grad", "inference"],
)
def test_what_is_set_around_it_changes_nothing(precision: str, around: Callable[[], Any], layout: Layout) -> None:
    trainers = [make_trainer(make_gpt(layout=layout).float(), precision=precision) for _ in range(2)]
    trainers[0].fit(progress=False)
    with around():
        for step in trainers[1]:
            if step.number == 4:  # after an evaluation
                break
    trainers[1].fit(progress=False)
    assert trainers[0].history.losses == trainers[1].history.losses
    assert trainers[0].history.last.val_loss == trainers[1].history.last.val_loss
    assert trainers[0].history.losses[0] > trainers[0].history.losses[-1]


def test_bf16_trains_on_a_cpu_and_keeps_float32_weights() -> None:
    model = make_gpt().float()
    history = make_trainer(model, precision="bf16", max_iters=40, learning_rate=0.03).fit(progress=False)
    assert history.last.val_loss < history.evaluations[0].val_loss - 0.5
    assert all(parameter.dtype == torch.float32 for parameter in model.parameters())


def test_a_failed_compilation_is_one_warning(monkeypatch: pytest.MonkeyPatch) -> None:
    """The run goes on."""

    def broken(model: nn.Module, **options: Any) -> Any:
        def call(*inputs: Any) -> Any:
            raise RuntimeError("no C++ compiler found")

        return call

    monkeypatch.setattr(torch, "compile", broken)
    trainer = make_trainer(compile=True)
    with pytest.warns(UserWarning, match="torch.compile does not work here, going on without: .*no C") as caught:
        list(trainer)
    assert len(caught) == 1
    assert torch.equal(weights(trainer), trained())


COMPILED = """
import warnings
from tinygpt import CharTokenizer, GPTConfig, GPTLanguageModel, TokenDataset, Trainer, TrainerConfig
import torch

text = "the quick brown fox jumps over the lazy dog. " * 20
data = TokenDataset(text, CharTokenizer.from_text(text))
warnings.filterwarnings("error", message="torch.compile does not work")
for precision, tolerance in (("fp32", 1e-4), ("bf16", 1e-3)):
    losses = []
    for compile in (False, True):
        torch.manual_seed(0)
        model = GPTConfig.modern(vocab_size=data.vocab_size, block_size=8, n_layer=1, n_head=2, n_embd=16).build()
        how = TrainerConfig(max_iters=5, batch_size=4, precision=precision, eval_iters=2, compile=compile)
        losses.append([step.loss for step in Trainer(model, data, how)])
        assert not any("_orig_mod" in name for name in model.state_dict())
    assert max(abs(a - b) for a, b in zip(*losses)) < tolerance, (precision, losses)
"""


@pytest.mark.slow
def test_compiled_training_gives_the_same_losses_and_clean_names() -> None:
    # In a process of its own: the runtime type checks of these tests are what the compiler cannot read.
    run = subprocess.run([sys.executable, "-c", COMPILED], capture_output=True, text=True)
    assert run.returncode == 0, run.stderr


def test_gradients_of_several_passes_are_not_recorded(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each replay of CUDA graphs overwrites the gradients of the one before; a resumed run may bring micro-batches."""
    asked = []

    def watch(function: Callable[..., Any], *, record: bool) -> Callable[..., Any]:
        asked.append(record)
        return function

    trainer = Trainer(make_gpt(), DATA, TrainerConfig(batch_size=3, device="cpu", compile=True))
    monkeypatch.setattr("tinygpt.training.step.compile_whole", watch)
    monkeypatch.setattr(trainer._objective, "device", torch.device("cuda"))
    for accumulation in (1, 3):
        trainer._stepper.accumulation = accumulation
        trainer._objective._call(*DATA.batch("train", step=0, seed=0, batch_size=2, block_size=BLOCK))
    assert asked == [True, False]


# --- which parameters, which targets ----------------------------------------------------------------------------------


def sgd(parameters: Any) -> Callable[[nn.Module], torch.optim.Optimizer]:
    return lambda model: torch.optim.SGD(parameters(model), lr=0.5)


def last_weights(trainer: Trainer) -> Tensor:
    for _ in trainer:
        pass
    return weights(trainer)


@pytest.mark.parametrize("accumulation", [1, 3])
def test_an_optimizer_of_a_part_moves_this_part_only(accumulation: int) -> None:
    """As if the rest were frozen."""
    config = TrainerConfig(**QUICK | {"max_iters": 30, "grad_clip": 0.5, "accumulation": accumulation})
    frozen = make_gpt()
    for name, parameter in frozen.named_parameters():
        parameter.requires_grad_(name.startswith("head."))
    expected = last_weights(Trainer(frozen, DATA, config, make_optimizer=sgd(lambda model: model.head.parameters())))
    part = Trainer(make_gpt(), DATA, config, make_optimizer=sgd(lambda model: model.head.parameters()))
    left = r"in no group of the optimizer and will not move: blocks\.\*\.attention\.output\.bias, .* and \d+ more; add"
    with pytest.warns(UserWarning, match=left) as caught:
        found = last_weights(part)
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-14)
    assert len([each for each in caught if "in no group" in str(each.message)]) == 1


def test_parameters_thawed_later_are_named() -> None:
    """Until a group holds them."""
    model = make_gpt()
    model.blocks[0].requires_grad_(False)
    trainer = make_trainer(model, max_iters=9, grad_clip=0.1)
    steps = iter(trainer)
    next(steps)
    model.blocks[0].requires_grad_(True)
    with pytest.warns(UserWarning, match=r"will not move: blocks\.0\.attention.*add_param_group"):
        norms = [next(steps).grad_norm for _ in range(4)]
    assert max(norms) < 2 * min(norms)  # nothing piles up
    before = weights(trainer)
    trainer.optimizer.add_param_group({"params": list(model.blocks[0].parameters())})
    next(steps)
    assert not torch.equal(weights(trainer), before)
    assert trainer.optimizer.param_groups[-1]["initial_lr"] > 0


class Masked(TokenDataset):
    """A dataset of which only some targets count, as in question and answer, and in some rows none."""

    def _masked(self, y: Tensor) -> Tensor:
        seen = (torch.arange(y.shape[1]) >= 3) & (y[:, :1] % 3 > 0)
        return y.masked_fill(~seen.expand_as(y), -100)

    def batch(self, *arguments: Any, **named: Any) -> Any:
        x, y = super().batch(*arguments, **named)
        return x, self._masked(y)

    def windows(self, *arguments: Any, **named: Any) -> Any:
        return ((x, self._masked(y)) for x, y in super().windows(*arguments, **named))


MASKED = Masked(TEXT, TOKENIZER, val_fraction=0.2)


@pytest.mark.parametrize("accumulation", [2, 3, 4, 7])
def test_ignored_targets_weigh_nothing_however_a_batch_is_cut(accumulation: int) -> None:
    def run(accumulation: int) -> tuple[Tensor, list[float]]:
        config = TrainerConfig(**QUICK | {"batch_size": 7, "accumulation": accumulation})
        trainer = Trainer(make_gpt(), MASKED, config)
        return last_weights(trainer), trainer.history.losses

    (found, losses), (expected, wanted) = run(accumulation), run(1)
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-12)
    assert losses == pytest.approx(wanted, abs=1e-12)


@pytest.mark.parametrize("batch_size", [1, 3, 8])
def test_an_evaluation_is_the_mean_over_the_targets_that_count(batch_size: int) -> None:
    trainer = Trainer(make_gpt(), MASKED, TrainerConfig(**QUICK | {"batch_size": batch_size}))
    batches = list(MASKED.windows("val", batch_size=1, block_size=BLOCK))
    total, count = 0.0, 0
    for x, y in batches:
        if predicted := int((y != -100).sum()):
            total += float(trainer.model(x, y).loss.detach()) * predicted
            count += predicted
    assert trainer.evaluate("val").nats == pytest.approx(total / count, abs=1e-12)


def test_a_batch_without_targets_is_named_before_anything_moves() -> None:
    class Nothing(TokenDataset):
        def batch(self, *arguments: Any, **named: Any) -> Any:
            x, y = super().batch(*arguments, **named)
            return x, torch.full_like(y, -100)

    trainer = Trainer(make_gpt(), Nothing(TEXT, TOKENIZER, val_fraction=0.2), TrainerConfig(**QUICK))
    before = weights(trainer)
    with pytest.raises(DataError, match="a batch must have a target, got -100 for all 32 in step 1; use a"):
        next(iter(trainer))
    assert trainer.steps_taken == 0
    assert torch.equal(weights(trainer), before)


def test_a_split_without_targets_is_named() -> None:
    class Nothing(Masked):
        def _masked(self, y: Tensor) -> Tensor:
            return torch.full_like(y, -100)

    trainer = Trainer(make_gpt(), Nothing(TEXT, TOKENIZER, val_fraction=0.2), TrainerConfig(**QUICK))
    with pytest.raises(DataError, match="a split must have a target, got -100 for all; use a mask with more targets"):
        trainer.evaluate("val")


@pytest.mark.parametrize("mode", ["train", "eval"])
def test_another_mark_for_ignored_targets_is_refused(mode: str) -> None:
    model = make_gpt().train(mode == "train")
    idx = torch.zeros(2, 4, dtype=torch.long)
    targets = idx.clone()
    targets[1, 2] = -1
    message = r"got ids from -1 to 0, -1 at position \(1, 2\); to ignore a target use -100, e.g. targets.masked_fill"
    with pytest.raises(ShapeError, match=message):
        model(idx, targets)

    class Marked(TokenDataset):
        def batch(self, *arguments: Any, **named: Any) -> Any:
            return super().batch(*arguments, **named)._replace(y=torch.full((4, BLOCK), -1))

    trainer = Trainer(model, Marked(TEXT, TOKENIZER, val_fraction=0.2), TrainerConfig(**QUICK))
    trainer._objective._call = lambda *_: pytest.fail("called")  # as a compiled model, which checks no values
    with pytest.raises(ShapeError, match="to ignore a target use -100"):
        trainer._stepper.take(0)


def test_a_step_of_a_float64_model_reports_its_loss_in_float64() -> None:
    trainer = make_trainer()
    x, y = DATA.batch("train", step=0, batch_size=4, block_size=BLOCK)
    expected = float(trainer.model(x, y).loss.detach())
    assert next(iter(trainer)).loss == pytest.approx(expected, abs=1e-15)


def test_measuring_weights_that_are_not_finite_is_an_error() -> None:
    trainer = make_trainer()
    with torch.no_grad():
        next(trainer.model.parameters())[0, 0] = torch.nan
    for measure in (trainer.evaluate, trainer.estimate_loss):
        with pytest.raises(NonFiniteError, match="losses must be finite, got nan on the val split after step 0"):
            measure("val")


def test_fit_leaves_the_model_in_evaluation_mode() -> None:
    trainer = make_trainer(max_iters=2)
    trainer.fit(progress=False)
    assert not any(module.training for module in trainer.model.modules())


def test_a_preview_that_fails_does_not_end_a_run() -> None:
    class Holes(CharTokenizer):
        def decode(self, ids: Any) -> str:
            if len(list(ids)) > 3:
                raise KeyError("hole")
            return super().decode(ids)

    data = TokenDataset(TEXT, Holes(TOKENIZER.symbols), val_fraction=0.2)
    trainer = Trainer(make_gpt(), data, TrainerConfig(**QUICK | {"preview_tokens": 9}))
    with pytest.warns(UserWarning, match=r"there is no preview after step \d: KeyError: 'hole'"):
        history = trainer.fit(progress=False)
    assert history.last.step == 6


def test_a_model_frozen_after_the_trainer_was_made_is_an_error() -> None:
    trainer = make_trainer()
    trainer.model.requires_grad_(False)
    with pytest.raises(ConfigError, match="the optimizer must move a trainable parameter, got none"):
        next(iter(trainer))


@pytest.mark.parametrize("temperature", [1e-320, 1e-38, 1e-5])
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16, torch.float16])
def test_generating_at_next_to_no_temperature_is_greedy(temperature: float, dtype: torch.dtype) -> None:
    model = make_gpt().to(dtype)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.copy_(torch.randn_like(parameter))
    idx = torch.zeros(2, 3, dtype=torch.long)
    assert torch.equal(model.generate(idx, 12, temperature=temperature), model.generate(idx, 12, temperature=0))


def test_generating_with_spoilt_weights_is_an_error() -> None:
    model = make_gpt()
    with torch.no_grad():
        model.get_parameter("head.bias")[3] = torch.nan
    with pytest.raises(NonFiniteError, match=r"logits must have a finite maximum, got nan after 3 ids in row 0"):
        model.generate(torch.zeros(1, 3, dtype=torch.long), 5)
