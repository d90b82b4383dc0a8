"""A reading shows what the model computes, at the position that computes it, and leaves the model as it was."""

import threading
from collections.abc import Callable
from typing import Any

import faults
import numpy as np
import pytest
import torch
from builders import BLOCK, TEXT, TOKENIZER, make_gpt
from faults import broken_by
from hypothesis import given, settings
from hypothesis import strategies as st
from strategies import randomised
from torch import Tensor, nn

from tinygpt import BigramLanguageModel, CharTokenizer, GPTLanguageModel, LanguageModel, Sampler
from tinygpt.errors import ConfigError, DataError, InputTypeError, NonFiniteError, TokenizerError
from tinygpt.layers import DecoderBlock, FeedForward, Head
from tinygpt.models.config import Layout
from tinygpt.views import Reading, read

LAYOUTS = ("notebook", "gpt2", "modern")


class Bytes:
    """A tokenizer whose ids are the bytes of UTF-8: most characters have several."""

    vocab_size = 256

    def encode(self, text: str) -> list[int]:
        return list(text.encode())

    def decode(self, ids: list[int]) -> str:
        return bytes(ids).decode("utf-8", "replace")


def varied(layout: Layout = "notebook", **sizes: Any) -> GPTLanguageModel:
    model = make_gpt(layout, **sizes)
    randomised(model)
    return model


def of_blocks(*attentions: nn.Module, width: int = 8) -> GPTLanguageModel:
    blocks = [DecoderBlock(width, attention=each, feed_forward=FeedForward(width)) for each in attentions]
    return GPTLanguageModel(TOKENIZER.vocab_size, block_size=BLOCK, n_embd=width, blocks=blocks)


def read_text(model: LanguageModel, length: int = BLOCK, **options: Any) -> Reading:
    return read(model, TOKENIZER, TEXT[:length], **options)


# --- surprise and guesses ---------------------------------------------------------------------------------------------


MODELS = [
    *(pytest.param(lambda layout=layout: varied(layout), id=layout) for layout in LAYOUTS),
    pytest.param(lambda: BigramLanguageModel(TOKENIZER.vocab_size), id="bigram"),
]


@broken_by(faults.read_in_other_windows, only="notebook")
@pytest.mark.parametrize("make", MODELS)
@settings(max_examples=15)
@given(length=st.integers(1, 3 * BLOCK), stride=st.sampled_from([None, 3]))
def test_surprise_is_the_score_of_the_sampler(make: Callable[[], LanguageModel], length: int, stride: Any) -> None:
    model = make()
    score = Sampler(model, TOKENIZER, stride=stride).score(TEXT[:length])
    reading = read_text(model, length, stride=stride)
    assert np.array_equal(reading.bits, -score.numpy() / np.log(2))
    assert reading.bits_per_character == pytest.approx(reading.bits.mean(), abs=1e-12)


def test_guesses_are_the_likeliest_ids() -> None:
    model = varied()
    probabilities = model(torch.tensor([[0, *TOKENIZER.encode(TEXT[: BLOCK - 1])]])).logits[0].softmax(-1)
    reading = read_text(model, top_k=3)
    for row, guesses in zip(probabilities, reading.top, strict=True):
        values, ids = row.topk(3)
        assert [id for id, _, _ in guesses] == ids.tolist()
        assert [piece for _, piece, _ in guesses] == [TOKENIZER.symbols[id] for id in ids]
        np.testing.assert_allclose([p for _, _, p in guesses], values.detach(), rtol=0, atol=1e-12)


def test_of_equal_guesses_the_lower_ids_come_first() -> None:
    model = BigramLanguageModel(3)
    nn.init.zeros_(model.table.weight)
    assert [[id for id, _, _ in guesses] for guesses in read(model, CharTokenizer("abc"), "ab", top_k=2).top] == [
        [0, 1],
        [0, 1],
    ]
    assert [len(guesses) for guesses in read(model, CharTokenizer("abc"), "a").top] == [3]


