"""Mixtures of corpora: each row is of one of them, as often as its weight says, and depends on no other."""

from types import SimpleNamespace
from typing import Any

import faults
import numpy as np
import pytest
import torch
from faults import broken_by
from hypothesis import given
from hypothesis import strategies as st

from tinygpt import BigramLanguageModel, CharTokenizer, TokenDataset, Trainer, TrainerConfig, evaluate
from tinygpt.errors import ConfigError, DataError, InputTypeError

NUMBERS: Any = SimpleNamespace(vocab_size=300, encode=lambda text: list(map(ord, text)), decode=str)
# Each id is in one corpus only, and ids count up.
SOURCES = {
    name: TokenDataset(np.arange(start, start + 100), NUMBERS, val_fraction=0.2)
    for name, start in (("mail", 200), ("books", 0), ("code", 100))
}
WEIGHTS = {"books": 5.0, "code": 3.0, "mail": 2.0}


def mixed(*names: str, **options: Any) -> TokenDataset:
    weights = {name: WEIGHTS[name] for name in names}
    return TokenDataset.mix({name: SOURCES[name] for name in names}, weights=weights, **options)


@broken_by(faults.one_stream_for_all_sources)
@given(step=st.integers(0, 10**6), seed=st.integers(0, 2**64 - 1), split=st.sampled_from(["train", "val"]))
def test_a_row_that_keeps_its_source_keeps_its_window(step: int, seed: int, split: str) -> None:
    """When a source is added, or the order of the sources is another."""
    few, more = mixed("books", "code"), mixed("mail", "code", "books")
    first, second = (data.batch(split, step=step, batch_size=40, block_size=7, seed=seed).x for data in (few, more))
    kept = first[:, 0] // 100 == second[:, 0] // 100
    assert torch.equal(first[kept], second[kept])
    assert kept.sum() > 9
    again = mixed("books", "code", "mail").batch(split, step=step, batch_size=40, block_size=7, seed=seed).x
    assert torch.equal(second, again)
    assert mixed("books", "code", "mail").digest() == more.digest()


