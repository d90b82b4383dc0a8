"""Text to ids and back: nothing is lost, nothing is guessed, and mistakes are named."""

import os
import re
import subprocess
import sys
import tracemalloc
from collections.abc import Callable
from pathlib import Path
from typing import Any
from unittest import mock

import faults
import numpy as np
import pytest
import torch
from faults import broken_by
from hypothesis import example, given
from hypothesis import strategies as st

from tinygpt import CharTokenizer
from tinygpt import tokenizer as tokenizer_module
from tinygpt.errors import ConfigError, InputTypeError, TokenizerError
from tinygpt.files import parse_json, to_json
from tinygpt.tokenizer import Tokenizer

ANY_TEXT = st.text(st.characters(codec=None, exclude_categories=()), min_size=1)  # lone surrogates included
EVERYTHING = "".join(map(chr, range(sys.maxunicode + 1)))
NOTEBOOK_SYMBOLS = "\n !$&',-.3:;?" + "ABCDEFGHIJKLMNOPQRSTUVWXYZ" + "abcdefghijklmnopqrstuvwxyz"


@broken_by(
    faults.normalised,
    faults.stripped,
    faults.lines_of_unicode,
    faults.byte_order_mark_dropped,
    faults.newlines_translated,
)
@pytest.mark.filterwarnings("ignore:the vocabulary has 1 symbol")
@given(text=ANY_TEXT)
@example("e\u0301")
@example(" a")
@example("a\u2028b")
@example("\ufeffa")
@example("a\r\nb")
def test_every_text_comes_back_as_it_was(text: str) -> None:
    tokenizer = CharTokenizer.from_text(text)
    assert tokenizer.decode(tokenizer.encode(text)) == text
    assert tokenizer.decode(tokenizer.encode_array(text)) == text


def test_all_code_points_are_ids_in_order() -> None:
    tokenizer = CharTokenizer.from_text(EVERYTHING)
    assert tokenizer.vocab_size == 1_114_112
    assert np.array_equal(tokenizer.encode_array(EVERYTHING), np.arange(1_114_112))
    again = CharTokenizer.from_dict(tokenizer.to_dict())
    assert again == tokenizer
    assert again.decode(again.encode_array(EVERYTHING[::-1])) == EVERYTHING[::-1]


@given(a=st.text("abcü☃𝄞"), b=st.text("abcü☃𝄞"))
def test_encoding_goes_character_by_character(a: str, b: str) -> None:
    tokenizer = CharTokenizer("abcü☃𝄞")
    assert tokenizer.encode(a + b) == tokenizer.encode(a) + tokenizer.encode(b)
    assert tokenizer.encode(a) == ["abcü☃𝄞".index(character) for character in a]
    assert (tokenizer.encode(a) == tokenizer.encode(b)) == (a == b)


@pytest.mark.parametrize("size", [1, 2, 254, 255, 256, 257, 65_535, 65_536, 65_537])
def test_ids_have_the_smallest_unsigned_dtype(size: int) -> None:
    tokenizer = CharTokenizer(EVERYTHING[:size])
    expected = np.uint8 if size <= 256 else np.uint16 if size <= 65_536 else np.uint32
    for text in ("", EVERYTHING[size - 1], EVERYTHING[:size], EVERYTHING[:size] + EVERYTHING[0]):
        ids = tokenizer.encode_array(text)
        assert ids.dtype == expected
        assert ids.tolist() == [ord(character) for character in text]
    with pytest.raises(TokenizerError, match=f"U\\+{size:04X}"):
        tokenizer.encode(EVERYTHING[:size] + chr(size))


@broken_by(faults.vocabulary_in_any_order)
@pytest.mark.filterwarnings("ignore:the vocabulary has 1 symbol")
@given(text=ANY_TEXT, times=st.integers(1, 3))
def test_the_vocabulary_depends_on_the_characters_only(text: str, times: int) -> None:
    """Neither their order nor their number counts."""
    assert CharTokenizer.from_text(text[::-1] * times) == CharTokenizer.from_text(text)
    assert list(CharTokenizer.from_text(text).symbols) == sorted(set(text))


