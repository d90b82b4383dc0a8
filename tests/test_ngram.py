"""Tables of n-grams against their definition in plain Python, and mixtures of models."""

import itertools
import math
from collections import Counter, defaultdict
from pathlib import Path
from typing import Any

import faults
import numpy as np
import pytest
import torch
from builders import BLOCK, DATA, TOKENIZER, make_gpt
from faults import broken_by
from hypothesis import given, settings
from hypothesis import strategies as st
from strategies import TOLERANCE
from torch import Tensor

import tinygpt
from tinygpt import BigramLanguageModel, LanguageModel, MixtureLanguageModel, NGramLanguageModel, Sampler, evaluate
from tinygpt.checkpoint import write
from tinygpt.errors import (
    CheckpointCorruptError,
    CheckpointMismatchError,
    ConfigError,
    DataError,
    InputTypeError,
)
from tinygpt.views import read

CORPORA = st.integers(1, 5).flatmap(
    lambda size: st.tuples(st.just(size), st.lists(st.integers(0, size - 1), min_size=6, max_size=60))
)


def make_table(order: int = 4, dtype: torch.dtype = torch.float64) -> NGramLanguageModel:
    return NGramLanguageModel.count(DATA.train, vocab_size=DATA.vocab_size, order=order).to(dtype)


def make_mixture() -> MixtureLanguageModel:
    return MixtureLanguageModel([make_gpt("modern"), make_table()], weights=[0.3, 0.7])


def discounts(counts: list[int]) -> list[float]:
    """Return those of a count of 0, 1, 2 and more, as Chen and Goodman have them, where they are defined."""
    of = Counter(counts)
    if all(of[count] for count in (1, 2, 3, 4)):
        share = of[1] / (of[1] + 2 * of[2])
        found = [count - (count + 1) * share * of[count + 1] / of[count] for count in (1, 2, 3)]
        if min(found) > 0:
            return [0.0, *found]
    return [0.0, 0.5, 1.0, 1.5]


def kneser_ney(ids: list[int], size: int, order: int, context: tuple[int, ...]) -> list[float]:
    """Return the probability of each id after a context: the definition, with dictionaries."""
    grams = Counter(tuple(ids[start : start + order]) for start in range(len(ids) - order + 1))
    tables = [grams]
    for _ in range(order - 1):
        tables.append(Counter(gram[1:] for gram in tables[-1]))  # in how many kinds of longer ones each gram ends
    p = [1 / size] * size
    for length, table in enumerate(reversed(tables)):
        if length > len(context):
            break
        followed: dict[tuple[int, ...], dict[int, int]] = defaultdict(dict)
        for gram, count in table.items():
            followed[gram[:-1]][gram[-1]] = count
        after = followed.get(context[len(context) - length :])
        if after is None:
            break
        taken = discounts(list(table.values()))
        total, left = sum(after.values()), sum(taken[min(count, 3)] for count in after.values())
        kept = [after.get(id, 0) - taken[min(after.get(id, 0), 3)] for id in range(size)]
        p = [(mass + left * lower) / total for mass, lower in zip(kept, p, strict=True)]
    return p


# --- tables -----------------------------------------------------------------------------------------------------------


@broken_by(faults.raw_counts_below_the_top, faults.one_discount, faults.longest_context_alone)
@settings(max_examples=40)
@given(corpus=CORPORA, order=st.integers(1, 4), text=st.lists(st.integers(0, 4), min_size=1, max_size=6))
def test_a_table_is_kneser_ney(corpus: tuple[int, list[int]], order: int, text: list[int]) -> None:
    """With each context as long as the ids before it allow, also one that was never counted."""
    size, ids = corpus
    text = [id % size for id in text]
    found = NGramLanguageModel.count(ids, vocab_size=size, order=order)(torch.tensor([text])).logits[0].exp()
    for position, p in enumerate(found):
        context = tuple(text[max(0, position - order + 2) : position + 1])
        assert torch.allclose(p, torch.tensor(kneser_ney(ids, size, order, context if order > 1 else ())), **TOLERANCE)


@settings(max_examples=60)
@given(corpus=CORPORA, order=st.integers(1, 6), seed=st.integers(0, 99))
def test_distributions_are_whole(corpus: tuple[int, list[int]], order: int, seed: int) -> None:
    """Each sums to 1, and no id is impossible."""
    size, ids = corpus
    idx = torch.randint(size, (3, 9), generator=torch.Generator().manual_seed(seed))
    logits = NGramLanguageModel.count(ids, vocab_size=size, order=order)(idx).logits
    assert torch.allclose(logits.exp().sum(dim=-1), torch.ones(3, 9), rtol=0.0, atol=1e-12)
    assert logits.isfinite().all()


