"""Tokenizers of four libraries under our names: first as stand-ins of the same shape, then the libraries themselves."""

import io
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from tinygpt import LanguageModel, Sampler, TokenDataset
from tinygpt.errors import InputTypeError, TokenizerError
from tinygpt.interop import adapt

pytestmark = pytest.mark.usefixtures("unchecked_types")

TEXT = "to be, or not to be.\nThe end </s> <|endoftext|> is \U0001f600 not é.\n"
SYMBOLS = ["<unk>", "</s>", *sorted({*TEXT})]


class Reciting(LanguageModel):
    """Recites some ids, from whichever position the input ends at."""

    def __init__(self, ids: list[int], vocab_size: int) -> None:
        super().__init__(vocab_size, block_size=len(ids) + 1)
        self.ids = ids
        self.unused = nn.Parameter(torch.zeros(1))

    def compute_logits(self, idx: Tensor, cache: Any = None) -> Tensor:
        logits = torch.zeros(*idx.shape, self.vocab_size)
        logits[:, -1, self.ids[idx.shape[1] % len(self.ids)]] = 100.0
        return logits


# --- stand-ins: their methods take exactly these arguments, and special tokens in a text become ids unless switched off


def ids_of(text: str, *, special: bool) -> list[int]:
    pieces = text.split("</s>") if special else [text]
    ids = [[SYMBOLS.index(symbol) for symbol in piece] for piece in pieces]
    return [id for number, row in enumerate(ids) for id in [*([1] if number else []), *row]]


def text_of(ids: list[int], *, skip: bool = False) -> str:
    return "".join(SYMBOLS[id] for id in ids if not (skip and id < 2))


class Encoding:
    """Is shaped as ``tiktoken.Encoding``."""

    name = "letters"
    n_vocab = len(SYMBOLS)

    @property
    def eot_token(self) -> int:
        raise KeyError("<|endoftext|>")

    def encode(self, text: str) -> list[int]:
        raise ValueError("disallowed special token")

    def encode_ordinary(self, text: str) -> list[int]:
        return ids_of(text, special=False)

    def encode_single_token(self, text: str) -> int:
        return {symbol: id for id, symbol in enumerate(SYMBOLS)}[text]

    def decode(self, tokens: list[int]) -> str:
        return text_of(tokens)


class Tokenizer:
    """Is shaped as ``tokenizers.Tokenizer``."""

    def __init__(self) -> None:
        self.encode_special_tokens = False
        self.most: int | None = 5

    @staticmethod
    def from_str(json: str) -> "Tokenizer":
        assert json == "{}"
        return Tokenizer()

    def to_str(self) -> str:
        return "{}"

    def no_truncation(self) -> None:
        self.most = None

    def no_padding(self) -> None:
        pass

    def get_vocab_size(self, with_added_tokens: bool = True) -> int:
        return len(SYMBOLS) if with_added_tokens else len(SYMBOLS) - 2

    def token_to_id(self, token: str) -> int | None:
        return SYMBOLS.index(token) if token in SYMBOLS else None

    def encode(
        self, sequence: str, pair: None = None, is_pretokenized: bool = False, add_special_tokens: bool = True
    ) -> Any:
        ids = ids_of(sequence, special=not self.encode_special_tokens) + [1] * add_special_tokens
        return SimpleNamespace(ids=ids[: self.most])

    def decode(self, ids: list[int], skip_special_tokens: bool = True) -> str:
        return text_of(ids, skip=skip_special_tokens)


class SentencePieceProcessor:
    """Is shaped as ``sentencepiece.SentencePieceProcessor``."""

    def vocab_size(self) -> int:
        return len(SYMBOLS)

    def eos_id(self) -> int:
        return -1

    def piece_to_id(self, piece: str) -> int:
        return SYMBOLS.index(piece) if piece in SYMBOLS else 0

    def id_to_piece(self, id: int) -> str:
        return SYMBOLS[id]

    def encode(
        self, input: str, out_type: type = str, add_bos: Any = True, add_eos: Any = True, enable_sampling: Any = True
    ) -> Any:
        assert not enable_sampling
        return [out_type(id) for id in ids_of(input, special=False) + [1] * add_eos]

    def decode(self, input: list[int]) -> str:
        return text_of(input)


