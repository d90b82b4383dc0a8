"""Text to ids and back.

:class:`Tokenizer` is what the rest of tinygpt asks of a tokenizer: three names. :class:`CharTokenizer` is the
notebook's: every distinct character of a text is one id, in the order of code points.
"""

import warnings
from collections.abc import Iterable
from typing import Any, Protocol, runtime_checkable

import numpy as np
from jaxtyping import Integer, UInt

from tinygpt.errors import InputTypeError, TokenizerError, short
from tinygpt.files import parse_json, to_json

_CHUNK = 1 << 15  # characters encoded at once: the working memory then stays in the processor's cache


@runtime_checkable
class Tokenizer(Protocol):
    """Whatever turns text into ids and ids into text; anything with these three names fits."""

    @property
    def vocab_size(self) -> int:
        """How many ids there are; every id is in ``range(vocab_size)``."""

    def encode(self, text: str) -> list[int]:
        """Return the ids of a text."""

    def decode(self, ids: list[int]) -> str:
        """Return the text of some ids."""


def check_tokenizer(tokenizer: Any) -> Tokenizer:
    """Return a tokenizer if it is one, also of your own.

    Raises:
        InputTypeError: If it lacks one of the three names, or is a class in place of a tokenizer made from it.
    """
    if isinstance(tokenizer, type):
        kind = f"the class {tokenizer.__name__}"
        raise InputTypeError(f"tokenizer must be made first, e.g. with from_text(text), got {kind}")
    if not isinstance(tokenizer, Tokenizer):
        kind = type(tokenizer).__name__
        raise InputTypeError(f"tokenizer must have vocab_size, encode and decode, got {kind}, which does not")
    return tokenizer


@runtime_checkable
class SupportsToList(Protocol):
    """A tensor or an array of any library: what gives its numbers as a list."""

    def tolist(self) -> Any:
        """Return the numbers, nested as deep as there are dimensions."""