def test_the_vocabulary_does_not_depend_on_the_hash_seed() -> None:
    program = "from tinygpt import CharTokenizer; print(CharTokenizer.from_text('hello world').to_dict())"
    written = {
        subprocess.check_output([sys.executable, "-c", program], env=os.environ | {"PYTHONHASHSEED": seed})
        for seed in ("1", "2")
    }
    assert len(written) == 1


@pytest.mark.parametrize(
    "kind", [list, tuple, np.array, torch.tensor, lambda ids: torch.tensor(ids, dtype=torch.int32)]
)
def test_decode_takes_integers_in_any_sequence(kind: Callable[[list[int]], Any]) -> None:
    tokenizer = CharTokenizer("abc")
    assert tokenizer.decode(kind([2, 0, 1, 1])) == "cabb"
    assert tokenizer.decode(kind(tokenizer.encode("ab"))[:0] if kind is not torch.tensor else []) == ""


@broken_by(faults.ids_count_from_the_end, only="ids0")
@pytest.mark.usefixtures("unchecked_types")
@pytest.mark.parametrize(
    ("ids", "kind", "message"),
    [
        ([0, -1], TokenizerError, "ids must be from 0 to 2, got -1 at position 1"),
        ([3], TokenizerError, "ids must be from 0 to 2, got 3 at position 0"),
        ([0, 2**63], TokenizerError, f"got {2**63} at position 1"),
        ([2**70], TokenizerError, f"got {2**70} at position 0"),
        (np.array([0, -1]), TokenizerError, "got -1 at position 1"),
        (torch.tensor([9]), TokenizerError, "got 9 at position 0"),
        ([True], InputTypeError, "ids must be integers, got True of type bool at position 0"),
        ([0, 1.0], InputTypeError, "got 1.0 of type float at position 1"),
        (["1"], InputTypeError, "got '1' of type str at position 0"),
        ([[0, 1]], InputTypeError, r"got \[0, 1\] of type list at position 0"),
        (np.zeros((1, 1), int), InputTypeError, r"one-dimensional array of integers, got int64 of shape \(1, 1\)"),
        (np.array([True]), InputTypeError, "got bool of shape"),
        (7, InputTypeError, "one-dimensional sequence of integers, got 7"),
    ],
)
def test_invalid_ids_are_named(ids: Any, kind: type[Exception], message: str) -> None:
    with pytest.raises(kind, match=message):
        CharTokenizer("abc").decode(ids)


@broken_by(faults.unknown_dropped)
def test_an_unknown_character_is_named() -> None:
    """With its position, and other unknown characters."""
    tokenizer = CharTokenizer("ab")
    message = r"text has 'z' \(U\+007A\) at position 2, which is not among the 2 symbols of this tokenizer"
    with pytest.raises(TokenizerError, match=message):
        tokenizer.encode("abz")
    with pytest.raises(TokenizerError, match=r"unknown: 'u', 'v', 'w', 'x', 'y', \.\.\.; fit on more text, or use "):
        tokenizer.encode("uvwxyzu")
    with pytest.raises(TokenizerError) as caught:
        tokenizer.encode("\x1b[31m" * 100_000)
    assert len(str(caught.value)) <= 300
    assert "\x1b" not in str(caught.value)


@given(text=st.text("abxyz☃"))
def test_unknown_characters_are_skipped_or_replaced(text: str) -> None:
    kept = "".join(character for character in text if character in "ab")
    skipping, replacing = CharTokenizer("ab", on_unknown="skip"), CharTokenizer("ab", on_unknown="b")
    assert skipping.decode(skipping.encode(text)) == kept
    assert replacing.decode(replacing.encode(text)) == "".join(c if c in "ab" else "b" for c in text)