class PreTrainedTokenizerBase:
    """Is shaped as the base class of ``transformers``."""

    name_or_path = "here/letters"
    vocab_size = len(SYMBOLS) - 2
    eos_token_id = 1

    def __len__(self) -> int:
        return len(SYMBOLS)

    def encode(
        self, text: str, add_special_tokens: bool = True, *, split_special_tokens: bool = False, verbose: bool = True
    ) -> list[int]:
        assert not verbose  # else a long text is a warning
        return ids_of(text, special=not split_special_tokens) + [1] * add_special_tokens

    def decode(
        self, token_ids: list[int], skip_special_tokens: bool = False, clean_up_tokenization_spaces: bool = True
    ) -> str:
        text = text_of(token_ids, skip=skip_special_tokens)
        return text.replace(" .", ".") if clean_up_tokenization_spaces else text

    def convert_tokens_to_ids(self, token: str) -> int:
        return SYMBOLS.index(token) if token in SYMBOLS else 0

    def convert_ids_to_tokens(self, id: int) -> str:
        return SYMBOLS[id]


Encoding.__module__ = "tiktoken.core"
Tokenizer.__module__ = "tokenizers"
SentencePieceProcessor.__module__ = "sentencepiece"
PreTrainedTokenizerBase.__module__ = "transformers.tokenization_utils_base"


class Subclass(PreTrainedTokenizerBase):
    """Is a user's own."""


STAND_INS: list[tuple[Any, str, int | None]] = [
    (Encoding(), "tiktoken letters", None),
    (Tokenizer(), "tokenizers", None),
    (SentencePieceProcessor(), "sentencepiece", None),
    (PreTrainedTokenizerBase(), "transformers here/letters", 1),
    (Subclass(), "transformers here/letters", 1),
]
every_stand_in = pytest.mark.parametrize(
    ("object", "name", "end_id"), STAND_INS, ids=[name for _, name, _ in STAND_INS[:-1]] + ["subclass"]
)


def check(tokenizer: Any, text: str = TEXT) -> None:
    """Check that a text comes back, without special ids, and is streamed as it is generated."""
    ids = tokenizer.encode(text)
    assert all(type(id) is int and 0 <= id < tokenizer.vocab_size for id in ids)
    assert tokenizer.end_id is None or tokenizer.end_id not in ids
    assert tokenizer.decode(ids) == text
    data = TokenDataset(text, tokenizer, val_fraction=0)
    assert data.train.tolist() == ids
    writer = Sampler(Reciting(ids, tokenizer.vocab_size), tokenizer)
    whole = writer.generate(ids[:1], max_new_tokens=len(ids) - 1)
    assert whole == ids
    first = tokenizer.decode(ids[:1])
    if tokenizer.encode(first) == ids[:1]:
        pieces = [*writer.stream(first, max_new_tokens=len(ids) - 1)]
        assert first + "".join(pieces) == writer.generate(first, max_new_tokens=len(ids) - 1) == text
        assert not any("\ufffd" in piece for piece in pieces)


@every_stand_in
def test_an_adapted_tokenizer_has_our_names(object: Any, name: str, end_id: int | None) -> None:
    before = dict(vars(object))
    tokenizer = adapt(object)
    assert (tokenizer.name, tokenizer.vocab_size, tokenizer.end_id) == (name, len(SYMBOLS), end_id)
    check(tokenizer)
    assert vars(object) == before
    assert repr(tokenizer) == f"AdaptedTokenizer({name!r}, {len(SYMBOLS)} ids, end_id={end_id})"


