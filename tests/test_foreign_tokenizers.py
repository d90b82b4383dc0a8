"""Tokenizers from elsewhere: what they lack is named at the door, and what they return is checked before it is used."""

import array
import copy
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

import tinygpt
from tinygpt import (
    BigramLanguageModel,
    CharTokenizer,
    LanguageModel,
    Sampler,
    TokenDataset,
    Trainer,
    TrainerConfig,
    checkpoint,
)
from tinygpt.errors import (
    CheckpointCorruptError,
    CheckpointMismatchError,
    InputTypeError,
    TinyGPTError,
    TokenizerError,
)

pytestmark = pytest.mark.usefixtures("unchecked_types")

VOCAB = 200


def foreign(encode: Callable[[str], Any], decode: Callable[[Any], Any] = lambda ids: "x" * len(ids)) -> Any:
    return SimpleNamespace(vocab_size=VOCAB, encode=encode, decode=decode)


def make_sampler(tokenizer: Any) -> Sampler:
    return Sampler(BigramLanguageModel(VOCAB), tokenizer)


DOORS = [
    pytest.param(lambda tokenizer: TokenDataset("text", tokenizer).train.tolist(), id="dataset"),
    pytest.param(lambda tokenizer: make_sampler(tokenizer).generate("text", max_new_tokens=1), id="generate"),
    pytest.param(lambda tokenizer: list(make_sampler(tokenizer).stream("text", max_new_tokens=1)), id="stream"),
    pytest.param(lambda tokenizer: make_sampler(tokenizer).score("text"), id="score"),
]
every_door = pytest.mark.parametrize("door", DOORS)


# --- what encode returns ----------------------------------------------------------------------------------------------

OUTSIDE = [
    pytest.param([256, 257, 258], 256, 0, id="over a byte"),
    pytest.param([1, 200], 200, 1, id="one too far"),
    pytest.param([1, 2, -1], -1, 2, id="negative"),
    pytest.param([0, 2**70], 2**70, 1, id="over 64 bits"),
    pytest.param([0, -(2**63) - 1], -(2**63) - 1, 1, id="under 64 bits"),
    pytest.param(np.array([65_536, 1]), 65_536, 0, id="over 16 bits"),
    pytest.param(np.array([3, 2**63 + 1], np.uint64), 2**63 + 1, 1, id="unsigned"),
    pytest.param(torch.tensor([5, 300]), 300, 1, id="tensor"),
]


@every_door
@pytest.mark.parametrize(("ids", "value", "position"), OUTSIDE)
def test_an_id_outside_the_vocabulary_is_named(door: Any, ids: Any, value: int, position: int) -> None:
    message = rf"the ids of SimpleNamespace\.encode\(text\) must be from 0 to 199, got {value} at position {position}$"
    with pytest.raises(TokenizerError, match=message):
        door(foreign(lambda text: ids))


NOT_INTEGERS = [
    pytest.param([1, 2.0], "must be integers, got 2.0 of type float at position 1", id="float"),
    pytest.param([float("nan")], "got nan of type float at position 0", id="nan"),
    pytest.param([True, 1], "got True of type bool at position 0", id="bool"),
    pytest.param([np.True_], "of type bool_? at position 0", id="bool of NumPy"),
    pytest.param([1, "2"], "got '2' of type str at position 1", id="digits"),
    pytest.param([1, None], "got None of type NoneType at position 1", id="None inside"),
    pytest.param([[1, 2]], r"got \[1, 2\] of type list at position 0", id="nested"),
    pytest.param([np.timedelta64(1)], "of type timedelta64 at position 0", id="duration"),
    pytest.param(None, "sequence of integers, got None", id="None"),
    pytest.param(7, "sequence of integers, got 7", id="number"),
    pytest.param("12", "sequence of integers, got '12'", id="str"),
    pytest.param({"input_ids": [1, 2]}, "got {'input_ids': .*; use its entry 'input_ids'", id="dict"),
    pytest.param(SimpleNamespace(ids=[1]), r"; use its ids, e\.g\. encode\(text\)\.ids", id="encoding"),
    pytest.param(np.array([1.0, 2.0]), r"array of integers, got float64 of shape \(2,\)", id="array of floats"),
    pytest.param(np.array([True]), r"got bool of shape \(1,\)", id="array of bools"),
    pytest.param(np.array([[1, 2]]), r"got int64 of shape \(1, 2\).*; use one row of it", id="array of rows"),
    pytest.param(np.array(3), r"got int64 of shape \(\)", id="array of no dimension"),
    pytest.param(np.array([1, 2], object), r"got object of shape \(2,\)", id="array of objects"),
    pytest.param(np.array(["1"]), r"got <U1 of shape \(1,\)", id="array of digits"),
    pytest.param(np.zeros(1, [("id", int)]), r"of shape \(1,\)", id="structured array"),
    pytest.param(torch.tensor([1.5]), "got 1.5 of type float at position 0", id="tensor of floats"),
    pytest.param(torch.tensor([[1, 2]]), r"got \[1, 2\] of type list at position 0", id="tensor of rows"),
    pytest.param(torch.tensor([True]), "got True of type bool", id="tensor of bools"),
    pytest.param([torch.tensor(1)], "of type Tensor at position 0", id="list of tensors"),
]


