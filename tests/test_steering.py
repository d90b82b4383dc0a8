"""Filters of a user's own, and the ready ones: what they see, when they apply, and what they keep."""

from collections.abc import Sequence
from typing import Any

import faults
import pytest
import torch
from builders import BLOCK, DATA, TOKENIZER, make_gpt
from faults import broken_by
from hypothesis import given
from hypothesis import strategies as st
from strategies import TOLERANCE, randomised
from torch import Tensor

from tinygpt import BigramLanguageModel, GPTLanguageModel, Sampler
from tinygpt.errors import ConfigError, InputTypeError
from tinygpt.sampling import allow_only, bias, forbid, penalise_repetition

VOCAB = DATA.vocab_size
COUNT = 4 * BLOCK
TEXT = "the lazy fox"


def make_sampler(stride: int | None = None, *, cached: bool = True) -> Sampler:
    model = make_gpt()
    randomised(model)
    if not cached:
        model.new_cache = lambda batch_size: None  # type: ignore[method-assign]
    return Sampler(model, TOKENIZER, stride=stride)


def no_repeat(n: int) -> Any:
    """Return the filter of the documentation: no sequence of ``n`` ids appears twice in the window."""

    def drop(logits: Tensor, ids: Tensor) -> Tensor:
        for row, seen in zip(logits, ids.tolist(), strict=True):
            for start in range(len(seen) - n + 1):
                if seen[start : start + n - 1] == seen[len(seen) - n + 1 :]:
                    row[seen[start + n - 1]] = -torch.inf
        return logits

    return drop


FILTERS = [no_repeat(2), penalise_repetition(1.5, last=5), bias({3: 1.0}), forbid([0])]


# --- what they see ----------------------------------------------------------------------------------------------------


@broken_by(faults.filters_see_the_last_id_only, only="1")
@pytest.mark.parametrize("stride", [1, 3, BLOCK])
def test_a_filter_sees_the_last_ids_with_the_prompt(stride: int) -> None:
    """As many as the block, with a cache or without, in float64."""
    seen: list[tuple[Tensor, Tensor]] = []

    def watch(logits: Tensor, ids: Tensor) -> Tensor:
        seen.append((logits.clone(), ids.clone()))
        return logits

    text = make_sampler(stride)("the", max_new_tokens=COUNT, seed=1, filters=[watch])
    written = TOKENIZER.encode(text)
    assert [ids.tolist() for _, ids in seen] == [
        [written[max(0, length - BLOCK) : length]] for length in range(3, len(written))
    ]
    assert {logits.dtype for logits, _ in seen} == {torch.float64}


@pytest.mark.parametrize("stride", [1, 3])
def test_the_cache_makes_no_difference_to_filters(stride: int) -> None:
    texts = [
        make_sampler(stride, cached=cached)(TEXT, max_new_tokens=COUNT, seed=2, filters=FILTERS)
        for cached in (True, False)
    ]
    assert texts[0] == texts[1]
    assert texts[0] != make_sampler(stride)(TEXT, max_new_tokens=COUNT, seed=2)
    pairs = [texts[0][i : i + 2] for i in range(len(TEXT) - 1, len(texts[0]) - 1)]
    assert all(len(set(pairs[i : i + BLOCK - 1])) == BLOCK - 1 for i in range(len(pairs) - BLOCK + 1))


