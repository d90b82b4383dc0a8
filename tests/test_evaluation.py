"""The loss of any model on any data is that of a trainer, and of the definition."""

import math
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from tinygpt import (
    BigramLanguageModel,
    CharTokenizer,
    GPTConfig,
    GPTLanguageModel,
    LanguageModel,
    TokenDataset,
    Trainer,
    TrainerConfig,
)
from tinygpt.errors import ConfigError, DataError, InputTypeError, NonFiniteError, TokenizerError
from tinygpt.training import evaluate

TEXT = "to be, or not to be: that is the question. " * 12
DATA = TokenDataset(TEXT)
QUICK = TrainerConfig(max_iters=2, batch_size=2, block_size=8, preview_tokens=0)


def gpt(vocab_size: int = DATA.vocab_size) -> GPTLanguageModel:
    return GPTConfig(vocab_size=vocab_size, block_size=8, n_layer=1, n_head=2, n_embd=8).build(seed=0)


def trained() -> GPTLanguageModel:
    assert isinstance(DATA.tokenizer, CharTokenizer)
    model = gpt()
    model.trained_symbols = DATA.tokenizer.symbols
    return model


class Uniform(LanguageModel):
    """Has no parameters."""

    def compute_logits(self, idx: Tensor, cache: Any = None) -> Tensor:
        return torch.zeros(*idx.shape, self.vocab_size)


def test_it_is_the_loss_that_a_trainer_measures() -> None:
    model = gpt().train()
    expected = Trainer(model, DATA, QUICK).evaluate("val")
    found = evaluate(model, DATA, block_size=8)
    assert found.nats == pytest.approx(expected.nats, abs=1e-12)
    assert model.training


def test_a_model_without_parameters_has_the_loss_of_guessing() -> None:
    assert evaluate(Uniform(DATA.vocab_size), DATA).nats == pytest.approx(math.log(DATA.vocab_size))


def test_a_text_is_read_by_the_characters_of_the_training() -> None:
    """Each token but the first is predicted once, whatever the size of the last window."""
    model = BigramLanguageModel(DATA.vocab_size)
    Trainer(model, DATA, QUICK).fit(progress=False)
    assert DATA.tokenizer is not None
    ids = torch.tensor([DATA.tokenizer.encode("not to be: to be")])
    expected = F.cross_entropy(model(ids[:, :-1]).logits[0], ids[0, 1:]).item()
    for size in (None, 1, 4, 7):
        assert evaluate(model, "not to be: to be", block_size=size).nats == pytest.approx(expected, abs=1e-12)


@pytest.mark.usefixtures("unchecked_types")
@pytest.mark.parametrize(
    ("model", "data", "error", "message"),
    [
        (gpt(), "to be", ConfigError, r"a CharTokenizer, got .* unknown; use TokenDataset\(text, tokenizer\)"),
        (gpt(3), DATA, ConfigError, f"got vocab_size={DATA.vocab_size} in the data and 3 in the model"),
        (
            gpt(),
            [0, 1],
            InputTypeError,
            r"a TokenDataset or a text, got \[0, 1\]; use TokenDataset\(ids\)",
        ),
        (trained(), "", DataError, "corpus is empty, got 0 tokens; pass a text or ids with at least 2"),
        (trained(), "t", DataError, "^a text must have at least 2 tokens to be measured, got 1; pass a longer text$"),
        (gpt(), TokenDataset([0, 1, 0]), DataError, "the val split has 1 of 3 tokens"),
    ],
)
def test_data_that_does_not_fit_is_named(model: Any, data: Any, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        evaluate(model, data)


def test_a_text_shorter_than_a_chosen_window_is_refused() -> None:
    message = "a text must have at least 9 tokens to be measured, got 5; pass a longer text or a lower block_size"
    with pytest.raises(DataError, match=message):
        evaluate(trained(), "to be", block_size=8)


def test_a_window_without_tokens_is_refused() -> None:
    with pytest.raises(ConfigError, match="block_size must be an integer of at least 1, got block_size=0"):
        evaluate(gpt(), DATA, block_size=0)


def test_an_unknown_character_and_a_loss_of_nan_are_named() -> None:
    model = gpt()
    Trainer(model, DATA, QUICK).fit(progress=False)
    with pytest.raises(TokenizerError, match="'z'"):
        evaluate(model, "buzz")
    with torch.no_grad():
        model.head.weight.fill_(math.nan)  # type: ignore[operator] # the layout has a linear head
    with pytest.raises(NonFiniteError, match="the loss must be finite, got nan on TokenDataset"):
        evaluate(model, DATA)
