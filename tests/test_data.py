"""Windows of a corpus: all are reachable, none is mixed up, and each batch is a function of its arguments."""

import array
import tracemalloc
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import faults
import numpy as np
import pytest
import torch
from faults import broken_by
from hypothesis import given
from hypothesis import strategies as st

from tinygpt import CharTokenizer, TokenDataset
from tinygpt.errors import ConfigError, DataError, InputTypeError
from tinygpt.randomness import check_seed, derive_seed, permutation, shuffled, uniforms
from tinygpt.windows import Batch, Split

COUNTING = TokenDataset(range(60), val_fraction=0.25)  # each id is its own position


@broken_by(faults.last_window_out_of_reach)
def test_batches_reach_every_window() -> None:
    def start(step: int) -> int:
        return int(COUNTING.batch("train", step=step, batch_size=1, block_size=7).x[0, 0])

    length = len(COUNTING.train)
    assert {start(step) for step in range(50 * length)} == set(range(length - 7))


@broken_by(faults.targets_are_the_inputs)
@given(step=st.integers(0, 10**6), batch=st.integers(1, 9), block=st.integers(1, 14), seed=st.integers(0, 2**64 - 1))
def test_a_batch_is_a_function_of_its_arguments(step: int, batch: int, block: int, seed: int) -> None:
    state = torch.get_rng_state()
    for split, ids in (("train", range(45)), ("val", range(45, 60))):
        x, y = COUNTING.batch(split, step=step, batch_size=batch, block_size=block, seed=seed)
        again = COUNTING.batch(split, step=step, batch_size=batch, block_size=block, seed=seed)
        assert torch.equal(x, again.x)
        assert x.shape == y.shape == (batch, block)
        assert x.dtype == y.dtype == torch.int64
        assert torch.equal(y, x + 1)  # the ids count up, so what follows is one more
        assert torch.equal(x - x[:, :1], torch.arange(block).expand(batch, -1))
        assert set(x.flatten().tolist()) | set(y.flatten().tolist()) <= set(ids)
    assert torch.equal(torch.get_rng_state(), state)


def test_rows_of_several_processes_make_up_the_batch() -> None:
    x = COUNTING.batch("train", step=3, batch_size=12, block_size=5).x
    together = torch.empty_like(x)
    for rank in range(4):
        together[rank::4] = COUNTING.batch("train", step=3, batch_size=12, block_size=5).x[rank::4]
    assert torch.equal(together, x)


@pytest.mark.parametrize(("count", "expected"), [(8, True), (7, False)])
def test_starts_are_uniform(count: int, expected: bool) -> None:
    """By chi-square over as many classes as there are windows; with a class too few it fails."""
    data = TokenDataset(range(8 + 1), val_fraction=0)
    starts = torch.cat([data.batch("train", step=s, batch_size=500, block_size=1).x[:, 0] for s in range(8)])
    counts = torch.bincount(starts % count if expected else starts.clamp(max=count - 1), minlength=count).double()
    statistic = ((counts - counts.sum() / count) ** 2 / (counts.sum() / count)).sum()
    p_value = torch.special.gammaincc(torch.tensor((count - 1) / 2), statistic / 2).item()
    assert (p_value > 1e-4) == expected


