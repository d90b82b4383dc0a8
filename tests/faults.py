"""Deliberate faults, each a slip that somebody has made, and the mark of the tests that must notice them."""

import contextlib
import copy
import itertools
import math
import unicodedata
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.hooks import RemovableHandle

import tinygpt
import tinygpt.shards
from tinygpt import CharTokenizer, MixtureLanguageModel, Sampler, TokenDataset, Trainer
from tinygpt import checkpoint as checkpoint_module
from tinygpt import preparing as preparing_module
from tinygpt.ids import Joined
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
from tinygpt.layers import attention as attention_module
from tinygpt.layers import quantised as quantised_module
from tinygpt.mixtures import Mixture
from tinygpt.models import ngram as ngram_module
from tinygpt.ranks import Ranks
from tinygpt.sampling import draw
from tinygpt.sampling import sampler as sampler_module
from tinygpt.sampling.window import Reader, Row
from tinygpt.shard_writer import ShardWriter
from tinygpt.symbols import SymbolTokenizer
from tinygpt.training import History, advice, run_settings
from tinygpt.training import config as config_module
from tinygpt.training import resume as resume_module
from tinygpt.training import shard_files as shard_files_module
from tinygpt.training import step as step_module
from tinygpt.training.progress import Progress
from tinygpt.training.signals import Interruption
from tinygpt.training.step import Objective, Stepper
from tinygpt.views import page as page_module
from tinygpt.views import plots as plots_module
from tinygpt.views import reading as reading_module
from tinygpt.windows import Batch, Split

Patch = pytest.MonkeyPatch
Fault = Callable[[Patch], None]


class Twin(NamedTuple):
    """A fault under which a test must fail, and the ids of the only parameters for which it must."""

    fault: Fault
    only: tuple[str, ...]


def broken_by(*faults: Fault, only: str | tuple[str, ...] = ()) -> pytest.MarkDecorator:
    """Collect a test once more for each fault, as a twin that must fail.

    Args:
        faults: Functions that put a fault into the library by a monkeypatch, before the fixtures of the test are made.
        only: Ids of parameters. Of a parametrized test, the twins of all other parameters are left out.
    """
    ids = (only,) if isinstance(only, str) else only
    return pytest.mark.broken_by(*(Twin(fault, ids) for fault in faults))


def wrap(patch: Patch, owner: Any, name: str, change: Callable[..., Any]) -> None:
    """Replace a function by a changed version, which gets the real one first."""
    real = getattr(owner, name)
    patch.setattr(owner, name, lambda *arguments, **options: change(real, *arguments, **options))


def masked(patch: Patch, diagonal: int | None) -> None:
    def kernel(real: Any, query: Tensor, key: Tensor, value: Tensor, *others: Any, **options: Any) -> Tensor:
        mask = torch.ones(query.shape[2], key.shape[2], dtype=torch.bool)
        return real(query, key, value, attn_mask=None if diagonal is None else mask.tril(diagonal))

    wrap(patch, F, "scaled_dot_product_attention", kernel)


def mask_forgotten(patch: Patch) -> None:
    masked(patch, None)


def mask_lets_the_next_in(patch: Patch) -> None:
    masked(patch, 1)


def mask_leaves_itself_out(patch: Patch) -> None:
    masked(patch, -1)


def upper_left_mask(patch: Patch) -> None:
    def kernel(real: Any, query: Tensor, key: Tensor, value: Tensor, *others: Any, **options: Any) -> Tensor:
        return real(query, key, value, is_causal=True)

    wrap(patch, F, "scaled_dot_product_attention", kernel)


def scale_by_the_stream(patch: Patch) -> None:
    def weights(self: Head, x: Tensor) -> Tensor:
        scores = self.query(x) @ self.key(x).mT * x.shape[-1] ** -0.5
        return scores.masked_fill(torch.ones_like(scores).triu(1) > 0, -math.inf).softmax(dim=-1)

    patch.setattr(Head, "weights", weights)


