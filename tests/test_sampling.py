"""Drawing: the filters keep what they say, and the sampler writes what the definition would."""

import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import faults
import numpy as np
import pytest
import torch
from faults import broken_by
from hypothesis import given, settings
from hypothesis import strategies as st
from strategies import TOLERANCE, randomised
from torch import Tensor, nn
from torch.nn import functional as F

import tinygpt
from tinygpt import BigramLanguageModel, CharTokenizer, GPTConfig, GPTLanguageModel, LanguageModel, Sampler
from tinygpt.errors import (
    CheckpointMismatchError,
    ConfigError,
    InputTypeError,
    NonFiniteError,
    TinyGPTError,
    TokenizerError,
)
from tinygpt.layers import DecoderBlock, FeedForward, MultiHeadAttention, ShortConvolution
from tinygpt.models.config import Layout
from tinygpt.randomness import uniforms
from tinygpt.sampling import draw, forbid, keep_min_p, keep_top_k, keep_top_p
from tinygpt.sampling.filters import filter_logits

BLOCK = 6
LETTERS = CharTokenizer("abcdefg")
VOCAB = LETTERS.vocab_size
SEEDS = st.integers(0, 2**64 - 1)
TEXTS = st.text("abcdefg", max_size=2 * BLOCK)
LOGITS = st.lists(st.integers(-6, 6), min_size=1, max_size=12).map(lambda row: torch.tensor(row, dtype=torch.float64))


class CachelessAttention(nn.Module):
    """A user's own mixing of positions, which knows nothing of caches: the mean of what came before."""

    def forward(self, x: Tensor) -> Tensor:
        return x.cumsum(dim=1) / torch.arange(1, x.shape[1] + 1).view(1, -1, 1)


def make_gpt(layout: Layout = "notebook", seed: int = 0) -> LanguageModel:
    config = GPTConfig(vocab_size=VOCAB, block_size=BLOCK, n_layer=2, n_head=2, n_embd=8, dropout=0.3, layout=layout)
    model = config.build()
    randomised(model, seed)
    return model.eval()


def make_cacheless() -> LanguageModel:
    blocks = [DecoderBlock(8, attention=CachelessAttention(), feed_forward=FeedForward(8)) for _ in range(2)]
    model = GPTLanguageModel(VOCAB, block_size=BLOCK, n_embd=8, blocks=blocks)
    randomised(model)
    return model.eval()


def make_bigram() -> LanguageModel:
    model = BigramLanguageModel(VOCAB)
    randomised(model, std=1.0)
    return model.eval()


def make_with_unseen_cache() -> LanguageModel:
    """Return a model whose embedding looks back, in a container that knows nothing of caches."""
    table = nn.Sequential(nn.Embedding(VOCAB, 8), ShortConvolution(8, width=3))
    blocks = [DecoderBlock(8, attention=MultiHeadAttention(8, n_head=2), feed_forward=FeedForward(8))]
    model = GPTLanguageModel(VOCAB, block_size=BLOCK, n_embd=8, blocks=blocks, token_embedding=table)
    randomised(model)
    return model.eval()


MODELS = {
    "notebook": make_gpt(),
    "gpt2": make_gpt("gpt2"),
    "modern": make_gpt("modern"),
    "own blocks": make_cacheless(),
    "own embedding": make_with_unseen_cache(),
    "bigram": make_bigram(),
}
few = settings(max_examples=6)  # each example writes a text, for each of six models
every_model = pytest.mark.parametrize("model", MODELS.values(), ids=MODELS.keys())


@pytest.fixture(autouse=True, scope="module")
def _in_float64() -> None:
    for model in MODELS.values():
        model.double()


def ids_of(text: str) -> Tensor:
    return torch.tensor([LETTERS.encode(text)])


# --- the filters ------------------------------------------------------------------------------------------------------


def kept(logits: Tensor) -> set[int]:
    return set(torch.isfinite(logits).nonzero().flatten().tolist())


def smallest_nucleus(logits: Tensor, p: float) -> set[int]:
    """Return the ids that top-p keeps, by adding them up one at a time."""
    order = sorted(range(len(logits)), key=lambda i: (-float(logits[i]), i))
    probabilities = logits.softmax(-1).tolist()
    mass = 0.0
    ids: set[int] = set()
    for i in order:
        if mass >= p - 1e-12 and ids:
            break
        ids.add(i)
        mass += probabilities[i]
    return ids


@broken_by(faults.ties_kept)
@given(logits=LOGITS, k=st.integers(1, 15))
def test_top_k_keeps_exactly_k_also_among_equals(logits: Tensor, k: int) -> None:
    assert len(kept(keep_top_k(logits, k))) == min(k, len(logits))
    by_rank = sorted(range(len(logits)), key=lambda i: (-float(logits[i]), i))
    assert kept(keep_top_k(logits, k)) == set(by_rank[:k])


@broken_by(faults.crossing_dropped)
@given(logits=LOGITS, p=st.sampled_from([0.05, 0.3, 0.51, 0.77, 0.9, 0.99]))
def test_top_p_keeps_the_smallest_set_that_reaches_p(logits: Tensor, p: float) -> None:
    assert kept(keep_top_p(logits, p)) == smallest_nucleus(logits, p)


@given(logits=LOGITS, p=st.floats(0.01, 1), q=st.floats(0.01, 1))
def test_top_p_grows_with_p_and_keeps_all_at_one(logits: Tensor, p: float, q: float) -> None:
    smaller, larger = (kept(keep_top_p(logits, bound)) for bound in sorted((p, q)))
    assert smaller
    assert smaller <= larger
    assert len(kept(keep_top_p(logits, 1.0))) == len(logits)