@given(length=st.integers(2, 40), block=st.integers(1, 9), batch=st.integers(1, 5))
def test_windows_predict_every_id_once_in_order(length: int, block: int, batch: int) -> None:
    if length <= block:
        return
    data = TokenDataset(range(length), val_fraction=0)
    batches = list(data.windows("train", batch_size=batch, block_size=block))
    assert torch.cat([y.flatten() for _, y in batches]).tolist() == list(range(1, length))
    assert all(torch.equal(y, x + 1) for x, y in batches)
    few = list(data.windows("train", batch_size=batch, block_size=block, limit=2))
    assert 1 <= sum(len(x) for x, _ in few) <= 2 + ((length - 1) // block <= 2)


@given(
    length=st.integers(2, 40),
    block=st.integers(1, 9),
    batch=st.integers(1, 5),
    stride=st.none() | st.integers(1, 9),
    epoch=st.integers(0, 5),
)
def test_an_epoch_has_each_of_its_windows_once(
    length: int, block: int, batch: int, stride: int | None, epoch: int
) -> None:
    if length <= block:
        return
    data = TokenDataset(range(length), val_fraction=0)
    batches = list(data.epoch("train", batch_size=batch, block_size=block, stride=stride, epoch=epoch))
    starts = [int(row[0]) for x, _ in batches for row in x]
    assert sorted(starts) == sorted({*range(0, length - block, stride or block), length - block - 1})
    assert [len(x) for x, _ in batches[:-1]] == [batch] * (len(batches) - 1)
    if (stride or block) <= block:
        assert {int(i) for _, y in batches for i in y.flatten()} == set(range(1, length))


def test_epochs_have_orders_of_their_own() -> None:
    def order(**options: int) -> list[int]:
        return [int(x[0, 0]) for x, _ in COUNTING.epoch("train", batch_size=1, block_size=4, stride=1, **options)]

    assert order() == order(epoch=0, seed=0)
    assert order() != order(epoch=1)
    assert order() != order(seed=1)


@broken_by(faults.order_in_memory)
def test_a_batch_needs_no_memory_for_the_others() -> None:
    """Not even in a split of eight billion ids, which here are all one id in memory."""
    split = Split(np.broadcast_to(np.uint16(3), 8 * 10**9))
    split.draw(0, "train", 0, 2, 8)
    passes: list[Callable[[], Iterator[Batch]]] = [
        lambda: split.shuffle(0, 4, 8, stride=1),
        lambda: split.shuffle(0, 4, 8, stride=8),
        lambda: split.in_order(4, 8, limit=100),
        lambda: split.in_order(4, 8, limit=None),
    ]
    for batches in passes:
        tracemalloc.start()
        x, _ = next(batches())
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        assert x.shape == (4, 8)
        assert peak < 1 << 20


@given(length=st.integers(1, 99), share=st.floats(0, 0.99))
def test_splits_are_contiguous_and_together_the_corpus(length: int, share: float) -> None:
    data = TokenDataset(range(length), val_fraction=share)
    assert [*data.train, *data.val] == list(range(length))
    assert len(data.train) == int(round((1 - share) * length, 6))


@given(length=st.integers(1, 500), percent=st.integers(0, 99))
def test_a_split_of_whole_percent_is_exact(length: int, percent: int) -> None:
    """Also where the product of floats is just under a whole number, as 0.58 * 100 is."""
    data = TokenDataset(np.zeros(length, np.uint8), val_fraction=percent / 100)
    assert len(data.train) == length * (100 - percent) // 100


@pytest.mark.parametrize(
    ("length", "train", "val"), [(1_115_394, 1_003_854, 111_540), (6_340_988, 5_706_889, 634_099), (11, 9, 2)]
)
def test_the_split_is_that_of_the_notebook_and_nanogpt(length: int, train: int, val: int) -> None:
    data = TokenDataset(np.zeros(length, np.uint8))
    assert (len(data.train), len(data.val)) == (train, val) == (int(0.9 * length), length - int(0.9 * length))


@pytest.mark.usefixtures("unchecked_types")
@pytest.mark.parametrize(
    "kind",
    [list, tuple, iter, np.array, torch.tensor, lambda ids: np.array(ids, ">u2"), lambda ids: array.array("H", ids)]
    + [lambda ids, dtype=dtype: torch.tensor(ids).to(dtype) for dtype in (torch.uint8, torch.int16, torch.uint64)],
)
def test_ids_come_in_any_sequence(kind: Callable[[list[int]], Any]) -> None:
    data = TokenDataset(kind([3, 1, 2] * 10))
    assert data.vocab_size == 4
    assert data.batch("train", step=0, batch_size=2, block_size=3).x.dtype == torch.int64


@given(text=st.text("abcé☃", min_size=2), share=st.floats(0, 0.9))
@pytest.mark.filterwarnings("ignore:the vocabulary has 1 symbol")
def test_a_text_alone_gets_a_tokenizer_of_its_characters(text: str, share: float) -> None:
    tokenizer = CharTokenizer.from_text(text)
    data, explicit = TokenDataset(text, val_fraction=share), TokenDataset(text, tokenizer, val_fraction=share)
    assert data.tokenizer == tokenizer
    assert data.digest() == explicit.digest()
    assert data.vocab_size == explicit.vocab_size == len(set(text))
    assert tokenizer.decode([*data.train, *data.val]) == text


@pytest.mark.parametrize(
    ("source", "unit", "vocab_size"), [("abcd" * 500, "characters", 4), (np.arange(2000), "tokens", 2000)]
)
def test_a_dataset_shows_its_sizes(source: Any, unit: str, vocab_size: int) -> None:
    data = TokenDataset(source)
    assert repr(data) == f"TokenDataset(2,000 {unit}: 1,800 train, 200 val; vocab_size={vocab_size})"
    assert data._repr_html_() == (
        f"<p>TokenDataset: 2,000 {unit}, vocab_size={vocab_size}</p>"
        f"<table><tr><th>split</th><th>{unit}</th><th>share</th></tr>"
        "<tr><td>train</td><td>1,800</td><td>90.0%</td></tr><tr><td>val</td><td>200</td><td>10.0%</td></tr></table>"
    )


def test_a_memory_mapped_corpus_stays_on_the_disk(tmp_path: Path) -> None:
    path = tmp_path / "ids.bin"
    np.arange(1000, dtype=np.uint16).tofile(path)
    data = TokenDataset(np.memmap(path, np.uint16, mode="r"))
    assert isinstance(data.train, np.memmap)
    x, y = data.batch("val", step=0, batch_size=4, block_size=9)
    assert torch.equal(y, x + 1)


def test_characters_per_id() -> None:
    text = "abcd" * 10
    assert TokenDataset(text, CharTokenizer.from_text(text)).characters_per_id("train") == 1
    assert TokenDataset(range(9)).characters_per_id("train") == 1


# --- bad input --------------------------------------------------------------------------------------------------------

LETTERS = CharTokenizer("abc")


@pytest.mark.usefixtures("unchecked_types")
@pytest.mark.parametrize(
    ("source", "options", "kind", "message"),
    [
        ("", {"tokenizer": LETTERS}, DataError, "corpus is empty"),
        ("", {}, DataError, "corpus is empty"),
        ([], {}, DataError, "corpus is empty"),
        (
            "abc",
            {"tokenizer": object()},
            InputTypeError,
            "vocab_size, encode and decode, got object, which lacks vocab_size, encode, decode; wrap it",
        ),
        ([0.5, 1.0], {}, InputTypeError, "and ids must be integers, got 0.5 of type float at position 0"),
        ([1, 2.0], {}, InputTypeError, "got 2.0 of type float at position 1"),
        ([1, True], {}, InputTypeError, "got True of type bool at position 1"),
        (["1", 2], {}, InputTypeError, "got '1' of type str at position 0"),
        (["ab", "c"], {}, InputTypeError, r"got 2 texts, 'ab' first; use TokenDataset\.from_documents"),
        ([1, None], {}, InputTypeError, "got None of type NoneType at position 1"),
        ([[1, 2]], {}, InputTypeError, r"got \[1, 2\] of type list at position 0"),
        (
            np.array([[1, 2]]),
            {},
            InputTypeError,
            r"got int64 of shape \(1, 2\), .*; use one row of it, e\.g\. ids\[0\]",
        ),
        (np.array(3), {}, InputTypeError, r"got int64 of shape \(\)"),
        (np.array([1.0, 2.0]), {}, InputTypeError, r"got float64 of shape \(2,\), .*; convert it, e\.g\. ids.astype"),
        (np.array([True, False]), {}, InputTypeError, r"got bool of shape \(2,\)"),
        (np.array([1, 2], object), {}, InputTypeError, r"got object of shape \(2,\)"),
        (np.array([1, 2], "m8[s]"), {}, InputTypeError, r"got timedelta64\[s\] of shape \(2,\)"),
        (np.zeros(2, [("id", int)]), {}, InputTypeError, r"of shape \(2,\)"),
        (np.ma.array([1, 2], mask=[False, True]), {}, InputTypeError, r"got int64 of shape \(2,\), masked_array"),
        (torch.tensor([1.0, 2.0]), {}, InputTypeError, "got 1.0 of type float at position 0"),
        (torch.tensor([1.0, 2.0], dtype=torch.bfloat16), {}, InputTypeError, "got 1.0 of type float at position 0"),
        (torch.tensor([True]), {}, InputTypeError, "got True of type bool at position 0"),
        (torch.tensor(3), {}, InputTypeError, "source must be a text or ids, .*, got"),
        (torch.tensor([0, 1]).to_sparse(), {}, InputTypeError, "integers that can be read, got"),
        (torch.empty(3, dtype=torch.int64, device="meta"), {}, InputTypeError, "integers that can be read, got"),
        ({1: 2}, {}, InputTypeError, "one-dimensional sequence of integers, got {1: 2}"),
        ({1, 2}, {}, InputTypeError, "one-dimensional sequence of integers, got {1, 2}"),
        ([1, 2**70], {}, DataError, f"ids must be 0 or more, and below .*, {2**70} at position 1"),
        (
            np.array([1, 2**63 + 5], np.uint64),
            {},
            DataError,
            f"got ids from 1 to {2**63 + 5}, {2**63 + 5} at position 1",
        ),
        ([1, 2**64], {"tokenizer": LETTERS}, DataError, f"ids must be from 0 to 2, .*, {2**64} at position 1"),
        (b"abc", {}, InputTypeError, "source must be a text or ids, got bytes; decode them first"),
        (None, {}, InputTypeError, "got None"),
        ([1, -2], {}, DataError, "ids must be 0 or more, .*, got ids from -2 to 1, -2 at position 1"),
        (
            [1, 5],
            {"tokenizer": LETTERS},
            DataError,
            "ids must be from 0 to 2, the tokenizer's range, got ids from 1 to 5, 5 at position 1",
        ),
        ([1, 2], {"val_fraction": 1}, ConfigError, r"val_fraction must be a number in \[0, 1\), got val_fraction=1"),
        ([1, 2], {"val_fraction": -0.1}, ConfigError, "got val_fraction=-0.1"),
    ],
)
def test_invalid_sources_are_named(source: Any, options: dict[str, Any], kind: type[Exception], message: str) -> None:
    with pytest.raises(kind, match=message):
        TokenDataset(source, **options)


NAMES = [
    "input.txt",
    "data/Novel.MD",
    "corpus.jsonl.gz",
    "../a/b.csv",
    "C:\\texts\\a.txt",
    "https://example.org/a",
]


@pytest.mark.usefixtures("unchecked_types")
@pytest.mark.parametrize("name", [*NAMES, "my novel", "novel", Path("novel"), Path("absent.txt")])
def test_the_name_of_a_file_is_not_a_text(name: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whether it looks like one, or is that of an existing file."""
    monkeypatch.chdir(tmp_path)
    for existing in ("novel", "my novel"):
        (tmp_path / existing).write_text("once upon a time")
    way = "download it first" if "://" in str(name) else "read_text"
    works: list[Callable[[], Any]] = [
        lambda: TokenDataset(name, CharTokenizer.from_text("x" + str(name) + "y z\n")),
        lambda: TokenDataset(name),
        lambda: CharTokenizer.from_text(name),
    ]
    for work in works:
        with pytest.raises(InputTypeError, match=way) as caught:
            work()
        assert str(caught.value).startswith(("source must be a", "text must be a"))


@pytest.mark.usefixtures("unchecked_types")
def test_an_open_file_is_not_a_text(tmp_path: Path) -> None:
    (tmp_path / "novel").write_text("once upon a time")
    with (tmp_path / "novel").open() as file, pytest.raises(InputTypeError, match=r"got TextIOWrapper; .*file\.read"):
        TokenDataset(file, LETTERS)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    "text", ["ab", "a b.txt", "see input.txt", "a.txt\n", "etc.", "a/b", ".", "/", "\0", "a" * 5000]
)
def test_a_short_text_is_a_text(text: str) -> None:
    assert len(TokenDataset(text, CharTokenizer(sorted(set(text))), val_fraction=0).train) == len(text)


def test_a_split_that_is_too_short_is_named() -> None:
    data = TokenDataset(range(100))
    message = r"the val split has 10 of 100 tokens, need at least block_size\+1 = 13; use val_fraction=0.14 or a lower"
    with pytest.raises(DataError, match=message):
        data.batch("val", step=0, batch_size=1, block_size=12)
    assert TokenDataset(range(100), val_fraction=0.14).batch("val", step=0, batch_size=1, block_size=12)
    message = (
        r"the train split has 90 of 100 tokens, need at least block_size\+1 = 96; use a lower block_size or more text"
    )
    for method in (data.windows, data.epoch):
        with pytest.raises(DataError, match=message):
            method("train", batch_size=1, block_size=95)  # at once, not when iterated


@pytest.mark.usefixtures("unchecked_types")
@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"split": "test"}, "split must be one of 'train', 'val', got 'test'"),
        ({"split": "vall"}, "did you mean 'val'?"),
        ({"batch_size": 0}, "batch_size must be an integer of at least 1, got batch_size=0"),
        ({"block_size": 2.0}, "got block_size=2.0"),
        ({"step": -1}, "step must be an integer of at least 0, got step=-1"),
        ({"seed": 2**64}, "got seed=18446744073709551616"),
        ({"seed": True}, "got seed=True"),
    ],
)
def test_numbers_out_of_range_are_named(changes: dict[str, Any], message: str) -> None:
    fitting: dict[str, Any] = {"split": "train", "step": 0, "batch_size": 2, "block_size": 3}
    with pytest.raises(ConfigError, match=message):
        COUNTING.batch(**(fitting | changes))


# --- randomness -------------------------------------------------------------------------------------------------------


def split_mix(state: int) -> int:
    """Return an output of SplitMix64, written out in plain integers."""
    word = (1 << 64) - 1
    state = ((state ^ (state >> 30)) * 0xBF58476D1CE4E5B9) & word
    state = ((state ^ (state >> 27)) * 0x94D049BB133111EB) & word
    return state ^ (state >> 31)


@given(key=st.integers(0, 2**64 - 1), number=st.integers(0, 2**40))
def test_draws_are_those_of_split_mix(key: int, number: int) -> None:
    state = (key + (number + 1) * 0x9E3779B97F4A7C15) % 2**64
    found = uniforms([key], number)[0]
    assert found == (split_mix(state) >> 11) / 2**53
    assert 0 <= found < 1


def test_split_mix_from_seed_zero_begins_as_published() -> None:
    """The first output of the reference implementation seeded with 0."""
    assert int(uniforms([0], 0)[0] * 2**53) == 0xE220A8397B1DCDAF >> 11


@given(words=st.lists(st.integers(0, 2**64 - 1) | st.text(max_size=5), max_size=4))
def test_derived_seeds_differ_with_any_word(words: list[int | str]) -> None:
    seed = derive_seed(*words)
    assert check_seed(seed) == seed == derive_seed(*words)
    assert seed != derive_seed(*words, 0)
    assert not words or seed != derive_seed(*words[:-1])


@given(key=st.integers(0, 2**64 - 1), count=st.integers(0, 50))
def test_a_permutation_has_each_number_once(key: int, count: int) -> None:
    assert sorted(permutation(key, count)) == list(range(count))


@broken_by(faults.order_without_rounds)
def test_a_shuffled_order_has_each_number_once() -> None:
    orders = [shuffled(2**64 - 1 - count, count, range(count)).tolist() for count in range(301)]
    assert [sorted(order) for order in orders] == [list(range(count)) for count in range(301)]
    assert all(order != sorted(order) for order in orders[9:])


@given(key=st.integers(0, 2**64 - 1), count=st.integers(1, 2**62), data=st.data())
def test_a_part_of_a_shuffled_order_is_computed_alone(key: int, count: int, data: st.DataObject) -> None:
    """Also in an order too long for memory; no number comes twice."""
    positions = data.draw(st.lists(st.integers(0, count - 1), unique=True, max_size=9))
    found = shuffled(key, count, positions)
    assert found.tolist() == [int(shuffled(key, count, [position])[0]) for position in positions]
    assert len(set(found)) == len(positions)
    assert all(0 <= number < count for number in found.tolist())


@pytest.mark.parametrize(("count", "positions"), [(9, 9), (10**9, 6)])
def test_shuffled_orders_are_uniform(count: int, positions: int) -> None:
    """By chi-square over nine classes of numbers, at each of some positions, over many orders."""
    found = np.array([shuffled(derive_seed(key), count, range(positions)) for key in range(400)])
    for column in (found * 9 // count).T:
        shares = np.bincount(np.arange(count) * 9 // count, minlength=9) / count if count < 10**9 else np.full(9, 1 / 9)
        statistic = ((np.bincount(column, minlength=9) - 400 * shares) ** 2 / (400 * shares)).sum()
        assert torch.special.gammaincc(torch.tensor(4.0), torch.tensor(statistic / 2)) > 1e-4
