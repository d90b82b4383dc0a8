"""Convert text to ids and back.

:class:`CharTokenizer` is the notebook's tokenizer: each distinct character of a text has one id, in the order of code
points. Any object with the three names of :class:`Tokenizer` works too. The results of such an object are checked in
this module, by ``check_tokenizer``, ``encode_text`` and ``decode_ids``.
"""

import hashlib
import operator
import os
import re
import unicodedata
from collections import Counter, deque
from collections.abc import Iterable, Mapping, Sequence, Sized
from contextlib import suppress
from html import escape
from itertools import product, zip_longest
from pathlib import Path
from typing import Any, Literal, Protocol, SupportsIndex, runtime_checkable

import numpy as np
from jaxtyping import UInt

from tinygpt.errors import ConfigError, InputTypeError, TokenizerError, check_integer, short, warn
from tinygpt.ids import as_integers, first_outside
from tinygpt.text_report import TextReport, report_on

__all__ = ["CharTokenizer", "Tokenizer"]

# A web address, or a file name without spaces and with a common suffix.
_PATH = re.compile(
    r"https?://\S+|\S+\.(txt|text|md|rst|csv|tsv|jsonl?|html?|xml|log|tex|py|ipynb|bin|np[yz]|pt|gz|zip|pdf|docx?|epub|parquet)",
    re.IGNORECASE,
)
_LONGEST_PATH = 1024
_FORMS: tuple[Literal["NFC", "NFD"], ...] = ("NFC", "NFD")
_LIBRARIES = ("tiktoken", "tokenizers", "sentencepiece", "transformers")
_ADAPTER = "types.SimpleNamespace(vocab_size=..., encode=..., decode=...)"
_ROWS_SHOWN = 20  # of the table in a notebook
_DECODED: deque[tuple[Any, int, tuple[str | None, ...]]] = deque(maxlen=4)  # tokenizers with their symbols
_CHUNK = 1 << 15  # characters encoded at once, so that the working memory stays in the processor's cache


@runtime_checkable
class Tokenizer(Protocol):
    """Convert text to ids and ids to text.

    Any object with these three names is a tokenizer; it need not inherit from this class. A fourth name is optional:
    ``end_id``, the id that ends a text, or None.
    """

    @property
    def vocab_size(self) -> int:
        """The number of ids ``V``; every id is in ``range(vocab_size)``."""

    def encode(self, text: str) -> list[int]:
        """Return the ids of a text."""

    def decode(self, ids: list[int]) -> str:
        """Return the text of some ids."""


def check_tokenizer(tokenizer: Any) -> Tokenizer:
    """Return a tokenizer if it has the three names of :class:`Tokenizer`.

    Raises:
        InputTypeError: If a name is missing or of another kind, or if it is a class instead of an instance. The message
            names what is wrong and shows an adapter.
        TokenizerError: If ``vocab_size`` is less than 1.
    """
    if isinstance(tokenizer, type):
        kind = f"the class {tokenizer.__name__}"
        raise InputTypeError(f"tokenizer must be an instance, e.g. CharTokenizer.from_text(text), got {kind}")
    names = ("vocab_size", "encode", "decode")
    missing = [name for name in names if not hasattr(tokenizer, name)]
    wrong = f"which lacks {', '.join(missing)}" if missing else ""
    for name in names[1:]:
        if not wrong and not callable(getattr(tokenizer, name)):
            wrong = f"whose {name} is {short(getattr(tokenizer, name))}, not a method"
    if not wrong:
        size = tokenizer.vocab_size
        if callable(size):
            wrong = "whose vocab_size is a method, not an integer"
        elif isinstance(size, bool) or not hasattr(size, "__index__"):
            wrong = f"whose vocab_size is {short(size)}, not an integer"
        elif operator.index(size) < 1:
            raise TokenizerError(
                f"tokenizer must have a vocab_size of at least 1, got {type(tokenizer).__name__} with "
                f"vocab_size={short(size)}; fit it on a text first"
            )
    if wrong:
        way = "use tinygpt.interop.adapt(tokenizer)" if library_of(tokenizer) else f"wrap it: {_ADAPTER}"
        raise InputTypeError(
            f"tokenizer must have vocab_size, encode and decode, got {type(tokenizer).__name__}, {wrong}; {way}"
        )
    return tokenizer