@given(logits=LOGITS, p=st.floats(0, 1))
def test_min_p_keeps_what_is_near_the_likeliest(logits: Tensor, p: float) -> None:
    probabilities = logits.softmax(-1)
    expected = {i for i, q in enumerate(probabilities.tolist()) if q >= p * float(probabilities.max())}
    assert kept(keep_min_p(logits, p)) == expected


@pytest.mark.parametrize(
    "keep", [lambda x: keep_top_k(x, 3), lambda x: keep_top_p(x, 0.5), lambda x: keep_min_p(x, 0.4)]
)
@pytest.mark.parametrize("leading", [(), (1,), (4,), (2, 3), (2, 1, 3)])
def test_filters_take_every_leading_shape(keep: Any, leading: tuple[int, ...]) -> None:
    logits = torch.randn(*leading, VOCAB)
    rows = logits.reshape(-1, VOCAB)
    expected = torch.stack([keep(row) for row in rows]).reshape(logits.shape)
    assert torch.equal(keep(logits), expected)
    assert draw(logits, torch.rand(leading)).shape == leading


@given(logits=LOGITS, shift=st.integers(-500, 500), uniform=st.floats(0, 1, exclude_max=True))
def test_draw_ignores_a_constant_and_never_takes_the_impossible(logits: Tensor, shift: int, uniform: float) -> None:
    number = torch.tensor(uniform)
    allowed = keep_top_k(logits, 2)
    assert int(draw(allowed, number)) in kept(allowed)
    assert torch.equal(draw(logits, number), draw(logits + shift, number))
    assert int(draw(allowed, torch.tensor(1 - 2**-53))) in kept(allowed)


def at_temperature(temperature: float, logits: Tensor) -> Tensor:
    return filter_logits(logits, temperature=temperature, top_k=None, top_p=None, min_p=None)


@broken_by(faults.temperature_multiplied)
def test_temperature_sharpens_as_a_power_of_the_probabilities() -> None:
    logits = torch.randn(1, VOCAB)
    entropies = []
    for temperature in (0.3, 0.7, 1.0, 1.6, 3.0):
        found = at_temperature(temperature, logits).softmax(-1)
        power = logits.softmax(-1) ** (1 / temperature)
        torch.testing.assert_close(found, power / power.sum(), rtol=0, atol=1e-12)
        entropies.append(float(-(found * found.log()).sum()))
    assert entropies == sorted(entropies)
    assert torch.isfinite(at_temperature(1e-300, logits).softmax(-1)).all()


def p_value(counts: Tensor, probabilities: Tensor) -> float:
    """Return how likely counts at least this far from the expected ones are, by chi-square."""
    expected = probabilities * counts.sum()
    statistic = ((counts - expected) ** 2 / expected).sum()
    return float(torch.special.gammaincc(torch.tensor((len(counts) - 1) / 2), statistic / 2))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32])
@pytest.mark.parametrize("leading", [(), (4,), (2, 3)])
@pytest.mark.parametrize(
    ("keep", "option"),
    [(keep_top_k, 50), (keep_top_p, 0.5), (keep_top_p, 0.9), (keep_top_p, 0.999), (keep_min_p, 0.05)],
)
def test_every_dtype_keeps_and_draws_the_tokens_of_float64(
    dtype: torch.dtype, leading: tuple[int, ...], keep: Any, option: float
) -> None:
    generator = torch.Generator().manual_seed(0)
    for _ in range(5):
        logits = (2 * torch.randn(*leading, 3000, generator=generator)).to(dtype)
        kept = keep(logits, option)
        assert kept.dtype == dtype
        assert torch.equal(kept.isfinite(), keep(logits.double(), option).isfinite())
        assert torch.equal(kept[kept.isfinite()], logits[kept.isfinite()])
        uniform = torch.rand(leading, generator=generator).to(dtype).clamp(max=0.99)
        drawn = draw(logits, uniform)
        assert torch.equal(drawn, draw(logits.double(), uniform.double()))
        assert drawn.shape == leading


@broken_by(faults.last_id_out_of_reach)
def test_draws_have_the_probabilities_of_the_model() -> None:
    """A bigram's next id after one prompt, over 3,000 seeds; a temperature a quarter off is noticed."""
    model = MODELS["bigram"]
    logits = model(ids_of("c")).logits[0, -1].detach()
    texts = Sampler(model, LETTERS).generate(["c"] * 3_000, max_new_tokens=1, seed=0)
    counts = torch.bincount(ids_of("".join(text[-1] for text in texts))[0], minlength=VOCAB).double()
    assert p_value(counts, logits.softmax(-1)) > 1e-4
    assert p_value(counts, (logits / 1.25).softmax(-1)) < 1e-6


# --- the sampler beside the definition --------------------------------------------------------------------------------


@broken_by(faults.cache_read_at_its_first_position, only="notebook")
@every_model
@few
@given(prompt=st.text("abcdefg", min_size=1, max_size=2 * BLOCK))
def test_greedy_ids_are_those_of_generate_past_the_block_size(model: LanguageModel, prompt: str) -> None:
    count = 4 * BLOCK
    expected = model.generate(ids_of(prompt), count, temperature=0)
    written = Sampler(model, LETTERS, stride=1).generate(prompt, max_new_tokens=count, temperature=0)
    assert written == LETTERS.decode(expected[0])