@given(symbols=st.sets(st.characters(codec=None, exclude_categories=()), min_size=1, max_size=9), data=st.data())
def test_a_tokenizer_passes_through_json(symbols: set[str], data: st.DataObject) -> None:
    """Nothing is lost on the way, and equality sees each setting."""
    policy = data.draw(st.sampled_from(["error", "skip", *sorted(symbols)]))
    tokenizer = CharTokenizer(sorted(symbols), on_unknown=policy)
    again = CharTokenizer.from_dict(parse_json(to_json(tokenizer.to_dict())))
    assert (again, hash(again), again.to_dict()) == (tokenizer, hash(tokenizer), tokenizer.to_dict())
    assert tokenizer != CharTokenizer(sorted(symbols), on_unknown="error" if policy != "error" else "skip")
    assert tokenizer != "tokenizer"


@broken_by(faults.vocabulary_as_one_string)
def test_two_surrogates_side_by_side_stay_two() -> None:
    """As one JSON string they would come back as one character."""
    tokenizer = CharTokenizer(["\ud83d", "\udc4d"])
    assert CharTokenizer.from_dict(parse_json(to_json(tokenizer.to_dict()))).vocab_size == 2


@given(text=ANY_TEXT)
@pytest.mark.filterwarnings("ignore:the vocabulary has 1 symbol")
def test_stoi_and_itos_are_those_of_the_notebook(text: str) -> None:
    tokenizer, chars = CharTokenizer.from_text(text), sorted(set(text))
    assert tokenizer.stoi == {character: i for i, character in enumerate(chars)}
    assert dict(enumerate(tokenizer.itos)) == dict(enumerate(chars))
    assert tokenizer.encode(text) == [tokenizer.stoi[character] for character in text]
    assert len(tokenizer) == tokenizer.vocab_size == len(chars)


def test_the_notebooks_sentence_has_the_notebooks_ids() -> None:
    expected = [46, 53, 50, 39, 6, 1, 55, 59, 43, 1, 58, 39, 50, 12]
    assert CharTokenizer.from_text(NOTEBOOK_SYMBOLS).encode("hola, que tal?") == expected


def test_on_tiny_shakespeare_it_is_the_notebooks_encode() -> None:
    path = os.environ.get("TINYGPT_TINYSHAKESPEARE")
    if not path:
        pytest.skip("TINYGPT_TINYSHAKESPEARE names no copy of tiny Shakespeare")
    text = Path(path).read_text(encoding="utf-8")
    tokenizer = CharTokenizer.from_text(text)
    stoi = {character: number for number, character in enumerate(sorted(set(text)))}
    assert tokenizer.vocab_size == 65
    assert tokenizer.encode(text) == [stoi[character] for character in text]


@pytest.mark.usefixtures("unchecked_types")
@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (([],), "symbols must not be empty, got 0 symbols"),
        ((["a", "b", "a"],), "symbols must be distinct, got 'a' at positions 0 and 2"),
        ((["a", "bc"],), "symbols must be single characters, got 'bc' at position 1"),
        ((["a", ""],), "got '' at position 1"),
        ((["a", 7],), "got 7 at position 1"),
    ],
)
def test_invalid_symbols_are_named(arguments: tuple[Any, ...], message: str) -> None:
    with pytest.raises(TokenizerError, match=message):
        CharTokenizer(*arguments)


@pytest.mark.usefixtures("unchecked_types")
def test_missing_symbols_are_named() -> None:
    with pytest.raises(
        InputTypeError, match=r"symbols must be characters, got None; use CharTokenizer\.from_text\(text"
    ):
        CharTokenizer(None)  # type: ignore[arg-type]


@pytest.mark.parametrize("policy", ["replace", "z", ""])
def test_an_unknown_policy_is_named(policy: str) -> None:
    with pytest.raises(TokenizerError, match=f"on_unknown must be 'error', 'skip', or the symbol .*, got '{policy}'"):
        CharTokenizer("ab", on_unknown=policy)


@pytest.mark.usefixtures("unchecked_types")
@pytest.mark.parametrize(
    ("text", "message"),
    [(b"ab", r"text must be a str, got bytes; decode it first, e\.g\."), (None, "got NoneType")],
)
def test_a_text_of_another_type_is_named(text: Any, message: str) -> None:
    for function in (CharTokenizer.from_text, CharTokenizer("ab").encode, CharTokenizer("ab").encode_array):
        with pytest.raises(InputTypeError, match=message):
            function(text)