def end_id_of(tokenizer: Tokenizer) -> int | None:
    """Return the id that ends a text, or None for a tokenizer without one.

    Raises:
        InputTypeError: If ``end_id`` is neither an integer nor None.
        TokenizerError: If it is not in ``range(vocab_size)``.
    """
    end_id = getattr(tokenizer, "end_id", None)
    if end_id is None:
        return None
    name = f"{type(tokenizer).__name__}.end_id"
    if isinstance(end_id, bool) or not hasattr(end_id, "__index__"):
        raise InputTypeError(f"{name} must be an integer or None, got {short(end_id)}")
    number, size = operator.index(end_id), operator.index(tokenizer.vocab_size)
    if not 0 <= number < size:
        raise TokenizerError(f"{name} must be from 0 to {size - 1}, got {number}")
    return number


def library_of(tokenizer: Any) -> str:
    """Return the library that a tokenizer is of, if ``interop.adapt`` knows it, else an empty text."""
    libraries = [base.__module__.partition(".")[0] for base in type(tokenizer).__mro__]
    return next((each for each in libraries if each in _LIBRARIES), "")


def encode_text(tokenizer: Tokenizer, text: str) -> UInt[np.ndarray, " N"]:
    """Return the ids of a text, in the smallest unsigned dtype for ``V`` ids.

    ``encode`` may return a sequence, array, tensor or iterator. Its ids are checked before they are converted.

    Raises:
        InputTypeError: If ``encode`` returned anything but integers in one dimension.
        TokenizerError: If an id is not in ``range(vocab_size)``.
    """
    if isinstance(tokenizer, CharTokenizer) and type(tokenizer).encode is CharTokenizer.encode:
        return tokenizer.encode_array(text)
    name = f"the ids of {type(tokenizer).__name__}.encode(text)"
    ids = as_integers(tokenizer.encode(text), name)
    size = operator.index(tokenizer.vocab_size)
    outside = first_outside(ids, size)
    if outside is not None:
        length = len(tokenizer) if isinstance(tokenizer, Sized) else 0
        hint = f"; its len() is {length}: wrap it with vocab_size=len(t)" if length > size else ""
        raise TokenizerError(f"{name} must be from 0 to {size - 1}, got {ids[outside]} at position {outside}{hint}")
    return ids.astype(np.min_scalar_type(size - 1))


def decode_ids(tokenizer: Tokenizer, ids: list[int]) -> str:
    """Return the text of some ids.

    Raises:
        InputTypeError: If ``decode`` returned anything but a str.
    """
    return _check_decoded(tokenizer, tokenizer.decode(ids))


def decode_alone(tokenizer: Tokenizer, id: int) -> str:
    """Return the text of a single id, empty where the tokenizer has none."""
    try:
        return decode_ids(tokenizer, [id])
    except Exception:  # a foreign tokenizer may raise anything for an unused id
        return ""


def _check_decoded(tokenizer: Tokenizer, text: Any) -> str:
    if not isinstance(text, str):
        hint = "; decode them, e.g. text.decode('utf-8', 'replace')" if isinstance(text, bytes) else ""
        raise InputTypeError(
            f"{type(tokenizer).__name__}.decode(ids) must return a str, got {short(text)} of type "
            f"{type(text).__name__}{hint}"
        )
    return text


def symbols_of(tokenizer: Tokenizer) -> tuple[str | None, ...]:
    """Return the text of each id alone, or None where ``decode`` raises.

    A model that was trained with a tokenizer keeps these symbols. A long text is replaced by its beginning and a
    digest. The ids of a foreign tokenizer are decoded once and then cached.

    Raises:
        InputTypeError: If ``decode`` returned anything but a str.
    """
    if isinstance(tokenizer, CharTokenizer) and type(tokenizer).decode is CharTokenizer.decode:
        return tokenizer.symbols
    size = operator.index(tokenizer.vocab_size)
    for known, known_size, symbols in list(_DECODED):
        if known is tokenizer and known_size == size:
            return symbols
    symbols = tuple(_decode_one(tokenizer, id) for id in range(size))
    _DECODED.append((tokenizer, size, symbols))
    return symbols


