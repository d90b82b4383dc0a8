"""A corpus on the disk: the same batches as from memory, no byte trusted, and no read that is not needed."""

import copy
import hashlib
import json
import mmap
import pickle
import re
import time
import tracemalloc
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import faults
import numpy as np
import pytest
import torch
from faults import broken_by
from hypothesis import given
from hypothesis import strategies as st

from tinygpt import CharTokenizer, NGramLanguageModel, TokenDataset
from tinygpt.errors import ConfigError, DataError, InputTypeError, TokenizerError
from tinygpt.files import to_json
from tinygpt.fingerprints import entry_of
from tinygpt.ids import Joined, as_integers
from tinygpt.manifests import Manifest, dtype_of
from tinygpt.windows import Batch

LETTERS = CharTokenizer("abcd")


class Pairs:
    """A tokenizer with an id for each two letters."""

    vocab_size = 16

    def encode(self, text: str) -> list[int]:
        return [4 * "abcd".index(a) + "abcd".index(b) for a, b in zip(text[::2], text[1::2], strict=True)]

    def decode(self, ids: Sequence[int]) -> str:
        return "".join("abcd"[id // 4] + "abcd"[id % 4] for id in ids)


def write_shards(directory: Path, pieces: Sequence[Sequence[int]], *, train: int, **changes: Any) -> Path:
    """Write a prepared corpus of some shards by hand."""
    directory.mkdir(exist_ok=True)
    settings: dict[str, Any] = {"dtype": "<u2", "vocab_size": 300, "tokenizer": None} | changes
    entries = []
    for number, piece in enumerate(pieces):
        raw = np.array(piece, settings["dtype"]).tobytes()
        (directory / f"shard-{number:05d}.bin").write_bytes(raw)
        bounds = {"lowest": min(piece), "highest": max(piece), "characters": None}
        entries.append({"ids": len(piece), "sha256": hashlib.sha256(raw).hexdigest()} | bounds)
    (directory / "manifest.json").write_bytes(Manifest(shards=entries, train=train, **settings).to_bytes())
    return directory


def all_batches(data: TokenDataset, split: str, block: int) -> list[Batch]:
    sizes = {"batch_size": 3, "block_size": block}
    drawn = [data.batch(split, step=step, **sizes) for step in range(3)]
    return [*drawn, *data.windows(split, **sizes), *data.windows(split, limit=2, **sizes), *data.epoch(split, **sizes)]


def same(first: Sequence[Batch], second: Sequence[Batch]) -> bool:
    return len(first) == len(second) and all(
        torch.equal(a.x, b.x) and torch.equal(a.y, b.y) for a, b in zip(first, second, strict=True)
    )


@broken_by(faults.shards_joined_one_short)
@given(cuts=st.sets(st.integers(1, 59), max_size=5), train=st.integers(0, 60), block=st.integers(1, 20))
def test_shards_give_the_batches_of_an_array(
    tmp_path_factory: pytest.TempPathFactory, cuts: set[int], train: int, block: int
) -> None:
    """However the corpus is cut into shards and splits."""
    ids = np.random.default_rng(0).integers(0, 300, 60)
    pieces = [piece.tolist() for piece in np.split(ids, sorted(cuts))]
    opened = TokenDataset.open(write_shards(tmp_path_factory.mktemp("corpus"), pieces, train=train))
    opened.verify()
    assert (len(opened.train), len(opened.val), opened.vocab_size) == (train, 60 - train, 300)
    assert [*opened.train, *opened.val] == opened.train.tolist() + opened.val.tolist() == ids.tolist()
    for split, span in (("train", slice(0, train)), ("val", slice(train, 60))):
        if len(getattr(opened, split)) > block:
            whole = TokenDataset(ids[span], val=ids[span])
            assert same(all_batches(opened, split, block), all_batches(whole, split, block))


@given(lengths=st.lists(st.integers(1, 5), min_size=1, max_size=6), data=st.data())
def test_joined_ids_are_sliced_as_one_array(lengths: list[int], data: st.DataObject) -> None:
    whole = np.arange(sum(lengths), dtype=np.uint16)
    pieces = np.split(whole, np.cumsum(lengths)[:-1])
    start = data.draw(st.integers(0, len(whole)))
    stop = data.draw(st.integers(start, len(whole)))
    joined, index = Joined(pieces, start, stop), data.draw(st.slices(9).filter(lambda each: each.step in (None, 1)))
    assert joined[index].tolist() == whole[start:stop][index].tolist()
    assert joined[index].dtype == np.uint16
    assert np.asarray(joined).tolist() == [*joined] == whole[start:stop].tolist()
    boundary = data.draw(st.integers(0, stop - start))
    assert [each.tolist() for each in joined.divided(boundary)] == [
        whole[start : start + boundary].tolist(),
        whole[start + boundary : stop].tolist(),
    ]


@pytest.mark.usefixtures("unchecked_types")
@pytest.mark.parametrize("index", [0, slice(0, 3, 2), slice(None, None, -1)])
def test_joined_ids_have_no_steps(index: Any) -> None:
    with pytest.raises(InputTypeError, match=r"by slices with a step of 1, got .*; use ids"):
        Joined([np.arange(5)])[index]


@pytest.mark.parametrize(("size", "dtype"), [(1, "u1"), (256, "u1"), (257, "<u2"), (65536, "<u2"), (65537, "<u4")])
def test_the_dtype_is_the_smallest_that_fits(size: int, dtype: str) -> None:
    assert dtype_of(size) == dtype


# --- files of other programs ------------------------------------------------------------------------------------------


def with_header(ids: np.ndarray, *numbers: int) -> bytes:
    header = np.zeros(256, "<i4")
    header[: len(numbers)] = numbers
    return header.tobytes() + ids.tobytes()


def test_files_of_other_programs_are_opened(tmp_path: Path) -> None:
    ids = np.random.default_rng(0).integers(0, 500, 600)
    expected = TokenDataset(ids.astype("<u2"), val_fraction=0.2)
    (tmp_path / "raw.bin").write_bytes(ids.astype("<u2").tobytes())
    (tmp_path / "gpt2_1.bin").write_bytes(with_header(ids[:100].astype("<u2"), 20240520, 1, 100))
    (tmp_path / "gpt2_2.bin").write_bytes(with_header(ids[100:].astype("<u2"), 20240520, 1, 500))
    (tmp_path / "llama.bin").write_bytes(with_header(ids.astype("<u4"), 20240801, 7, 600))
    for name in ("raw.bin", "gpt2_*.bin", "llama.bin"):
        data = TokenDataset.open(tmp_path / name, vocab_size=500, val_fraction=0.2)
        assert same(all_batches(data, "val", 7), all_batches(expected, "val", 7))
        assert (data.val_fraction, data.vocab_size, data.tokenizer) == (0.2, 500, None)
        assert data.digest() == expected.digest() or name == "llama.bin"  # which has another dtype
        data.verify()
    data = TokenDataset.open(str(tmp_path / "raw.bin"), vocab_size=500, val=tmp_path / "gpt2_1.bin")
    assert (data.train.tolist(), data.val.tolist()) == (ids.tolist(), ids[:100].tolist())
    assert len(TokenDataset.open(tmp_path / "raw.bin", vocab_size=500).val) == 60


def test_a_directory_of_nanogpt_is_opened(tmp_path: Path) -> None:
    np.array([0, 1, 2, 3] * 5, "<u2").tofile(tmp_path / "train.bin")
    np.array([3, 2, 1, 0], "<u2").tofile(tmp_path / "val.bin")
    data = TokenDataset.open(tmp_path, LETTERS)
    assert data.tokenizer is LETTERS
    assert repr(data) == "TokenDataset(24 characters: 20 train, 4 val; vocab_size=4)"
    assert TokenDataset.open(tmp_path, LETTERS, vocab_size=64).vocab_size == 64


@broken_by(faults.foreign_ids_trusted)
def test_ids_of_other_programs_are_checked_when_read(tmp_path: Path) -> None:
    np.array([0, 1, 2, 3] * 20 + [4], "<u2").tofile(tmp_path / "ids.bin")
    data = TokenDataset.open(tmp_path / "ids.bin", LETTERS, val_fraction=0.2)
    message = "ids must be from 0 to 3, got 4 in '.*ids.bin'; use the tokenizer of the file, or a larger vocab_size"
    data.batch("train", step=0, batch_size=9, block_size=5)
    with pytest.raises(DataError, match=message):
        list(data.windows("val", batch_size=1, block_size=5))
    with pytest.raises(DataError, match=message):
        data.verify()


def test_invalid_files_are_named(tmp_path: Path) -> None:
    ids = np.arange(100).astype("<u2")
    files = {
        "odd": (b"abc", "must have 1 ids in 2 bytes, got 3 bytes"),
        "empty": (b"", "must have 1 ids in 2 bytes, got 0 bytes"),
        "short": (with_header(ids, 20240520, 1, 101), "must have 101 ids in 1,226 bytes, got 1,224 bytes"),
        "long": (with_header(ids, 20240520, 1, 99), "must have 99 ids in 1,222 bytes, got 1,224 bytes"),
        "negative": (with_header(ids, 20240801, 7, -5), "must have 1 ids in"),
        "version": (with_header(ids, 20240520, 2, 100), "header of a known version, got 2 after 20240520"),
        "mixed": (with_header(ids, 20240520, 7, 100), "header of a known version, got 7 after 20240520"),
    }
    for name, (raw, message) in files.items():
        (tmp_path / name).write_bytes(raw)
        with pytest.raises(DataError, match=message) as caught:
            TokenDataset.open(tmp_path / name, vocab_size=100)
        assert repr(str(tmp_path / name)) in str(caught.value)
    (tmp_path / "folder").mkdir()
    cases: list[tuple[type[Exception], str, Callable[[], Any]]] = [
        (DataError, "without; make one with prepare", lambda: TokenDataset.open(tmp_path / "folder")),
        (DataError, "there is no corpus .*absent", lambda: TokenDataset.open(tmp_path / "absent", vocab_size=3)),
        (DataError, r"got the pattern .*absent\*' without", lambda: TokenDataset.open(tmp_path / "absent*", LETTERS)),
        (ConfigError, "neither for .*; GPT-2 has vocab_size=50257", lambda: TokenDataset.open(tmp_path / "odd")),
        (ConfigError, "got val or val_fraction with", lambda: TokenDataset.open(tmp_path, val="x")),
        (ConfigError, "got vocab_size=3", lambda: TokenDataset.open(tmp_path / "odd", LETTERS, vocab_size=3)),
        (ConfigError, "got val_fraction=1", lambda: TokenDataset.open(tmp_path / "odd", LETTERS, val_fraction=1)),
    ]
    for kind, message, work in cases:
        with pytest.raises(kind, match=message):
            work()


# --- a manifest is not trusted ----------------------------------------------------------------------------------------


@pytest.fixture
def corpus(tmp_path: Path) -> Path:
    return write_shards(tmp_path / "corpus", [[5, 6, 250], [7, 0, 1, 2]], train=5)


@broken_by(faults.bytes_not_compared)
def test_any_flipped_bit_is_noticed(corpus: Path) -> None:
    """Of each byte of the manifest one bit, of each byte of a shard all."""
    for path in sorted(corpus.iterdir(), reverse=True):
        raw = path.read_bytes()
        for bit in range(0, 8 * len(raw), 9 if path.suffix == ".json" else 1):
            changed = bytearray(raw)
            changed[bit // 8] ^= 1 << bit % 8
            path.write_bytes(changed)
            with pytest.raises(DataError) as caught:
                TokenDataset.open(corpus).verify()
            assert repr(str(path)) in str(caught.value)
            assert len(str(caught.value)) <= 300 + len(str(path))
        path.write_bytes(raw)
    TokenDataset.open(corpus).verify()


SHARD = {"ids": 3, "sha256": "0" * 64, "lowest": 1, "highest": 2, "characters": None}


@pytest.mark.usefixtures("unchecked_types")
@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"dtype": "<i2"}, "dtype='<i2'"),
        ({"dtype": ["<u2"]}, "dtype="),
        ({"vocab_size": 0}, "vocab_size=0"),
        ({"vocab_size": 65537}, "vocab_size=65537"),
        ({"vocab_size": True}, "vocab_size=True"),
        ({"tokenizer": "gpt2"}, "tokenizer='gpt2'"),
        ({"tokenizer": {"type": "CharTokenizer", "symbols": [3]}}, "invalid tokenizer: settings must have"),
        ({"shards": []}, r"shards=\[\]"),
        ({"shards": {}}, "shards={}"),
        ({"shards": [3]}, "not subscriptable"),
        ({"shards": [SHARD | {"path": "/etc/passwd"}]}, "shard 0 is"),
        ({"shards": [SHARD | {"ids": 0}]}, "shard 0 is"),
        ({"shards": [SHARD | {"ids": 3.0}]}, "shard 0 is"),
        ({"shards": [SHARD | {"highest": 300}]}, "shard 0 is"),
        ({"shards": [SHARD | {"lowest": 3}]}, "shard 0 is"),
        ({"shards": [SHARD | {"lowest": -1}]}, "shard 0 is"),
        ({"shards": [SHARD | {"characters": -1}]}, "shard 0 is"),
        ({"shards": [SHARD | {"sha256": "0" * 63}]}, "shard 0 is"),
        ({"shards": [SHARD | {"sha256": 7}]}, "string"),
        ({"train": -1}, "train=-1 of 7 ids"),
        ({"train": 8}, "train=8 of 7 ids"),
        ({"train": None}, "train=None of 7 ids"),
        ({"shards": [SHARD]}, "must have 2 ids|got 6 bytes|train=5 of 3"),
        ({"shards": [SHARD, SHARD]}, "must have 3 ids in 6 bytes, got 8 bytes"),
        ({"shards": [SHARD, SHARD | {"ids": 4}, SHARD]}, "can be read, got .*shard-00002.bin"),
    ],
)
def test_invalid_manifests_are_named(corpus: Path, changes: dict[str, Any], message: str) -> None:
    """Although their own digests are right."""
    written = json.loads((corpus / "manifest.json").read_bytes())
    values = {name: written[name] for name in ("dtype", "vocab_size", "tokenizer", "shards")} | {"train": 5} | changes
    described = {"format": 1} | {name: value for name, value in values.items() if name != "train"}
    try:
        raw = Manifest(**values).to_bytes()
    except (TypeError, KeyError):  # no sum of the ids
        raw = to_json(described | {"splits": {"train": [0, 5], "val": [5, 7]}, "sha256": ""}).encode()
    (corpus / "manifest.json").write_bytes(raw)
    with pytest.raises(DataError, match=message):
        TokenDataset.open(corpus)


