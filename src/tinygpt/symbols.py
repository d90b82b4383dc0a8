"""Two other ways to number a text: by symbols of several characters, and by bytes."""

from collections.abc import Iterable, Iterator, Mapping
from typing import Any, SupportsIndex

from tinygpt.errors import InputTypeError, TokenizerError, short
from tinygpt.ids import as_integers, first_outside

__all__ = ["ByteTokenizer", "SymbolTokenizer"]


class SymbolTokenizer:
    """Number symbols of one or more characters, such as atoms, notes or words.

    Without a joiner, the longest symbol that matches is taken at each position, from left to right. With a joiner, each
    part of the text between two joiners is a symbol.

    Args:
        symbols: The symbols, each once. The id of a symbol is its position.
        joiner: Text between two symbols, e.g. a space between words.
        on_unknown: Treatment of text that is no symbol in :meth:`encode`: ``"error"`` raises, ``"skip"`` drops it, and
            any symbol replaces it. Without a joiner, it is treated character by character.
        end: The symbol that marks the end of a text, or None. :meth:`encode` refuses a text that contains it.

    Attributes:
        symbols: The symbols.
        stoi: The id of each symbol.
        end_id: The id that ends a text, or None.

    Raises:
        InputTypeError: If ``symbols`` cannot be iterated over.
        TokenizerError: If ``symbols`` is empty, a symbol is empty, contains the joiner or appears twice, or
            ``on_unknown`` or ``end`` is not a symbol.

    Example:
        >>> atoms = SymbolTokenizer(["C", "Cl", "O", "(", ")"])
        >>> atoms.encode("C(O)Cl")
        [0, 3, 2, 4, 1]
        >>> notes = SymbolTokenizer(["C4", "E4", "G4"], joiner=" ")
        >>> notes.decode(notes.encode("C4 G4 E4"))
        'C4 G4 E4'
    """

    def __init__(
        self, symbols: Iterable[str], *, joiner: str = "", on_unknown: str = "error", end: str | None = None
    ) -> None:
        if not isinstance(symbols, Iterable):
            raise InputTypeError(f"symbols must be strings, got {short(symbols)}; use SymbolTokenizer(['a', 'bc'])")
        self.symbols = tuple(symbols)
        self.joiner, self.on_unknown, self.end = joiner, on_unknown, end
        self.stoi: dict[str, int] = {}
        if not self.symbols:
            raise TokenizerError("symbols must not be empty, got 0 symbols")
        for position, symbol in enumerate(self.symbols):
            if not isinstance(symbol, str) or not symbol or (joiner and joiner in symbol):
                rule = f" without the joiner {joiner!r}" if joiner else ""
                raise TokenizerError(f"symbols must be strings{rule}, got {short(symbol)} at position {position}")
            if self.stoi.setdefault(symbol, position) != position:
                raise TokenizerError(
                    f"symbols must be distinct, got {short(symbol)} at positions {self.stoi[symbol]} and {position}"
                )
        if on_unknown not in ("error", "skip") and on_unknown not in self.stoi:
            raise TokenizerError(f"on_unknown must be 'error', 'skip' or a symbol, got {short(on_unknown)}")
        if end is not None and (end not in self.stoi or end == on_unknown):
            raise TokenizerError(f"end must be a symbol other than on_unknown, got {short(end)}")
        self.end_id = None if end is None else self.stoi[end]
        self._replacement = None if on_unknown in ("error", "skip") else self.stoi[on_unknown]
        self._lengths = sorted({len(symbol) for symbol in self.symbols}, reverse=True)

    @property
    def vocab_size(self) -> int:
        """The number of symbols ``V``."""
        return len(self.symbols)

    def encode(self, text: str) -> list[int]:
        """Return the ids of a text.

        Raises:
            TokenizerError: If a part of the text is not a symbol and ``on_unknown`` is ``"error"``, or the text
                contains ``end``.
        """
        ids = []
        for position, part in self._parts(text):
            id = self.stoi.get(part, self._replacement)
            if id == self.end_id and id is not None:
                raise TokenizerError(
                    f"a text must not contain the symbol that ends it, got {short(part)} at position {position}"
                )
            if id is not None:
                ids.append(id)
            elif self.on_unknown == "error":
                raise TokenizerError(
                    f"text has {short(part)} at position {position}, which is not among the {self.vocab_size:,} "
                    f"symbols of this tokenizer; add it, or use {type(self).__name__}(symbols, on_unknown='skip')"
                )
        return ids

    def decode(self, ids: Iterable[SupportsIndex]) -> str:
        """Return the text of some ids.

        Raises:
            InputTypeError: If an id is not an integer.
            TokenizerError: If an id is not in ``range(vocab_size)``.
        """
        return self.joiner.join(self.symbols[id] for id in _checked(ids, self.vocab_size))

    def to_dict(self) -> dict[str, Any]:
        """Return the settings as plain lists and words, ready for JSON.

        Example:
            >>> SymbolTokenizer(["C4", "E4"], joiner=" ").to_dict()
            {'symbols': ['C4', 'E4'], 'joiner': ' ', 'on_unknown': 'error'}
        """
        ending = {} if self.end is None else {"end": self.end}
        return {"symbols": list(self.symbols), "joiner": self.joiner, "on_unknown": self.on_unknown} | ending

    @classmethod
    def from_dict(cls, settings: Mapping[str, Any]) -> "SymbolTokenizer":
        """Return the tokenizer that :meth:`to_dict` described.

        Raises:
            TokenizerError: If a name is missing or unknown, or a value is invalid.
        """
        others = {name: value for name, value in settings.items() if name != "symbols"}
        if settings.keys() - {"end"} != {"symbols", "joiner", "on_unknown"}:
            raise TokenizerError(f"settings must have symbols, joiner and on_unknown, got {short(list(settings))}")
        if not isinstance(settings["symbols"], list) or not all(isinstance(value, str) for value in others.values()):
            raise TokenizerError(f"settings must be a list of symbols, and texts, got {short(dict(settings))}")
        return cls(settings["symbols"], **others)

    def _parts(self, text: str) -> Iterator[tuple[int, str]]:
        """Yield the position and the text of each symbol, known or unknown."""
        position = 0
        if self.joiner:
            for part in text.split(self.joiner) if text else ():
                yield position, part
                position += len(part) + len(self.joiner)
        while not self.joiner and position < len(text):
            pieces = (text[position : position + length] for length in self._lengths)
            part = next((piece for piece in pieces if piece in self.stoi), text[position])
            yield position, part
            position += len(part)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, SymbolTokenizer) and vars(self) == vars(other)

    def __hash__(self) -> int:
        return hash((self.symbols, self.joiner, self.on_unknown, self.end))

    def __repr__(self) -> str:
        options = {"joiner": (self.joiner, ""), "on_unknown": (self.on_unknown, "error"), "end": (self.end, None)}
        shown = "".join(f", {name}={value!r}" for name, (value, usual) in options.items() if value != usual)
        return f"SymbolTokenizer({self.vocab_size:,} symbols: {short(list(self.symbols))}{shown})"