def softmax_over_the_rows(patch: Patch) -> None:
    wrap(patch, Tensor, "softmax", lambda real, self, dim: real(self, dim=1))


def weights_without_their_scale(patch: Patch) -> None:
    def weigh(real: Any, query: Tensor, key: Tensor, *, causal: bool) -> Any:
        return real(query * query.shape[-1] ** 0.5, key, causal=causal)

    wrap(patch, attention_module, "weigh", weigh)


def weights_without_their_mask(patch: Patch) -> None:
    wrap(patch, attention_module, "weigh", lambda real, query, key, *, causal: real(query, key, causal=False))


def weights_without(patch: Patch, part: str) -> None:
    def weights(real: Any, self: MultiHeadAttention, x: Tensor) -> Any:
        with pytest.MonkeyPatch.context() as inner:
            inner.setitem(self._modules, part, None)
            return real(self, x)

    wrap(patch, MultiHeadAttention, "weights", weights)


def weights_without_their_norm(patch: Patch) -> None:
    weights_without(patch, "norm")


def weights_without_their_positions(patch: Patch) -> None:
    weights_without(patch, "positions")


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


def positions_mixed_in_the_feed_forward(patch: Patch) -> None:
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
    mask_forgotten(patch)  # a causal model knows some order without them


def offset_forgotten(patch: Patch) -> None:
    for positions in (RotaryPositions, LearnedPositions):
        wrap(patch, positions, "forward", lambda real, self, x, offset=0: real(self, x, 0))


def cache_read_at_its_first_position(patch: Patch) -> None:
    wrap(patch, KVCache, "append", lambda real, self, k, v: tuple(t[:, :, : k.shape[2]] for t in real(self, k, v)))


def window_rolled(patch: Patch) -> None:
    """Past the block, keep the cache and drop its oldest position: deeper layers have then seen too much."""

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


def counted_from_the_start_of_each_call(patch: Patch) -> None:
    start: list[int] = []

    def from_the_start(real: Any, self: Sampler, rows: Any, *options: Any) -> Any:
        start[:] = [rows[0].length]
        return real(self, rows, *options)

    wrap(patch, Sampler, "_write", from_the_start)
    real = vars(sampler_module)["uniforms"]
    patch.setattr("tinygpt.sampling.sampler.uniforms", lambda keys, number: real(keys, number - start[0]))


def ties_kept(patch: Patch) -> None:
    def by_threshold(logits: Tensor, k: int) -> Tensor:
        return logits.masked_fill(logits < logits.topk(min(k, len(logits))).values[..., -1:], -math.inf)

    patch.setattr("test_sampling.keep_top_k", by_threshold)


def crossing_dropped(patch: Patch) -> None:
    def strict(logits: Tensor, p: float) -> Tensor:
        return logits.masked_fill(logits.softmax(-1).cumsum(-1) > p, -math.inf)

    patch.setattr("test_sampling.keep_top_p", strict)


def temperature_multiplied(patch: Patch) -> None:
    wrap(patch, Tensor, "__truediv__", lambda real, self, other: real(self, 1 / other))


def filters_see_the_last_id_only(patch: Patch) -> None:
    wrap(patch, sampler_module, "steer", lambda real, filters, logits, ids, *o: real(filters, logits, ids[:, -1:], *o))


def filters_after_the_temperature(patch: Patch) -> None:
    def write(real: Any, self: Sampler, rows: Any, filters: Any, options: Any) -> Any:
        return real(self, rows, [lambda logits, ids: options(logits), *filters], options)

    wrap(patch, Sampler, "_write", write)


def repetition_counted(patch: Patch) -> None:
    def penalise(penalty: float, *, last: int = 64) -> Any:
        def each(logits: Tensor, ids: Tensor) -> Tensor:
            counts = F.one_hot(ids[:, -last:], logits.shape[-1]).sum(1)
            return torch.where(logits > 0, logits / penalty**counts, logits * penalty**counts)

        return each

    patch.setattr("test_steering.penalise_repetition", penalise)


