"""A tokenizer that no file can contain is recognised when it comes back."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import faults
import pytest
import torch
from faults import broken_by

import tinygpt
from tinygpt import BigramLanguageModel, CharTokenizer, Sampler, checkpoint
from tinygpt.errors import CheckpointCorruptError, CheckpointMismatchError, TokenizerError

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


def test_only_files_that_need_it_have_format_2(tmp_path: Path) -> None:
    formats = [
        checkpoint.read(saved(tokenizer, tmp_path))[0]["format"]
        for tokenizer in (words(ALPHABET), CharTokenizer(ALPHABET), CharTokenizer(ALPHABET, end="a"))
    ]
    assert formats == [2, 1, 2]


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
