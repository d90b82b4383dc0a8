"""Deliberate faults, each a slip that somebody has made: the promise that it breaks must be seen to break.

A promise is a few lines that pass for the library as it is. Under its fault it must fail: else it could never fail.
"""

import contextlib
import copy
import itertools
import json
import math
import unicodedata
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from killable import DATA, make_trainer, outcome
from test_runtime import check_denormals
from torch import Tensor, nn
from torch.nn import functional as F

import tinygpt
from tinygpt import BigramLanguageModel, CharTokenizer, GPTConfig, GPTLanguageModel, Sampler, TokenDataset
from tinygpt.data import Batch
from tinygpt.layers import (
    DecoderBlock,
    FeedForward,
    Head,
    KVCache,
    LearnedPositions,
    MultiHeadAttention,
    RotaryPositions,
    ShortConvolution,
)
from tinygpt.sampling import draw, keep_top_k, keep_top_p
from tinygpt.sampling import sampler as sampler_module
from tinygpt.sampling.filters import filter_logits
from tinygpt.sampling.window import Reader
from tinygpt.testing import (
    check_batch_independent,
    check_cache_equal,
    check_causal,
    check_gradients,
    check_prefix_consistent,
    check_shape,
    check_trains,
)
from tinygpt.training import History
from tinygpt.training import config as config_module
from tinygpt.training import resume as resume_module
from tinygpt.training import step as step_module
from tinygpt.training.step import Objective, Stepper