@broken_by(faults.sources_equally_often)
def test_sources_are_drawn_by_their_weights() -> None:
    data = mixed("books", "code", "mail")
    x, y = (
        torch.cat(rows)
        for rows in zip(*(data.batch("train", step=s, batch_size=200, block_size=5) for s in range(20)), strict=True)
    )
    assert torch.equal(y, x + 1)  # each window is in one corpus
    shares = torch.bincount(x[:, 0] // 100, minlength=3) / len(x)
    assert torch.allclose(shares, torch.tensor([0.5, 0.3, 0.2], dtype=shares.dtype), atol=0.03)
    starts = torch.bincount(x[:, 0] % 100)
    assert len(starts) == 80 - 5  # every window is drawn
    assert int(starts.min()) > 0


def test_by_default_all_windows_are_drawn_equally_often() -> None:
    sources = {"a": TokenDataset(np.arange(90), NUMBERS), "b": TokenDataset(np.arange(100, 110), NUMBERS)}
    data = TokenDataset.mix(sources)
    x = torch.cat([data.batch("train", step=step, batch_size=500, block_size=1).x for step in range(6)])
    assert (x >= 100).double().mean() == pytest.approx(0.1, abs=0.02)


@given(block=st.integers(1, 15), batch=st.integers(1, 9))
def test_a_pass_has_each_source_in_order_of_the_names(block: int, batch: int) -> None:
    data = mixed("mail", "books", "code")
    predicted = torch.cat([y[y != -100] for _, y in data.windows("val", batch_size=batch, block_size=block)])
    assert predicted.tolist() == [*range(81, 100), *range(181, 200), *range(281, 300)]
    starts = [int(row[0]) for x, _ in data.epoch("val", batch_size=batch, block_size=block, stride=1) for row in x]
    assert sorted(starts) == [100 * k + 80 + start for k in range(3) for start in range(20 - block)]


def test_the_loss_of_a_mixture_is_the_mean_over_ids() -> None:
    model = BigramLanguageModel(300)
    losses = [evaluate(model, SOURCES[name], block_size=7).nats for name in SOURCES]
    assert evaluate(model, mixed(*SOURCES), block_size=7).nats == pytest.approx(sum(losses) / 3, rel=1e-12)


def test_documents_examples_and_texts_are_mixed() -> None:
    letters = CharTokenizer.from_text("abcdef", end="|")
    sources = {
        "text": TokenDataset("abcdef" * 20, letters),
        "documents": TokenDataset.from_documents(["ab", "cde", "f"] * 3, letters, packing=False),
        "examples": TokenDataset.from_examples([("ab", "c"), ("de", "f")] * 3, letters),
    }
    data = TokenDataset.mix(sources)
    for split in ("train", "val"):
        found = [y[y != -100] for _, y in data.windows(split, batch_size=2, block_size=8)]
        expected = [
            y[y != -100]
            for name in sorted(sources)
            for _, y in sources[name].windows(split, batch_size=2, block_size=8)
        ]
        assert torch.equal(torch.cat(found), torch.cat(expected))
    with pytest.raises(DataError, match=r"source 'examples': an example must have at most block_size \+ 1 = 3"):
        data.batch("train", step=0, batch_size=1, block_size=2)
    trainer = Trainer(BigramLanguageModel(7), data, TrainerConfig(max_iters=3, block_size=4, preview_tokens=3))
    assert trainer.fit(progress=False).evaluations[-1].step == 3


def test_a_source_without_validation_split_is_only_trained_on() -> None:
    data = TokenDataset.mix({"a": SOURCES["code"], "b": TokenDataset(np.arange(50), NUMBERS, val_fraction=0)})
    assert (len(data.train), len(data.val)) == (130, 20)
    assert int(data.batch("val", step=0, batch_size=50, block_size=5).x.min()) >= 180
    assert len(TokenDataset.mix({"a": TokenDataset(np.arange(50), NUMBERS, val_fraction=0)}).val) == 0


def test_digests_of_mixtures_differ() -> None:
    made = [
        mixed("books", "code"),
        mixed("books", "mail"),
        TokenDataset.mix({"books": SOURCES["books"], "code": SOURCES["code"]}),
        TokenDataset.mix({"books": SOURCES["code"], "code": SOURCES["books"]}, weights={"books": 5, "code": 3}),
    ]
    assert len({data.digest() for data in made}) == 4
    assert repr(made[0]) == "TokenDataset(200 tokens of 2 datasets: 160 train, 40 val; vocab_size=300)"
    made[0].verify()


@pytest.mark.usefixtures("unchecked_types")
@pytest.mark.parametrize(
    ("sources", "options", "kind", "message"),
    [
        ({}, {}, ConfigError, "sources must have a dataset, got an empty mapping"),
        ([SOURCES["books"]], {}, InputTypeError, "sources must be TokenDatasets by name, got"),
        ({"a": "text"}, {}, InputTypeError, "sources must be TokenDatasets by name, got {'a': 'text'}"),
        ({1: SOURCES["books"]}, {}, InputTypeError, "by name"),
        (SOURCES, {"weights": {"books": 1}}, ConfigError, "must have the names of the sources, .*, got {'books': 1}"),
        (SOURCES, {"weights": [1, 2, 3]}, ConfigError, r"must have the names of the sources, .*, got \[1, 2, 3\]"),
        (SOURCES, {"weights": WEIGHTS | {"code": 0}}, ConfigError, r"weights\['code'\] must be a number above 0, got"),
        ({"a": SOURCES["code"], "b": TokenDataset([1, 2])}, {}, ConfigError, "got vocab_size=300 in 'a' and 3 in 'b'"),
        (
            {"a": TokenDataset("ab"), "b": TokenDataset("ac")},
            {},
            ConfigError,
            "2 in 'a' and 2 in 'b', or other symbols",
        ),
        ({"a": mixed("books")}, {}, ConfigError, "a mixture cannot be mixed again, got 'a'"),
    ],
)
def test_invalid_mixtures_are_named(sources: Any, options: Any, kind: type[Exception], message: str) -> None:
    with pytest.raises(kind, match=message):
        TokenDataset.mix(sources, **options)


def test_a_source_that_is_too_short_is_named() -> None:
    with pytest.raises(DataError, match=r"source 'books': the val split has 20 of 20 tokens, need at least .* = 31"):
        mixed("books", "code").batch("val", step=0, batch_size=1, block_size=30)