@every_stand_in
def test_the_end_is_a_token_of_the_vocabulary(object: Any, name: str, end_id: int | None) -> None:
    tokenizer = adapt(object, end="</s>")
    assert tokenizer.end_id == 1
    assert Sampler(Reciting([2, 3, 1], len(SYMBOLS)), tokenizer).generate([2], max_new_tokens=9) == [2, 3]
    with pytest.raises(TokenizerError, match="end must be a token of the vocabulary, got end='<end>'"):
        adapt(object, end="<end>")


@pytest.mark.parametrize("object", ["gpt2", None, SimpleNamespace(vocab_size=3)])
def test_other_objects_are_not_adapted(object: Any) -> None:
    with pytest.raises(InputTypeError, match=r"must be an object of tiktoken, .*; any object") as caught:
        adapt(object)
    assert len(str(caught.value)) <= 300


# --- the libraries themselves -----------------------------------------------------------------------------------------

CORPUS = [TEXT, "what is the question, whether tis nobler in the mind", "The end is not the end."] * 8


def needs(name: str) -> Any:
    return pytest.importorskip(name, reason=f"needs {name}: make interop")


def make_tiktoken() -> Any:
    ranks = {bytes([byte]): byte for byte in range(256)} | {b"th": 256, b"the": 257, b" t": 258}
    return needs("tiktoken").Encoding(
        "bytes", pat_str=r"\s?\w+|\W", mergeable_ranks=ranks, special_tokens={"<|endoftext|>": 259}
    )


def make_tokenizers() -> Any:
    library = needs("tokenizers")
    tokenizer = library.Tokenizer(library.models.BPE())
    tokenizer.pre_tokenizer = library.pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = library.decoders.ByteLevel()
    alphabet = library.pre_tokenizers.ByteLevel.alphabet()
    trainer = library.trainers.BpeTrainer(
        vocab_size=300, special_tokens=["</s>"], initial_alphabet=alphabet, show_progress=False
    )
    tokenizer.train_from_iterator(CORPUS, trainer)
    tokenizer.enable_truncation(4)
    return tokenizer


def make_transformers() -> Any:
    return needs("transformers").PreTrainedTokenizerFast(tokenizer_object=make_tokenizers(), eos_token="</s>")


def make_sentencepiece() -> Any:
    library, model = needs("sentencepiece"), io.BytesIO()
    library.SentencePieceTrainer.train(
        sentence_iterator=iter(CORPUS),
        model_writer=model,
        vocab_size=300,
        byte_fallback=True,
        hard_vocab_limit=False,
        normalization_rule_name="identity",
        remove_extra_whitespaces=False,
        minloglevel=2,
    )
    return library.SentencePieceProcessor(model_proto=model.getvalue())


@pytest.mark.interop
@pytest.mark.filterwarnings("ignore::DeprecationWarning")
@pytest.mark.parametrize(
    ("make", "end", "end_id"),
    [
        (make_tiktoken, "<|endoftext|>", 259),
        (make_tokenizers, "</s>", None),
        (make_transformers, "</s>", 0),
        (make_sentencepiece, "</s>", 2),
    ],
)
def test_the_real_tokenizers_are_adapted(make: Any, end: str, end_id: int | None) -> None:
    object = make()
    tokenizer = adapt(object)
    assert tokenizer.end_id == end_id
    assert adapt(object, end=end).end_id is not None
    with pytest.raises(TokenizerError, match="end must be a token"):
        adapt(object, end="<end>")
    text = TEXT.replace("\n", " ") if make is make_sentencepiece else TEXT  # sentencepiece loses line breaks
    check(tokenizer, text.strip() if make is make_sentencepiece else text)


@pytest.mark.interop
@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_the_penalty_is_that_of_transformers() -> None:
    from tinygpt.sampling import penalise_repetition

    theirs = needs("transformers").RepetitionPenaltyLogitsProcessor(penalty=1.3)
    logits, ids = torch.randn(3, 50), torch.randint(0, 50, (3, 20))
    found = penalise_repetition(1.3)(logits, ids)
    torch.testing.assert_close(found, theirs(ids, logits.clone()), rtol=0, atol=1e-12)