def new_ids_start_at_zero(patch: Patch) -> None:
    wrap(patch, Tensor, "mean", lambda real, self, *dims, **o: real(self, *dims, **o) * (0 if o else 1))


def end_kept(patch: Patch) -> None:
    wrap(patch, Row, "append", lambda real, self, new: real(self, new) + ("g" if new in self.stop_ids else ""))


def probabilities_after_the_temperature(patch: Patch) -> None:
    wrap(
        patch,
        sampler_module,
        "choice_of",
        lambda real, id, text, logits, steered, *o: real(id, text, steered, steered, *o),
    )


def fingerprint_of_the_size(patch: Patch) -> None:
    patch.setattr("tinygpt.fingerprints._ids_or_none", lambda tokenizer, word: None)


def last_id_out_of_reach(patch: Patch) -> None:
    def short(logits: Tensor, uniform: Tensor) -> Tensor:
        return draw(logits, uniform).clamp(max=logits.shape[-1] - 2)

    patch.setattr(sampler_module, "draw", short)


def logits_not_looked_at(patch: Patch) -> None:
    patch.setattr("tinygpt.sampling.sampler.check_finite", lambda *arguments, **options: None)
    wrap(patch, Tensor, "softmax", lambda real, self, dim: real(self, dim=dim).nan_to_num(0.5))


def mode_left_behind(patch: Patch) -> None:
    @contextlib.contextmanager
    def careless(model: nn.Module) -> Any:
        model.eval()
        yield

    patch.setattr("tinygpt.sampling.sampler.evaluating", careless)


def last_window_out_of_reach(patch: Patch) -> None:
    wrap(patch, Split, "count", lambda real, *arguments, **options: real(*arguments, **options) - 1)


def order_without_rounds(patch: Patch) -> None:
    patch.setattr("tinygpt.randomness._ROUNDS", 0)


def order_in_memory(patch: Patch) -> None:
    def shuffle(real: Any, *arguments: Any, **options: Any) -> Any:
        np.arange(10**6)
        return real(*arguments, **options)

    wrap(patch, Split, "shuffle", shuffle)


def targets_are_the_inputs(patch: Patch) -> None:
    def unshifted(real: Any, *arguments: Any) -> Any:
        x, _ = real(*arguments)
        return Batch(x, x)

    wrap(patch, Split, "_gather", unshifted)


def mean_of_means(patch: Patch) -> None:
    patch.setattr(step_module, "count_targets", lambda y: 3 if len(y) == 7 else 1)


def dropout_from_everybodys_stream(patch: Patch) -> None:
    patch.setattr(step_module, "drawing_from", lambda seed, device: contextlib.nullcontext())


def memory_that_stands_still(patch: Patch) -> None:
    wrap(patch, ShortConvolution, "forward", lambda real, self, x, cache=None: real(self, x, copy.copy(cache)))


def rate_of_zero_at_first(patch: Patch) -> None:
    habits = config_module.HABITS["adamw"]
    faulty = habits._replace(curve=lambda step, **o: 0.0 if step == 0 else habits.curve(step, **o))
    patch.setitem(config_module.HABITS, "adamw", faulty)


def clipping_off(patch: Patch) -> None:
    patch.setattr(nn.utils, "clip_grad_norm_", lambda parameters, limit: torch.zeros(()))


def denormals_computed(patch: Patch) -> None:
    patch.setattr(step_module, "flushing_denormals", contextlib.nullcontext)


def denormals_flushed_after_the_step(patch: Patch) -> None:
    def without_end() -> Any:
        torch.set_flush_denormal(True)
        return contextlib.nullcontext()

    patch.setattr(step_module, "flushing_denormals", without_end)


def optimizer_forgotten(patch: Patch) -> None:
    patch.setattr(resume_module, "fitted", lambda *_, **__: lambda: None)