@broken_by(faults.window_rolled, faults.offset_forgotten, only=("notebook", "ab"))
@every_model
@pytest.mark.parametrize("text", ["ab", "abcdefgabc"])
def test_every_step_sees_the_logits_of_its_window(text: str, model: LanguageModel) -> None:
    seen: list[Tensor] = []

    def watch(logits: Tensor, chances: Tensor) -> Tensor:
        seen.append(logits)
        return draw(logits, chances)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("tinygpt.sampling.sampler.draw", watch)
        whole = Sampler(model, LETTERS, stride=1)(text, max_new_tokens=4 * BLOCK, seed=0)
    ids = ids_of(whole)
    for length, logits in enumerate(seen, start=len(text)):
        expected = model(ids[:, max(0, length - BLOCK) : length]).logits[:, -1]
        torch.testing.assert_close(logits, expected, **TOLERANCE)


@every_model
@pytest.mark.parametrize("stride", [1, 2, 4, BLOCK])
def test_score_is_the_log_probability_of_the_sampler(model: LanguageModel, stride: int) -> None:
    text = "abcdefgfedcbaabbccddeeffgg"
    writer = Sampler(model, LETTERS, stride=stride)
    ids = torch.tensor([[0, *LETTERS.encode(text)]])
    expected = []
    for length in range(1, ids.shape[1]):
        start = -(-max(0, length - BLOCK) // stride) * stride
        logits = model(ids[:, start:length]).logits[0, -1]
        expected.append(logits.log_softmax(-1)[ids[0, length]])
    torch.testing.assert_close(writer.score(text), torch.stack(expected).detach(), **TOLERANCE)
    assert writer.score("").shape == (0,)


@every_model
@few
@given(prompts=st.lists(TEXTS, min_size=1, max_size=4), seed=SEEDS, count=st.integers(0, 2 * BLOCK))
def test_prompts_of_unequal_lengths_are_written_as_if_alone(
    model: LanguageModel, prompts: list[str], seed: int, count: int
) -> None:
    writer = Sampler(model, LETTERS)
    seeds = [(seed + row) % 2**64 for row in range(len(prompts))]
    together = writer.generate(prompts, max_new_tokens=count, seed=seeds)
    assert together == [
        writer.generate(text, max_new_tokens=count, seed=own) for text, own in zip(prompts, seeds, strict=True)
    ]
    assert [len(text) for text in together] == [len(prompt) + count for prompt in prompts]


@broken_by(faults.one_stream_for_all_rows)
def test_a_row_does_not_depend_on_its_company() -> None:
    """A row is the same in any company and after any other use of randomness."""
    writer = Sampler(MODELS["notebook"], LETTERS)
    alone = writer.generate("abc", max_new_tokens=3 * BLOCK, seed=5)
    torch.rand(7)
    assert writer.generate(["g", "abc", "abcdefgabcdefg"], max_new_tokens=3 * BLOCK, seed=[9, 5, 1])[1] == alone


@broken_by(faults.counted_from_the_start_of_each_call, faults.one_stream_for_all_rows)
def test_a_continued_text_is_the_uninterrupted_one() -> None:
    """A text that stops and goes on is the text that never stopped."""
    writer = Sampler(MODELS["modern"], LETTERS)
    first = writer.generate("abc", max_new_tokens=11, seed=3)
    assert writer.generate(first, max_new_tokens=13, seed=3) == writer.generate("abc", max_new_tokens=24, seed=3)


def test_one_seed_gives_the_first_row_what_it_gives_one_text() -> None:
    writer = Sampler(MODELS["notebook"], LETTERS)
    first, second = writer.generate(["ab", "ab"], max_new_tokens=20, seed=4)
    assert first == writer.generate("ab", max_new_tokens=20, seed=4)
    assert first != second


def test_texts_without_a_seed_differ_and_can_be_repeated() -> None:
    writer = Sampler(MODELS["bigram"], LETTERS)
    assert writer.last_seed is None
    seeds: set[int | None] = set()
    for write in (writer, lambda text, **options: text + "".join(writer.stream(text, **options))):
        for _ in range(2):
            text = write("ab", max_new_tokens=40)
            assert writer("ab", max_new_tokens=40, seed=writer.last_seed) == text
            assert f"last_seed={writer.last_seed}" in repr(writer)
            seeds.add(writer.last_seed)
    texts = writer.generate(["ab", "ab"], max_new_tokens=40)
    assert writer.generate(["ab", "ab"], max_new_tokens=40, seed=writer.last_seed) == texts
    assert len(seeds | {writer.last_seed}) == 5


def test_a_call_is_generate_with_200_tokens() -> None:
    writer = Sampler(MODELS["bigram"], LETTERS)
    assert len(writer("ab")) == len(writer.generate("ab")) == 202
    assert writer(["a", "b"], temperature=0) == writer.generate(["a", "b"], temperature=0)
    assert len(list(writer.stream("ab"))) == 200


# --- options ----------------------------------------------------------------------------------------------------------


@every_model
def test_temperature_zero_top_k_one_and_a_cold_draw_agree(model: LanguageModel) -> None:
    writer = Sampler(model, LETTERS)
    greedy = writer.generate("ab", max_new_tokens=20, temperature=0)
    assert writer.generate("ab", max_new_tokens=20, top_k=1, seed=8) == greedy
    assert writer.generate("ab", max_new_tokens=20, temperature=1e-9, seed=8) == greedy
    everything = writer.generate("ab", max_new_tokens=20, top_k=VOCAB + 5, top_p=1.0, min_p=0.0, seed=8)
    assert everything == writer.generate("ab", max_new_tokens=20, seed=8)


def test_of_equal_logits_the_lowest_id_is_taken() -> None:
    flat = BigramLanguageModel(VOCAB)
    nn.init.zeros_(flat.table.weight)
    assert Sampler(flat, LETTERS).generate("g", max_new_tokens=5, temperature=0) == "gaaaaa"
    assert flat.generate(ids_of("g"), 5, temperature=0).tolist() == [[6, 0, 0, 0, 0, 0]]


def cut_at_stop(prompt: str, new: str, stops: list[str]) -> str:
    """Return the new text before the first stop string that is complete in it, taken character by character."""
    for end in range(1, len(new) + 1):
        text = prompt + new[:end]
        lengths = [len(stop) for stop in stops if text.endswith(stop)]
        if lengths:
            return text[len(prompt) : max(len(prompt), len(text) - max(lengths))]
    return new


STOPS = st.lists(st.text("abcdefg", min_size=1, max_size=4), min_size=1, max_size=3)


@settings(max_examples=20)
@given(seed=SEEDS, prompt=st.text("abcdefg", max_size=5), stops=STOPS)
def test_a_row_ends_at_the_first_complete_stop_string(seed: int, prompt: str, stops: list[str]) -> None:
    """Also at one that begins in the prompt, of which the prompt keeps its part."""
    writer = Sampler(MODELS["bigram"], LETTERS)
    new = writer.generate(prompt, max_new_tokens=40, seed=seed)[len(prompt) :]
    expected = cut_at_stop(prompt, new, stops)
    assert writer.generate(prompt, max_new_tokens=40, seed=seed, stop=stops) == prompt + expected
    assert "".join(writer.stream(prompt, max_new_tokens=40, seed=seed, stop=stops)) == expected


@pytest.mark.parametrize(
    ("prompt", "stops", "new", "expected"),
    [
        ("x\n", ["\n\n"], "\nab", ""),
        ("x\n\n", ["\n\n"], "\nab", ""),
        ("x\n\n", ["\n\n"], "ab\n\nc", "ab"),
        ("xy", ["yab", "b"], "abc", ""),
        ("xy", ["yac", "b"], "abc", "a"),
        ("", ["bcd", "c"], "abcd", "ab"),
        ("", ["abcd", "cd"], "abcd", ""),
        ("ab", ["abab", "c"], "abab", ""),
        ("ab", ["abx"], "abab", "abab"),
        ("aab", ["aabaaac"], "aabaaac", ""),
        ("aab", ["baabac"], "aabac", ""),
    ],
)
@pytest.mark.parametrize("size", [1, 2, 3])
def test_a_stop_string_ends_the_text_however_the_ids_cut_it(
    prompt: str, stops: list[str], new: str, expected: str, size: int
) -> None:
    """With ids of one, two and three characters."""
    cuts = [new[start : start + size] for start in range(0, len(new), size)]

    class Cuts:
        vocab_size = len(cuts) + 1

        def encode(self, text: str) -> list[int]:
            return [len(cuts)]

        def decode(self, ids: list[int]) -> str:
            return "".join([*cuts, ""][id] for id in ids)

    class Counting(LanguageModel):
        """Counts up from the prompt, so that the new text is the cuts one after the other."""

        def __init__(self) -> None:
            super().__init__(len(cuts) + 1, block_size=9)
            self.scale = nn.Parameter(torch.tensor(1000.0))

        def compute_logits(self, idx: Tensor, cache: Any = None) -> Tensor:
            return F.one_hot((idx + 1) % self.vocab_size, self.vocab_size) * self.scale

    writer = Sampler(Counting(), Cuts())
    assert writer.generate(prompt, max_new_tokens=len(cuts)) == prompt + new
    assert writer.generate(prompt, max_new_tokens=len(cuts), stop=stops) == prompt + expected
    assert "".join(writer.stream(prompt, max_new_tokens=len(cuts), stop=stops)) == expected


def test_a_stop_string_is_never_completed_by_the_new_text() -> None:
    """With the prompt's last character the first half of it, as a line break before a blank line is."""
    writer = Sampler(MODELS["bigram"], LETTERS)
    for seed in range(100):
        assert "aa" not in writer.generate("ga", max_new_tokens=10, stop="aa", seed=seed)


def test_rows_that_stop_early_leave_the_others_as_they_were() -> None:
    writer = Sampler(MODELS["notebook"], LETTERS)
    seeds = list(range(6))
    alone = [writer.generate("ab", max_new_tokens=30, seed=seed, stop=["a", "ce"]) for seed in seeds]
    assert writer.generate(["ab"] * 6, max_new_tokens=30, seed=seeds, stop=["a", "ce"]) == alone
    assert len(set(map(len, alone))) > 1


# --- ids --------------------------------------------------------------------------------------------------------------


ENDING = CharTokenizer("abcdefg", end="g")


@broken_by(faults.end_kept)
@every_model
@few
@given(prompt=st.text("abcdef", max_size=9), seed=SEEDS, stop_ids=st.sets(st.integers(0, 6), max_size=2))
def test_a_row_ends_before_a_stop_id_or_the_end(
    model: LanguageModel, prompt: str, seed: int, stop_ids: set[int]
) -> None:
    """It is written as without, up to there; the ``end_id`` of a tokenizer always ends it."""
    options: Any = {"max_new_tokens": 20, "seed": seed, "temperature": 3.0}
    whole = Sampler(model, LETTERS, start_id=6).generate(prompt, **options)[len(prompt) :]
    ends = {LETTERS.decode([id]) for id in stop_ids | {6}}
    expected = whole[: min([whole.find(end) for end in ends if end in whole], default=len(whole))]
    writer = Sampler(model, ENDING)
    assert writer.generate(prompt, stop_ids=[*stop_ids], **options) == prompt + expected
    assert "".join(writer.stream(prompt, stop_ids=[*stop_ids], **options)) == expected
    rows = writer.generate(["ab", prompt], stop_ids=[*stop_ids], **options | {"seed": [1, seed]})
    assert rows[1] == prompt + expected


def test_an_empty_prompt_starts_from_the_end_id() -> None:
    assert Sampler(MODELS["bigram"], LETTERS).start_id == 0
    writer = Sampler(MODELS["bigram"], ENDING)
    assert writer.start_id == 6
    assert torch.equal(writer.score("ab"), Sampler(MODELS["bigram"], LETTERS, start_id=6).score("ab"))
    assert Sampler(MODELS["bigram"], ENDING, start_id=2).start_id == 2


def test_text_held_for_a_stop_string_comes_with_the_end() -> None:
    """Here an ``a``, which might have been the beginning of ``ab``."""
    ids = LETTERS.encode("caag")
    writer = Sampler(Reciting(ids), BytesOfLetters())
    assert writer.generate("c", max_new_tokens=9, stop="ab", stop_ids=[6]) == "caa"
    assert [*writer.stream("c", max_new_tokens=9, stop="ab", stop_ids=[6])] == ["", "a", "a"]


class BytesOfLetters:
    """The letters among 256 ids."""

    vocab_size = 256
    encode, decode = staticmethod(LETTERS.encode), staticmethod(LETTERS.decode)


@every_model
@few
@given(prompts=st.lists(st.text("abcdefg", min_size=1, max_size=9), min_size=1, max_size=3), seed=SEEDS)
def test_ids_for_ids_are_those_of_the_text(model: LanguageModel, prompts: list[str], seed: int) -> None:
    writer = Sampler(model, LETTERS)
    ids = [LETTERS.encode(prompt) for prompt in prompts]
    texts = writer.generate(prompts, max_new_tokens=12, seed=seed)
    found = writer.generate(ids, max_new_tokens=12, seed=seed)
    assert [LETTERS.decode(row) for row in found] == texts
    assert writer(ids[0], max_new_tokens=12, seed=seed) == found[0]
    cut = Sampler(model, ENDING).generate(ids, max_new_tokens=12, seed=seed)
    ends = [[*row, 6].index(6, len(start)) for row, start in zip(found, ids, strict=True)]
    assert cut == [row[:end] for row, end in zip(found, ends, strict=True)]
    assert ids == [LETTERS.encode(prompt) for prompt in prompts]
    scores = writer.score(prompts)
    assert all(torch.equal(a, writer.score(b)) for a, b in zip(scores, prompts, strict=True))
    assert all(torch.equal(a, b) for a, b in zip(scores, writer.score(ids), strict=True))


@broken_by(faults.probabilities_after_the_temperature, only=("modern", "cold"))
@every_model
@pytest.mark.parametrize(
    "options",
    [{}, {"temperature": 0.5, "top_k": 3}, {"filters": [forbid([0])]}],
    ids=["plain", "cold", "filtered"],
)
def test_choices_have_the_scores_and_draws_of_a_text(model: LanguageModel, options: dict[str, Any]) -> None:
    writer = Sampler(model, LETTERS, stride=2)
    text = writer("ab", max_new_tokens=15, seed=4, **options)
    choices = [*writer.choices("ab", 15, top=3, seed=4, **options)]
    assert "ab" + "".join(choice.text for choice in choices) == text
    assert [choice.id for choice in choices] == LETTERS.encode(text)[2:]
    for length, choice in enumerate(choices, start=2):
        ids = ids_of(text[:length])
        start = -(-max(0, length - BLOCK) // 2) * 2
        logits = model(ids[:, start:]).logits[0, -1].detach()
        nats = logits.log_softmax(-1)
        assert choice.log_probability == pytest.approx(float(nats[choice.id]), abs=1e-10)
        expected = sorted(range(VOCAB), key=lambda id: (-float(nats[id]), id))[:3]
        assert [other.id for other in choice.alternatives] == expected
        assert [other.text for other in choice.alternatives] == [LETTERS.decode([id]) for id in expected]
        drawn = logits.clone()
        if "filters" in options:
            drawn[0] = -torch.inf
        if "top_k" in options:
            drawn = keep_top_k(drawn / 0.5, 3)
        assert choice.drawn_with == pytest.approx(float(drawn.softmax(-1)[choice.id]), abs=1e-10)


def test_choices_of_a_started_text_are_its_score() -> None:
    writer = Sampler(MODELS["notebook"], LETTERS)
    choices = [*writer.choices("", 3 * BLOCK, seed=2)]
    found = torch.tensor([choice.log_probability for choice in choices])
    text = "".join(choice.text for choice in choices)
    torch.testing.assert_close(found, writer.score(text), **TOLERANCE)
    greedy = [*writer.choices("", 5, temperature=0)]
    assert [choice.drawn_with for choice in greedy] == [1.0] * 5
    ended = [*Sampler(MODELS["notebook"], ENDING).choices("", 200, seed=2)]
    assert [choice.id for choice in ended].index(6) == len(ended) - 1
    assert ended[-1].text == ""
    with pytest.raises(ConfigError, match="top must be an integer of at least 0, got top=-1"):
        writer.choices("a", top=-1)


def test_no_prompts_give_no_texts() -> None:
    writer = Sampler(MODELS["bigram"], LETTERS)
    assert writer.generate([""], max_new_tokens=0) == [""]
    without: list[list[int]] = [[]]
    assert writer.generate(without, max_new_tokens=0) == without
    empty: list[str] = []
    assert (writer.generate(empty), writer.score(empty)) == ([], [])
    with pytest.raises(ConfigError, match="stop must be None for a prompt of ids, got 'a'; use stop_ids"):
        writer.generate([0, 1], stop="a")


@every_model
def test_ids_beyond_the_tokenizer_are_never_drawn(model: LanguageModel) -> None:
    """Nor scored: the others have all of the probability."""
    fewer = CharTokenizer("abcd")
    writer = Sampler(model, fewer)
    text = writer("ab", max_new_tokens=200, temperature=5.0, seed=1)
    assert set(text) == set("abcd")
    found = torch.stack([Sampler(model, fewer, start_id=0).score("ab" + letter)[2] for letter in "abcd"])
    logits = model(ids_of("aab")).logits[0, -1].detach()
    torch.testing.assert_close(found, logits[:4].log_softmax(-1), **TOLERANCE)


@every_model
@few
@given(prompt=TEXTS, count=st.integers(0, 20), seed=SEEDS)
def test_a_stream_has_a_piece_for_each_id_and_joins_to_the_whole(
    model: LanguageModel, prompt: str, count: int, seed: int
) -> None:
    writer = Sampler(model, LETTERS)
    pieces = list(writer.stream(prompt, max_new_tokens=count, seed=seed))
    assert len(pieces) == count
    assert prompt + "".join(pieces) == writer.generate(prompt, max_new_tokens=count, seed=seed)


class TwoByteTokenizer:
    """UTF-8 bytes as ids: a character may take several, and half of one has no text yet."""

    vocab_size = 256

    def encode(self, text: str) -> list[int]:
        return list(text.encode())

    def decode(self, ids: list[int]) -> str:
        return bytes(ids).decode(errors="replace")


class Reciting(LanguageModel):
    """Knows one text by heart and says it from wherever the last id stands."""

    def __init__(self, ids: list[int]) -> None:
        super().__init__(vocab_size=256, block_size=64)
        self.ids = ids
        self.unused = nn.Parameter(torch.zeros(1))

    def compute_logits(self, idx: Tensor, cache: Any = None) -> Tensor:
        logits = torch.zeros(*idx.shape, 256)
        logits[:, -1, self.ids[idx.shape[1]]] = 100.0
        return logits


def test_a_stream_has_whole_characters() -> None:
    """The tokenizer has several tokens for a character."""
    tokenizer = TwoByteTokenizer()
    text = "né 🎭 où, — fin"
    writer = Sampler(Reciting(tokenizer.encode(text)), tokenizer)
    pieces = list(writer.stream("n", max_new_tokens=len(tokenizer.encode(text)) - 1))
    assert "n" + "".join(pieces) == text
    assert all("\ufffd" not in piece for piece in pieces)


# --- one file ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["notebook", "bigram"])
def test_a_sampler_that_was_saved_writes_the_same_when_loaded(name: str, tmp_path: Path) -> None:
    writer, path = Sampler(MODELS[name], LETTERS), tmp_path / "model.safetensors"
    writer.save(path)
    again = Sampler.load(path)
    assert again.tokenizer == LETTERS
    assert again("abc", max_new_tokens=40, seed=3) == writer("abc", max_new_tokens=40, seed=3)
    assert type(tinygpt.load(path)[0]) is type(writer.model)


def test_a_sampler_is_loaded_into_a_model_of_ones_own_parts(tmp_path: Path) -> None:
    Sampler(MODELS["own blocks"], LETTERS).save(tmp_path / "model.safetensors")
    into = make_cacheless().double()
    nn.init.zeros_(next(into.parameters()))
    again = Sampler.load(tmp_path / "model.safetensors", into=into)
    assert again.model is into
    expected = Sampler(MODELS["own blocks"], LETTERS)("abc", seed=3)
    assert again("abc", seed=3) == expected


def test_a_file_without_a_tokenizer_is_named(tmp_path: Path) -> None:
    tinygpt.save(tmp_path / "model.safetensors", MODELS["bigram"])
    with pytest.raises(CheckpointMismatchError, match=r"needs a tokenizer, got a file without one, .*model\.safe"):
        Sampler.load(tmp_path / "model.safetensors")


# --- what it leaves behind --------------------------------------------------------------------------------------------


class Failing(BigramLanguageModel):
    """Breaks at its third call."""

    calls = 0

    def compute_logits(self, idx: Tensor, cache: Any = None) -> Tensor:
        self.calls += 1
        if self.calls == 3:
            raise RuntimeError("broke")
        assert not torch.is_grad_enabled()
        assert not any(module.training for module in self.modules())
        return super().compute_logits(idx, cache)


def modes(model: nn.Module) -> list[bool]:
    return [module.training for module in model.modules()]


@broken_by(faults.mode_left_behind)
def test_mode_and_grad_are_restored_whatever_happens() -> None:
    model = Failing(VOCAB)
    model.train()
    model.table.eval()  # a mixture must come back as it was
    before = modes(model)
    with pytest.raises(RuntimeError, match="broke"):
        Sampler(model, LETTERS).generate("a", max_new_tokens=10)
    assert modes(model) == before
    assert torch.is_grad_enabled()


@pytest.mark.parametrize("end", ["close", "drop", "keep"])
def test_between_two_pieces_the_model_is_as_it_was(end: str) -> None:
    model = make_gpt().double().train()
    pieces = Sampler(model, LETTERS).stream("ab", max_new_tokens=10)
    next(pieces)
    assert all(modes(model))
    assert torch.is_grad_enabled()
    if end == "close":
        assert isinstance(pieces, Iterator)
        pieces.close()  # type: ignore[attr-defined]  # a generator expression
    elif end == "drop":
        del pieces
    assert all(modes(model))
    assert all(parameter.requires_grad and parameter.grad is None for parameter in model.parameters())


def test_dropout_is_off_while_sampling() -> None:
    model = make_gpt().double()
    expected = Sampler(model.eval(), LETTERS).generate("ab", max_new_tokens=30, seed=2)
    assert Sampler(model.train(), LETTERS).generate("ab", max_new_tokens=30, seed=2) == expected


def test_concurrent_streams_write_what_they_write_alone() -> None:
    """Interleaved, and in threads."""
    writer = Sampler(MODELS["notebook"], LETTERS)
    alone = [writer.generate("ab", max_new_tokens=25, seed=seed) for seed in range(4)]
    streams = [writer.stream("ab", max_new_tokens=25, seed=seed) for seed in range(4)]
    next(writer.stream("cd", max_new_tokens=25, seed=9))  # one that is abandoned midway
    turns = zip(*streams, strict=True)
    assert ["ab" + "".join(pieces) for pieces in zip(*turns, strict=True)] == alone
    texts: dict[int, str] = {}

    def write(seed: int) -> None:
        texts[seed] = writer.generate("ab", max_new_tokens=25, seed=seed)

    threads = [threading.Thread(target=write, args=(seed,)) for seed in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert [texts[seed] for seed in range(4)] == alone


def test_the_cache_stays_at_the_size_of_one_block() -> None:
    model = make_gpt().double()
    caches: list[Any] = []
    original = model.new_cache

    def watch(batch_size: int) -> Any:
        caches.append(original(batch_size))
        return caches[-1]

    model.new_cache = watch  # type: ignore[method-assign]
    Sampler(model, LETTERS).generate(["ab", "c"], max_new_tokens=4 * BLOCK)
    sizes = {sum(part.key.nbytes + part.value.nbytes for part in cache.blocks) for cache in caches}
    n_layer, n_embd, itemsize = 2, 8, 8
    assert max(sizes) <= 2 * n_layer * 2 * (BLOCK + 1) * n_embd * itemsize


# --- bad input --------------------------------------------------------------------------------------------------------


@pytest.mark.usefixtures("unchecked_types")
@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"max_new_tokens": -1}, "max_new_tokens must be an integer of at least 0, got max_new_tokens=-1"),
        ({"max_new_tokens": 1.5}, "got max_new_tokens=1.5"),
        ({"max_new_tokens": True}, "got max_new_tokens=True"),
        ({"temperature": -1}, "temperature must be a number of at least 0, got temperature=-1"),
        ({"temperature": float("nan")}, "got temperature=nan"),
        ({"temperature": float("inf")}, "got temperature=inf"),
        ({"top_k": 0}, "top_k must be an integer of at least 1, got top_k=0"),
        ({"top_k": 1.5}, "got top_k=1.5"),
        ({"top_p": 0}, r"top_p must be a number in \(0, 1\], got top_p=0"),
        ({"top_p": 1.1}, "got top_p=1.1"),
        ({"min_p": -0.1}, r"min_p must be a number in \[0, 1\], got min_p=-0.1"),
        ({"seed": -1}, "seed must be an integer from 0 to 18446744073709551615, got seed=-1"),
        ({"seed": 2**64}, "got seed=18446744073709551616"),
        ({"seed": "a"}, "got seed='a'"),
        ({"seed": [1, 2]}, "one for each prompt, got 2 for 1"),
        ({"stop": 3}, "stop must be a text of at least one character, or a list of such, got 3"),
        ({"stop": ""}, "stop must be a text of at least one character"),
        ({"stop": ["a", ""]}, "stop must be a text of at least one character"),
        ({"stop_ids": [VOCAB]}, f"stop_ids must be from 0 to {VOCAB - 1}, got {VOCAB} at position 0"),
        ({"stop_ids": 3}, "stop_ids must be a one-dimensional sequence of integers, got 3"),
    ],
)
@pytest.mark.parametrize("method", ["generate", "stream"])
def test_options_out_of_range_are_named_before_anything_is_drawn(
    options: dict[str, Any], message: str, method: str
) -> None:
    writer = Sampler(Failing(VOCAB), LETTERS)
    with pytest.raises(TinyGPTError, match=message):
        getattr(writer, method)("ab", **({"max_new_tokens": 5} | options))