@pytest.mark.parametrize(
    ("raw", "message"),
    [
        (b"", "Expecting value"),
        (b"[]", "not an object"),
        (b"\xff", "decode"),
        (b'{"format": 2}', "format=2, and this version reads 1"),
        (b'{"format": 1}', "no 'shards'"),
        (b'{"format": 1, "format": 1}', "comes twice"),
        (b"[" * 10**5, "nested"),
        (b"1" * 5000, "limit"),
    ],
)
def test_other_json_is_no_manifest(corpus: Path, raw: bytes, message: str) -> None:
    (corpus / "manifest.json").write_bytes(raw)
    with pytest.raises(DataError, match=message):
        TokenDataset.open(corpus)


def test_a_manifest_with_more_names_is_refused(corpus: Path) -> None:
    written = json.loads((corpus / "manifest.json").read_bytes())
    (corpus / "manifest.json").write_text(to_json(written | {"more": 1}) + "\n")
    with pytest.raises(DataError, match="changed since it was written"):
        TokenDataset.open(corpus)


def test_a_corpus_has_the_tokenizer_that_it_was_prepared_with(tmp_path: Path) -> None:
    pieces = [[0, 1, 2, 3] * 9]
    letters = write_shards(tmp_path / "letters", pieces, train=30, vocab_size=4, tokenizer=entry_of(LETTERS))
    pairs = write_shards(tmp_path / "pairs", pieces, train=30, vocab_size=16, tokenizer=entry_of(Pairs()))
    assert TokenDataset.open(letters).tokenizer == TokenDataset.open(letters, LETTERS).tokenizer == LETTERS
    assert TokenDataset.open(pairs).tokenizer is None
    assert isinstance(TokenDataset.open(pairs, Pairs()).tokenizer, Pairs)
    for directory, other in ((letters, Pairs()), (letters, CharTokenizer("abdc")), (pairs, LETTERS)):
        with pytest.raises(TokenizerError, match=r"prepared with, .* ids, got .* ids, which gives other"):
            TokenDataset.open(directory, other)


