"""Documents, examples and masks: rows stay apart, and only what is to be learnt is a target."""

import itertools
import random
import warnings
from collections import Counter
from typing import Any

import faults
import numpy as np
import pytest
import torch
from faults import broken_by
from hypothesis import given
from hypothesis import strategies as st

from tinygpt import BigramLanguageModel, CharTokenizer, TokenDataset, Trainer, TrainerConfig
from tinygpt.errors import CheckpointMismatchError, ConfigError, DataError, InputTypeError, TokenizerError
from tinygpt.training.baseline import bigram_loss

END = "\x03"
DOCUMENTS = st.lists(st.text("abc", min_size=1, max_size=9), min_size=2, max_size=9)
EXAMPLES = st.lists(st.tuples(st.text("abc", min_size=1, max_size=5), st.text("def", max_size=5)), min_size=2)
LETTERS = CharTokenizer.from_text("abcdef", end=END)
dataset: Any = TokenDataset  # for arguments of other types


def rows_of(data: TokenDataset, split: str, block_size: int) -> list[tuple[str, str]]:
    """Return the windows of an epoch as texts: the inputs, and the targets with a dot for -100."""

    def text(ids: list[int]) -> str:
        return "".join("." if id == -100 else LETTERS.symbols[id] for id in ids)

    batches = data.epoch(split, batch_size=4, block_size=block_size, stride=1)
    return [(text(a), text(b)) for x, y in batches for a, b in zip(x.tolist(), y.tolist(), strict=True)]


def windows_by_definition(row: str, block_size: int, answer: int = 1) -> list[tuple[str, str]]:
    """Return all windows of a row, of which the symbols from ``answer`` on are targets."""
    found = []
    for start in range(max(1, len(row) - block_size)):
        x, y = row[start : start + block_size], row[start + 1 : start + 1 + block_size]
        y = "".join(symbol if start + 1 + i >= answer else "." for i, symbol in enumerate(y))
        found.append(((x + row[-1] * block_size)[:block_size], (y + "." * block_size)[:block_size]))
    return found


@broken_by(faults.documents_without_an_end)
@given(texts=DOCUMENTS, share=st.floats(0, 0.9), shuffle=st.booleans(), packing=st.booleans(), seed=st.integers(0, 99))
def test_each_document_is_in_one_split_with_its_end(
    texts: list[str], share: float, shuffle: bool, packing: bool, seed: int
) -> None:
    options: dict[str, Any] = {"val_fraction": share, "shuffle": shuffle, "packing": packing, "seed": seed}
    data = TokenDataset.from_documents([*texts, ""], LETTERS, **options)
    splits = [LETTERS.decode(ids) for ids in (data.train, data.val)]
    found = [document for text in splits for document in text.removeprefix(END).split(END)[:-1]]
    assert Counter(found) == Counter(texts)
    assert found == texts or shuffle
    assert all(text.endswith(END) for text in splits if text)
    assert bool(splits[1]) == (share > 0)
    assert TokenDataset.from_documents(texts, LETTERS, **options).digest() == data.digest()


def test_documents_are_shuffled_by_the_seed() -> None:
    """So that a list in order gives both splits the same content, and a resumed run the same batches."""
    texts = sorted(f"{letter}{other}" for letter in "abc" for other in "abc" * 20)

    def first_letters(**options: Any) -> Counter[str]:
        return Counter(LETTERS.decode(TokenDataset.from_documents(texts, LETTERS, **options).val)[::3])

    assert first_letters(shuffle=False) == {"c": 18}
    assert min(first_letters().values()) > 1
    assert len(first_letters()) == 3
    digests = [TokenDataset.from_documents(texts, LETTERS, seed=seed).digest() for seed in (0, 0, 1)]
    assert digests[0] == digests[1] != digests[2]


def test_the_split_is_between_documents_near_the_fraction() -> None:
    texts = ["a" * length for length in (49, 39, 9)]
    for share, sizes in [(0.1, (90, 10)), (0.4, (50, 50)), (0.99, (50, 50)), (1e-9, (90, 10))]:
        data = TokenDataset.from_documents(texts, LETTERS, val_fraction=share, shuffle=False)
        assert (len(data.train), len(data.val)) == sizes


@broken_by(faults.windows_cross_documents)
@given(texts=DOCUMENTS, block=st.integers(1, 9))
def test_without_packing_a_window_is_in_one_document(texts: list[str], block: int) -> None:
    """It may begin with the end of the document before, so that the first symbol is a target too."""
    data = TokenDataset.from_documents(texts, LETTERS, val_fraction=0, packing=False)
    expected = Counter(window for text in texts for window in windows_by_definition(END + text + END, block))
    assert Counter(rows_of(data, "train", block)) == expected
    assert data.splits["train"].count(block) == expected.total()
    x, y = data.batch("train", step=1, batch_size=50, block_size=block)
    drawn = {(LETTERS.decode(a), LETTERS.decode(b[b != -100])) for a, b in zip(x, y, strict=True)}
    assert drawn <= {(a, b.replace(".", "")) for a, b in expected}