def _decode_one(tokenizer: Tokenizer, id: int) -> str | None:
    try:
        text = tokenizer.decode([id])
    except Exception:  # a foreign tokenizer may raise anything for an unused id or a part of a character
        return None
    raw = _check_decoded(tokenizer, text).encode("utf-8", "backslashreplace")  # JSON would join lone surrogates
    return (raw if len(raw) <= 64 else raw[:32] + hashlib.sha256(raw).hexdigest().encode()).decode("utf-8", "replace")


def check_trained_with(model: Any, tokenizer: Tokenizer) -> None:
    """Raise if a tokenizer has more ids than a model, or other symbols than the model was trained with.

    Raises:
        ConfigError: If it has more ids.
        TokenizerError: Naming the first id that stands for another symbol, and how to use the tokenizer nevertheless.
    """
    size = operator.index(tokenizer.vocab_size)
    if size > model.vocab_size:
        raise ConfigError(
            f"the tokenizer must not have more ids than the model, got {size} and {model.vocab_size}; use the "
            "tokenizer that the model was trained with"
        )
    then = model.trained_symbols
    if then is None or (conflict := first_conflict(then, symbols_of(tokenizer))) is None:
        return
    id, theirs, ours = conflict
    raise TokenizerError(
        f"tokenizer must be the one that the model was trained with, got {ours} as id {id}, where the model learnt "
        f"{theirs}; use that tokenizer, or model.trained_symbols = None to give the ids another meaning"
    )


def first_conflict(then: Sequence[str | None], now: Sequence[str | None]) -> tuple[int, str, str] | None:
    """Return the first id with a symbol that is another one now, and both for a message, or None.

    An id that had no symbol may get one.
    """
    padded = (*now, *[None] * (len(then) - len(now)))
    learnt = [ours if theirs is None else theirs for theirs, ours in zip_longest(then, padded)]
    return None if learnt == list(padded) else first_difference(learnt, now)


def first_difference(then: Sequence[str | None], now: Sequence[str | None]) -> tuple[int, str, str]:
    """Return the first id whose symbols differ, and both for a message."""
    pairs = enumerate(zip(then, now, strict=False))
    id = next((id for id, (a, b) in pairs if a != b), min(len(then), len(now)))
    shown = [short(symbols[id]) if id < len(symbols) else "nothing" for symbols in (then, now)]
    return id, shown[0], shown[1]


