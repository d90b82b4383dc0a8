"""A model for more ids or a shorter window: the old weights and logits stay."""

import math
from pathlib import Path
from typing import Any

import faults
import pytest
import torch
from builders import BLOCK, DATA, TEXT, TOKENIZER, make_gpt
from faults import broken_by
from strategies import randomised
from torch import nn

import tinygpt
from tinygpt import (
    BigramLanguageModel,
    CharTokenizer,
    GPTLanguageModel,
    LanguageModel,
    Sampler,
    TokenDataset,
    Trainer,
    TrainerConfig,
)
from tinygpt.errors import ConfigError, InputTypeError, TokenizerError
from tinygpt.layers import DecoderBlock, FeedForward, MultiHeadAttention
from tinygpt.models import resized
from tinygpt.models.config import LAYOUTS, Layout
from tinygpt.views import read

OLD = DATA.vocab_size
NEW = OLD + 3
every_kind = pytest.mark.parametrize("kind", [*LAYOUTS, "bigram"])


def make(kind: str) -> LanguageModel:
    model = BigramLanguageModel(OLD) if kind == "bigram" else make_gpt(kind)  # type: ignore[arg-type] # is a layout
    randomised(model)
    return model.eval()


@broken_by(faults.new_ids_start_at_zero, only="gpt2")
@every_kind
def test_old_weights_and_logits_stay(kind: str, tmp_path: Path) -> None:
    """Through a file as well; the logit of a new id is the mean of the old ones."""
    model = make(kind)
    larger = resized(model, vocab_size=NEW)
    tinygpt.save(tmp_path / "model", larger)
    loaded, _ = tinygpt.load(tmp_path / "model")
    old, new = dict(model.named_parameters()), dict(larger.named_parameters())
    assert old.keys() == new.keys()
    for name, weights in old.items():
        assert torch.equal(new[name][tuple(slice(size) for size in weights.shape)], weights), name
        assert torch.equal(loaded.get_parameter(name), new[name])
    idx = torch.arange(OLD)[None, :BLOCK]
    before, after = model(idx).logits, loaded(idx).logits
    assert (before - after[..., :OLD]).abs().max() <= 1e-12
    if kind != "modern":  # whose cap is not linear
        torch.testing.assert_close(after[..., OLD], before.mean(-1), rtol=0, atol=1e-12)
    unlike = loaded(torch.full((1, 1), NEW - 1)).logits, loaded(torch.zeros(1, 1).long()).logits
    assert unlike[0].isfinite().all()
    assert not torch.equal(*unlike)


@pytest.mark.parametrize("layout", LAYOUTS)
def test_a_shorter_window_keeps_its_logits(layout: Layout) -> None:
    model = make(layout)
    shorter = resized(model, block_size=3)
    assert shorter.block_size == 3
    idx = torch.arange(3)[None]
    assert torch.equal(shorter(idx).logits, model(idx).logits)
    assert resized(model).state_dict().keys() == model.state_dict().keys()


def test_a_longer_window_needs_no_learned_positions() -> None:
    model = make("modern")
    longer = resized(model, block_size=2 * BLOCK)
    idx = torch.arange(BLOCK)[None]
    assert torch.equal(longer(idx).logits, model(idx).logits)
    assert longer(torch.zeros(1, 2 * BLOCK).long()).logits.isfinite().all()
    message = f"must be at most {BLOCK}, the number of learned positions, got block_size={BLOCK + 1}; build a larger"
    with pytest.raises(ConfigError, match=message) as caught:
        resized(make("gpt2"), block_size=BLOCK + 1)
    assert len(str(caught.value)) <= 300


def test_a_resized_model_is_a_copy() -> None:
    """With the dtype and the mode of the old one; tied weights stay tied."""
    model = make("gpt2").float().train()
    before = {name: weights.clone() for name, weights in model.state_dict().items()}
    larger = resized(model, vocab_size=NEW)
    assert larger.training
    assert next(larger.parameters()).dtype == torch.float32
    assert larger.get_parameter("head.weight") is larger.get_parameter("token_embedding.weight")
    nn.init.zeros_(larger.get_parameter("head.weight"))
    nn.init.zeros_(larger.get_parameter("norm.weight"))
    assert all(torch.equal(weights, before[name]) for name, weights in model.state_dict().items())