@pytest.mark.usefixtures("unchecked_types")
@pytest.mark.parametrize(
    ("prompt", "kind", "message"),
    [
        (b"ab", InputTypeError, "prompt must be a str, a list of ids, or a list of such, got bytes"),
        (None, InputTypeError, "got NoneType"),
        (torch.tensor([1]), InputTypeError, r"got Tensor; use prompt.tolist\(\)"),
        (["ab", 3], InputTypeError, "got a list with 3 of type int"),
        ([1.5], InputTypeError, "got a list with 1.5 of type float"),
        ([True], InputTypeError, "prompt must be integers, got True of type bool"),
        ([1, VOCAB], TokenizerError, f"prompt must be from 0 to {VOCAB - 1}, got {VOCAB} at position 1"),
        ([[1], [-1]], TokenizerError, "got -1 at position 0"),
        ("abz", TokenizerError, r"'z' \(U\+007A\) at position 2"),
    ],
)
def test_prompts_that_are_no_text_are_named(prompt: Any, kind: type[Exception], message: str) -> None:
    with pytest.raises(kind, match=message):
        Sampler(MODELS["bigram"], LETTERS).generate(prompt, max_new_tokens=3)


@pytest.mark.usefixtures("unchecked_types")
def test_only_a_text_can_be_streamed() -> None:
    writer = Sampler(MODELS["bigram"], LETTERS)
    with pytest.raises(InputTypeError, match="prompt must be a str, got list; use generate"):
        writer.stream(["a"], max_new_tokens=3)  # type: ignore[arg-type]
    with pytest.raises(InputTypeError, match="text must be a str, a list of ids, or a list of such, got int"):
        writer.score(3)  # type: ignore[call-overload]