@every_door
@pytest.mark.parametrize(("ids", "message"), NOT_INTEGERS)
def test_ids_that_are_not_integers_are_named(door: Any, ids: Any, message: str) -> None:
    with pytest.raises(InputTypeError, match=message) as caught:
        door(foreign(lambda text: ids))
    assert str(caught.value).startswith("the ids of SimpleNamespace.encode(text) must be ")
    assert len(str(caught.value)) <= 300


KINDS = [
    pytest.param(lambda ids: ids, id="list"),
    pytest.param(tuple, id="tuple"),
    pytest.param(iter, id="iterator"),
    pytest.param(lambda ids: (number for number in ids), id="generator"),
    pytest.param(bytes, id="bytes"),
    pytest.param(lambda ids: array.array("i", ids), id="array.array"),
    pytest.param(lambda ids: [np.uint8(number) for number in ids], id="numbers of NumPy"),
    pytest.param(torch.tensor, id="tensor"),
    *(
        pytest.param(lambda ids, dtype=dtype: np.array(ids, dtype), id=f"array {dtype}")
        for dtype in ("u1", "i2", "u2", "i4", "u4", "i8", "u8", ">u4")
    ),
]


@pytest.mark.parametrize("kind", KINDS)
def test_ids_in_any_sequence_go_the_same_way(kind: Callable[[list[int]], Any]) -> None:
    ids = [0, 1, 127, 3, 100, 7, 9]
    listed, other = foreign(lambda text: ids), foreign(lambda text: kind(ids))
    data = TokenDataset("text", other, val_fraction=0)
    assert data.train.tolist() == ids
    assert data.train.dtype == np.uint8
    assert data.digest() == TokenDataset("text", listed, val_fraction=0).digest()
    model = BigramLanguageModel(VOCAB)
    texts = [Sampler(model, each).generate("text", max_new_tokens=5, seed=0) for each in (other, listed)]
    assert texts[0] == texts[1]
    assert torch.equal(Sampler(model, other).score("text"), Sampler(model, listed).score("text"))


@pytest.mark.parametrize("nothing", [[], (), np.array([]), torch.tensor([]), iter(())])
def test_a_prompt_without_ids_starts_from_the_start_id(nothing: Any) -> None:
    sampler = make_sampler(foreign(lambda text: nothing))
    assert len(sampler.generate("", max_new_tokens=3)) == 3


@given(ids=st.lists(st.integers() | st.floats() | st.booleans() | st.none() | st.text(max_size=1), max_size=4))
def test_every_list_is_accepted_or_refused(ids: list[Any]) -> None:
    right = bool(ids) and all(type(number) is int and 0 <= number < VOCAB for number in ids)
    tokenizer = foreign(lambda text: ids)
    if right:
        assert TokenDataset("text", tokenizer, val_fraction=0).train.tolist() == ids
        return
    with pytest.raises(TinyGPTError):
        TokenDataset("text", tokenizer, val_fraction=0)


def test_a_corpus_does_not_share_memory_with_its_tokenizer() -> None:
    buffer = np.array([1, 2, 3], np.uint8)
    data = TokenDataset("text", foreign(lambda text: buffer), val_fraction=0)
    buffer[:] = 9
    assert data.train.tolist() == [1, 2, 3]