def evaluations_draw(patch: Patch) -> None:
    dropout_from_everybodys_stream(patch)
    wrap(patch, Objective, "mean", lambda real, self, batches: (torch.rand(1), real(self, batches))[1])


def evaluations_are_not_logged(patch: Patch) -> None:
    wrap(patch, Trainer, "_log", lambda real, self, record: None if "val_loss" in record else real(self, record))


def evaluations_without_a_bound(patch: Patch) -> None:
    wrap(patch, TokenDataset, "windows", lambda real, *arguments, limit=None, **options: real(*arguments, **options))


def val_fraction_not_written(patch: Patch) -> None:
    wrap(patch, run_settings.RunSettings, "to_json", lambda real, self: real(replace(self, val_fraction=0.1)))


def the_first_candidate_is_kept(patch: Patch) -> None:
    wrap(patch, advice, "_fitting", lambda real, *arguments: real(*arguments)[:1])


def lines_are_not_counted(patch: Patch) -> None:
    def write(real: Any, self: Progress, text: str) -> None:
        before = self._written
        real(self, text)
        self._written = before

    wrap(patch, Progress, "write", write)


def flags_not_noticed(patch: Patch) -> None:
    patch.setattr("tinygpt.cli._given", lambda arguments: frozenset())


def seed_not_passed(patch: Patch) -> None:
    def stream(real: Any, self: Sampler, *texts: Any, seed: Any = None, **options: Any) -> Any:
        return real(self, *texts, **options)

    wrap(patch, Sampler, "stream", stream)


def steps_counted_from_the_resumption(patch: Patch) -> None:
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


def tidied(patch: Patch, change: Callable[[str], str]) -> None:
    def encode(real: Any, self: CharTokenizer, text: str) -> Any:
        return real(self, known(self, change(text)))

    wrap(patch, CharTokenizer, "encode", encode)


def normalised(patch: Patch) -> None:
    tidied(patch, lambda text: unicodedata.normalize("NFC", text))


def stripped(patch: Patch) -> None:
    tidied(patch, str.strip)


def lines_of_unicode(patch: Patch) -> None:
    tidied(patch, lambda text: "\n".join(text.splitlines()))


def byte_order_mark_dropped(patch: Patch) -> None:
    tidied(patch, lambda text: text.removeprefix("\ufeff"))


def newlines_translated(patch: Patch) -> None:
    tidied(patch, lambda text: text.replace("\r\n", "\n"))


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


def end_encoded(patch: Patch) -> None:
    wrap(
        patch, CharTokenizer, "__init__", lambda real, self, symbols, end=None, **others: real(self, symbols, **others)
    )


def rare_characters_kept(patch: Patch) -> None:
    patch.setattr("tinygpt.tokenizer._frequent", lambda texts, min_count, on_unknown: sorted(set("".join(texts))))


def shortest_match(patch: Patch) -> None:
    def reverse(real: Any, self: SymbolTokenizer, *symbols: Any, **options: Any) -> None:
        real(self, *symbols, **options)
        self._lengths.reverse()

    wrap(patch, SymbolTokenizer, "__init__", reverse)


def documents_without_an_end(patch: Patch) -> None:
    patch.setattr("tinygpt.documents.ending_of", lambda tokenizer, separator: np.empty(0, np.uint8))


def windows_cross_documents(patch: Patch) -> None:
    def joined(
        real: Any, self: Split, ids: np.ndarray, mask: Any = None, rows: Any = None, numbers: Any = None
    ) -> None:
        real(self, ids, mask)

    wrap(patch, Split, "__init__", joined)


def prompts_are_targets(patch: Patch) -> None:
    def unmasked(real: Any, self: Split, ids: np.ndarray, mask: Any = None, *others: Any) -> None:
        real(self, ids, None, *others)

    wrap(patch, Split, "__init__", unmasked)


def rows_of_attention_shifted(patch: Patch) -> None:
    wrap(patch, reading_module, "weigh", lambda real, attention, x: real(attention, x).roll(1, -2))


