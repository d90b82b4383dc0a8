"""A prepared corpus has the ids of its texts, wherever these are cut and whenever the process is stopped."""

import os
import tracemalloc
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import faults
import numpy as np
import pytest
from faults import broken_by
from hypothesis import given
from hypothesis import strategies as st
from killable import exit_code, in_child

import tinygpt
from tinygpt import CharTokenizer, TokenDataset
from tinygpt.errors import ConfigError, DataError, InputTypeError, TokenizerError
from tinygpt.manifests import Manifest
from tinygpt.preparing import prepare

TEXTS = ["to be, or not to be:\r\n", "", "naïve Ωμέγα 你好 \U0001f600 " * 3, "that is the question"]
WHOLE = "".join(TEXTS)
LETTERS = CharTokenizer.from_text(WHOLE, end="\x03")


class Words:
    """A tokenizer with an id for each word, so that it must not be cut within one."""

    vocab_size = 1000

    def encode(self, text: str) -> list[int]:
        return [sum(map(ord, word)) % 1000 for word in text.split(" ")]

    def decode(self, ids: Sequence[int]) -> str:
        return " ".join(map(str, ids))


@pytest.fixture
def texts(tmp_path: Path) -> Path:
    folder = tmp_path / "texts"
    folder.mkdir()
    for number, text in enumerate(TEXTS):
        (folder / f"{number}.txt").write_bytes(text.encode())
    return folder


def content(directory: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in sorted(directory.iterdir())}