def test_an_overridden_encode_is_used() -> None:
    class Lower(CharTokenizer):
        def encode(self, text: str) -> list[int]:
            return super().encode(text.lower())

    tokenizer = Lower("abc")
    assert TokenDataset("CAB", tokenizer, val_fraction=0).train.tolist() == [2, 0, 1]
    sampler = Sampler(BigramLanguageModel(3), tokenizer)
    assert sampler.score("CAB").shape == (3,)


def test_a_vocabulary_that_has_grown_is_named() -> None:
    """As with transformers, where `vocab_size` leaves out added tokens and `len` has them."""

    class Grown:
        vocab_size = VOCAB

        def __len__(self) -> int:
            return VOCAB + 3

        def encode(self, text: str) -> list[int]:
            return [VOCAB + 1]

        def decode(self, ids: list[int]) -> str:
            return ""

    with pytest.raises(TokenizerError, match=r"got 201 at position 0; its len\(\) is 203: wrap it with vocab_size=len"):
        TokenDataset("text", Grown())


# --- what decode returns ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("result", "message"),
    [
        (b"ab", r"SimpleNamespace\.decode\(ids\) must return a str, got b'ab' of type bytes; decode them, e\.g\."),
        (["a"], r"got \['a'\] of type list"),
        (None, "got None of type NoneType"),
        (np.str_("a").encode(), "got b'a' of type bytes"),
    ],
)
def test_a_text_that_is_not_a_str_is_named(result: Any, message: str) -> None:
    tokenizer = foreign(lambda text: [1, 2, 3], lambda ids: result)
    doors: list[Callable[[], Any]] = [
        lambda: make_sampler(tokenizer).generate("text", max_new_tokens=1),
        lambda: list(make_sampler(tokenizer).stream("text", max_new_tokens=1)),
        lambda: TokenDataset("text", tokenizer).characters_per_id("train"),
    ]
    for door in doors:
        with pytest.raises(InputTypeError, match=message):
            door()


# --- the three names --------------------------------------------------------------------------------------------------


class SentencePiece:
    """Has the names of `sentencepiece`, whose size is a method."""

    def vocab_size(self) -> int:
        return VOCAB

    def encode(self, text: str) -> list[int]:
        return [1, 2, 3]

    def decode(self, ids: list[int]) -> str:
        return "x" * len(ids)


AT_THE_DOOR = [
    pytest.param(lambda tokenizer: TokenDataset("text", tokenizer), id="dataset"),
    pytest.param(make_sampler, id="sampler"),
]


@pytest.mark.parametrize("door", AT_THE_DOOR)
@pytest.mark.parametrize(
    ("tokenizer", "message"),
    [
        (SentencePiece(), r"got SentencePiece, whose vocab_size is a method, not an integer; wrap it: "),
        (
            type("Encoding", (), {"__module__": "tiktoken.core", "encode": list, "decode": list})(),
            r"got Encoding, which lacks vocab_size; use tinygpt\.interop\.adapt\(tokenizer\)$",
        ),
        (SimpleNamespace(vocab_size=9, encode=list), "which lacks decode; wrap it: "),
        (SimpleNamespace(vocab_size=9), "which lacks encode, decode; wrap it: "),
        (SimpleNamespace(vocab_size=9, encode=list, decode="no"), "whose decode is 'no', not a method"),
        (SimpleNamespace(vocab_size=9, encode=None, decode=list), "whose encode is None, not a method"),
        (SimpleNamespace(vocab_size="9", encode=list, decode=list), "whose vocab_size is '9', not an integer"),
        (SimpleNamespace(vocab_size=9.0, encode=list, decode=list), r"whose vocab_size is 9\.0, not an integer"),
        (SimpleNamespace(vocab_size=True, encode=list, decode=list), "whose vocab_size is True, not an integer"),
        (SimpleNamespace(vocab_size=None, encode=list, decode=list), "whose vocab_size is None, not an integer"),
        (list, r"tokenizer must be an instance, .*, got the class list"),
        (lambda text: [1], "got function, which lacks vocab_size, encode, decode; wrap it: "),
        ("gpt2", "got str, which lacks vocab_size, decode; wrap it: "),
        ({"vocab_size": 3}, "got dict, which lacks vocab_size, encode, decode"),
    ],
)
def test_a_missing_or_wrong_name_is_named(door: Any, tokenizer: Any, message: str) -> None:
    with pytest.raises(InputTypeError, match=message) as caught:
        door(tokenizer)
    assert len(str(caught.value)) <= 300