@broken_by(faults.text_of_each_id_alone)
@given(text=st.text(st.sampled_from("aé€𝄞 \n\ufffd"), min_size=1, max_size=9))
def test_pieces_of_a_byte_tokenizer_join_to_the_text(text: str) -> None:
    """Those of half a character are empty, but for U+FFFD, which also stands for one."""
    reading = read(BigramLanguageModel(256), Bytes(), text, top_k=1)
    assert reading.text == text
    assert len(reading.pieces) == len(text.encode())
    if "\ufffd" not in text:
        assert [piece for piece in reading.pieces if piece] == list(text)


# --- attention and the logit lens -------------------------------------------------------------------------------------


class Backward(nn.Module):
    """An attention of somebody else that reads the position before, and says so."""

    def weights(self, x: Tensor) -> Tensor:
        return torch.eye(x.shape[1]).roll(-1, dims=1).tril()[None]

    def forward(self, x: Tensor) -> Tensor:
        return Backward.weights(self, x) @ x


class Silent(Backward):
    weights = None  # type: ignore[assignment] # it does not say


@broken_by(faults.rows_of_attention_shifted)
def test_a_row_is_that_of_the_position_that_predicts() -> None:
    """Row 3 predicts token 3: it reads token 1, in column 2, if its attention reads one position back."""
    (name, heads), *others = read_text(of_blocks(Backward())).attention.items()
    assert (name, others, heads.shape) == ("blocks.0.attention", [], (1, BLOCK, BLOCK))
    assert heads[0, 3].tolist() == [0, 0, 1, 0, 0, 0, 0, 0]


@pytest.mark.parametrize("layout", LAYOUTS)
def test_attention_is_that_of_each_module_on_its_input(layout: Layout) -> None:
    model = varied(layout).eval()
    reading = read_text(model)
    idx = torch.tensor([[0, *TOKENIZER.encode(TEXT[: BLOCK - 1])]])
    x = model.token_embedding(idx) if model.positions is None else model.positions(model.token_embedding(idx))
    for layer, block in enumerate(model.blocks):
        expected = block.attention.weights(block.attention_norm(x))[0].detach()  # type: ignore[operator, union-attr]
        np.testing.assert_array_equal(reading.attention[f"blocks.{layer}.attention"], expected)
        x = block(x)


def test_attentions_that_say_nothing_leave_a_gap() -> None:
    assert [*read_text(of_blocks(Silent(), Backward())).attention] == ["blocks.1.attention"]
    assert read_text(BigramLanguageModel(TOKENIZER.vocab_size)).attention == {}