@pytest.mark.usefixtures("unchecked_types")
@pytest.mark.parametrize(
    ("arguments", "kind", "message"),
    [
        ({"model": nn.Linear(2, 2)}, InputTypeError, "model must be a LanguageModel, got Linear"),
        ({"tokenizer": object()}, InputTypeError, "vocab_size, encode and decode, got object"),
        ({"tokenizer": CharTokenizer("abcdefgh")}, ConfigError, "not have more ids than the model, got 8 and 7"),
        ({"stride": 0}, ConfigError, f"stride must be an integer from 1 to {BLOCK}, got stride=0"),
        ({"stride": BLOCK + 1}, ConfigError, f"got stride={BLOCK + 1}"),
        ({"start_id": VOCAB}, ConfigError, f"start_id must be an integer from 0 to {VOCAB - 1}, got start_id={VOCAB}"),
    ],
)
def test_a_sampler_of_parts_that_do_not_fit_is_refused(
    arguments: dict[str, Any], kind: type[Exception], message: str
) -> None:
    fitting: dict[str, Any] = {"model": MODELS["notebook"], "tokenizer": LETTERS}
    with pytest.raises(kind, match=message):
        Sampler(**(fitting | arguments))


@broken_by(faults.logits_not_looked_at)
@pytest.mark.parametrize("bad", [float("nan"), float("inf"), float("-inf")])
def test_non_finite_logits_are_named_and_nothing_is_drawn(bad: float) -> None:
    model = BigramLanguageModel(VOCAB)
    with torch.no_grad():
        model.table.weight[2] = bad
    writer = Sampler(model, LETTERS)
    with pytest.raises(
        NonFiniteError, match=r"logits must have a finite maximum, got (nan|-?inf) after 2 ids in row 1;"
    ):
        writer.generate(["aa", "ac"], max_new_tokens=5)
    with pytest.raises(NonFiniteError, match="after 3 ids;"):
        writer.score("aca")