@given(val_fraction=st.floats(0, 0.9), shard_ids=st.integers(7, 200))
def test_a_prepared_text_has_the_ids_of_the_text(
    tmp_path_factory: pytest.TempPathFactory, val_fraction: float, shard_ids: int
) -> None:
    folder = tmp_path_factory.mktemp("texts")
    for number, text in enumerate(TEXTS):
        (folder / f"{number}.txt").write_bytes(text.encode())
    out = folder / ".corpus"
    data = prepare([folder / "*.txt"], out, val_fraction=val_fraction, shard_ids=shard_ids)
    expected = TokenDataset(WHOLE, val_fraction=val_fraction)
    assert repr(data) == repr(expected) == repr(TokenDataset.open(out))
    assert (data.train.tolist(), data.val.tolist()) == (expected.train.tolist(), expected.val.tolist())
    assert data.tokenizer == expected.tokenizer == TokenDataset.open(out).tokenizer
    data.verify()
    assert [shard["characters"] for shard in Manifest.read(out).shards] == [
        shard["ids"] for shard in Manifest.read(out).shards
    ]
    assert len(Manifest.read(out).shards) == -(-len(WHOLE) // shard_ids)


@broken_by(faults.characters_cut)
@pytest.mark.parametrize("size", range(1, 10))
@pytest.mark.parametrize(("tokenizer", "separator"), [(LETTERS, None), (Words(), ":\r\n"), (Words(), "e")])
def test_the_bytes_do_not_depend_on_the_pieces(
    texts: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, size: int, tokenizer: Any, separator: str | None
) -> None:
    """Nor on what is read at once, nor on what is written at once."""
    settings: dict[str, Any] = {"shard_ids": 11, "separator": separator}
    prepare(texts, tmp_path / "whole", tokenizer, **settings)
    monkeypatch.setattr("tinygpt.preparing._PIECE", size)
    monkeypatch.setattr("tinygpt.shard_writer._AT_ONCE", size)
    prepare(texts, tmp_path / "pieces", tokenizer, **settings)
    assert content(tmp_path / "pieces") == content(tmp_path / "whole")


def test_each_document_is_encoded_alone(texts: Path, tmp_path: Path) -> None:
    """A document ends with the separator, or with the file."""
    data = prepare(texts, tmp_path / "out", Words(), separator=":\r\n", val_fraction=0)
    documents = ["to be, or not to be:\r\n", TEXTS[2], TEXTS[3]]
    assert data.train.tolist() == [id for document in documents for id in Words().encode(document)]
    assert data.characters_per_id("train") == pytest.approx(len(WHOLE) / len(data.train))


@given(
    documents=st.lists(st.text("abc ", max_size=9), min_size=1, max_size=9).filter(any), ending=st.sampled_from("cd|")
)
def test_documents_are_those_of_from_documents(
    tmp_path_factory: pytest.TempPathFactory, documents: list[str], ending: str
) -> None:
    out = tmp_path_factory.mktemp("corpus") / "out"
    tokenizer = CharTokenizer("abc |", end="|")
    separator = None if ending == "|" else "cab"[: 1 + "cd".index(ending)]
    data = prepare(iter(documents), out, tokenizer, separator=separator, val_fraction=0, shard_ids=4)
    expected = TokenDataset.from_documents(documents, tokenizer, separator=separator, val_fraction=0, shuffle=False)
    assert data.train.tolist() == expected.train.tolist()


def test_ids_of_other_programs_are_prepared(tmp_path: Path) -> None:
    ids = np.random.default_rng(0).integers(0, 1000, 500).astype("<u2")
    ids[:200].tofile(tmp_path / "a.bin")
    ids[200:].tofile(tmp_path / "b.bin")
    data = prepare(str(tmp_path / "*.bin"), tmp_path / "out", Words(), shard_ids=64)
    assert data.train.tolist() + data.val.tolist() == ids.tolist()
    assert Manifest.read(tmp_path / "out").shards[0]["characters"] is None
    ids[7] = 1000
    ids.tofile(tmp_path / "a.bin")
    with pytest.raises(DataError, match=r"from 0 to 999, got 1000 in .*a.bin"):
        prepare(tmp_path / "a.bin", tmp_path / "other", Words())


# --- stopped and started again ----------------------------------------------------------------------------------------


def killed_at(number: int, name: str) -> Callable[[], None]:
    """Return what ends this process at one of its calls to the system."""
    calls = iter(range(10**9))
    real = getattr(os, name)

    def call(*arguments: Any) -> Any:
        if next(calls) == number:
            os._exit(9)
        return real(*arguments)

    return lambda: setattr(os, name, call)


@broken_by(faults.progress_of_the_piece)
@pytest.mark.parametrize("name", ["write", "fsync", "replace"])
@pytest.mark.parametrize(("tokenizer", "separator", "shard_ids"), [(LETTERS, None, 50), (Words(), "e", 10)])
def test_a_killed_process_goes_on(
    texts: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    name: str,
    tokenizer: Any,
    separator: str | None,
    shard_ids: int,
) -> None:
    """At whichever write it is killed, the same call then ends with the same bytes."""
    settings: dict[str, Any] = {"shard_ids": shard_ids, "separator": separator}
    prepare(texts, tmp_path / "whole", tokenizer, **settings)
    monkeypatch.setattr("tinygpt.preparing._PIECE", 16)
    number, ended = 0, False
    while not ended:
        out = tmp_path / f"killed at {number}"
        stop = killed_at(number, name)

        def work(out: Path = out, stop: Callable[[], None] = stop) -> None:
            stop()
            prepare(texts, out, tokenizer, **settings)

        ended = exit_code(in_child(work)) == 0
        before = {path.name: path.stat().st_mtime_ns for path in out.glob("shard-*")} if out.exists() else {}
        prepare(texts, out, tokenizer, **settings)
        assert content(out) == content(tmp_path / "whole")
        kept = [shard for shard, written in before.items() if (out / shard).stat().st_mtime_ns == written]
        assert len(kept) >= len(before) - 1
        number += 1
    assert number > 6


@pytest.mark.parametrize("stop", range(1, 4))
def test_documents_go_on_after_those_that_are_written(tmp_path: Path, stop: int) -> None:
    def failing(texts: list[str]) -> Iterator[str]:
        yield from texts[:stop]
        raise KeyboardInterrupt

    settings: dict[str, Any] = {"shard_ids": 9, "val_fraction": 0.3}
    texts = [text for text in TEXTS * 2 if text]
    prepare(iter(texts), tmp_path / "whole", LETTERS, **settings)
    with pytest.raises(KeyboardInterrupt):
        prepare(failing(texts), tmp_path / "out", LETTERS, **settings)
    prepare(iter(texts), tmp_path / "out", LETTERS, **settings)
    assert content(tmp_path / "out") == content(tmp_path / "whole")


def test_a_second_call_only_opens_the_corpus(texts: Path, tmp_path: Path) -> None:
    data = prepare(texts, tmp_path / "out", LETTERS)
    before = content(tmp_path / "out")
    again = prepare(texts, tmp_path / "out", LETTERS)
    assert again.digest() == data.digest()
    assert content(tmp_path / "out") == before


def test_other_arguments_are_refused(texts: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    prepare(texts, out, LETTERS)
    before = content(out)
    calls: list[Callable[[], Any]] = [
        lambda: prepare(texts / "0.txt", out, LETTERS),
        lambda: prepare(texts, out, LETTERS.extended("z")),
        lambda: prepare(texts, out, LETTERS, val_fraction=0.2),
        lambda: prepare(texts, out, LETTERS, shard_ids=5),
        lambda: prepare(texts, out, LETTERS, separator="\n"),
        lambda: prepare(iter(TEXTS), out, LETTERS),
        lambda: (texts / "0.txt").write_text("more") and prepare(texts, out, LETTERS),
    ]
    for call in calls:
        with pytest.raises(DataError, match="contains a corpus of other sources or arguments; use the same ones"):
            call()
    assert content(out) == before
    (out / "progress.json").unlink()
    with pytest.raises(DataError, match=r"contains a corpus; open it with TokenDataset\.open"):
        prepare(texts, out, LETTERS)


@pytest.mark.parametrize(
    "raw", [b"", b"[]", b"{}", b'{"arguments": "", "shards": [], "position": [0, -1, 0]}', b"\xff"]
)
def test_invalid_progress_is_named(texts: Path, tmp_path: Path, raw: bytes) -> None:
    out = tmp_path / "out"
    prepare(texts, out, LETTERS)
    (out / "progress.json").write_bytes(raw)
    with pytest.raises(DataError, match=r"progress\.json' is invalid: .*; remove the directory to start again"):
        prepare(texts, out, LETTERS)


def test_a_missing_shard_is_named(texts: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    prepare(texts, out, LETTERS, shard_ids=20)
    (out / "shard-00001.bin").unlink()
    with pytest.raises(DataError, match=r"shard-00001\.bin"):
        prepare(texts, out, LETTERS, shard_ids=20)


# --- errors -----------------------------------------------------------------------------------------------------------


@pytest.mark.usefixtures("unchecked_types")
def test_invalid_arguments_are_named(texts: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    (texts / "latin.txt").write_bytes(b"caf\xe9 au lait")
    (texts / "cut.txt").write_bytes("ab你".encode()[:-1])
    (texts / "empty.txt").write_bytes(b"")
    np.zeros(3, "<u2").tofile(texts / "ids.bin")
    every: Any = prepare
    words, first = Words(), texts / "0.txt"
    adapted = Words()
    adapted.hook = lambda: None  # type: ignore[attr-defined]
    cases: list[tuple[type[Exception], str, Callable[[], Any]]] = [
        (ConfigError, "val_fraction must be", lambda: every(first, out, LETTERS, val_fraction=1)),
        (ConfigError, "got shard_ids=0", lambda: every(first, out, LETTERS, shard_ids=0)),
        (ConfigError, "got workers=-1", lambda: every(first, out, LETTERS, workers=-1)),
        (ConfigError, "at least one character, got separator=''", lambda: every(first, out, LETTERS, separator="")),
        (
            ConfigError,
            r"Words encodes each document of .*0.txt' alone, got separator=None",
            lambda: every(first, out, words),
        ),
        (ConfigError, "need a tokenizer, got tokenizer=None", lambda: every(texts / "ids.bin", out)),
        (ConfigError, "need a tokenizer, got tokenizer=None", lambda: every(iter("ab"), out)),
        (
            ConfigError,
            "documents must have an end, got CharTokenizer",
            lambda: every(iter("ab"), out, CharTokenizer("ab")),
        ),
        (
            ConfigError,
            "pickle can send to workers, got Words: .*; use workers=0",
            lambda: every(first, out, adapted, workers=1, separator="e"),
        ),
        (InputTypeError, "paths or an iterator over texts, got 7 of type int", lambda: every(7, out, LETTERS)),
        (
            InputTypeError,
            "documents must be texts, got 3 as document 1",
            lambda: every(iter(["be", 3]), tmp_path / "a", LETTERS),
        ),
        (InputTypeError, "must have vocab_size", lambda: every(first, out, object())),
        (InputTypeError, "did you mean 'val_fraction'", lambda: every(first, out, LETTERS, val_split=0.1)),
        (DataError, "got 0 paths; for texts in memory use iter", lambda: every([], out, LETTERS)),
        (DataError, "corpus is empty", lambda: every(texts / "empty.txt", out)),
        (DataError, "corpus is empty", lambda: every(texts / "empty.txt", tmp_path / "b", LETTERS)),
        (DataError, "latin.txt' is not utf-8 text: byte 0xe9 at offset 3", lambda: every(texts / "latin.txt", out)),
        (DataError, "cut.txt' is not utf-8 text: byte 0xe4 at offset 2", lambda: every(texts / "cut.txt", out)),
        (TokenizerError, "0.txt' from byte 0: text has 'o'", lambda: every(first, tmp_path / "c", CharTokenizer("t"))),
        (
            TokenizerError,
            "document 0: text has 'o'",
            lambda: every(iter(["o"]), tmp_path / "d", CharTokenizer("tx"), separator="x"),
        ),
        (FileNotFoundError, "absent", lambda: every(texts / "absent.txt", out, LETTERS)),
    ]
    for kind, message, call in cases:
        with pytest.raises(kind, match=message) as caught:
            call()
        assert len(str(caught.value)) <= 300 + len(str(texts))
    assert not out.exists()


# --- workers ----------------------------------------------------------------------------------------------------------


def test_workers_write_the_same_bytes(texts: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tinygpt.encoder._BATCH", 8)
    for workers in (0, 2):
        prepare(
            texts, tmp_path / str(workers), tinygpt.symbols.ByteTokenizer(), separator="e", shard_ids=9, workers=workers
        )
    assert content(tmp_path / "0") == content(tmp_path / "2")


def test_memory_does_not_depend_on_the_length(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Neither on that of a text, nor on that of a shard."""
    monkeypatch.setattr("tinygpt.preparing._PIECE", 1 << 12)
    monkeypatch.setattr("tinygpt.shard_writer._AT_ONCE", 1 << 12)
    peaks = []
    for number, length in enumerate((1, 10**5, 10**6)):
        (tmp_path / f"{number}.txt").write_text("abcd" * length)
        tracemalloc.start()
        prepare(tmp_path / f"{number}.txt", tmp_path / str(number))
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
    assert peaks[2] < peaks[1] + (1 << 16)