@every_kind
def test_a_resized_model_learns_new_symbols(kind: str, tmp_path: Path) -> None:
    """It knows the symbols of the old ids, and refuses others for them."""
    model = make(kind)
    settings = TrainerConfig(max_iters=2, batch_size=2, preview_tokens=0, block_size=None if kind != "bigram" else 4)
    Trainer(model, DATA, settings).fit(progress=False)
    larger = resized(model, vocab_size=NEW)
    extended = CharTokenizer([*TOKENIZER.symbols, *"ÄÖÜ"])
    with pytest.raises(TokenizerError, match=f"got 'Ä' as id 0, where the model learnt '{TOKENIZER.symbols[0]}'"):
        Sampler(larger, CharTokenizer([*"ÄÖÜ", *TOKENIZER.symbols]))
    Trainer(larger, TokenDataset(TEXT + "ÄÖÜ" * 20, extended), settings).fit(progress=False)
    assert larger.trained_symbols == extended.symbols
    Sampler(larger, extended).save(tmp_path / "model")
    assert len(Sampler.load(tmp_path / "model")("ÄÖ", max_new_tokens=9)) == 11


def test_a_padded_model_trains_and_writes(tmp_path: Path) -> None:
    """It has more ids than the tokenizer, as GPT-2's models often do."""
    model = make_gpt(vocab_size=64)
    trainer = Trainer(model, DATA, TrainerConfig(max_iters=2, batch_size=2, preview_tokens=5), run_dir=tmp_path)
    trainer.fit(progress=False)
    again = Sampler.load(tmp_path / "best.safetensors")
    text = again("the", max_new_tokens=100, temperature=9.0, seed=1)
    assert set(text) <= set(TOKENIZER.symbols)
    assert again.score(text).isfinite().all()
    reading = read(again.model, TOKENIZER, "the fox")
    assert reading.lens is not None
    torch.testing.assert_close(torch.tensor(reading.bits) * -math.log(2), again.score("the fox"), rtol=0, atol=1e-10)


def make_composed() -> GPTLanguageModel:
    blocks = [DecoderBlock(8, attention=MultiHeadAttention(8, n_head=2), feed_forward=FeedForward(8))]
    return GPTLanguageModel(OLD, block_size=BLOCK, n_embd=8, blocks=blocks)


def make_changed() -> GPTLanguageModel:
    model = make_gpt()
    model.norm = nn.Identity()
    return model


@pytest.mark.usefixtures("unchecked_types")
@pytest.mark.parametrize(
    ("call", "kind", "message"),
    [
        (lambda: resized(make_composed(), vocab_size=NEW), InputTypeError, "got a GPTLanguageModel composed"),
        (lambda: resized(make_changed(), vocab_size=NEW), InputTypeError, "GPTLanguageModel composed or changed"),
        (lambda: resized(make("gpt2"), vocab_size=OLD - 1), ConfigError, f"at least {OLD}, got vocab_size={OLD - 1}"),
        (lambda: resized(make("gpt2"), block_size=0), ConfigError, "of at least 1, got block_size=0"),
        (lambda: resized(make("bigram"), block_size=4), ConfigError, "must be None for a model that reads any length"),
        (lambda: resized("gpt2"), InputTypeError, "model must be a LanguageModel, got 'gpt2'; load the file first"),  # type: ignore[call-overload]
        (lambda: resized(make("gpt2"), n_ctx=4), InputTypeError, "no argument 'n_ctx'; did you mean 'block_size'"),  # type: ignore[call-overload]
    ],
)
def test_a_size_that_does_not_fit_is_named(call: Any, kind: type[Exception], message: str) -> None:
    with pytest.raises(kind, match=message) as caught:
        call()
    assert len(str(caught.value)) <= 300
