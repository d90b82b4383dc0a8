"""The history of a run: it keeps what happened within bounds, and says what it means."""

from typing import Any

import pytest
import torch
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