@pytest.mark.parametrize("door", AT_THE_DOOR)
@pytest.mark.parametrize("size", [0, -1])
def test_an_empty_vocabulary_is_named(door: Any, size: int) -> None:
    with pytest.raises(TokenizerError, match=f"vocab_size of at least 1, got SimpleNamespace with vocab_size={size}"):
        door(SimpleNamespace(vocab_size=size, encode=list, decode=list))


def test_a_vocabulary_size_of_numpy_is_a_number() -> None:
    tokenizer: Any = SimpleNamespace(vocab_size=np.uint8(200), encode=lambda text: [199], decode=lambda ids: "")
    data = TokenDataset("text", tokenizer, val_fraction=0)
    assert type(data.vocab_size) is int
    assert data.vocab_size == VOCAB
    with pytest.raises(TokenizerError, match="from 0 to 199, got 256 at position 0"):
        TokenDataset("text", SimpleNamespace(**vars(tokenizer) | {"encode": lambda text: [256]}))


# --- the symbols that a model was trained with ------------------------------------------------------------------------

TEXT = "to be, or not to be: that is the question. " * 4
SYMBOLS = sorted(set(TEXT))


class Words:
    """A tokenizer that no file can hold: its ids are positions in a list of texts. The last id has no text."""

    def __init__(self, words: list[str]) -> None:
        self.words = words
        self.vocab_size = len(words) + 1
        self.calls = 0

    def encode(self, text: str) -> list[int]:
        return [self.words.index(character) for character in text]

    def decode(self, ids: list[int]) -> str:
        self.calls += 1
        return "".join(self.words[id] for id in ids)


def swapped(symbols: list[str]) -> list[str]:
    return [*symbols[:3], symbols[4], symbols[3], *symbols[5:]]


def train(tokenizer: Any, model: LanguageModel | None = None, **options: Any) -> LanguageModel:
    data = TokenDataset(TEXT, tokenizer)
    model = model or BigramLanguageModel(data.vocab_size)
    config = TrainerConfig(max_iters=2, batch_size=2, preview_tokens=0)
    Trainer(model, data, config, **options).fit(progress=False)
    return model


def through_a_file(model: LanguageModel, tokenizer: Any, directory: Path) -> LanguageModel:
    tinygpt.save(directory / "model.safetensors", model, tokenizer if type(tokenizer) is CharTokenizer else None)
    return tinygpt.load(directory / "model.safetensors")[0]


def into_another(model: LanguageModel, tokenizer: Any, directory: Path) -> LanguageModel:
    tinygpt.save(directory / "model.safetensors", model)
    return tinygpt.load(directory / "model.safetensors", into=BigramLanguageModel(model.vocab_size))[0]


def through_a_run(model: LanguageModel, tokenizer: Any, directory: Path) -> LanguageModel:
    train(tokenizer, run_dir=directory / "run")
    return tinygpt.load(directory / "run" / "step-00000002.safetensors")[0]


@pytest.mark.parametrize("make", [CharTokenizer, Words])
@pytest.mark.parametrize(
    "way",
    [lambda model, *_: model, lambda model, *_: copy.deepcopy(model), through_a_file, into_another, through_a_run],
    ids=["trained", "copied", "loaded", "loaded into another", "from a checkpoint"],
)
def test_a_trained_model_refuses_other_symbols(way: Any, make: Any, tmp_path: Path) -> None:
    tokenizer, other = make(SYMBOLS), make(swapped(SYMBOLS))
    model = way(train(tokenizer), tokenizer, tmp_path)
    doors: list[Callable[[Any], Any]] = [
        lambda tokenizer: Sampler(model, tokenizer).generate("", max_new_tokens=3, seed=1),
        lambda tokenizer: train(tokenizer, model),
    ]
    if make is CharTokenizer:
        doors.append(lambda tokenizer: tinygpt.save(tmp_path / "again.safetensors", model, tokenizer))
    message = (
        rf"got '{SYMBOLS[4]}' as id 3, where the model learnt '{SYMBOLS[3]}'; use that tokenizer, or "
        r"model\.trained_symbols = None"
    )
    for door in doors:
        door(make(SYMBOLS))  # equal symbols, in another object
        with pytest.raises(TokenizerError, match=message):
            door(other)
    model.trained_symbols = None
    for door in doors:
        door(other)