def read_in_other_windows(patch: Patch) -> None:
    wrap(patch, reading_module, "read_windows", lambda real, model, ids, size, _, v: real(model, ids, size, 1, v))


def lens_without_the_norm(patch: Patch) -> None:
    def look(real: Any, model: Any, *others: Any) -> Any:
        with pytest.MonkeyPatch.context() as inner:
            inner.setitem(model._modules, "norm", nn.Identity())
            return real(model, *others)

    wrap(patch, reading_module, "_look_through", look)


def hooks_left_behind(patch: Patch) -> None:
    patch.setattr(RemovableHandle, "remove", lambda self: None)


def read_in_training_mode(patch: Patch) -> None:
    patch.setattr(reading_module, "evaluating", lambda model: torch.no_grad())


def text_of_each_id_alone(patch: Patch) -> None:
    patch.setattr(reading_module, "_pieces", lambda tokenizer, ids: [tokenizer.decode([id]) for id in ids])


def text_that_is_not_escaped(patch: Patch) -> None:
    patch.setattr(page_module, "escape", lambda text, quote=True: text)


def validation_drawn_as_training(patch: Patch) -> None:
    wrap(patch, plots_module, "Curves", lambda real, train, val, floors: real(val, train, floors))


def components_without_a_sign(patch: Patch) -> None:
    patch.setattr("tinygpt.views.plots.np.where", lambda condition, yes, no: 1.0)


def scores_of_the_copy_itself(patch: Patch) -> None:
    wrap(patch, Tensor, "diagonal", lambda real, self, back, *dims: real(self, back if back == -1 else back - 1, *dims))


def strangers_are_answered(patch: Patch) -> None:
    patch.setattr("tinygpt.serve._Handler._check_local", lambda self: None)


def raw_counts_below_the_top(patch: Patch) -> None:
    """Shorter contexts count occurrences, not kinds."""

    def unique(real: Any, values: np.ndarray, **options: Any) -> Any:
        found = real(values, **options)
        return (found[0], found[1] * 0 + 7) if options.get("return_counts") else found

    wrap(patch, np, "unique", unique)


def one_discount(patch: Patch) -> None:
    wrap(patch, ngram_module, "_discounts", lambda real, counts: real(counts)[[0, 1, 1, 1]])


def one_scale_for_a_matrix(patch: Patch) -> None:
    wrap(patch, Tensor, "amax", lambda real, self, dim: real(self).expand(len(self)))


def rounded_down(patch: Patch) -> None:
    patch.setattr(Tensor, "round", Tensor.floor)


def scales_left_out(patch: Patch) -> None:
    def multiply(real: Any, x: Tensor, weight: Tensor, scale: Tensor, bias: Tensor | None) -> Any:
        return real(x, weight, torch.ones_like(scale), bias)

    wrap(patch, quantised_module, "linear_int8", multiply)


def longest_context_alone(patch: Patch) -> None:
    """The probabilities of shorter contexts are replaced, not mixed."""

    def mix_in(real: Any, level: Any, p: Tensor, rows: Tensor, number: Tensor) -> None:
        p[rows] = 1 / p.shape[1]
        real(level, p, rows, number)

    wrap(patch, ngram_module._Level, "mix_in", mix_in)


def mixed_probabilities(patch: Patch) -> None:
    """A mixture takes the mean of the probabilities."""

    def mean(real: Any, model: Any, idx: Tensor, cache: Any = None) -> Tensor:
        parts = zip(model.models, model.weights, strict=True)
        return sum(weight * part(idx).logits.softmax(dim=-1) for part, weight in parts).log()

    wrap(patch, MixtureLanguageModel, "compute_logits", mean)


def mixture_without_its_norm(patch: Patch) -> None:
    def mean(real: Any, model: Any, idx: Tensor, cache: Any = None) -> Tensor:
        parts = zip(model.models, model.weights, strict=True)
        return sum(weight * part(idx).logits.log_softmax(dim=-1) for part, weight in parts)

    wrap(patch, MixtureLanguageModel, "compute_logits", mean)