def test_a_filtered_text_continues_as_if_never_stopped() -> None:
    writer = make_sampler()
    whole = writer(TEXT, max_new_tokens=COUNT, seed=3, filters=FILTERS)
    half = writer(TEXT, max_new_tokens=COUNT // 2, seed=3, filters=FILTERS)
    assert writer(half, max_new_tokens=COUNT - COUNT // 2, seed=3, filters=FILTERS) == whole
    assert TEXT + "".join(writer.stream(TEXT, max_new_tokens=COUNT, seed=3, filters=FILTERS)) == whole


def test_filtered_rows_are_written_as_if_alone() -> None:
    writer, prompts = make_sampler(), ["the", "a", "", "quick brown fox"]
    together = writer.generate(prompts, max_new_tokens=COUNT, seed=[1, 2, 3, 4], filters=FILTERS)
    assert together == [
        writer.generate(text, max_new_tokens=COUNT, seed=seed, filters=FILTERS)
        for seed, text in enumerate(prompts, start=1)
    ]


# --- when they apply --------------------------------------------------------------------------------------------------


@broken_by(faults.filters_after_the_temperature)
def test_filters_apply_before_the_other_options() -> None:
    """Greedy takes the likeliest of what they leave, and ``top_k`` counts only those."""
    writer = make_sampler()
    idx = torch.tensor([TOKENIZER.encode("the")])
    first, second, third = writer.model(idx).logits[0, -1].topk(3).indices.tolist()
    choices: list[dict[str, Any]] = [{"temperature": 0}, {"top_k": 1}]
    for options in choices:
        text = writer("the", max_new_tokens=1, seed=1, filters=[forbid([first])], **options)
        assert TOKENIZER.encode(text)[-1] == second
    text = writer("the", max_new_tokens=1, temperature=0, filters=[forbid([first]), bias({third: 50.0})])
    assert TOKENIZER.encode(text)[-1] == third


def test_filters_apply_in_their_order() -> None:
    calls = []

    def noted(name: str) -> Any:
        def note(logits: Tensor, ids: Tensor) -> Tensor:
            calls.append(name)
            return logits

        return note

    make_sampler()("the", max_new_tokens=2, filters=[noted("a"), noted("b")])
    assert calls == ["a", "b"] * 2


def test_a_filter_may_write_into_its_logits() -> None:
    """Even where the logits of the model are a view of its weights."""
    model = BigramLanguageModel(VOCAB)
    model.compute_logits = lambda idx, cache=None: model.table.weight[:1].expand(*idx.shape, -1)  # type: ignore[method-assign]
    before = model.table.weight.clone()
    Sampler(model, TOKENIZER)("the", max_new_tokens=3, filters=[lambda logits, ids: logits.fill_(1)])
    assert torch.equal(model.table.weight, before)


# --- the ready ones ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("keep", [forbid, allow_only])
def test_forbidden_ids_never_appear_in_10000(keep: Any) -> None:
    model = BigramLanguageModel(VOCAB)
    chosen = list(range(0, VOCAB, 3))
    prompts = [TOKENIZER.decode([id for id in range(VOCAB) if (id in chosen) == (keep is allow_only)][:1])] * 100
    texts = Sampler(model, TOKENIZER).generate(prompts, max_new_tokens=100, seed=0, filters=[keep(chosen)])
    found = {id for text in texts for id in TOKENIZER.encode(text)}
    expected = set(chosen) if keep is allow_only else set(range(VOCAB)) - set(chosen)
    assert found == expected


ROWS = st.lists(st.integers(0, 6), min_size=1, max_size=9)


@broken_by(faults.repetition_counted)
@given(ids=ROWS, penalty=st.floats(0.5, 3), last=st.integers(1, 12))
def test_a_penalty_hits_each_of_the_last_ids_once(ids: list[int], penalty: float, last: int) -> None:
    logits = torch.randn(1, 7)
    expected = logits.clone()
    for id in set(ids[-last:]):
        expected[0, id] = logits[0, id] / penalty if logits[0, id] > 0 else logits[0, id] * penalty
    found = penalise_repetition(penalty, last=last)(logits, torch.tensor([ids]))
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-12)


@given(ids=st.sets(st.integers(0, 6), max_size=7), rows=st.integers(1, 3))
def test_a_bias_adds_and_leaves_the_rest(ids: set[int], rows: int) -> None:
    logits, seen = torch.randn(rows, 7), torch.zeros(rows, 1).long()
    nats = {id: float(id) - 2.5 for id in ids}
    added = bias(nats)(logits, seen) - logits
    torch.testing.assert_close(added, torch.tensor([[nats.get(id, 0.0) for id in range(7)]] * rows), **TOLERANCE)
    assert torch.equal(forbid(ids)(logits, seen).isfinite()[0], torch.tensor([id not in ids for id in range(7)]))
    assert torch.equal(allow_only(ids)(logits, seen).isfinite()[0], torch.tensor([id in ids for id in range(7)]))
    assert torch.equal(allow_only(range(7))(logits, seen), logits)


# --- bad filters ------------------------------------------------------------------------------------------------------

pytestmark = pytest.mark.usefixtures("unchecked_types")


def spoil(value: float) -> Any:
    """Return a filter that makes the logits of a text that begins with ``q`` something else."""
    q = TOKENIZER.stoi["q"]

    def fill(logits: Tensor, ids: Tensor) -> Tensor:
        logits[ids[:, 0] == q] = value
        return logits

    return fill


@pytest.mark.parametrize(
    ("filters", "kind", "message"),
    [
        ([spoil(-torch.inf)], ConfigError, "filters must leave an id possible, got none after 5 ids in row 1$"),
        ([spoil(torch.nan)], ConfigError, "filters must return numbers, got nan after 5 ids in row 1$"),
        ([spoil(torch.inf)], ConfigError, "filters must return numbers, got inf after 5 ids in row 1$"),
        ([allow_only([])], ConfigError, "got none after 3 ids in row 0$"),
        ([lambda logits, ids: None], InputTypeError, r"got NoneType from filters\[0\]; end it with return logits"),
        ([forbid([0]), lambda logits, ids: logits[0]], InputTypeError, rf"got torch.float64 \({VOCAB},\) from filt.*1"),
        ([lambda logits, ids: logits > 0], InputTypeError, rf"\(B, V\) = \(1, {VOCAB}\), got torch.bool"),
        (forbid([0]), InputTypeError, r"filters must be a list of functions, got <function .*; use filters=\[f\]"),
        ([3], InputTypeError, r"filters must be a list of functions, got \[3\]; use e.g. filters="),
        (None, InputTypeError, "filters must be a list of functions, got None"),
        ([forbid([VOCAB])], ConfigError, f"ids of a filter must be from 0 to {VOCAB - 1}, got {VOCAB}"),
    ],
)
def test_a_bad_filter_is_named(filters: Any, kind: type[Exception], message: str) -> None:
    """With the row of the prompt, although the rows are of different lengths."""
    with pytest.raises(kind, match=message) as caught:
        make_sampler().generate(["the", "quick"], max_new_tokens=9, filters=filters)
    assert len(str(caught.value)) <= 300


@pytest.mark.parametrize(
    ("make", "kind", "message"),
    [
        (lambda: forbid([-1]), ConfigError, "ids of a filter must not be negative, got -1"),
        (lambda: allow_only([1.5]), InputTypeError, "ids must be integers, got 1.5"),  # type: ignore[list-item]
        (lambda: forbid("ab"), InputTypeError, "sequence of integers, got 'ab'"),  # type: ignore[arg-type]
        (lambda: bias([1]), InputTypeError, r"nats must be a dict of numbers by id, got \[1\]"),  # type: ignore[arg-type]
        (lambda: bias({1: float("inf")}), ConfigError, "nats must be a number to add, got nats=inf"),
        (lambda: bias({"a": 1.0}), InputTypeError, "ids must be integers, got 'a'"),  # type: ignore[dict-item]
        (lambda: penalise_repetition(0), ConfigError, "penalty must be a number above 0, got penalty=0"),
        (lambda: penalise_repetition(1.3, last=0), ConfigError, "last must be an integer of at least 1, got last=0"),
    ],
)
def test_bad_settings_of_a_filter_are_named(make: Any, kind: type[Exception], message: str) -> None:
    with pytest.raises(kind, match=message):
        make()


def test_filters_are_checked_before_anything_is_drawn() -> None:
    class Failing(GPTLanguageModel):
        def compute_logits(self, idx: Tensor, cache: Any = None) -> Tensor:
            raise AssertionError("read")

    writer = make_sampler()
    writer.model.__class__ = Failing
    for filters in (3, [None]):
        wrong: Sequence[Any] = filters  # type: ignore[assignment] # wrong on purpose
        with pytest.raises(InputTypeError, match="filters must be a list"):
            writer.stream("the", filters=wrong)
