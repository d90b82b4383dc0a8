"""A file contains the tokenizers of this library, and recognises any other when it comes back."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import faults
import pytest
import torch
from faults import broken_by

import tinygpt
from tinygpt import BigramLanguageModel, CharTokenizer, Sampler, TokenDataset, Trainer, TrainerConfig, checkpoint
from tinygpt.errors import CheckpointCorruptError, CheckpointMismatchError, DataError, TokenizerError
from tinygpt.manifests import Manifest
from tinygpt.symbols import ByteTokenizer, SymbolTokenizer

pytestmark = pytest.mark.usefixtures("unchecked_types")

ALPHABET = "abcdefghij"


def words(symbols: str) -> Any:
    """Return a tokenizer that fails for all but some letters."""

    def decode(ids: list[int]) -> str:
        return "".join(symbols[id] for id in ids)

    return SimpleNamespace(vocab_size=len(symbols), encode=lambda text: [*map(symbols.index, text)], decode=decode)


def in_bytes(**changes: Any) -> Any:
    known = {
        "vocab_size": 256,
        "encode": lambda text: list(text.encode()),
        "decode": lambda ids: bytes(ids).decode(errors="replace"),
        "name": "bytes",
    }
    return SimpleNamespace(**known | changes)


def saved(tokenizer: Any, directory: Path) -> Path:
    path = directory / "model.safetensors"
    tinygpt.save(path, BigramLanguageModel(tokenizer.vocab_size), tokenizer)
    return path


@pytest.mark.parametrize("make", [in_bytes, lambda: words(ALPHABET)], ids=["bytes", "letters"])
def test_a_foreign_tokenizer_is_recognised(make: Any, tmp_path: Path) -> None:
    path, again = saved(make(), tmp_path), make()
    model, tokenizer = tinygpt.load(path, tokenizer=again)
    assert tokenizer is again
    sampler = Sampler.load(path, tokenizer=again)
    assert sampler("ab", max_new_tokens=5, seed=1) == Sampler(model, again)("ab", max_new_tokens=5, seed=1)
    sampler.save(tmp_path / "again.safetensors")
    assert (tmp_path / "again.safetensors").read_bytes() == path.read_bytes()


def test_a_missing_tokenizer_is_named(tmp_path: Path) -> None:
    path = saved(in_bytes(), tmp_path)
    with pytest.warns(UserWarning, match=r"was saved with the tokenizer 'bytes' of 256 ids, which it does not contain"):
        model, tokenizer = tinygpt.load(path)
    assert tokenizer is None
    assert isinstance(model, BigramLanguageModel)
    with (
        pytest.warns(UserWarning, match="bytes"),
        pytest.raises(CheckpointMismatchError, match=r"load\(path, tok"),
    ):
        Sampler.load(path)


OTHERS = [
    pytest.param(in_bytes(encode=lambda text: [*text.lower().encode()]), id="other ids"),
    pytest.param(in_bytes(decode=lambda ids: bytes(ids).decode("latin-1")), id="other texts"),
    pytest.param(in_bytes(name="others"), id="another name"),
    pytest.param(in_bytes(vocab_size=255), id="fewer"),
]


@broken_by(faults.fingerprint_of_the_size, only="other ids")
@pytest.mark.parametrize("other", OTHERS)
def test_another_tokenizer_is_refused(other: Any, tmp_path: Path) -> None:
    """Before a model that was passed changes."""
    path, into = saved(in_bytes(), tmp_path), BigramLanguageModel(256)
    before = into.table.weight.clone()
    message = f"'bytes' of 256 ids, got '{other.name}' of {other.vocab_size} ids, which gives other ids or texts"
    with pytest.raises(CheckpointMismatchError, match=message) as caught:
        tinygpt.load(path, tokenizer=other, into=into)
    assert len(str(caught.value)) - len(str(path)) <= 260
    assert torch.equal(into.table.weight, before)


def test_letters_of_any_script_are_told_apart(tmp_path: Path) -> None:
    """Although the text that is encoded has none of them."""
    path = saved(words("абвгд"), tmp_path)
    tinygpt.load(path, tokenizer=words("абвгд"))
    with pytest.raises(CheckpointMismatchError, match="gives other ids or texts"):
        tinygpt.load(path, tokenizer=words("абвдг"))


def test_a_tokenizer_is_compared_with_the_symbols_too(tmp_path: Path) -> None:
    """Those of a ``CharTokenizer``, or those that the model was trained with."""
    path = saved(CharTokenizer(ALPHABET), tmp_path)
    same = words(ALPHABET)
    assert tinygpt.load(path, tokenizer=same)[1] is same
    message = "got 'b' as id 0 where it has 'a'"
    with pytest.raises(CheckpointMismatchError, match=message):
        tinygpt.load(path, tokenizer=words("bacdefghij"))
    model = tinygpt.load(path)[0]
    tinygpt.save(path, model)
    assert tinygpt.load(path, tokenizer=same)[0].trained_symbols == tuple(ALPHABET)
    with pytest.raises(CheckpointMismatchError, match=message):
        tinygpt.load(path, tokenizer=words("bacdefghij"))


def test_a_loaded_model_refuses_other_symbols(tmp_path: Path) -> None:
    model, _ = tinygpt.load(saved(words(ALPHABET), tmp_path), tokenizer=words(ALPHABET))
    with pytest.raises(TokenizerError, match="got 'b' as id 0, where the model learnt 'a'"):
        Sampler(model, words("bacdefghij"))


OWN = [
    CharTokenizer(ALPHABET, on_unknown="skip"),
    SymbolTokenizer(["C", "Cl", "Br", "e\u0301", "\ud800"]),
    SymbolTokenizer(["ab", "a", "ba", "?", "." * 99], joiner=" ", on_unknown="?", end="ba"),
    ByteTokenizer(),
]


@pytest.mark.parametrize("tokenizer", OWN, ids=repr)
def test_a_tokenizer_of_this_library_comes_back_from_the_file(tokenizer: Any, tmp_path: Path) -> None:
    path = saved(tokenizer, tmp_path)
    model, again = tinygpt.load(path)
    assert again == tokenizer
    assert repr(again) == repr(tokenizer)
    assert tinygpt.load(path, tokenizer=tokenizer)[1] is tokenizer
    with pytest.raises(CheckpointMismatchError, match="got 'x' as id 0"):
        tinygpt.load(path, tokenizer=words("x" + ALPHABET))
    assert Sampler.load(path)("", max_new_tokens=9, seed=1) == Sampler(model, again)("", max_new_tokens=9, seed=1)
    Sampler.load(path).save(tmp_path / "again.safetensors")
    assert (tmp_path / "again.safetensors").read_bytes() == path.read_bytes()


@pytest.mark.parametrize(
    ("tokenizer", "text"),
    [(SymbolTokenizer(["C", "Cl", "Br", " "]), "CClBrC " * 9), (ByteTokenizer(), "née " * 9)],
    ids=["atoms", "bytes"],
)
def test_a_run_and_a_corpus_keep_their_tokenizer(tokenizer: Any, text: str, tmp_path: Path) -> None:
    settings = TrainerConfig(max_iters=2, block_size=2, preview_tokens=0)
    data = TokenDataset(text, tokenizer)
    for resume in (False, True):
        trainer = Trainer(BigramLanguageModel(data.vocab_size), data, settings, run_dir=tmp_path / "run")
        trainer.fit(resume=resume, progress=False)
    assert Sampler.load(tmp_path / "run" / "best.safetensors").tokenizer == tokenizer

    (tmp_path / "text.txt").write_text(text, encoding="utf-8")
    prepared = tinygpt.prepare(tmp_path / "text.txt", tmp_path / "corpus", tokenizer, separator=" ")
    assert TokenDataset.open(tmp_path / "corpus").tokenizer == tokenizer == prepared.tokenizer
    assert TokenDataset.open(tmp_path / "corpus", tokenizer).tokenizer is tokenizer
    with pytest.raises(TokenizerError, match="gives other ids or texts"):
        TokenDataset.open(tmp_path / "corpus", words(ALPHABET))


def test_a_subclass_that_does_something_else_is_recognised_only(tmp_path: Path) -> None:
    class Lower(CharTokenizer):
        def encode(self, text: str) -> list[int]:
            return super().encode(text.lower())

    path = saved(Lower(ALPHABET), tmp_path)
    with pytest.warns(UserWarning, match="was saved with the tokenizer 'Lower' of 10 ids, which it does not contain"):
        assert tinygpt.load(path)[1] is None
    with pytest.raises(CheckpointMismatchError, match="got 'CharTokenizer' of 10 ids, which gives other ids"):
        tinygpt.load(path, tokenizer=CharTokenizer(ALPHABET))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"symbols": ["a", "a"]}, "symbols must be distinct"),
        ({"symbols": "ab"}, "settings must be a list of symbols"),
        ({"joiner": 7}, "settings must be a list of symbols, and texts"),
        ({"more": "a"}, "settings must have symbols, joiner and on_unknown"),
        ({"end": "z"}, "end must be a symbol"),
        ({"type": "ByteTokenizer"}, "a ByteTokenizer has no settings"),
        ({"type": "WordTokenizer"}, "type must be one of .*, got 'WordTokenizer'; upgrade tinygpt"),
        ({"type": ["CharTokenizer"]}, "type must be one of"),
    ],
    ids=str,
)
def test_an_invalid_tokenizer_in_a_file_is_named(change: dict[str, Any], message: str, tmp_path: Path) -> None:
    path = saved(SymbolTokenizer(["ab", "c"]), tmp_path)
    payload, tensors = checkpoint.read(path)
    entry = payload["tokenizer"] | change
    checkpoint.write(path, tensors, payload | {"tokenizer": entry})
    with pytest.raises(CheckpointCorruptError, match=f"contains an invalid tokenizer: {message}"):
        tinygpt.load(path)
    manifest = Manifest("u1", 2, entry, [{"ids": 1}], 0)
    with pytest.raises(DataError, match=f"contains an invalid tokenizer: {message}"):
        manifest.tokenizer_for(tmp_path, None)


def test_only_files_that_need_it_have_format_2(tmp_path: Path) -> None:
    formats = [
        checkpoint.read(saved(tokenizer, tmp_path))[0]["format"]
        for tokenizer in (words(ALPHABET), CharTokenizer(ALPHABET), CharTokenizer(ALPHABET, end="a"), ByteTokenizer())
    ]
    assert formats == [2, 1, 2, 2]


@pytest.mark.parametrize(
    "change", [{"name": 3}, {"vocab_size": "9"}, {"vocab_size": 0}, {"vocab_size": 257}, {"vocab_size": True}]
)
def test_an_invalid_fingerprint_is_named(change: dict[str, Any], tmp_path: Path) -> None:
    path = saved(in_bytes(), tmp_path)
    payload, tensors = checkpoint.read(path)
    payload["tokenizer"] |= change
    checkpoint.write(path, tensors, payload)
    for tokenizer in (None, in_bytes()):
        with pytest.raises(CheckpointCorruptError, match="must contain the name and size of a tokenizer"):
            tinygpt.load(path, tokenizer=tokenizer)