def test_a_new_model_takes_any_symbols(tmp_path: Path) -> None:
    model = BigramLanguageModel(len(SYMBOLS))
    assert model.trained_symbols is None
    for symbols in (SYMBOLS, swapped(SYMBOLS)):
        Sampler(model, CharTokenizer(symbols)).generate("", max_new_tokens=3)
        tinygpt.save(tmp_path / "model.safetensors", model, CharTokenizer(symbols))
        assert tinygpt.load(tmp_path / "model.safetensors")[0].trained_symbols == tuple(symbols)
    tinygpt.save(tmp_path / "model.safetensors", model)
    assert tinygpt.load(tmp_path / "model.safetensors", into=model)[0].trained_symbols is None


def test_fewer_symbols_are_other_symbols(tmp_path: Path) -> None:
    model = train(CharTokenizer(SYMBOLS))
    message = f"got nothing as id {len(SYMBOLS) - 1}, where the model learnt '{SYMBOLS[-1]}'"
    with pytest.raises(TokenizerError, match=message):
        tinygpt.save(tmp_path / "model.safetensors", model, CharTokenizer(SYMBOLS[:-1]))
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("make", [CharTokenizer, Words])
def test_a_run_goes_on_with_its_own_symbols_only(make: Any, tmp_path: Path) -> None:
    """The ids are the same, so that the corpus tells nothing."""
    ids = CharTokenizer(SYMBOLS).encode_array(TEXT)

    def trainer(tokenizer: Any) -> Trainer:
        model = BigramLanguageModel(len(SYMBOLS) + (make is Words))
        config = TrainerConfig(max_iters=2, batch_size=2, preview_tokens=0)
        return Trainer(model, TokenDataset(ids, tokenizer), config, run_dir=tmp_path)

    trainer(make(SYMBOLS)).fit(progress=False)
    with pytest.raises(CheckpointMismatchError, match=f"the first difference is id 3: '{SYMBOLS[4]}' where it has"):
        trainer(make(swapped(SYMBOLS))).fit(resume=True, progress=False)
    resumed = trainer(make(SYMBOLS))
    resumed.fit(resume=True, progress=False)
    assert resumed.model.trained_symbols == (*SYMBOLS, *([None] if make is Words else []))


def test_foreign_ids_are_decoded_only_once() -> None:
    tokenizer = Words(SYMBOLS)
    model = train(tokenizer)
    once = tokenizer.calls
    assert once >= tokenizer.vocab_size
    train(tokenizer, model)
    Sampler(model, tokenizer)
    assert tokenizer.calls < once + tokenizer.vocab_size


def test_the_symbols_of_many_long_texts_make_a_small_file(tmp_path: Path) -> None:
    tokenizer: Any = SimpleNamespace(
        vocab_size=300, encode=lambda text: [1] * 50, decode=lambda ids: "☃" * 10_000 + chr(0xD800 + ids[0])
    )
    model = train(tokenizer)
    tinygpt.save(tmp_path / "model.safetensors", model)
    assert (tmp_path / "model.safetensors").stat().st_size < 300 * 300 * 8 + 300 * 200
    again, nothing = tinygpt.load(tmp_path / "model.safetensors")
    assert nothing is None
    assert again.trained_symbols == model.trained_symbols
    assert again.trained_symbols is not None
    assert len(set(again.trained_symbols)) == 300


@pytest.mark.parametrize(
    ("symbols", "message"),
    [
        ("abc", "must contain the text of each id, got 'abc'"),
        ([1, 2], r"must contain the text of each id, got \[1, 2\]"),
        (None, "must contain the text of each id, got None"),
        (["a"] * 4, "contains the symbols of 4 ids for a model of 3"),
    ],
)
def test_symbols_of_a_file_that_do_not_fit_are_named(symbols: Any, message: str, tmp_path: Path) -> None:
    tensors, payload = checkpoint.pack(BigramLanguageModel(3), None)
    payload["tokenizer"] = {"type": "symbols", "symbols": symbols}
    checkpoint.write(tmp_path / "model.safetensors", tensors, payload)
    with pytest.raises(CheckpointCorruptError, match=message):
        tinygpt.load(tmp_path / "model.safetensors")