@pytest.mark.parametrize(
    ("settings", "kind", "message"),
    [
        ([1], InputTypeError, r"settings must be a dict of settings by name, got \[1\]"),
        ({"type": "x"}, TokenizerError, r"must have the names symbols and on_unknown, got \['type'\]"),
        ({"symbols": 7, "on_unknown": "error"}, InputTypeError, "symbols must be characters, got 7"),
        ({"symbols": ["a", "a"], "on_unknown": "error"}, TokenizerError, "'a' at positions 0 and 1"),
        ({"symbols": ["a"], "on_unknown": None}, TokenizerError, "on_unknown must be 'error', .*, got None"),
        ({"symbols": ["a"], "on_unknown": "error", "end": "b"}, TokenizerError, "end must be a symbol .*, got 'b'"),
    ],
)
@pytest.mark.usefixtures("unchecked_types")
def test_invalid_settings_are_named(settings: Any, kind: type[Exception], message: str) -> None:
    with pytest.raises(kind, match=message):
        CharTokenizer.from_dict(settings)


# --- the end of a text ------------------------------------------------------------------------------------------------


@given(texts=st.lists(st.text("abé☃"), min_size=1).filter(any))
@pytest.mark.filterwarnings("ignore:the vocabulary has 1 symbol")
def test_an_end_is_a_last_symbol_that_no_text_has(texts: list[str]) -> None:
    plain, ending = CharTokenizer.from_text("".join(texts)), CharTokenizer.from_text(texts, end="\x03")
    assert (plain.end_id, ending.end_id) == (None, plain.vocab_size)
    assert ending.symbols == (*plain.symbols, "\x03")
    assert [ending.encode(text) for text in texts] == [plain.encode(text) for text in texts]
    assert ending.decode([ending.end_id or 0]) == "\x03"
    again = CharTokenizer.from_dict(parse_json(to_json(ending.to_dict())))
    assert (again, hash(again), again.end_id) == (ending, hash(ending), ending.end_id)
    assert ending not in (plain, CharTokenizer(ending.symbols))


@broken_by(faults.end_encoded)
@pytest.mark.parametrize("policy", ["error", "skip", "a"])
def test_a_text_with_its_own_end_is_refused(policy: str) -> None:
    message = r"must not contain the symbol that ends it, got '\\x03' \(U\+0003\) at position 2; choose another end"
    with pytest.raises(TokenizerError, match=message):
        CharTokenizer("ab\x03", end="\x03", on_unknown=policy).encode("ab\x03")
    with pytest.raises(TokenizerError, match=message):
        CharTokenizer.from_text(["b", "ab\x03"], end="\x03")


@pytest.mark.usefixtures("unchecked_types")
@pytest.mark.parametrize(("end", "policy"), [("c", "error"), ("", "error"), (7, "error"), ("a", "a")])
def test_an_invalid_end_is_named(end: Any, policy: str) -> None:
    with pytest.raises(TokenizerError, match=f"end must be a symbol of the vocabulary other than .*, got {end!r}"):
        CharTokenizer("ab", on_unknown=policy, end=end)


@pytest.mark.usefixtures("unchecked_types")
@pytest.mark.parametrize(
    ("end_id", "kind", "message"),
    [(True, InputTypeError, "an integer or None, got True"), (3, TokenizerError, "from 0 to 2, got 3")],
)
def test_the_end_of_any_tokenizer_is_checked(end_id: Any, kind: type[Exception], message: str) -> None:
    class Foreign(CharTokenizer):
        pass

    assert tokenizer_module.end_id_of(Foreign("abc")) is None
    assert tokenizer_module.end_id_of(Foreign("abc", end="c")) == 2
    Foreign.end_id = end_id  # type: ignore[method-assign]
    with pytest.raises(kind, match=f"Foreign.end_id must be {message}"):
        tokenizer_module.end_id_of(Foreign("abc"))