class ByteTokenizer:
    """Number the bytes of a text in UTF-8, so that no character is unknown.

    There are 256 ids. The last one, the byte 0xFF, is in no text, and marks its end.

    Example:
        >>> tokenizer = ByteTokenizer()
        >>> tokenizer.encode("née")
        [110, 195, 169, 101]
        >>> tokenizer.decode([110, 195, 169, 101])
        'née'
    """

    vocab_size = 256
    end_id = 255

    def encode(self, text: str) -> list[int]:
        """Return the bytes of a text."""
        return list(text.encode("utf-8", "surrogatepass"))

    def decode(self, ids: Iterable[SupportsIndex]) -> str:
        """Return the text of some bytes; those that are not UTF-8 become U+FFFD.

        Raises:
            InputTypeError: If an id is not an integer.
            TokenizerError: If an id is not in ``range(256)``.
        """
        raw = bytes(_checked(ids, 256))
        try:
            return raw.decode("utf-8", "surrogatepass")
        except UnicodeDecodeError:
            return raw.decode("utf-8", "replace")

    def to_dict(self) -> dict[str, Any]:
        """Return the settings, which are empty."""
        return {}

    @classmethod
    def from_dict(cls, settings: Mapping[str, Any]) -> "ByteTokenizer":
        """Return the tokenizer that :meth:`to_dict` described.

        Raises:
            TokenizerError: If there is a setting.
        """
        if settings:
            raise TokenizerError(f"a ByteTokenizer has no settings, got {short(dict(settings))}; leave them out")
        return cls()

    def __eq__(self, other: object) -> bool:
        return isinstance(other, ByteTokenizer)

    def __hash__(self) -> int:
        return hash(ByteTokenizer)

    def __repr__(self) -> str:
        return "ByteTokenizer()"


def _checked(ids: Iterable[SupportsIndex], size: int) -> list[int]:
    numbers = as_integers(ids)
    outside = first_outside(numbers, size)
    if outside is not None:
        raise TokenizerError(f"ids must be from 0 to {size - 1}, got {numbers[outside]} at position {outside}")
    return numbers.tolist()