@pytest.mark.parametrize("make", [make_table, make_mixture])
def test_one_position_at_a_time_is_the_window(make: Any) -> None:
    model = make()
    idx = torch.from_numpy(DATA.val[: 2 * BLOCK].astype(np.int64)).view(2, BLOCK)
    with torch.no_grad():
        whole, cache = model.compute_logits(idx), model.new_cache(2)
        steps = [model.compute_logits(some, cache=cache) for some in (idx[:, :3], *idx[:, 3:].split(1, dim=1))]
    assert torch.allclose(torch.cat(steps, dim=1), whole, rtol=0.0, atol=0.0 if make is make_table else 1e-10)


def test_longer_contexts_help_on_real_text() -> None:
    losses = [evaluate(make_table(order), DATA).nats for order in (1, 2, 3)]
    assert losses == sorted(losses, reverse=True)
    assert losses[-1] < 0.2 < 2 < losses[0] < math.log(DATA.vocab_size)


def test_a_bigram_starts_from_the_counted_one() -> None:
    table, bigram = make_table(2), BigramLanguageModel(DATA.vocab_size)
    with torch.no_grad():
        bigram.table.weight.copy_(table(torch.arange(DATA.vocab_size)[:, None]).logits[:, 0])
    assert evaluate(bigram, DATA).nats == pytest.approx(evaluate(table, DATA).nats, abs=1e-12)


def test_a_table_has_weights_and_no_parameters() -> None:
    table = make_table(2)
    assert list(table.parameters()) == []
    assert table.num_parameters() == sum(len(level.weight) + len(level.rest) for level in table.levels)
    assert table.num_parameters(trainable_only=True) == 0
    assert repr(table).startswith("NGramLanguageModel(\n  vocab_size=28, order=2, ")


def test_what_a_table_knows() -> None:
    table = make_table(3)
    assert table.knows(DATA.train[7:50]) == 1.0
    assert table.knows([0, 0, 0, 0]) == 0.0
    assert table.knows([0]) == 0.0


@pytest.mark.parametrize(
    ("given", "kind", "message"),
    [
        ({"ids": [0]}, DataError, "the corpus must have at least order=2 ids, got 1"),
        ({"ids": [0, 3]}, DataError, r"ids must be in range\(vocab_size=3\), got 3 at 1"),
        ({"ids": [0, -1]}, DataError, r"ids must be in range\(vocab_size=3\), got -1"),
        ({"ids": "ab"}, InputTypeError, "ids must be a one-dimensional sequence of integers, got 'ab'"),
        ({"order": 0}, ConfigError, "order must be an integer of at least 1, got order=0"),
        ({"vocab_size": 0}, ConfigError, "vocab_size must be an integer of at least 1"),
        ({"orders": 3}, InputTypeError, "did you mean 'order'"),
    ],
)
def test_what_cannot_be_counted_is_refused(given: dict[str, Any], kind: type[Exception], message: str) -> None:
    with pytest.raises(kind, match=message):
        NGramLanguageModel.count(**dict[str, Any](ids=[0, 1, 2], vocab_size=3, order=2) | given)


def test_a_corpus_too_large_for_memory_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tinygpt.models.ngram.memory_bytes", lambda: 1_000)
    with pytest.raises(DataError, match=r"counting needs about .* GB, got .* GB of memory; count a part"):
        NGramLanguageModel.count([0, 1] * 50, vocab_size=2, order=2)


# --- mixtures ---------------------------------------------------------------------------------------------------------


@broken_by(faults.mixed_probabilities, faults.mixture_without_its_norm)
@settings(max_examples=20)
@given(weight=st.floats(0, 1), seed=st.integers(0, 99))
def test_a_mixture_is_the_mean_of_logarithms(weight: float, seed: int) -> None:
    idx = torch.randint(DATA.vocab_size, (2, BLOCK), generator=torch.Generator().manual_seed(seed))
    gpt, table = make_gpt("gpt2"), make_table()
    logits = MixtureLanguageModel([gpt, table], weights=[weight, 1 - weight])(idx).logits
    p, q = (model(idx).logits.softmax(dim=-1) for model in (gpt, table))
    product = p**weight * q ** (1 - weight)
    assert torch.allclose(logits.exp(), product / product.sum(dim=-1, keepdim=True), **TOLERANCE)
    assert torch.allclose(logits.exp().sum(dim=-1), torch.ones(2, BLOCK), rtol=0.0, atol=1e-12)


def test_a_mixture_reads_as_far_as_its_shortest_model() -> None:
    assert make_mixture().block_size == BLOCK
    assert MixtureLanguageModel([make_table(), make_table(2)]).block_size is None
    assert MixtureLanguageModel([make_table(), make_table(2)]).weights == (0.5, 0.5)