@pytest.mark.usefixtures("unchecked_types")
@pytest.mark.parametrize(
    ("texts", "message"),
    [
        (["a", 7], "text must be one text or several, got 7 of type int at position 1"),
        (["a.txt", "b.txt"], "got the names of 2 files, 'a.txt' first; read them"),
    ],
)
def test_several_texts_are_checked(texts: Any, message: str) -> None:
    with pytest.raises(InputTypeError, match=message):
        CharTokenizer.from_text(texts)


# --- rare, new, and differently written characters --------------------------------------------------------------------


@broken_by(faults.rare_characters_kept)
@pytest.mark.filterwarnings("ignore:.*characters are", "ignore:the vocabulary has 1 symbol")
@given(
    texts=st.lists(st.text("abé☃", max_size=9), min_size=1), least=st.integers(2, 5), end=st.sampled_from([None, "z"])
)
def test_rare_characters_are_unknown(texts: list[str], least: int, end: str | None) -> None:
    whole = "".join(texts)
    tokenizer = CharTokenizer.from_text(texts, min_count=least, on_unknown="\ufffd", end=end)
    frequent = sorted(symbol for symbol in set(whole) if whole.count(symbol) >= least)
    assert tokenizer.symbols == (*frequent, "\ufffd", *(end or ""))
    expected = "".join(symbol if symbol in frequent else "\ufffd" for symbol in whole)
    assert tokenizer.decode(tokenizer.encode(whole)) == expected


def test_rare_characters_are_counted_in_a_warning() -> None:
    message = r"3 of 9 characters are replaced by '#', of 2 symbols that occur less often than min_count=3: 'yx'"
    with pytest.warns(UserWarning, match=message):
        CharTokenizer.from_text(["aaaxx", "bbby"], min_count=3, on_unknown="#")
    with pytest.warns(UserWarning, match="3 of 9 characters are skipped, of 2 symbols"):
        assert CharTokenizer.from_text("aaaxxbbby", min_count=3, on_unknown="skip").symbols == ("a", "b")


@pytest.mark.parametrize(
    ("least", "policy", "kind", "message"),
    [
        (2, "error", TokenizerError, r"got 'error' with min_count=2; use on_unknown='\\ufffd'"),
        (0, "skip", ConfigError, "min_count must be an integer of at least 1, got min_count=0"),
    ],
)
def test_an_invalid_least_count_is_named(least: int, policy: str, kind: type[Exception], message: str) -> None:
    with pytest.raises(kind, match=message):
        CharTokenizer.from_text("abc", min_count=least, on_unknown=policy)


@given(old=st.text("abé☃", min_size=1), new=st.lists(st.text("abxyé☃"), min_size=1))
@pytest.mark.filterwarnings("ignore:the vocabulary has 1 symbol")
def test_an_extended_tokenizer_keeps_its_ids(old: str, new: list[str]) -> None:
    tokenizer = CharTokenizer.from_text(old, on_unknown="skip", end="z")
    extended = tokenizer.extended(new)
    assert extended.encode(old) == tokenizer.encode(old)
    assert [extended.decode(extended.encode(text)) for text in new] == new
    assert (extended.end_id, extended.on_unknown) == (tokenizer.end_id, "skip")
    assert extended.vocab_size == len({*old, *"".join(new)}) + 1
    with pytest.raises(TokenizerError, match="must not contain the symbol that ends it, got 'z'"):
        tokenizer.extended("az")


@pytest.mark.parametrize(
    ("known", "text", "form"), [("caf\u00e9", "cafe\u0301", "NFC"), ("cafe\u0301", "caf\u00e9", "NFD")]
)
def test_a_character_in_another_form_is_named(known: str, text: str, form: str) -> None:
    with pytest.raises(TokenizerError, match=f"known in the Unicode form {form}: unicodedata.normalize") as caught:
        CharTokenizer.from_text(known).encode(text)
    assert len(str(caught.value)) <= 300


def test_one_symbol_is_a_vocabulary_with_a_warning() -> None:
    with pytest.warns(UserWarning, match="vocabulary has 1 symbol, so the loss of every model is 0"):
        assert CharTokenizer.from_text("aaaa").encode("aa") == [0, 0]