def shards_joined_one_short(patch: Patch) -> None:
    def read(real: Any, self: Joined, index: slice) -> Any:
        return real(self, index) if len(self._pieces) < 3 else np.roll(real(self, index), 1)

    wrap(patch, Joined, "__getitem__", read)


def foreign_ids_trusted(patch: Patch) -> None:
    wrap(patch, tinygpt.shards, "open_files", lambda real, name, source, size: real(name, source, 2**40))


def files_read_ahead(patch: Patch) -> None:
    patch.setattr(tinygpt.shards, "_advise", lambda pages, advice: None)


def bytes_not_compared(patch: Patch) -> None:
    patch.setattr("tinygpt.data.check_shard", lambda shard: None)


def characters_cut(patch: Patch) -> None:
    def read(path: Path, offset: int) -> Iterator[tuple[int, str]]:
        raw = path.read_bytes()
        for start in range(offset, len(raw), preparing_module._PIECE):
            yield start, raw[start : start + preparing_module._PIECE].decode("utf-8", "replace")

    patch.setattr(preparing_module, "_read", read)


def progress_of_the_piece(patch: Patch) -> None:
    def save(real: Any, self: ShardWriter) -> None:
        self._used, used = 0, self._used
        real(self)
        self._used = used

    wrap(patch, ShardWriter, "_save", save)


def one_stream_for_all_sources(patch: Patch) -> None:
    patch.setattr(Mixture, "draw", Split.draw)


def sources_equally_often(patch: Patch) -> None:
    def init(real: Any, self: Mixture, sources: Any, weights: Any) -> None:
        real(self, sources, dict.fromkeys(weights, 1.0))

    wrap(patch, Mixture, "__init__", init)


def summed_by_all_reduce(patch: Patch) -> None:
    patch.setattr(Ranks, "_add_halves", lambda self, flat: torch.distributed.all_reduce(flat))


def micro_batches_added_in_sequence(patch: Patch) -> None:
    patch.setattr(step_module, "add_in_tree", lambda numbers, backward, parameters: sum(map(backward, numbers)))


def dropout_of_the_rank(patch: Patch) -> None:
    def seed(real: Any, *words: Any) -> int:
        return real(*words, torch.distributed.get_rank() if words[1] == "dropout" else 0)

    wrap(patch, step_module, "derive_seed", seed)


def rows_taken_in_turn(patch: Patch) -> None:
    patch.setattr(Ranks, "share", lambda self, count: range(self.here, count, self.world))


def mean_of_means_over_ranks(patch: Patch) -> None:
    def add(real: Any, ranks: Ranks, loss: Any, parameters: Any) -> Any:
        for parameter in parameters:
            if parameter.grad is not None:
                parameter.grad *= 1 + 0.01 * ranks.here
        return real(ranks, loss, parameters)

    wrap(patch, step_module, "add_over_ranks", add)


def signals_of_this_rank_only(patch: Patch) -> None:
    def agree(self: Interruption) -> None:
        self._agreed = self.heard

    patch.setattr(Interruption, "agree", agree)
    patch.setattr("ranked.LIMIT", 10.0)  # seconds, since the ranks wait for each other


def gradients_averaged_over_ranks(patch: Patch) -> None:
    from torch.distributed.fsdp import FSDPModule

    patch.setattr(FSDPModule, "set_gradient_divide_factor", lambda self, factor: None)


def rows_orthogonalised_alone(patch: Patch) -> None:
    patch.setattr("tinygpt.optim.apply_to_whole", lambda function, pieces, like: function(pieces))


def digest_of_the_manifest_ignored(patch: Patch) -> None:
    def read(real: Any, path: Path, digest: str, step: int) -> Any:
        return real(path, checkpoint_module.read_with_digest(path)[2], step)

    wrap(patch, shard_files_module, "_read_file", read)
