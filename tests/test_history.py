"""The history of a run: it keeps what happened within bounds, and says what it means."""

import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from quick import plays

from tinygpt import (
    BigramLanguageModel,
    CharTokenizer,
    Evaluation,
    GPTConfig,
    GPTLanguageModel,
    History,
    TokenDataset,
    Trainer,
    TrainerConfig,
)
from tinygpt.training import history as history_module
from tinygpt.training.state import pack_history, unpack_history

TEXT = plays()
DATA = TokenDataset(TEXT, CharTokenizer.from_text(TEXT))


def make_gpt(data: TokenDataset = DATA, layout: str = "notebook", **changes: Any) -> GPTLanguageModel:
    torch.manual_seed(1)
    sizes: dict[str, Any] = {"block_size": 16, "n_layer": 1, "n_head": 2, "n_embd": 32, "dropout": 0.0} | changes
    return GPTLanguageModel.from_config(GPTConfig(vocab_size=data.vocab_size, layout=layout, **sizes))


def run(model: Any = None, data: TokenDataset = DATA, **changes: Any) -> History:
    """Train on the CPU for a second or two."""
    settings: dict[str, Any] = {
        "max_iters": 150,
        "batch_size": 16,
        "eval_interval": 15,
        "eval_iters": 5,
        "sample_length": 0,
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
        assert sum(tensor.numel() for tensor in tensors.values()) <= 8 + history.steps_per_loss


def test_a_resumed_run_has_the_losses_of_one_that_was_not_stopped(most: int, tmp_path: Path) -> None:
    def trainer(directory: Path | None) -> Trainer:
        config = TrainerConfig(max_iters=25, batch_size=2, eval_interval=11, save_interval=9, sample_length=0)
        torch.manual_seed(1)
        return Trainer(BigramLanguageModel(DATA.vocab_size, block_size=4), DATA, config, run_dir=directory)

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
    with pytest.raises(ValueError, match="a run of 4 steps has 4 losses, got 3"):
        unpack_history(tensors, evaluations, 4)


# --- patience ---------------------------------------------------------------------------------------------------------


def test_steps_without_an_evaluation_do_not_look_for_the_best(monkeypatch: pytest.MonkeyPatch) -> None:
    looked = 0

    def best(self: History) -> Evaluation:
        nonlocal looked
        looked += 1
        return min(self.evaluations, key=lambda evaluation: evaluation.val_loss)

    monkeypatch.setattr(History, "best", property(best))
    config = TrainerConfig(max_iters=40, batch_size=2, eval_interval=20, patience=3, sample_length=0)
    for _ in Trainer(BigramLanguageModel(DATA.vocab_size, block_size=4), DATA, config):
        pass
    assert looked < 10