def test_anything_with_three_names_is_a_tokenizer() -> None:
    class Upper:
        vocab_size = 26

        def encode(self, text: str) -> list[int]:
            return [ord(character) - 65 for character in text]

        def decode(self, ids: list[int]) -> str:
            return "".join(chr(number + 65) for number in ids)

    assert isinstance(Upper(), Tokenizer)
    assert isinstance(CharTokenizer("a"), Tokenizer)
    assert not isinstance(object(), Tokenizer)


def test_repr_shows_the_size_and_the_symbols() -> None:
    assert repr(CharTokenizer("ab", on_unknown="skip")) == "CharTokenizer(2 symbols: 'ab', on_unknown='skip')"
    assert repr(CharTokenizer(EVERYTHING[:5000])).startswith("CharTokenizer(5,000 symbols: ")
    assert len(repr(CharTokenizer(EVERYTHING[:5000]))) < 120


def test_a_notebook_shows_the_vocabulary_as_a_table() -> None:
    """Symbols are escaped, and a long vocabulary is cut."""
    shown = CharTokenizer("<\n&\ud83d", on_unknown="<")._repr_html_()
    for id, symbol in enumerate(["&lt;", r"\n", "&amp;", r"\ud83d"]):
        assert f"<tr><td>{id}</td><td><code>&#x27;{symbol}&#x27;</code></td></tr>" in shown
    assert shown.isascii()
    assert "<p>CharTokenizer: 4 symbols, on_unknown=&#x27;&lt;&#x27;</p>" in shown
    assert "more" not in shown
    long = CharTokenizer(EVERYTHING[:5000])._repr_html_()
    assert "<p>and 4,980 more</p>" in long
    assert len(long) < 2000


# --- memory -----------------------------------------------------------------------------------------------------------

LONG = "".join(chr(32 + i % 95) for i in range(1000)) * 4000  # 4 million characters of a byte each


@pytest.mark.parametrize("last", ["", "é", "☃"])
@pytest.mark.parametrize(
    ("policy", "most"),
    [("known", 1.3), ("error", 1.3), ("skip", 1.3), ("#", 1.3), ("from_text", 0.3), ("decode", 2.6)],
)
def test_memory_is_a_small_multiple_of_the_text(policy: str, most: float, last: str) -> None:
    """In bytes for each character: the ids of a small vocabulary take one, a text that is read back one or two."""

    def refuse() -> None:
        with pytest.raises(TokenizerError):
            CharTokenizer(few).encode_array(text)

    text, few = LONG + last, "".join(map(chr, range(64, 127))) + "#"
    ids = np.zeros(len(text), np.uint8)
    work: Callable[[], Any] = {
        "known": lambda: CharTokenizer.from_text(text[-1000:]).encode_array(text),
        "from_text": lambda: CharTokenizer.from_text(text),
        "decode": lambda: CharTokenizer("ab").decode(ids),
        "error": refuse,
    }.get(policy, lambda: CharTokenizer(few, on_unknown=policy).encode_array(text))
    tracemalloc.start()
    try:
        work()
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < most * len(text) + 500_000


@given(text=st.text("abyzé☃", max_size=9), times=st.integers(1, 40))
def test_a_text_of_many_chunks_is_encoded_as_one(text: str, times: int) -> None:
    """The borders of chunks may be anywhere, and unknown characters in some chunks only."""
    with mock.patch.object(tokenizer_module, "_CHUNK", 7):
        for policy, instead in [("skip", ""), ("b", "b")]:
            tokenizer = CharTokenizer("abé☃", on_unknown=policy)
            expected = "".join(c if c in "abé☃" else instead for c in text * times)
            assert tokenizer.decode(tokenizer.encode_array(text * times)) == expected
        unknown = [c for c in text * times if c in "yz"]
        if unknown:
            message = (
                re.escape(f"text has {unknown[0]!r} ") + ".* at position " + str(min(map((text * times).find, unknown)))
            )
            with pytest.raises(TokenizerError, match=message) as caught:
                CharTokenizer("abé☃").encode(text * times)
            assert (f"; {len(unknown)} characters are unknown" in str(caught.value)) == (len(unknown) > 1)
