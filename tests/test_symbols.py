"""Symbols of several characters, and bytes: the longest match wins, and every text comes back."""

from typing import Any

import faults
import pytest
from faults import broken_by
from hypothesis import given
from hypothesis import strategies as st

from tinygpt import BigramLanguageModel, Sampler, TokenDataset
from tinygpt.errors import InputTypeError, TokenizerError
from tinygpt.symbols import ByteTokenizer, SymbolTokenizer
from tinygpt.tokenizer import Tokenizer, check_tokenizer, end_id_of

ATOMS = ["C", "Cl", "Br", "O", "B", "Clo"]


def longest_match(text: str) -> list[str]:
    """Return the symbols of a text by the rule: at each position, the longest that fits."""
    if not text:
        return []
    part = max((atom for atom in ATOMS if text.startswith(atom)), key=len)
    return [part, *longest_match(text[len(part) :])]


@broken_by(faults.shortest_match)
@given(parts=st.lists(st.sampled_from(ATOMS)))
def test_the_longest_symbol_is_taken(parts: list[str]) -> None:
    tokenizer, text = SymbolTokenizer(ATOMS), "".join(parts)
    assert [tokenizer.symbols[id] for id in tokenizer.encode(text)] == longest_match(text)
    assert tokenizer.decode(tokenizer.encode(text)) == text


@given(parts=st.lists(st.sampled_from(["to", "be", "or", "not"])), joiner=st.sampled_from([" ", ", "]))
def test_a_joiner_is_between_symbols(parts: list[str], joiner: str) -> None:
    tokenizer = SymbolTokenizer(["be", "not", "or", "to"], joiner=joiner)
    assert tokenizer.encode(joiner.join(parts)) == [tokenizer.stoi[part] for part in parts]
    assert tokenizer.decode(tokenizer.encode(joiner.join(parts))) == joiner.join(parts)


def test_unknown_symbols_are_named_skipped_or_replaced() -> None:
    with pytest.raises(TokenizerError, match="text has 'N' at position 3, which is not among the 6 symbols"):
        SymbolTokenizer(ATOMS).encode("ClBN")
    with pytest.raises(TokenizerError, match="text has 'N4' at position 3"):
        SymbolTokenizer(["C4"], joiner=" ").encode("C4 N4")
    with pytest.raises(TokenizerError, match="text has 'x' at position 6"):
        SymbolTokenizer(["error", "skip"], joiner=" ").encode("error x")
    assert SymbolTokenizer(["error", "skip"], joiner=" ", on_unknown="skip").encode("error x skip") == [0, 1]
    assert SymbolTokenizer(ATOMS, on_unknown="skip").encode("ClNB") == [1, 4]
    assert SymbolTokenizer(ATOMS, on_unknown="O").encode("ClNB") == [1, 3, 4]


def test_the_end_of_a_text_is_refused_inside() -> None:
    tokenizer = SymbolTokenizer([*ATOMS, "<end>"], end="<end>")
    assert end_id_of(tokenizer) == 6
    with pytest.raises(TokenizerError, match="must not contain the symbol that ends it, got '<end>' at position 2"):
        tokenizer.encode("Br<end>")


@given(text=st.text(st.characters(codec=None, exclude_categories=())))
def test_every_text_comes_back_from_its_bytes(text: str) -> None:
    tokenizer = ByteTokenizer()
    ids = tokenizer.encode(text)
    assert ids == list(text.encode("utf-8", "surrogatepass"))
    assert tokenizer.decode(ids) == text
    assert tokenizer.end_id not in ids
    assert tokenizer.decode([*b"ab", 255]) == "ab\ufffd"


@pytest.mark.parametrize("tokenizer", [SymbolTokenizer(ATOMS, end="O"), ByteTokenizer()], ids=repr)
def test_they_work_where_a_tokenizer_does(tokenizer: Tokenizer) -> None:
    assert check_tokenizer(tokenizer) is tokenizer
    data = TokenDataset.from_documents(["CClBr", "BrC", "BBr"] * 9, tokenizer)
    assert data.vocab_size == tokenizer.vocab_size
    sampler = Sampler(BigramLanguageModel(data.vocab_size), tokenizer)
    assert sampler("CCl", max_new_tokens=5, seed=0).startswith("CCl")


def test_two_of_the_same_settings_are_equal() -> None:
    assert SymbolTokenizer(ATOMS) == SymbolTokenizer(tuple(ATOMS))
    assert hash(SymbolTokenizer(ATOMS)) == hash(SymbolTokenizer(tuple(ATOMS)))
    assert SymbolTokenizer(ATOMS) != SymbolTokenizer(ATOMS, joiner=" ")
    assert {ByteTokenizer(), ByteTokenizer()} == {ByteTokenizer()}
    assert repr(SymbolTokenizer(["a", "bc"], joiner=" ")) == "SymbolTokenizer(2 symbols: ['a', 'bc'], joiner=' ')"


@pytest.mark.usefixtures("unchecked_types")
@pytest.mark.parametrize(
    ("symbols", "options", "kind", "message"),
    [
        (7, {}, InputTypeError, "symbols must be strings, got 7"),
        ([], {}, TokenizerError, "must not be empty"),
        (["a", ""], {}, TokenizerError, "must be strings, got '' at position 1"),
        (["a", 7], {}, TokenizerError, "got 7 at position 1"),
        (["a b"], {"joiner": " "}, TokenizerError, "without the joiner ' ', got 'a b' at position 0"),
        (["a", "b", "a"], {}, TokenizerError, "got 'a' at positions 0 and 2"),
        (["a"], {"on_unknown": "b"}, TokenizerError, "'skip' or a symbol, got 'b'"),
        (["a"], {"end": "b"}, TokenizerError, "end must be a symbol other than on_unknown, got 'b'"),
    ],
)
def test_invalid_symbols_are_named(symbols: Any, options: Any, kind: type[Exception], message: str) -> None:
    with pytest.raises(kind, match=message):
        SymbolTokenizer(symbols, **options)


@pytest.mark.parametrize("tokenizer", [SymbolTokenizer(ATOMS[:3]), ByteTokenizer()], ids=repr)
def test_ids_out_of_range_are_named(tokenizer: Tokenizer) -> None:
    with pytest.raises(TokenizerError, match=f"from 0 to {tokenizer.vocab_size - 1}, got 256 at position 1"):
        tokenizer.decode([0, 256])