@pytest.mark.parametrize("make", [make_table, make_mixture])
def test_a_sampler_writes_what_the_definition_draws(make: Any) -> None:
    """Greedily, past the window, with and without caches."""
    model = make()
    prompt = torch.tensor([TOKENIZER.encode("the quick")])
    wanted = model.generate(prompt, 2 * BLOCK, temperature=0)[0]
    text = Sampler(model, TOKENIZER, stride=1).generate("the quick", max_new_tokens=2 * BLOCK, temperature=0)
    assert text == TOKENIZER.decode(wanted)


def test_the_attention_inside_a_mixture_is_seen() -> None:
    reading = read(make_mixture(), TOKENIZER, "the qui")
    assert list(reading.attention) == ["models.0.blocks.0.attention", "models.0.blocks.1.attention"]
    assert np.array_equal(reading.bits, -Sampler(make_mixture(), TOKENIZER).score("the qui").numpy() / np.log(2))


def test_fitted_weights_are_the_best_ones() -> None:
    mixture, held = MixtureLanguageModel([make_table(2), make_table(1), make_table(3)]), held_out()
    fitted = mixture.fit_weights(held)
    assert fitted == mixture.weights
    assert sum(fitted) == pytest.approx(1, abs=1e-9)
    best = loss_of(mixture, held)
    for one, other in itertools.permutations(range(3), 2):
        weights = list(fitted)
        step = min(0.01, weights[one])
        weights[one], weights[other] = weights[one] - step, weights[other] + step
        mixture.weights = tuple(weights)
        assert loss_of(mixture, held) >= best - 1e-9


def held_out() -> np.ndarray:
    return np.array(TOKENIZER.encode("a lazy fox or the brown quick dog jumps over us. " * 3))


def loss_of(model: LanguageModel, ids: np.ndarray) -> float:
    idx = torch.from_numpy(ids.astype(np.int64))[None]
    return float(model(idx[:, :-1], idx[:, 1:]).loss)


@pytest.mark.parametrize(
    ("ids", "kind", "message"),
    [
        (DATA.train[10:200], DataError, "ids must be held out .* that an n-gram model has counted; count the rest"),
        ([0, 1, 2], DataError, "ids must be at least 8 to fit weights to, got 3"),
        ([0, 99] * 9, DataError, r"ids must be in range\(vocab_size=28\), got 99"),
        ("abc", InputTypeError, "got 'abc'"),
    ],
)
def test_what_weights_cannot_be_fitted_to_is_refused(ids: Any, kind: type[Exception], message: str) -> None:
    with pytest.raises(kind, match=message):
        MixtureLanguageModel([make_table(4), make_table(1)]).fit_weights(ids)


@pytest.mark.usefixtures("unchecked_types")
@pytest.mark.parametrize(
    ("models", "weights", "kind", "message"),
    [
        ([], None, InputTypeError, r"models must be a list of language models, got \[\]"),
        ([3], None, InputTypeError, r"models must be a list of language models, got \[3\]"),
        ([BigramLanguageModel(3), BigramLanguageModel(4)], None, ConfigError, r"the same ids, got vocab_size=\[3, 4\]"),
        ([BigramLanguageModel(3)] * 2, [0.5], ConfigError, r"must be 2 numbers, one for each model, got \[0.5\]"),
        ([BigramLanguageModel(3)] * 2, [0.5, 0.6], ConfigError, r"must sum to 1, got \[0.5, 0.6\], which sum to 1.1"),
        ([BigramLanguageModel(3)] * 2, [2, -1], ConfigError, "weights must be a number of at least 0, got weights=-1"),
    ],
)
def test_impossible_mixtures_are_refused(models: Any, weights: Any, kind: type[Exception], message: str) -> None:
    with pytest.raises(kind, match=message):
        MixtureLanguageModel(models, weights=weights)


def test_models_of_other_symbols_are_not_mixed() -> None:
    one, other = BigramLanguageModel(2), BigramLanguageModel(2)
    one.trained_symbols, other.trained_symbols = ("a", "b"), ("b", "a")
    with pytest.raises(ConfigError, match="must have been trained with the same symbols"):
        MixtureLanguageModel([one, other])
    other.trained_symbols = None
    assert MixtureLanguageModel([one, other]).trained_symbols == ("a", "b")