class CharTokenizer:
    """Number the characters of a vocabulary.

    Characters are Unicode code points. Nothing is normalised, stripped or translated, so
    ``decode(encode(text)) == text`` for every text of known characters, including lone surrogates.

    Args:
        symbols: The characters, each once. The id of a character is its position. :meth:`from_text` collects them
            from a text.
        on_unknown: Treatment of a character outside the vocabulary in :meth:`encode`: ``"error"`` raises, ``"skip"``
            drops the character, and any symbol of the vocabulary replaces it.
        end: The symbol of the vocabulary that marks the end of a text, or None. It is not a character of texts, so
            :meth:`encode` refuses it.

    Attributes:
        stoi: The id of each symbol ("string to integer").

    Raises:
        InputTypeError: If ``symbols`` cannot be iterated over.
        TokenizerError: If ``symbols`` is empty, a symbol is not one character or appears twice, ``on_unknown`` is
            neither a policy nor a symbol, or ``end`` is not a symbol.

    Example:
        >>> tokenizer = CharTokenizer.from_text("to be, or not to be")
        >>> tokenizer
        CharTokenizer(8 symbols: ' ,benort')
        >>> tokenizer.encode("not")
        [4, 5, 7]
        >>> tokenizer.decode([2, 3])
        'be'
        >>> tokenizer.stoi["n"], tokenizer.itos[4], len(tokenizer)
        (4, 'n', 8)
        >>> CharTokenizer.from_text("to be", on_unknown=" ").decode([1, 4, 0])
        'bt '
    """

    def __init__(self, symbols: Iterable[str], *, on_unknown: str = "error", end: str | None = None) -> None:
        if not isinstance(symbols, Iterable):
            raise InputTypeError(f"symbols must be characters, got {short(symbols)}; use CharTokenizer.from_text(text)")
        self.symbols = tuple(symbols)
        self.on_unknown, self.end = on_unknown, end
        if not self.symbols:
            raise TokenizerError("symbols must not be empty, got 0 symbols; use a text with at least one character")
        self.stoi: dict[str, int] = {}
        for position, symbol in enumerate(self.symbols):
            if not isinstance(symbol, str) or len(symbol) != 1:
                raise TokenizerError(f"symbols must be single characters, got {short(symbol)} at position {position}")
            if self.stoi.setdefault(symbol, position) != position:
                raise TokenizerError(
                    f"symbols must be distinct, got {symbol!r} at positions {self.stoi[symbol]} and {position}"
                )
        if not isinstance(on_unknown, str) or (on_unknown not in ("error", "skip") and on_unknown not in self.stoi):
            raise TokenizerError(
                "on_unknown must be 'error', 'skip', or the symbol of the vocabulary that replaces an unknown "
                f"character, got {short(on_unknown)}"
            )
        if end is not None and (not isinstance(end, str) or end not in self.stoi or end == on_unknown):
            raise TokenizerError(
                f"end must be a symbol of the vocabulary other than on_unknown, got {short(end)}; use "
                "CharTokenizer.from_text(text, end=...), which adds it"
            )
        # From id to code point, and from code point to id. In the latter, code points outside the vocabulary have the
        # id `vocab_size`; its last entry stands for all larger code points.
        self._code_points = np.array([ord(symbol) for symbol in self.symbols], dtype="<u4")
        self._ids = np.full(int(self._code_points.max()) + 2, self.vocab_size, np.min_scalar_type(self.vocab_size))
        self._ids[self._code_points] = np.arange(self.vocab_size)
        if end is not None:
            self._ids[ord(end)] = self.vocab_size  # so that only texts with an unknown character are searched for it
        self._replacement = self.stoi.get(on_unknown, 0)

    @classmethod
    def from_text(
        cls, text: str | Iterable[str], *, min_count: int = 1, on_unknown: str = "error", end: str | None = None
    ) -> "CharTokenizer":
        r"""Collect the distinct characters of a text, sorted by code point.

        Args:
            text: A text, or several.
            min_count: How often a character must occur to be a symbol. Rarer ones are unknown.
            on_unknown: Treatment of a character outside the vocabulary. A character that replaces it becomes a symbol.
            end: A character that marks the end of a text, e.g. ``"\x03"``, or None. It gets the last id.

        Warns:
            UserWarning: If the text has one distinct character only, or has characters rarer than ``min_count``.

        Raises:
            ConfigError: If ``min_count`` is less than 1.
            InputTypeError: If ``text`` is neither a str nor several, or is the name of a file.
            TokenizerError: If ``text`` is empty or contains ``end``, or ``on_unknown`` is ``"error"`` where rare
                characters are left out.

        Example:
            >>> tokenizer = CharTokenizer.from_text(["to be", "or not"], end="\x03")
            >>> tokenizer.end_id, tokenizer.symbols[-1]
            (7, '\x03')
        """
        texts = check_texts("text", text)
        symbols = sorted(set().union(*texts))
        if check_integer("min_count", min_count, minimum=1) > 1:
            symbols = _frequent(texts, min_count, on_unknown)
        if isinstance(on_unknown, str) and len(on_unknown) == 1:
            symbols = sorted({*symbols, on_unknown})
        if len(symbols) == 1:
            warn("the vocabulary has 1 symbol, so the loss of every model is 0; use a text with several characters")
        if end in symbols:
            raise TokenizerError(_describe_end(str(end), next(each for each in texts if end in each)))
        return cls(symbols if end is None else [*symbols, end], on_unknown=on_unknown, end=end)

    def report(self, text: str, *, val: str | None = None) -> TextReport:
        r"""Count what makes a text harder to learn than it should be.

        These are line ends of two symbols, byte-order marks, control characters, accents in several forms, and symbols
        that are rare or unknown. Each comes with the call that changes it.

        Args:
            text: The text to train on.
            val: The text for validation, if its symbols are to be compared.

        Example:
            >>> text = "to be,\r\nor not to be.\r\n" * 9
            >>> print(CharTokenizer.from_text(text).report(text, val="to me"))
            207 characters, 11 symbols
                   18  line ends '\r\n'                         read_text(path, newline='\n')
                    1  characters that only validation has 'm'  shuffle documents before they are split
        """
        return report_on(_check_text(text), frozenset(self.stoi) - {self.end or ""}, val)

    def extended(self, text: str | Iterable[str]) -> "CharTokenizer":
        """Return a tokenizer that knows the characters of a text too.

        Known symbols keep their ids. New ones follow, sorted by code point.

        Args:
            text: A text, or several.

        Raises:
            InputTypeError: If ``text`` is neither a str nor several, or is the name of a file.
            TokenizerError: If ``text`` contains ``end``.

        Example:
            >>> CharTokenizer("ba").extended("abcd").symbols
            ('b', 'a', 'c', 'd')
        """
        texts = check_texts("text", text)
        for each in texts:
            if self.end is not None and self.end in each:
                raise TokenizerError(_describe_end(self.end, each))
        new = sorted(set().union(*texts) - self.stoi.keys())
        return CharTokenizer([*self.symbols, *new], on_unknown=self.on_unknown, end=self.end)

    @property
    def vocab_size(self) -> int:
        """The number of symbols ``V``."""
        return len(self.symbols)

    @property
    def itos(self) -> tuple[str, ...]:
        """The symbol of each id ("integer to string"), the same as ``symbols``."""
        return self.symbols

    @property
    def end_id(self) -> int | None:
        """The id that ends a text, or None."""
        return None if self.end is None else self.stoi[self.end]

    def __len__(self) -> int:
        return self.vocab_size

    def encode(self, text: str) -> list[int]:
        """Return the ids of a text as a list; :meth:`encode_array` is faster.

        Raises:
            InputTypeError: If ``text`` is not a str.
            TokenizerError: If a character is not in the vocabulary and ``on_unknown`` is ``"error"``, or the text
                contains ``end``.
        """
        return self.encode_array(text).tolist()

    def encode_array(self, text: str) -> UInt[np.ndarray, " N"]:
        """Return the ids of a text as an array.

        Its dtype is the smallest unsigned one that holds ``V`` ids.

        Raises:
            InputTypeError: If ``text`` is not a str.
            TokenizerError: If a character is not in the vocabulary and ``on_unknown`` is ``"error"``, or the text
                contains ``end``.

        Example:
            >>> CharTokenizer("abc").encode_array("cab")
            array([2, 0, 1], dtype=uint8)
        """
        ids = np.empty(len(_check_text(text)), np.min_scalar_type(self.vocab_size - 1))
        filled = 0
        for start in range(0, len(text), _CHUNK):
            code_points = np.frombuffer(text[start : start + _CHUNK].encode("utf-32-le", "surrogatepass"), "<u4")
            part = self._ids.take(code_points, mode="clip")
            if part.max() == self.vocab_size:  # the id of an unknown character
                if self.end is not None and self.end in text:
                    raise TokenizerError(_describe_end(self.end, text))
                unknown = part == self.vocab_size
                if self.on_unknown == "error":
                    raise TokenizerError(self._describe_unknown(text))
                part = part[~unknown] if self.on_unknown == "skip" else np.where(unknown, self._replacement, part)
            ids[filled : filled + len(part)] = part
            filled += len(part)
        if filled < len(ids):
            ids.resize(filled, refcheck=False)  # in the same memory
        return ids

    def decode(self, ids: Iterable[SupportsIndex]) -> str:
        """Return the text of some ids.

        The ids are a sequence, or a one-dimensional array or tensor, of integers.

        Raises:
            InputTypeError: If an id is not an integer.
            TokenizerError: If an id is not in ``range(vocab_size)``; negative ids do not count from the end.
        """
        numbers = as_integers(ids)
        outside = first_outside(numbers, self.vocab_size)
        if outside is not None:
            raise TokenizerError(
                f"ids must be from 0 to {self.vocab_size - 1}, got {numbers[outside]} at position {outside}"
            )
        parts = (numbers[start : start + _CHUNK].astype(np.intp) for start in range(0, len(numbers), _CHUNK))
        return "".join(self._code_points[part].tobytes().decode("utf-32-le", "surrogatepass") for part in parts)

    def to_dict(self) -> dict[str, Any]:
        """Return the settings as plain lists and words, ready for JSON.

        Example:
            >>> CharTokenizer("ab").to_dict()
            {'symbols': ['a', 'b'], 'on_unknown': 'error'}
        """
        # A list, since JSON would join two lone surrogates in one string.
        ending = {} if self.end is None else {"end": self.end}
        return {"symbols": list(self.symbols), "on_unknown": self.on_unknown} | ending

    @classmethod
    def from_dict(cls, settings: Mapping[str, Any]) -> "CharTokenizer":
        """Return the tokenizer that :meth:`to_dict` described.

        Raises:
            InputTypeError: If ``settings`` is not a mapping of settings by name.
            TokenizerError: If a name is missing or unknown, or a value is invalid.
        """
        if not isinstance(settings, Mapping):
            raise InputTypeError(f"settings must be a dict of settings by name, got {short(settings)}")
        if settings.keys() - {"end"} != {"symbols", "on_unknown"}:
            raise TokenizerError(f"settings must have the names symbols and on_unknown, got {short(list(settings))}")
        return cls(settings["symbols"], on_unknown=settings["on_unknown"], end=settings.get("end"))

    def __eq__(self, other: object) -> bool:
        return isinstance(other, CharTokenizer) and self.to_dict() == other.to_dict()

    def __hash__(self) -> int:
        return hash((self.symbols, self.on_unknown, self.end))

    def __repr__(self) -> str:
        return f"CharTokenizer({self.vocab_size:,} symbols: {short(''.join(self.symbols))}{self._options()})"

    def _options(self) -> str:
        """Return the settings that differ from their defaults."""
        policy = "" if self.on_unknown == "error" else f", on_unknown={self.on_unknown!r}"
        return policy if self.end is None else f"{policy}, end={self.end!r}"

    def _repr_html_(self) -> str:
        rows = "".join(
            f"<tr><td>{id}</td><td><code>{escape(repr(symbol))}</code></td></tr>"
            for id, symbol in enumerate(self.symbols[:_ROWS_SHOWN])
        )
        rest = f"<p>and {self.vocab_size - _ROWS_SHOWN:,} more</p>" if self.vocab_size > _ROWS_SHOWN else ""
        return (
            f"<p>CharTokenizer: {self.vocab_size:,} symbols{escape(self._options())}</p>"
            f"<table><tr><th>id</th><th>symbol</th></tr>{rows}</table>{rest}"
        )

    def _describe_unknown(self, text: str) -> str:
        """Return a message that names the unknown characters of a text."""
        counts = Counter(character for character in text if character not in self.stoi)
        first, *_ = shown = list(counts)[:5]
        message = (
            f"text has {first!r} (U+{ord(first):04X}) at position {text.find(first)}, which is not among the "
            f"{self.vocab_size} symbols of this tokenizer"
        )
        if counts.total() > 1:
            more = ", ..." if len(counts) > 5 else ""
            message += f"; {counts.total()} characters are unknown: {', '.join(map(repr, shown))}{more}"
        position = text.find(first)
        pairs = (text[max(position - 1, 0) : position + 1], text[position : position + 2])  # a letter and its mark
        for form, pair in product(_FORMS, pairs):
            around = unicodedata.normalize(form, pair)
            if first not in around and all(character in self.stoi for character in around):
                return f"{message}; it is known in the Unicode form {form}: unicodedata.normalize({form!r}, text)"
        return f"{message}; fit on more text, or use CharTokenizer(tokenizer.symbols, on_unknown='skip')"


