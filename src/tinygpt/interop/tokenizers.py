"""Tokenizers of other libraries under the names of tinygpt."""

from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

from tinygpt.errors import InputTypeError, TokenizerError, short
from tinygpt.tokenizer import library_of


@dataclass(frozen=True, repr=False)
class AdaptedTokenizer:
    """A tokenizer of another library, made by :func:`adapt`.

    Attributes:
        name: The library, and the name of the tokenizer if it has one.
        vocab_size: The number of ids ``V``, special ones included.
        encode: Returns the ids of a text. Special tokens in the text are text.
        decode: Returns the text of some ids.
        end_id: The id that ends a text, or None.
    """

    name: str
    vocab_size: int
    encode: Callable[[str], list[int]]
    decode: Callable[[list[int]], str]
    end_id: int | None = None

    def __repr__(self) -> str:
        return f"AdaptedTokenizer({self.name!r}, {self.vocab_size:,} ids, end_id={self.end_id})"


def adapt(tokenizer: Any, *, end: str | None = None) -> AdaptedTokenizer:
    """Adapt a tokenizer of tiktoken, tokenizers, sentencepiece or transformers.

    The library is recognised by the object's class, and is not imported. The object does not change. A special token
    that occurs in a text, such as ``</s>``, is encoded like any other text, and no special token is added.

    Args:
        tokenizer: An object of one of these libraries.
        end: The token that ends a text. By default the one that the object names, which a ``tokenizers.Tokenizer`` does
            not.

    Raises:
        InputTypeError: If the object is of another library.
        TokenizerError: If ``end`` is not in the vocabulary.

    Example:
        .. code-block:: python

            tokenizer = adapt(tiktoken.get_encoding("gpt2"))
            data = TokenDataset(text, tokenizer)
    """
    library = library_of(tokenizer)
    if not library:
        raise InputTypeError(
            f"tokenizer must be an object of tiktoken, tokenizers, sentencepiece or transformers, got "
            f"{short(tokenizer)}; any object with vocab_size, encode and decode needs no adapter"
        )
    size, encode, decode, end_id = _LIBRARIES[library](tokenizer, end)
    if end is not None and end_id is None:
        raise TokenizerError(f"end must be a token of the vocabulary, got end={short(end)}")
    name = getattr(tokenizer, "name", None) or getattr(tokenizer, "name_or_path", None) or ""
    return AdaptedTokenizer(f"{library} {name}".strip(), size, encode, decode, end_id)


_Names = tuple[int, Callable[[str], list[int]], Callable[[list[int]], str], int | None]


def _tiktoken(tokenizer: Any, end: str | None) -> _Names:
    end_id = None
    with suppress(KeyError):
        end_id = tokenizer.eot_token if end is None else tokenizer.encode_single_token(end)
    return tokenizer.n_vocab, tokenizer.encode_ordinary, tokenizer.decode, end_id


def _tokenizers(tokenizer: Any, end: str | None) -> _Names:
    copied = type(tokenizer).from_str(tokenizer.to_str())
    copied.encode_special_tokens = True  # else </s> in a text becomes its id
    copied.no_truncation()
    copied.no_padding()

    def encode(text: str) -> list[int]:
        ids: list[int] = copied.encode(text, add_special_tokens=False).ids
        return ids

    def decode(ids: list[int]) -> str:
        text: str = copied.decode(ids, skip_special_tokens=False)
        return text

    return copied.get_vocab_size(), encode, decode, None if end is None else copied.token_to_id(end)


def _sentencepiece(tokenizer: Any, end: str | None) -> _Names:
    def encode(text: str) -> list[int]:
        ids: list[int] = tokenizer.encode(text, out_type=int, add_bos=False, add_eos=False, enable_sampling=False)
        return ids

    end_id = tokenizer.eos_id() if end is None else tokenizer.piece_to_id(end)
    is_known = end_id >= 0 and (end is None or tokenizer.id_to_piece(end_id) == end)  # an unknown piece has an id too
    return tokenizer.vocab_size(), encode, tokenizer.decode, end_id if is_known else None


def _transformers(tokenizer: Any, end: str | None) -> _Names:
    def encode(text: str) -> list[int]:
        ids: list[int] = tokenizer.encode(text, add_special_tokens=False, split_special_tokens=True, verbose=False)
        return ids

    def decode(ids: list[int]) -> str:
        text: str = tokenizer.decode(ids, skip_special_tokens=False, clean_up_tokenization_spaces=False)
        return text

    end_id = tokenizer.eos_token_id if end is None else tokenizer.convert_tokens_to_ids(end)
    if end is not None and (end_id is None or tokenizer.convert_ids_to_tokens(end_id) != end):  # it is the unknown one
        end_id = None
    return len(tokenizer), encode, decode, end_id


_LIBRARIES: dict[str, Callable[[Any, str | None], _Names]] = {
    "tiktoken": _tiktoken,
    "tokenizers": _tokenizers,
    "sentencepiece": _sentencepiece,
    "transformers": _transformers,
}