@given(texts=DOCUMENTS, block=st.integers(1, 9), packing=st.booleans(), separator=st.sampled_from([None, "", "f"]))
def test_windows_predict_every_target_once(texts: list[str], block: int, packing: bool, separator: str | None) -> None:
    if separator == "" and max(map(len, texts)) < 2:
        return
    data = TokenDataset.from_documents(texts, LETTERS, val_fraction=0, packing=packing, separator=separator)
    if packing and len(data.train) <= block:
        return
    predicted = torch.cat([y[y != -100] for _, y in data.windows("train", batch_size=3, block_size=block)])
    split = data.splits["train"]
    mask = np.full(len(split.ids), True) if split.mask is None else split.mask
    assert predicted.tolist() == split.ids[1:][mask[1:]].tolist()


@broken_by(faults.prompts_are_targets)
@given(examples=EXAMPLES, block=st.integers(10, 14))
def test_an_example_is_a_row_with_the_answer_as_target(examples: list[tuple[str, str]], block: int) -> None:
    data = TokenDataset.from_examples(examples, LETTERS, val_fraction=0)
    expected = [windows_by_definition(a + b + END, block, answer=len(a)) for a, b in examples]
    assert Counter(rows_of(data, "train", block)) == Counter(window for windows in expected for window in windows)
    assert all(len(windows) == 1 for windows in expected)


def test_a_separator_takes_the_role_of_the_end() -> None:
    data = TokenDataset.from_documents(["ab", "c"], separator="ef", val_fraction=0, shuffle=False, packing=False)
    assert data.tokenizer.decode(data.train.tolist()) == "fabefcef"  # type: ignore[union-attr]
    data = TokenDataset.from_examples([("ab", "c")], separator="ef", val_fraction=0)
    assert data.tokenizer.decode(data.train.tolist()) == "abcef"  # type: ignore[union-attr]


def test_validation_may_be_texts_of_its_own() -> None:
    data = TokenDataset("abcabc", val="cba")
    assert (data.train.tolist(), data.val.tolist(), data.vocab_size) == ([0, 1, 2, 0, 1, 2], [2, 1, 0], 3)
    assert data.val_fraction == pytest.approx(1 / 3)
    data = TokenDataset("abab", val="cc")
    assert data.vocab_size == 3
    assert TokenDataset([0, 1, 2], val=[7, 0]).vocab_size == 8
    data = TokenDataset.from_documents(["a", "b"], LETTERS, val=["cc"])
    assert (len(data.train), LETTERS.decode(data.val)) == (4, f"cc{END}")
    data = TokenDataset.from_examples([("a", "b")], LETTERS, val=[("b", "c")])
    assert [LETTERS.decode(ids) for ids in (data.train, data.val)] == [f"ab{END}", f"bc{END}"]


@given(mask=st.lists(st.booleans(), min_size=9, max_size=40).filter(any), block=st.integers(1, 8))
@pytest.mark.parametrize("kind", [list, np.array, torch.tensor])
def test_a_mask_says_which_ids_are_targets(mask: list[bool], block: int, kind: Any) -> None:
    ids = np.arange(len(mask))
    data = TokenDataset(ids, mask=kind(mask), val_fraction=0)
    plain = TokenDataset(ids, val_fraction=0)
    options: dict[str, Any] = {"step": 3, "batch_size": 5, "block_size": block}
    (x, y), (plain_x, plain_y) = (each.batch("train", **options) for each in (data, plain))
    assert torch.equal(x, plain_x)
    assert torch.equal(y, torch.where(torch.tensor(mask)[plain_y], plain_y, -100))
    assert data.digest() != plain.digest()


def test_the_bigram_counts_targets_only() -> None:
    ids, mask = np.array([0, 1, 0, 2] * 20), np.array([True, True, True, False] * 20)
    assert bigram_loss(TokenDataset(ids, mask=mask, val_fraction=0.5)) < 0.2
    assert bigram_loss(TokenDataset(ids, val_fraction=0.5)) > 0.3


def test_the_digest_sees_where_documents_begin() -> None:
    texts = ["ab", "ab"]
    options: dict[str, Any] = {"val_fraction": 0, "separator": "", "shuffle": False}
    digests = {TokenDataset.from_documents(some, LETTERS, **options).digest() for some in (texts, ["abab"])}
    assert len(digests) == 1
    options["packing"] = False
    assert len({TokenDataset.from_documents(some, LETTERS, **options).digest() for some in (texts, ["a", "bab"])}) == 2


def test_a_run_on_other_examples_is_not_resumed(tmp_path: Any) -> None:
    """Also where the ids are equal, and only their role is another."""
    examples = [("ab", "c"), ("ba", "d")] * 10
    others = [("a", "bc"), ("b", "ad")] * 10
    config = TrainerConfig(max_iters=2, batch_size=2, block_size=4)
    datasets = [TokenDataset.from_examples(some, LETTERS) for some in (examples, others)]
    assert np.array_equal(datasets[0].train[:], datasets[1].train[:])
    trainers = [Trainer(BigramLanguageModel(7), data, config, run_dir=tmp_path) for data in datasets]
    trainers[0].fit(progress=False)
    with pytest.raises(CheckpointMismatchError):
        trainers[1].fit(resume=True, progress=False)