def _frequent(texts: list[str], min_count: int, on_unknown: str) -> list[str]:
    """Return the characters that occur often enough, and warn of the others."""
    if on_unknown == "error":
        raise TokenizerError(
            f"on_unknown must say what becomes of rare characters, got 'error' with min_count={min_count}; use "
            r"on_unknown='\ufffd', which replaces them, or 'skip'"
        )
    counts: Counter[str] = Counter()
    for text in texts:
        counts.update(text)
    rare = sorted((character for character, count in counts.items() if count < min_count), key=counts.__getitem__)
    if rare:
        treated = "skipped" if on_unknown == "skip" else f"replaced by {short(on_unknown)}"
        warn(
            f"{sum(map(counts.__getitem__, rare)):,} of {counts.total():,} characters are {treated}, of {len(rare):,} "
            f"symbols that occur less often than min_count={min_count}: {short(''.join(rare))}"
        )
    return [character for character in counts if counts[character] >= min_count]


def _describe_end(end: str, text: str) -> str:
    """Return a message that names where a text contains its own end."""
    return (
        f"a text must not contain the symbol that ends it, got {end!r} (U+{ord(end):04X}) at position "
        f"{text.find(end)}; choose another end, or text.replace({end!r}, '')"
    )


def check_corpus(name: str, text: Any) -> str:
    """Return a text to learn from if it is one, and not the name of a file.

    Raises:
        InputTypeError: If it is not a str, is the name of an existing file, or looks like a path or a web address.
    """
    _check_text(text, name)
    if is_name_of_a_file(text):
        way = "download it first" if "://" in text else f"use read_text({short(text)})"
        raise InputTypeError(f"{name} must be a text, got the name of a file, {short(text)}; {way}")
    return str(text)