def test_uniforms_of_rows_are_uniform_over_positions() -> None:
    numbers = uniforms(np.arange(50, dtype=np.uint64)[:, None], np.arange(400))
    counts = torch.bincount(torch.from_numpy((numbers * 16).astype(int).ravel()), minlength=16).double()
    assert p_value(counts, torch.full((16,), 1 / 16)) > 1e-4


# --- compiled ---------------------------------------------------------------------------------------------------------

COMPILED = """
import warnings
import torch
from torch._dynamo.utils import counters
from tinygpt import CharTokenizer, GPTConfig, Sampler

warnings.filterwarnings("error", message="torch.compile does not work")
tokenizer = CharTokenizer("abcdefg")
prompts = ["abc", "ab", "gfedcba", ""]
DTYPES = (torch.float64, torch.float32, torch.bfloat16, torch.float16)
for layout in ("notebook", "modern"):
    for dtype, tolerance in zip(DTYPES, (1e-10, 1e-5, 0.1, 0.02)):
        torch.manual_seed(0)
        sizes = dict(vocab_size=7, block_size=12, n_layer=1, n_head=2, n_embd=32, layout=layout)
        model = GPTConfig(**sizes).build().eval().to(dtype)
        for parameter in model.parameters():
            torch.nn.init.normal_(parameter, std=0.3)
        compiled, plain = Sampler(model, tokenizer, compile=True), Sampler(model, tokenizer)
        with torch.no_grad():
            for rows in (1, 3):
                cache, twin = model.new_cache(rows), model.new_cache(rows)
                for position in range(12):
                    idx = torch.arange(rows)[:, None] + position % 4
                    exact = model.compute_logits(idx, cache=twin)[:, -1]
                    if position < 2:
                        model.compute_logits(idx, cache=cache)
                        continue
                    fast = compiled._read_one(model, idx, cache)
                    assert fast.dtype == exact.dtype == dtype
                    assert (fast - exact).abs().max() <= tolerance * exact.abs().max(), (layout, dtype, rows, position)
        def same(prompt):
            return compiled(prompt, max_new_tokens=40, seed=3) == plain(prompt, max_new_tokens=40, seed=3)

        if dtype == torch.float64:
            assert same("ab") and same(prompts)
            torch.nn.init.normal_(model.head.weight)
            assert same("ab")  # weights may change
assert counters["stats"]["unique_graphs"] >= 16, counters["stats"]  # for each layout and dtype, one row and several
"""


@pytest.mark.slow
def test_the_compiled_sampler_is_the_plain_one() -> None:
    """In every dtype."""
    # In a process of its own: the runtime type checks of these tests are what the compiler cannot read.
    run = subprocess.run([sys.executable, "-c", COMPILED], capture_output=True, text=True)
    assert run.returncode == 0, run.stderr


def test_the_sampler_warns_once_if_compiling_fails(monkeypatch: pytest.MonkeyPatch) -> None:
    """It writes the same."""

    def broken(function: Any, **options: Any) -> Any:
        raise RuntimeError("no C++ compiler found")

    monkeypatch.setattr(torch, "compile", broken)
    model = MODELS["modern"]
    with pytest.warns(UserWarning, match="torch.compile does not work here, going on without: .*no C") as caught:
        text = Sampler(model, LETTERS, compile=True).generate("abc", max_new_tokens=3 * BLOCK, seed=1)
    assert len(caught) == 1
    assert text == Sampler(model, LETTERS).generate("abc", max_new_tokens=3 * BLOCK, seed=1)