def test_a_split_unlike_the_rest_is_a_warning() -> None:
    words = ["".join(letters) for letters in itertools.product("abcdefghij", repeat=5)][::4]
    text = "\n".join(words)
    with pytest.warns(UserWarning, match=r"symbols differ by 0\.\d\d nats; .* use TokenDataset\.from_doc"):
        TokenDataset(text)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        TokenDataset(text, val="aaaaa" * 9000)
        TokenDataset(text[:90_000])
        TokenDataset.from_documents(words)
        TokenDataset("\n".join(random.Random(0).sample(words, len(words))))


@broken_by(faults.mean_of_means)
def test_a_target_weighs_the_same_in_every_micro_batch() -> None:
    """Answers have different lengths, and the loss is the mean over their targets."""
    data = TokenDataset.from_examples([("ab", "cdefabc"), ("a", "c"), ("abcde", "f"), ("b", "cdef")] * 5, LETTERS)

    def steps(accumulation: int) -> tuple[list[float], torch.Tensor]:
        torch.manual_seed(0)
        config = TrainerConfig(max_iters=3, batch_size=7, accumulation=accumulation, block_size=9, preview_tokens=0)
        trainer = Trainer(BigramLanguageModel(7).double(), data, config)
        return [step.loss for step in trainer], trainer.model.state_dict()["table.weight"]

    losses, weights = steps(1)
    for accumulation in (2, 4):
        again, others = steps(accumulation)
        assert again == pytest.approx(losses, rel=1e-12)
        torch.testing.assert_close(others, weights, rtol=0, atol=1e-12)


@pytest.mark.usefixtures("unchecked_types")
@pytest.mark.parametrize(
    ("make", "kind", "message"),
    [
        (lambda: dataset.from_documents("abc"), InputTypeError, "texts must be several texts, got one, 'abc'"),
        (lambda: dataset.from_documents(["a", 7]), InputTypeError, "got 7 of type int at position 1"),
        (lambda: dataset.from_documents([]), DataError, "at least one document that is not empty, got none; pass the"),
        (lambda: dataset.from_documents([""], val_fraction=0), DataError, "at least one document that is not empty"),
        (lambda: dataset.from_documents([], LETTERS, val=["a"]), DataError, "at least one document that is not empty"),
        (lambda: dataset.from_examples([]), DataError, "at least one document that is not empty"),
        (lambda: dataset.from_documents(["ab"], LETTERS), DataError, "at least 2 to be split between them, got 1"),
        (
            lambda: dataset.from_documents(["a", "b"], CharTokenizer("ab")),
            ConfigError,
            r"end, got CharTokenizer without end_id .*; use CharTokenizer\.from_text\(texts, end='\\x03'\), or",
        ),
        (lambda: dataset.from_documents(["a", "z"], LETTERS), TokenizerError, "document 1: text has 'z'"),
        (lambda: dataset.from_documents(["a", f"b{END}"], LETTERS), TokenizerError, "document 1: a text must not"),
        (lambda: dataset.from_documents(["a", "b"], val_fraction=1), ConfigError, r"val_fraction must be"),
        (lambda: dataset.from_examples([("a", "b"), "ab", "c"]), InputTypeError, "pairs .*, got 'ab' at 1"),
        (lambda: dataset.from_examples([("a", "b"), ("", "c")]), DataError, "not be empty, got example 1"),
        (lambda: dataset([1, 2], val=[1], mask=[True, True]), ConfigError, "val and mask cannot be combined"),
        (lambda: dataset([1, 2], mask=[True]), DataError, r"for each of the 2 ids, got bool of shape \(1,\)"),
        (lambda: dataset([1, 2], mask=[1, 0]), DataError, r"got int64 of shape \(2,\); True marks a target"),
        (lambda: dataset([1, 2], mask=[True, False], val_fraction=0.5), DataError, "False for all 1 of val"),
        (lambda: dataset("abc", val=["abc"]), InputTypeError, "val must be one text or ids, got 1 texts"),
    ],
)
def test_invalid_documents_are_named(make: Any, kind: type[Exception], message: str) -> None:
    with pytest.raises(kind, match=message):
        make()


def test_an_example_that_is_too_long_is_named() -> None:
    data = TokenDataset.from_examples([("a", "b"), ("abc", "def"), ("a", "bc")], LETTERS, val_fraction=0)
    message = "at most block_size \\+ 1 = 6 tokens, got 7 in example 1 with its end; use a higher block_size"
    for call in (data.batch, data.epoch, data.windows):
        options: dict[str, Any] = {"step": 0} if call == data.batch else {}
        with pytest.raises(DataError, match=message):
            call("train", batch_size=2, block_size=5, **options)
        assert call("train", batch_size=2, block_size=6, **options)
    assert len(data.split("train")) == 3 + 7 + 4