def test_a_module_that_is_called_twice_has_two_entries() -> None:
    class Twice(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.head = Head(8, head_size=8)

        def forward(self, x: Tensor) -> Tensor:
            return self.head(self.head(x=x))

    names = [f"blocks.0.attention.head, call {number}" for number in (1, 2)]
    assert [*read_text(of_blocks(Twice())).attention] == names


def test_a_text_longer_than_a_window_has_no_attention() -> None:
    assert len(read_text(varied(), BLOCK).attention) == 2
    assert read_text(varied(), BLOCK + 1).attention == {}


@broken_by(faults.lens_without_the_norm, only="notebook")
@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("length", [1, BLOCK, 3 * BLOCK])
def test_the_last_row_of_the_lens_is_the_prediction(layout: Layout, length: int) -> None:
    reading = read_text(varied(layout), length)
    assert reading.lens is not None
    assert reading.lens.shape == (3, length)
    np.testing.assert_allclose(reading.lens[-1], 2**-reading.bits, rtol=0, atol=1e-12)


def test_the_lens_reads_the_stream_after_each_block() -> None:
    model = varied().eval()
    idx = torch.tensor([[0, *TOKENIZER.encode(TEXT[: BLOCK - 1])]])
    assert model.positions is not None
    x = model.positions(model.token_embedding(idx))
    lens = read_text(model).lens
    assert lens is not None
    for row, block in zip(lens, [*model.blocks, nn.Identity()], strict=True):
        expected = (
            model.head(model.norm(x))[0].softmax(-1).gather(1, torch.tensor(TOKENIZER.encode(TEXT[:BLOCK]))[:, None])
        )
        np.testing.assert_allclose(row, expected[:, 0].detach(), rtol=0, atol=1e-12)
        x = block(x)


def test_a_model_of_other_parts_has_no_lens() -> None:
    class Biased(GPTLanguageModel):
        def compute_logits(self, idx: Tensor, cache: Any = None) -> Tensor:
            return super().compute_logits(idx, cache) + torch.arange(self.vocab_size)

    model = varied()
    model.__class__ = Biased
    assert read_text(model).lens is None
    assert read_text(BigramLanguageModel(TOKENIZER.vocab_size)).lens is None


# --- nothing is left behind -------------------------------------------------------------------------------------------


def state_of(model: nn.Module) -> list[Any]:
    hooks = [(len(module._forward_pre_hooks), module.training) for module in model.modules()]
    return [hooks, torch.get_rng_state().tolist(), [p.requires_grad for p in model.parameters()]]


@broken_by(faults.hooks_left_behind, faults.read_in_training_mode)
def test_a_reading_leaves_the_model_as_it_was() -> None:
    model = make_gpt(dropout=0.5).train()
    model.blocks[0].eval()
    before = state_of(model)
    first, again = read_text(model, BLOCK), read_text(model, BLOCK)
    assert np.array_equal(first.bits, again.bits)
    assert state_of(model) == before


def test_other_threads_do_not_disturb_a_reading() -> None:
    """They may write with the model, or read other texts."""
    model = make_gpt()
    sampler, alone = Sampler(model, TOKENIZER), read(model, TOKENIZER, "fox dog")
    written = sampler.generate("the ", max_new_tokens=4, seed=1)
    done, slips = threading.Event(), list[str]()

    def disturb(work: Callable[[], object]) -> None:
        while not done.is_set():
            try:
                work()
            except Exception as error:
                slips.append(repr(error))

    def write() -> None:
        assert sampler.generate("the ", max_new_tokens=4, seed=1) == written

    others = [threading.Thread(target=disturb, args=[work]) for work in (write, lambda: read(model, TOKENIZER, "lazy"))]
    for each in others:
        each.start()
    for _ in range(40):
        found = read(model, TOKENIZER, "fox dog")
        assert found.attention.keys() == alone.attention.keys()
        assert found.lens is not None
        np.testing.assert_array_equal(found.lens, alone.lens)
    done.set()
    for each in others:
        each.join()
    assert slips == []


@broken_by(faults.hooks_left_behind)
def test_an_error_leaves_the_model_as_it_was() -> None:
    model = make_gpt().train()
    nn.init.constant_(next(model.head.parameters()), float("nan"))
    before = state_of(model)
    with pytest.raises(NonFiniteError):
        read_text(model)
    assert state_of(model) == before


@pytest.mark.usefixtures("unchecked_types")
@pytest.mark.parametrize(
    ("text", "options", "error", "message"),
    [
        ("", {}, DataError, "text must have at least one token, got ''"),
        (7, {}, InputTypeError, "text must be a str, got int"),
        ("ä", {}, TokenizerError, "text has 'ä'"),
        ("the", {"top_k": 0}, ConfigError, "top_k must be an integer of at least 1, got top_k=0"),
        ("the", {"stride": 0}, ConfigError, "stride must be an integer from 1 to 8, got stride=0"),
        ("the", {"topk": 3}, InputTypeError, "read has no argument 'topk'; did you mean 'top_k'?"),
    ],
)
def test_arguments_are_checked(text: Any, options: Any, error: Any, message: str) -> None:
    with pytest.raises(error) as caught:
        read(make_gpt(), TOKENIZER, text, **options)
    assert message in str(caught.value)


def test_a_reading_prints_in_one_line() -> None:
    reading = read_text(make_gpt("modern"))
    assert repr(reading) == f"Reading(8 tokens, {reading.bits_per_character:.3f} bits per character, 4 heads)"