class CharTokenizer:
    """A vocabulary of single characters.

    Characters are Unicode code points, all of them: nothing is normalised, stripped or translated, so
    ``decode(encode(text)) == text`` for every text of known characters, lone surrogates included.

    Args:
        symbols: The characters, each once; the id of a character is its place. :meth:`from_text` collects them from
            a text.
        on_unknown: What :meth:`encode` does with a character outside the vocabulary: ``"error"`` raises, ``"skip"``
            leaves it out, and any symbol of the vocabulary is put in its place.

    Raises:
        TokenizerError: If a symbol is not one character or appears twice, if there is none, or if ``on_unknown``
            is neither a policy nor a symbol.

    Example:
        >>> tokenizer = CharTokenizer.from_text("to be, or not to be")
        >>> tokenizer
        CharTokenizer(' ,benort')
        >>> tokenizer.encode("not")
        [4, 5, 7]
        >>> tokenizer.decode([2, 3])
        'be'
        >>> CharTokenizer.from_text("to be", on_unknown=" ").decode([1, 4, 0])
        'bt '
    """

    def __init__(self, symbols: Iterable[str], *, on_unknown: str = "error") -> None:
        if not isinstance(symbols, Iterable):
            raise InputTypeError(f"symbols must be characters, got {short(symbols)}; use CharTokenizer.from_text(text)")
        self.symbols = tuple(symbols)
        self.on_unknown = on_unknown
        if not self.symbols:
            raise TokenizerError("symbols must hold at least one character, got none; fit a text that is not empty")
        seen: dict[str, int] = {}
        for entry, symbol in enumerate(self.symbols):
            if not isinstance(symbol, str) or len(symbol) != 1:
                raise TokenizerError(f"symbols must be single characters, got {short(symbol)} as entry {entry}")
            if seen.setdefault(symbol, entry) != entry:
                raise TokenizerError(
                    f"symbols must be distinct, got {symbol!r} as entry {seen[symbol]} and as entry {entry}"
                )
        if not isinstance(on_unknown, str) or (on_unknown not in ("error", "skip") and on_unknown not in seen):
            raise TokenizerError(
                "on_unknown must be 'error', 'skip', or the symbol of the vocabulary to put in place of an unknown "
                f"character, got {short(on_unknown)}"
            )
        # Two tables do the work: from id to code point, and from code point to id. In the latter every code point
        # that is no symbol holds the id `vocab_size`, and so does the last entry, which stands for all beyond it.
        self._code_points = np.array([ord(symbol) for symbol in self.symbols], dtype="<u4")
        self._ids = np.full(int(self._code_points.max()) + 2, self.vocab_size, np.min_scalar_type(self.vocab_size))
        self._ids[self._code_points] = np.arange(self.vocab_size)
        self._pair_ids = self._make_pair_ids()

    @classmethod
    def from_text(cls, text: str, *, on_unknown: str = "error") -> "CharTokenizer":
        """Collect the distinct characters of a text, sorted by code point.

        Raises:
            InputTypeError: If ``text`` is not a string.
            TokenizerError: If it is empty.
        """
        symbols = sorted(set(_checked_text(text)))
        if len(symbols) == 1:
            warnings.warn("the vocabulary has 1 symbol; its loss will be 0, whatever is learnt", stacklevel=2)
        return cls(symbols, on_unknown=on_unknown)

    @property
    def vocab_size(self) -> int:
        """The number of symbols, ``V``."""
        return len(self.symbols)

    def encode(self, text: str) -> list[int]:
        """Return the id of each character, as a list. :meth:`encode_array` is the fast one.

        Raises:
            InputTypeError: If ``text`` is not a string.
            TokenizerError: If a character is not in the vocabulary and ``on_unknown`` is ``"error"``.
        """
        return self.encode_array(text).tolist()

    def encode_array(self, text: str) -> UInt[np.ndarray, " N"]:
        """Return the id of each character, in the smallest unsigned integers that hold them all.

        Raises:
            InputTypeError: If ``text`` is not a string.
            TokenizerError: If a character is not in the vocabulary and ``on_unknown`` is ``"error"``.

        Example:
            >>> CharTokenizer("abc").encode_array("cab")
            array([2, 0, 1], dtype=uint8)
        """
        ids = self._look_up(_checked_text(text))
        if self._has_unknown(ids):
            ids = self._without_unknown(text, ids)
        return ids.astype(np.min_scalar_type(self.vocab_size - 1), copy=False)

    def decode(self, ids: Iterable[int] | SupportsToList) -> str:
        """Return the text of some ids: a list, a tuple, a one-dimensional array or a tensor of integers.

        Raises:
            InputTypeError: If an id is not an integer.
            TokenizerError: If an id is not in ``range(vocab_size)``; negative ids do not count from the end.
        """
        numbers = _as_integers(ids)
        wrong = np.flatnonzero((numbers < 0) | (numbers >= self.vocab_size))
        if wrong.size:
            place = int(wrong[0])
            raise TokenizerError(
                f"ids must be from 0 to {self.vocab_size - 1}, got {int(numbers[place])} at position {place}"
            )
        return self._code_points[numbers.astype(np.intp, copy=False)].tobytes().decode("utf-32-le", "surrogatepass")

    def to_json(self) -> str:
        """Return the tokenizer as JSON: plain ASCII, the same text for equal tokenizers.

        Example:
            >>> CharTokenizer("ab").to_json()
            '{"on_unknown":"error","symbols":["a","b"],"type":"CharTokenizer"}'
        """
        # A list of characters, not one string: JSON would read two lone surrogates side by side as one character.
        state = {"type": "CharTokenizer", "symbols": self.symbols, "on_unknown": self.on_unknown}
        return to_json(state)

    @classmethod
    def from_json(cls, text: str) -> "CharTokenizer":
        """Return the tokenizer that :meth:`to_json` wrote.

        Raises:
            TokenizerError: If the text is not that, naming the entry that is wrong.
        """
        try:
            state = parse_json(text)
        except (ValueError, TypeError) as error:
            raise TokenizerError(f"text must be JSON that to_json() wrote, got {short(text)}: {error}") from error
        if not isinstance(state, dict) or state.get("type") != "CharTokenizer":
            raise TokenizerError(f'text must be JSON with "type": "CharTokenizer", got {short(state)}')
        if state.keys() != {"type", "symbols", "on_unknown"} or not isinstance(state["symbols"], list):
            raise TokenizerError(f"text must hold a list of symbols and on_unknown, got the keys {sorted(state)}")
        return cls(state["symbols"], on_unknown=state["on_unknown"])

    def __eq__(self, other: object) -> bool:
        return isinstance(other, CharTokenizer) and self._identity == other._identity

    def __hash__(self) -> int:
        return hash(self._identity)

    def __repr__(self) -> str:
        policy = "" if self.on_unknown == "error" else f", on_unknown={self.on_unknown!r}"
        return f"CharTokenizer({short(''.join(self.symbols))}{policy})"

    @property
    def _identity(self) -> tuple[Any, ...]:
        return (self.symbols, self.on_unknown)

    def _make_pair_ids(self) -> np.ndarray | None:
        """Return the ids of every two bytes of Latin-1, both in one 16-bit word; None where ids need more than a byte.

        Most texts are Latin-1 inside Python already, so that two characters at a time cost one look-up.
        """
        if self._ids.dtype != np.uint8:
            return None
        single = self._ids[np.minimum(np.arange(256), len(self._ids) - 1)]
        second, first = np.meshgrid(single, single, indexing="ij")
        return np.stack([first, second], axis=-1).view(np.uint16).ravel()

    def _look_up(self, text: str) -> np.ndarray:
        """Return an id for each character, ``vocab_size`` for an unknown one."""
        if self._pair_ids is not None:
            try:
                raw = text.encode("latin-1")
            except UnicodeEncodeError:
                pass
            else:
                pairs = np.frombuffer(raw + b"\0" * (len(raw) % 2), "<u2")
                return self._pair_ids.take(pairs, mode="wrap").view(np.uint8)[: len(raw)]
        ids = np.empty(len(text), self._ids.dtype)
        for start in range(0, len(text), _CHUNK):
            code_points = np.frombuffer(text[start : start + _CHUNK].encode("utf-32-le", "surrogatepass"), "<u4")
            ids[start : start + _CHUNK] = self._ids[np.minimum(code_points, len(self._ids) - 1)]
        return ids

    def _has_unknown(self, ids: np.ndarray) -> bool:
        if ids.dtype == np.uint8:  # a byte search is far quicker than a comparison
            return bytes([self.vocab_size]) in ids.tobytes()
        return bool((ids == self.vocab_size).any())

    def _without_unknown(self, text: str, ids: np.ndarray) -> np.ndarray:
        unknown = ids == self.vocab_size
        if self.on_unknown == "skip":
            return ids[~unknown]
        if self.on_unknown != "error":
            return np.where(unknown, self._ids[ord(self.on_unknown)], ids)
        places = np.flatnonzero(unknown)
        first = int(places[0])
        message = (
            f"text has {text[first]!r} (U+{ord(text[first]):04X}) at position {first}, which is not among the "
            f"{self.vocab_size} symbols of this tokenizer"
        )
        if places.size > 1:
            distinct = list(dict.fromkeys(text[place] for place in places.tolist()))
            shown = ", ".join(map(repr, distinct[:5])) + (", ..." if len(distinct) > 5 else "")
            message += f"; {places.size} characters are unknown: {shown}"
        raise TokenizerError(f"{message}; fit on more text, or set on_unknown='skip'")