def test_digests_of_corpora_differ(tmp_path: Path) -> None:
    """A run resumes on the corpus that it began with."""
    kinds: list[tuple[list[list[int]], int]] = [([[1, 2, 3, 4]], 3), ([[1, 2], [3, 4]], 3), ([[1, 2, 3, 4]], 2)]
    digests = [TokenDataset.open(write_shards(tmp_path / "a", pieces, train=train)).digest() for pieces, train in kinds]
    assert len(set(digests)) == 3
    again = TokenDataset.open(write_shards(tmp_path / "b", *kinds[0][:1], train=3))
    assert again.digest() == digests[0]


# --- size -------------------------------------------------------------------------------------------------------------


def test_a_corpus_larger_than_memory_opens_at_once(tmp_path: Path) -> None:
    """Of 8 GB in 30 sparse files, opened and read without an allocation that grows with it."""
    directory, count = tmp_path / "corpus", 1 << 27
    directory.mkdir()
    entry = SHARD | {"ids": count, "lowest": 0, "highest": 0}
    for number in range(30):
        with (directory / f"shard-{number:05d}.bin").open("wb") as file:
            file.truncate(2 * count)
    manifest = Manifest("<u2", 50257, None, [entry] * 30, train=29 * count)
    (directory / "manifest.json").write_bytes(manifest.to_bytes())
    TokenDataset.open(directory).batch("train", step=0, batch_size=2, block_size=8)
    tracemalloc.start()
    started = time.process_time()
    data = TokenDataset.open(directory)
    next(data.epoch("train", batch_size=4, block_size=64, stride=1))
    next(data.windows("val", batch_size=4, block_size=64, limit=100))
    seconds, peak = time.process_time() - started, tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert data.train.dtype == np.uint16
    assert len(data.train) + len(data.val) == 30 * count
    assert peak < 1 << 20
    assert seconds < 1