def check_texts(name: str, texts: Any) -> list[str]:
    """Return the texts to learn from, given as one or several.

    Raises:
        InputTypeError: If one is not a str, or all are the names of files.
    """
    if isinstance(texts, str | bytes | bytearray) or hasattr(texts, "read") or not isinstance(texts, Iterable):
        return [check_corpus(name, texts)]
    listed = list(texts)
    for position, text in enumerate(listed):
        if not isinstance(text, str):
            raise InputTypeError(
                f"{name} must be one text or several, got {short(text)} of type {type(text).__name__} at position "
                f"{position}"
            )
    if listed and all(map(is_name_of_a_file, listed)):
        raise InputTypeError(
            f"{name} must be texts, got the names of {len(listed):,} files, {short(listed[0])} first; read them, e.g. "
            "[read_text(path) for path in paths]"
        )
    return listed


def is_name_of_a_file(text: str) -> bool:
    """Return whether a text is the name of an existing file, or looks like a path or a web address."""
    if len(text) > _LONGEST_PATH or "\n" in text:
        return False
    with suppress(OSError, ValueError):  # too long for a name, or with characters that names cannot have
        return bool(_PATH.fullmatch(text)) or Path(text).is_file()
    return False


def _check_text(text: Any, name: str = "text") -> str:
    if isinstance(text, str):
        return text
    hint = "; decode it first, e.g. text.decode('utf-8')" if isinstance(text, bytes | bytearray) else ""
    hint = f"; read it first, e.g. read_text({short(str(text))})" if isinstance(text, os.PathLike) else hint
    hint = "; read it first, e.g. file.read()" if hasattr(text, "read") else hint
    raise InputTypeError(f"{name} must be a str, got {type(text).__name__}{hint}")