# --- files ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
def test_a_file_rebuilds_tables_and_mixtures(dtype: torch.dtype, tmp_path: Path) -> None:
    """Also a mixture within a mixture, of a model in another dtype, to the same bits."""
    inner = MixtureLanguageModel([make_gpt("modern").bfloat16(), make_table(dtype=dtype)], weights=[0.3, 0.7])
    model = MixtureLanguageModel([inner, make_table(2, dtype), BigramLanguageModel(DATA.vocab_size)])
    tinygpt.save(tmp_path / "m", model, TOKENIZER)
    loaded, tokenizer = tinygpt.load(tmp_path / "m")
    assert tokenizer == TOKENIZER
    assert isinstance(loaded, MixtureLanguageModel)
    assert isinstance(loaded.models[0], MixtureLanguageModel)
    assert (loaded.weights, loaded.models[0].weights) == (model.weights, (0.3, 0.7))
    idx = torch.from_numpy(DATA.val[:BLOCK].astype(np.int64))[None]
    with torch.no_grad():
        assert torch.equal(loaded(idx).logits, model.eval()(idx).logits)
    tinygpt.save(tmp_path / "again", loaded, TOKENIZER)
    assert (tmp_path / "m").read_bytes() == (tmp_path / "again").read_bytes()


def test_a_mixture_with_parts_of_your_own_loads_into_one(tmp_path: Path) -> None:
    class Mine(BigramLanguageModel):
        pass

    model = MixtureLanguageModel([Mine(DATA.vocab_size), make_table()])
    tinygpt.save(tmp_path / "m", model)
    with pytest.raises(CheckpointMismatchError, match="composed or changed by hand"):
        tinygpt.load(tmp_path / "m")
    into = MixtureLanguageModel([Mine(DATA.vocab_size), make_table()])
    tinygpt.load(tmp_path / "m", into=into)
    assert torch.equal(into.models[0].table.weight, model.models[0].table.weight)


def spoil(name: str, change: Any) -> Any:
    def spoiled(weights: dict[str, Tensor], config: dict[str, Any]) -> None:
        weights[name] = change(weights[name])

    return spoiled


@pytest.mark.parametrize(
    "spoiled",
    [
        spoil("levels.1.next", lambda x: x + 28),
        spoil("levels.1.next", lambda x: -x - 1),
        spoil("levels.1.start", lambda x: x + 1),
        spoil("levels.1.start", lambda x: x.flip(0)),
        spoil("levels.1.start", lambda x: x[:-1].clone()),
        spoil("levels.1.contexts", lambda x: x.flip(0)),
        spoil("levels.1.contexts", lambda x: x + 10**12),
        spoil("levels.1.contexts", lambda x: x.double()),
        spoil("levels.0.contexts", lambda x: x + 1),
        spoil("levels.1.weight", lambda x: -x),
        spoil("levels.1.weight", lambda x: x[1:].clone()),
        spoil("levels.1.rest", lambda x: 0 * x),
        spoil("levels.1.rest", lambda x: x + 1),
        spoil("levels.1.rest", lambda x: x[None]),
        lambda weights, config: weights.pop("levels.1.rest"),
        lambda weights, config: config.update(order=10**12),
        lambda weights, config: config.update(order=0),
        lambda weights, config: config.update(order="2"),
        lambda weights, config: config.pop("vocab_size"),
        lambda weights, config: config.update(vocab_size=1),
    ],
)
def test_a_hostile_table_is_refused(spoiled: Any, tmp_path: Path) -> None:
    weights = {name: tensor.clone() for name, tensor in make_table(2).state_dict().items()}
    config: dict[str, Any] = {"vocab_size": DATA.vocab_size, "order": 2}
    spoiled(weights, config)
    write_model(tmp_path / "m", "NGramLanguageModel", config, weights)
    with pytest.raises((CheckpointCorruptError, CheckpointMismatchError)):
        tinygpt.load(tmp_path / "m")


@pytest.mark.parametrize(
    "config",
    [
        {"models": [], "weights": []},
        {"models": 3, "weights": [1.0]},
        {"models": [3], "weights": [1.0]},
        {"models": [{"model": "os.system", "config": {}}], "weights": [1.0]},
        {"models": [{"model": "BigramLanguageModel", "config": None}], "weights": [1.0]},
        {"models": [{"model": "BigramLanguageModel", "config": {"vocab_size": 2}}], "weights": [0.5]},
        {"models": [{"model": "BigramLanguageModel", "config": {"vocab_size": 2}}] * 2, "weights": [0.5, 0.5]},
        {"models": [{"model": "BigramLanguageModel", "config": {"vocab_size": 3}}], "weights": [1.0]},
        {"weights": [1.0]},
    ],
)
def test_a_hostile_mixture_is_refused(config: dict[str, Any], tmp_path: Path) -> None:
    write_model(tmp_path / "m", "MixtureLanguageModel", config, {"models.0.table.weight": torch.zeros(2, 2)})
    with pytest.raises((CheckpointCorruptError, CheckpointMismatchError)):
        tinygpt.load(tmp_path / "m")


def write_model(path: Path, name: str, config: dict[str, Any], weights: dict[str, Tensor]) -> None:
    payload = {"format": 1, "model": name, "config": config, "parts": None, "tokenizer": None, "training": None}
    write(path, weights, payload)