@broken_by(faults.files_read_ahead)
@pytest.mark.skipif(not Path("/proc/self/smaps").exists(), reason="Linux says how much of a file is in memory")
def test_a_batch_reads_only_the_pages_of_its_windows(tmp_path: Path) -> None:
    """Although the system would read more around each of them."""
    path = tmp_path / "ids.bin"
    with path.open("wb") as file:
        file.truncate(1 << 28)  # sparse
    data = TokenDataset.open(path, vocab_size=1)
    data.batch("train", step=0, batch_size=64, block_size=256)
    maps = Path("/proc/self/smaps").read_text(encoding="utf-8")
    resident = re.search(rf"{re.escape(str(path))}\n(?:.*\n)*?Rss: +(\d+) kB", maps)
    assert resident is not None
    assert 64 * 4 <= int(resident[1]) <= 2 * 64 * mmap.PAGESIZE // 1024


def test_a_corpus_is_counted_without_a_list_of_its_ids(tmp_path: Path) -> None:
    data = TokenDataset.open(write_shards(tmp_path, [[0, 1, 2] * 40_000, [2, 1, 0] * 40_000], train=240_000))
    tracemalloc.start()
    ids = as_integers(data.train)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert np.array_equal(ids, data.train[:])
    assert peak < 2 * ids.nbytes
    counted = (NGramLanguageModel.count(each, vocab_size=3, order=2) for each in (data.train, ids.tolist()))
    assert torch.equal(*(model(torch.tensor([[0, 1, 2]])).logits for model in counted))