X = torch.randn(3, 5, 8, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
IDX = torch.tensor([[1, 2, 3, 4, 5], [0, 5, 4, 3, 2]])
Patch = pytest.MonkeyPatch


def attention() -> MultiHeadAttention:
    return MultiHeadAttention(8, n_head=2, positions=RotaryPositions(4))


def block() -> DecoderBlock:
    return DecoderBlock(8, attention=attention(), feed_forward=FeedForward(8))


def gpt(layout: str = "notebook") -> GPTLanguageModel:
    torch.manual_seed(0)
    config = GPTConfig(vocab_size=7, block_size=6, n_layer=2, n_head=2, n_embd=8, dropout=0.0, layout=layout)
    model = config.build().eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.normal_(std=0.5)
    return model


def same(a: Tensor, b: Tensor) -> None:
    torch.testing.assert_close(a, b, rtol=0, atol=1e-10)


# --- promises ---------------------------------------------------------------------------------------------------------


def round_trip() -> None:
    for text in ("e\u0301 \ufb01", " a\r\nb\u2028 ", "\ud83d\udc4d \ufeffx"):
        tokenizer = CharTokenizer.from_text(text)
        again = CharTokenizer.from_dict(json.loads(json.dumps(tokenizer.to_dict())))
        assert again == tokenizer
        assert again.decode(again.encode(text)) == text


def order_of_code_points() -> None:
    assert CharTokenizer.from_text("hello, world").symbols == tuple(sorted(set("hello, world")))


def ids_out_of_range() -> None:
    with pytest.raises(tinygpt.errors.TokenizerError):
        CharTokenizer("abc").decode([-1])


def unknown_characters() -> None:
    with pytest.raises(tinygpt.errors.TokenizerError):
        CharTokenizer("abc").encode("abz")


def head_is_attention() -> None:
    head = Head(8, head_size=4)
    same(head(X), F.scaled_dot_product_attention(head.query(X), head.key(X), head.value(X), is_causal=True))


def attention_is_its_heads() -> None:
    part = MultiHeadAttention(8, n_head=2)
    query, key, value = part.qkv(X).chunk(3, dim=-1)
    cut = [t.view(3, 5, 2, 4).transpose(1, 2) for t in (query, key, value)]
    mixed = F.scaled_dot_product_attention(cut[0], cut[1], cut[2], is_causal=True).transpose(1, 2).reshape(3, 5, 8)
    same(part(X), part.output(mixed))


def identity_at_zero() -> None:
    part = block()
    for name, parameter in part.named_parameters():
        if ".output." in name:
            nn.init.zeros_(parameter)
    assert torch.equal(part(X), X)


def evaluation_has_no_dropout() -> None:
    for part in (
        MultiHeadAttention(8, n_head=2, dropout=0.5),
        FeedForward(8, dropout=0.5),
        Head(8, head_size=4, dropout=0.5),
    ):
        part.eval()
        same(part(X), part(X))


def loss_is_the_mean_surprise() -> None:
    logits, loss = gpt()(IDX[:, :-1], IDX[:, 1:])
    surprise = -logits.log_softmax(-1).gather(2, IDX[:, 1:, None])
    assert loss is not None
    same(loss, surprise.mean())


def position_matters() -> None:
    model = gpt()
    swapped = IDX[:, [1, 0, 2, 3, 4]]
    assert not torch.allclose(model(IDX).logits[:, -1], model(swapped).logits[:, -1], rtol=0, atol=1e-9)


def sampler_is_the_definition() -> None:
    model = gpt()
    tokenizer = CharTokenizer("abcdefg")
    written = Sampler(model, tokenizer, stride=1).generate("abc", max_new_tokens=20, temperature=0)
    expected = model.generate(torch.tensor([[0, 1, 2]]), 20, temperature=0)[0]
    assert written == tokenizer.decode(expected)


def cached_is_uncached() -> None:
    model = gpt()
    sampler = Sampler(model, CharTokenizer("abcdefg"), stride=1)
    with_cache = [sampler.generate("abc", max_new_tokens=20, seed=seed) for seed in range(9)]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(GPTLanguageModel, "new_cache", lambda self, batch_size: None)
        assert with_cache == [sampler.generate("abc", max_new_tokens=20, seed=seed) for seed in range(9)]


def rows_are_independent() -> None:
    sampler = Sampler(gpt(), CharTokenizer("abcdefg"))
    together = sampler.generate(["ab", "abc", "g"], max_new_tokens=15, seed=[4, 5, 6])
    assert together == [
        sampler.generate(p, max_new_tokens=15, seed=s) for p, s in zip(["ab", "abc", "g"], [4, 5, 6], strict=True)
    ]


def continuing_is_one_text() -> None:
    sampler = Sampler(gpt(), CharTokenizer("abcdefg"))
    assert sampler.generate(
        sampler.generate("ab", max_new_tokens=9, seed=3), max_new_tokens=9, seed=3
    ) == sampler.generate("ab", max_new_tokens=18, seed=3)


def top_k_keeps_k() -> None:
    logits = torch.tensor([1.0, 2.0, 2.0, 2.0])
    assert int(keep_top_k(logits, 2).isfinite().sum()) == 2


def top_p_keeps_the_one_that_crosses() -> None:
    assert keep_top_p(torch.tensor([0.5, 0.3, 0.2]).log(), 0.6).isfinite().tolist() == [True, True, False]


def temperature_sharpens() -> None:
    filtered = filter_logits(torch.tensor([[1.0, 2.0]]), temperature=0.5, top_k=None, top_p=None, min_p=None)
    same(filtered.softmax(-1), torch.tensor([[1.0, 2.0]]).mul(2).softmax(-1))


def draws_follow_the_probabilities() -> None:
    uniform = (torch.arange(1000) + 0.5) / 1000
    ids = draw(torch.tensor([0.2, 0.5, 0.3]).log().expand(1000, 3), uniform)
    assert torch.bincount(ids, minlength=3).tolist() == [200, 500, 300]


def spoilt_logits_are_named() -> None:
    model = gpt()
    with torch.no_grad():
        model.get_parameter("head.bias").fill_(math.nan)
    with pytest.raises(tinygpt.errors.NonFiniteError):
        Sampler(model, CharTokenizer("abcdefg")).generate("a", max_new_tokens=2)


def mode_is_restored() -> None:
    model = gpt().train()
    Sampler(model, CharTokenizer("abcdefg")).generate("a", max_new_tokens=2)
    assert model.training


def windows_reach_the_end() -> None:
    data = TokenDataset(range(10), val_fraction=0)
    batches = (data.batch("train", step=step, batch_size=1, block_size=4) for step in range(100))
    assert {int(batch.y[0, -1]) for batch in batches} == {4, 5, 6, 7, 8, 9}


def targets_are_the_next_ids() -> None:
    x, y = DATA.batch("train", step=0, batch_size=3, block_size=5)
    assert torch.equal(x[:, 1:], y[:, :-1])
    assert not torch.equal(x, y)


def weights_after(noise: int = 0, **changes: Any) -> Tensor:
    trainer = make_trainer(None, **changes)
    for _ in trainer:
        torch.rand(noise)
    return torch.cat([parameter.detach().flatten() for parameter in trainer.model.parameters()])


def accumulation_is_the_big_batch() -> None:
    trainers = [make_trainer(None, batch_size=7, accumulation=number, max_iters=2) for number in (1, 3)]
    for trainer in trainers:
        for module in trainer.model.modules():
            if isinstance(module, nn.Dropout):
                module.p = 0.0
        list(trainer)
    pairs = zip(*(trainer.model.parameters() for trainer in trainers), strict=True)
    for a, b in pairs:
        same(a, b)


def measuring_changes_nothing() -> None:
    assert torch.equal(weights_after(eval_interval=1), weights_after(eval_interval=12))


def others_draws_change_nothing() -> None:
    assert torch.equal(weights_after(noise=3), weights_after())


def the_first_step_moves() -> None:
    trainer = make_trainer(None)
    before = [parameter.detach().clone() for parameter in trainer.model.parameters()]
    next(iter(trainer))
    assert any(not torch.equal(a, b) for a, b in zip(before, trainer.model.parameters(), strict=True))


def gradients_are_clipped() -> None:
    trainer = make_trainer(None, grad_clip=0.01)
    next(iter(trainer))
    gradients = [p.grad for p in trainer.model.parameters() if p.grad is not None]
    assert float(nn.utils.get_total_norm(gradients)) <= 0.01 * (1 + 1e-6)


def resumed_is_uninterrupted(directory: Path) -> None:
    make_trainer(directory / "whole").fit(progress=False)
    trainer = make_trainer(directory / "cut")
    for step in trainer:
        if step.number == 7:
            break
    trainer.save()
    make_trainer(directory / "cut").fit(resume=True, progress=False)
    assert outcome(directory / "cut") == outcome(directory / "whole")


def changed_files_are_noticed(directory: Path) -> None:
    path = directory / "model"
    tinygpt.save(path, BigramLanguageModel(3))
    raw = bytearray(path.read_bytes())
    raw[-1] ^= 1
    path.write_bytes(raw)
    with pytest.raises(tinygpt.errors.CheckpointCorruptError):
        tinygpt.load(path)


def equal_models_give_equal_bytes(directory: Path) -> None:
    model, tokenizer = gpt(), CharTokenizer("abcdefg")
    for name in ("a", "b"):
        tinygpt.save(directory / name, model, tokenizer)
    assert (directory / "a").read_bytes() == (directory / "b").read_bytes()


# --- faults -----------------------------------------------------------------------------------------------------------


def wrap(patch: Patch, owner: Any, name: str, change: Callable[..., Any]) -> None:
    """Put a changed version in the place of a function; it gets the real one first."""
    real = getattr(owner, name)
    patch.setattr(owner, name, lambda *arguments, **options: change(real, *arguments, **options))


def other_mask(diagonal: int | None) -> Callable[[Patch], None]:
    def fault(patch: Patch) -> None:
        def kernel(real: Any, query: Tensor, key: Tensor, value: Tensor, **options: Any) -> Tensor:
            mask = torch.ones(query.shape[2], key.shape[2], dtype=torch.bool)
            return real(query, key, value, attn_mask=None if diagonal is None else mask.tril(diagonal))

        wrap(patch, F, "scaled_dot_product_attention", kernel)

    return fault


def upper_left_mask(patch: Patch) -> None:
    def kernel(real: Any, query: Tensor, key: Tensor, value: Tensor, **options: Any) -> Tensor:
        return real(query, key, value, is_causal=True)

    wrap(patch, F, "scaled_dot_product_attention", kernel)


def scale_by_the_stream(patch: Patch) -> None:
    def weights(self: Head, x: Tensor) -> Tensor:
        scores = self.query(x) @ self.key(x).mT * x.shape[-1] ** -0.5
        return scores.masked_fill(torch.ones_like(scores).triu(1) > 0, -math.inf).softmax(dim=-1)

    patch.setattr(Head, "weights", weights)


def softmax_over_the_rows(patch: Patch) -> None:
    wrap(patch, Tensor, "softmax", lambda real, self, dim: real(self, dim=1))


def heads_cut_without_turning(patch: Patch) -> None:
    def reshape(real: Any, self: Tensor, a: int, b: int) -> Tensor:
        turned: Tensor = real(self, a, b)
        return self.reshape(turned.shape) if (a, b) == (1, 2) else turned

    wrap(patch, Tensor, "transpose", reshape)


def no_residual(patch: Patch) -> None:
    patch.setattr(DecoderBlock, "forward", lambda self, x, cache=None: self.feed_forward(self.attention(x, cache)))


def norm_after(patch: Patch) -> None:
    wrap(patch, DecoderBlock, "forward", lambda real, self, x, cache=None: self.attention_norm(real(self, x, cache)))


def norm_over_the_batch(patch: Patch) -> None:
    wrap(patch, nn.LayerNorm, "forward", lambda real, self, x: (x - x.mean(0)) * self.weight + self.bias)


def dropout_always(patch: Patch) -> None:
    patch.setattr(nn.Dropout, "forward", lambda self, x: F.dropout(x, self.p, training=True))


def places_mixed_in_the_feed_forward(patch: Patch) -> None:
    wrap(patch, FeedForward, "forward", lambda real, self, x: real(self, x + x.mean(dim=1, keepdim=True)))


def weights_detached(patch: Patch) -> None:
    patch.setattr(FeedForward, "forward", lambda self, x: self.output(self.expand(x).relu()).detach())


def narrow_output(patch: Patch) -> None:
    wrap(patch, FeedForward, "forward", lambda real, self, x: real(self, x)[..., :1])


def never_learning(patch: Patch) -> None:
    patch.setattr(torch.optim.AdamW, "step", lambda self, closure=None: None)


def targets_shifted(patch: Patch) -> None:
    wrap(patch, F, "cross_entropy", lambda real, logits, targets: real(logits, targets.roll(1)))


def positions_forgotten(patch: Patch) -> None:
    patch.setattr(LearnedPositions, "forward", lambda self, x, offset=0: x)
    other_mask(None)(patch)  # a causal model knows some order without them


def offset_forgotten(patch: Patch) -> None:
    wrap(patch, RotaryPositions, "forward", lambda real, self, x, offset=0: real(self, x, 0))


def cache_read_at_its_first_place(patch: Patch) -> None:
    wrap(patch, KVCache, "append", lambda real, self, k, v: tuple(t[:, :, : k.shape[2]] for t in real(self, k, v)))


def window_rolled(patch: Patch) -> None:
    """Past the block, keep the cache and drop the oldest place of it: deeper layers have then seen too much."""

    def roll(real: Any, self: Reader, rows: Any, length: int, start: int) -> Tensor:
        if self._cache is not None and length == self._length + 1 and self._start != start:
            for cache in self._cache.blocks:
                cache.key, cache.value = cache.key.roll(-1, 2), cache.value.roll(-1, 2)
                cache.length -= 1
            self._cache.length -= 1
            self._start = start
        return real(self, rows, length, start)

    wrap(patch, Reader, "read", roll)


def one_stream_for_all_rows(patch: Patch) -> None:
    state = [0]

    def shared(keys: Any, numbers: Any) -> np.ndarray:
        state[0] += 1
        return np.random.default_rng(state[0]).random(np.broadcast(keys, numbers).shape)

    patch.setattr("tinygpt.sampling.sampler.uniforms", shared)


def seeded_anew_for_each_call(patch: Patch) -> None:
    start: list[int] = []

    def from_the_start(real: Any, self: Sampler, rows: Any, filters: Any) -> Any:
        start[:] = [rows[0].length]
        return real(self, rows, filters)

    wrap(patch, Sampler, "_write", from_the_start)
    real = vars(sampler_module)["uniforms"]
    patch.setattr("tinygpt.sampling.sampler.uniforms", lambda keys, number: real(keys, number - start[0]))


def ties_kept(patch: Patch) -> None:
    def by_threshold(logits: Tensor, k: int) -> Tensor:
        return logits.masked_fill(logits < logits.topk(k).values[..., -1:], -math.inf)

    patch.setitem(globals(), "keep_top_k", by_threshold)


def crossing_dropped(patch: Patch) -> None:
    def strict(logits: Tensor, p: float) -> Tensor:
        return logits.masked_fill(logits.softmax(-1).cumsum(-1) > p, -math.inf)

    patch.setitem(globals(), "keep_top_p", strict)


def temperature_multiplied(patch: Patch) -> None:
    wrap(patch, Tensor, "__truediv__", lambda real, self, other: real(self, 1 / other))


def last_id_out_of_reach(patch: Patch) -> None:
    real = draw
    patch.setitem(globals(), "draw", lambda logits, uniform: real(logits, uniform).clamp(max=logits.shape[-1] - 2))


def logits_not_looked_at(patch: Patch) -> None:
    patch.setattr("tinygpt.sampling.sampler.check_finite", lambda *arguments, **options: None)
    wrap(patch, Tensor, "softmax", lambda real, self, dim: real(self, dim=dim).nan_to_num(0.5))


def mode_left_behind(patch: Patch) -> None:
    from contextlib import contextmanager

    @contextmanager
    def careless(model: nn.Module) -> Any:
        model.eval()
        yield

    patch.setattr("tinygpt.sampling.sampler.evaluating", careless)


def last_window_out_of_reach(patch: Patch) -> None:
    def gather(real: Any, ids: np.ndarray, starts: np.ndarray, size: int) -> Any:
        return real(ids, np.minimum(starts, len(ids) - size - 2), size)

    wrap(patch, tinygpt.data, "_gather", gather)


def targets_are_the_inputs(patch: Patch) -> None:
    def unshifted(real: Any, *arguments: Any) -> Any:
        x, _ = real(*arguments)
        return Batch(x, x)

    wrap(patch, tinygpt.data, "_gather", unshifted)


def mean_of_means(patch: Patch) -> None:
    patch.setattr(step_module, "count_targets", lambda y: 3 if len(y) == 7 else 1)


def dropout_from_everybodys_stream(patch: Patch) -> None:
    from contextlib import nullcontext

    patch.setattr(step_module, "drawing_from", lambda seed, device: nullcontext())


def memory_that_stands_still(patch: Patch) -> None:
    wrap(patch, ShortConvolution, "forward", lambda real, self, x, cache=None: real(self, x, copied(cache)))


def copied(cache: Any) -> Any:
    return copy.copy(cache)


def rate_of_zero_at_first(patch: Patch) -> None:
    habits = config_module.HABITS["adamw"]
    faulty = habits._replace(curve=lambda step, **o: 0.0 if step == 0 else habits.curve(step, **o))
    patch.setitem(config_module.HABITS, "adamw", faulty)


def clipping_off(patch: Patch) -> None:
    patch.setattr(nn.utils, "clip_grad_norm_", lambda parameters, limit: torch.zeros(()))


def denormals_computed(patch: Patch) -> None:
    patch.setattr(step_module, "flushing_denormals", contextlib.nullcontext)


def denormals_flushed_for_ever(patch: Patch) -> None:
    def for_ever() -> Any:
        torch.set_flush_denormal(True)
        return contextlib.nullcontext()

    patch.setattr(step_module, "flushing_denormals", for_ever)


def optimizer_forgotten(patch: Patch) -> None:
    patch.setattr(resume_module, "fitted", lambda *_, **__: lambda: None)


def evaluations_draw(patch: Patch) -> None:
    dropout_from_everybodys_stream(patch)
    wrap(patch, Objective, "mean", lambda real, self, batches: (torch.rand(1), real(self, batches))[1])


def steps_counted_anew(patch: Patch) -> None:
    counts: dict[int, Iterator[int]] = {}

    def take(real: Any, self: Stepper, number: int) -> Any:
        return real(self, next(counts.setdefault(id(self), itertools.count())))

    wrap(patch, Stepper, "take", take)


def best_forgotten(patch: Patch) -> None:
    patch.setattr(resume_module, "unpack_history", lambda *arguments: History())


def digest_not_compared(patch: Patch) -> None:
    patch.setattr("tinygpt.checkpoint._digest", lambda tensors, payload: "")


def metadata_in_any_order(patch: Patch) -> None:
    count = [0]

    def other(real: Any, tensors: Any, metadata: Any) -> bytes:
        count[0] += 1
        return real(tensors, metadata | {"written": str(count[0])})

    wrap(patch, tinygpt.checkpoint, "save_tensors", other)


def known(tokenizer: CharTokenizer, text: str) -> str:
    return "".join(symbol for symbol in text if symbol in tokenizer.symbols)


def normalised(patch: Patch) -> None:
    def encode(real: Any, self: CharTokenizer, text: str) -> Any:
        return real(self, known(self, unicodedata.normalize("NFC", text)))

    wrap(patch, CharTokenizer, "encode", encode)


def stripped(patch: Patch) -> None:
    wrap(patch, CharTokenizer, "encode", lambda real, self, text: real(self, text.strip()))


def vocabulary_as_one_string(patch: Patch) -> None:
    def joined(real: Any, self: CharTokenizer) -> dict[str, Any]:
        return real(self) | {"symbols": "".join(self.symbols)}

    wrap(patch, CharTokenizer, "to_dict", joined)


def vocabulary_in_any_order(patch: Patch) -> None:
    patch.setattr("tinygpt.tokenizer.sorted", lambda symbols: sorted(symbols, reverse=True), raising=False)


def ids_count_from_the_end(patch: Patch) -> None:
    wrap(patch, CharTokenizer, "decode", lambda real, self, ids: "".join(self.symbols[i] for i in ids))


def unknown_dropped(patch: Patch) -> None:
    wrap(patch, CharTokenizer, "encode", lambda real, self, text: real(self, known(self, text)))


MUTANTS: list[tuple[Callable[[Patch], None], Callable[..., None]]] = [
    (normalised, round_trip),
    (stripped, round_trip),
    (vocabulary_as_one_string, round_trip),
    (vocabulary_in_any_order, order_of_code_points),
    (ids_count_from_the_end, ids_out_of_range),
    (unknown_dropped, unknown_characters),
    (other_mask(1), lambda: check_causal(attention(), X)),
    (other_mask(-1), lambda: check_causal(attention(), X)),
    (other_mask(None), lambda: check_causal(block(), X)),
    (other_mask(None), lambda: check_causal(gpt(), IDX)),
    (other_mask(None), lambda: check_prefix_consistent(gpt(), IDX)),
    (upper_left_mask, lambda: check_cache_equal(attention(), X)),
    (offset_forgotten, lambda: check_cache_equal(attention(), X)),
    (cache_read_at_its_first_place, lambda: check_cache_equal(gpt(), IDX)),
    (scale_by_the_stream, head_is_attention),
    (softmax_over_the_rows, head_is_attention),
    (heads_cut_without_turning, attention_is_its_heads),
    (no_residual, identity_at_zero),
    (norm_after, identity_at_zero),
    (norm_over_the_batch, lambda: check_batch_independent(block(), X)),
    (dropout_always, evaluation_has_no_dropout),
    (places_mixed_in_the_feed_forward, lambda: check_causal(block(), X)),
    (weights_detached, lambda: check_gradients(block(), X)),
    (narrow_output, lambda: check_shape(FeedForward(8), X)),
    (never_learning, lambda: check_trains(block(), X)),
    (targets_shifted, loss_is_the_mean_surprise),
    (positions_forgotten, position_matters),
    (window_rolled, cached_is_uncached),
    (cache_read_at_its_first_place, sampler_is_the_definition),
    (
        offset_forgotten,
        lambda: check_cache_equal(gpt("modern"), IDX),
    ),
    (memory_that_stands_still, lambda: check_cache_equal(gpt("modern"), IDX)),
    (one_stream_for_all_rows, rows_are_independent),
    (seeded_anew_for_each_call, continuing_is_one_text),
    (ties_kept, top_k_keeps_k),
    (crossing_dropped, top_p_keeps_the_one_that_crosses),
    (temperature_multiplied, temperature_sharpens),
    (last_id_out_of_reach, draws_follow_the_probabilities),
    (logits_not_looked_at, spoilt_logits_are_named),
    (mode_left_behind, mode_is_restored),
    (last_window_out_of_reach, windows_reach_the_end),
    (targets_are_the_inputs, targets_are_the_next_ids),
    (mean_of_means, accumulation_is_the_big_batch),
    (evaluations_draw, measuring_changes_nothing),
    (dropout_from_everybodys_stream, others_draws_change_nothing),
    (rate_of_zero_at_first, the_first_step_moves),
    (clipping_off, gradients_are_clipped),
    (denormals_computed, lambda: check_denormals(False)),
    (denormals_flushed_for_ever, lambda: check_denormals(False)),
    (optimizer_forgotten, resumed_is_uninterrupted),
    (steps_counted_anew, resumed_is_uninterrupted),
    (best_forgotten, resumed_is_uninterrupted),
    (dropout_from_everybodys_stream, resumed_is_uninterrupted),
    (digest_not_compared, changed_files_are_noticed),
    (metadata_in_any_order, equal_models_give_equal_bytes),
]


def name_of(mutant: tuple[Callable[..., None], Callable[..., None]]) -> str:
    return " / ".join(part.__qualname__.split(".")[0].replace("_", " ").strip("<>") for part in mutant)


def test_the_documentation_counts_the_faults() -> None:
    promises = (Path(__file__).parents[1] / "docs" / "promises.md").read_text(encoding="utf-8")
    assert f"{len(MUTANTS)} of them | {len(MUTANTS)} of {len(MUTANTS)} noticed" in promises


@pytest.mark.usefixtures("unchecked_types")
@pytest.mark.parametrize("mutant", MUTANTS, ids=name_of)
def test_a_fault_breaks_the_promise_that_holds_without_it(
    mutant: tuple[Callable[[Patch], None], Callable[..., None]], tmp_path: Path
) -> None:
    fault, promise = mutant
    arguments = [tmp_path / "sound", tmp_path / "faulty"] if promise.__code__.co_argcount else [None, None]
    for directory in filter(None, arguments):
        directory.mkdir()
    promise(*filter(None, arguments[:1]))
    with pytest.MonkeyPatch.context() as patch:
        fault(patch)
        with pytest.raises((AssertionError, pytest.fail.Exception, tinygpt.errors.TinyGPTError)):
            promise(*filter(None, arguments[1:]))