def _checked_text(text: Any) -> str:
    if not isinstance(text, str):
        hint = "; decode it first, e.g. text.decode('utf-8')" if isinstance(text, bytes) else ""
        raise InputTypeError(f"text must be a str, got {type(text).__name__}{hint}")
    return text


def _as_integers(ids: Any) -> Integer[np.ndarray, " N"]:
    """Return ids as an array, refusing what NumPy would quietly convert: bools, floats, digits."""
    if not isinstance(ids, np.ndarray):
        ids = ids.tolist() if hasattr(ids, "tolist") else ids  # arrays and tensors of any library
        if not isinstance(ids, Iterable):
            raise InputTypeError(f"ids must be a one-dimensional sequence of integers, got {short(ids)}")
        ids = list(ids)
        for kind in set(map(type, ids)):
            if kind is not int and not issubclass(kind, np.integer):
                place = next(i for i, number in enumerate(ids) if type(number) is kind)
                raise InputTypeError(
                    f"ids must be integers, got {short(ids[place])} of type {kind.__name__} at position {place}"
                )
        fits = all(-(2**63) <= number < 2**63 for number in (min(ids), max(ids))) if ids else True
        ids = np.array(ids, np.int64 if fits else object)  # as objects, huge numbers reach the check that names them
    if ids.ndim != 1 or not (np.issubdtype(ids.dtype, np.integer) or ids.dtype == object):
        raise InputTypeError(f"ids must be a one-dimensional array of integers, got {ids.dtype} of shape {ids.shape}")
    return ids