class Counting(Pairs):
    """The same, and counts the ids that it decodes."""

    decoded = 0

    def decode(self, ids: Sequence[int]) -> str:
        self.decoded += len(ids)
        return super().decode(ids)


def test_characters_of_a_long_split_are_sampled_once() -> None:
    tokenizer = Counting()
    data = TokenDataset(np.arange(10**6) % 16, tokenizer)
    assert [data.characters_per_id("train") for _ in range(3)] == [2, 2, 2]
    assert tokenizer.decoded == 1 << 16


def test_characters_of_a_prepared_corpus_were_counted(tmp_path: Path) -> None:
    tokenizer = Counting()
    entry = entry_of(tokenizer)
    directory = write_shards(tmp_path, [[1] * 10, [2] * 10], train=15, vocab_size=16, tokenizer=entry)
    written = json.loads((directory / "manifest.json").read_bytes())
    shards = [shard | {"characters": count} for shard, count in zip(written["shards"], (30, 50), strict=True)]
    (directory / "manifest.json").write_bytes(Manifest("<u2", 16, entry, shards, 15).to_bytes())
    data, tokenizer.decoded = TokenDataset.open(directory, tokenizer), 0
    assert data.characters_per_id("train") == pytest.approx((30 + 25) / 15)
    assert data.characters_per_id("val") == 5
    assert tokenizer.decoded == 0


def test_an_opened_corpus_can_be_copied_and_sent(tmp_path: Path) -> None:
    """With its ids, for a worker in another process."""
    data = TokenDataset.open(write_shards(tmp_path, [list(range(50))], train=40))
    for other in (copy.deepcopy(data), pickle.loads(pickle.dumps(data))):
        assert np.array_equal(np.asarray(other.train), np.asarray(data.train))
        assert other.digest() == data.digest()
