"""Describe a tokenizer for a file, which contains those of this library and recognises any other."""

import hashlib
import operator
from collections.abc import Mapping
from typing import Any

from tinygpt.errors import TokenizerError, short
from tinygpt.symbols import ByteTokenizer, SymbolTokenizer
from tinygpt.tokenizer import CharTokenizer, Tokenizer, decode_alone, encode_text

__all__ = ["EXTERNAL", "SYMBOLS", "contains", "entry_of", "fingerprint", "tokenizer_of"]

EXTERNAL = "external"  # type of the entry of a tokenizer that a file cannot contain
SYMBOLS = "symbols"  # type of the entry of the symbols that such a tokenizer has
_KINDS: dict[str, Any] = {kind.__name__: kind for kind in (CharTokenizer, SymbolTokenizer, ByteTokenizer)}
_PROBE = """The quick brown fox, don't \t3.14159 \n\n def f(x): </s> <|endoftext|> naïve Ωμέγα 你好 \U0001f600"""
_TEXTS = 256  # ids that are decoded, evenly spread over the vocabulary


def contains(tokenizer: Tokenizer | None) -> bool:
    """Return whether a file contains a tokenizer, not only its fingerprint."""
    return _kind_of(tokenizer) is not None


def entry_of(tokenizer: Tokenizer) -> dict[str, Any]:
    """Return the entry of a tokenizer for a file: its settings, or its fingerprint."""
    known: Any = tokenizer
    kind = _kind_of(known)
    return fingerprint(tokenizer) if kind is None else {"type": kind} | known.to_dict()


def tokenizer_of(entry: Mapping[str, Any]) -> Tokenizer | None:
    """Return the tokenizer that an entry contains, or None if it only describes one.

    Raises:
        TokenizerError: If the settings are invalid, or those of a tokenizer that this version does not know.
    """
    kind = entry.get("type")
    if kind in (EXTERNAL, SYMBOLS):
        return None
    if not isinstance(kind, str) or kind not in _KINDS:
        raise TokenizerError(f"type must be one of {list(_KINDS)}, got {short(kind)}; upgrade tinygpt")
    tokenizer: Tokenizer = _KINDS[kind].from_dict({name: value for name, value in entry.items() if name != "type"})
    return tokenizer


def _kind_of(tokenizer: Any) -> str | None:
    """Return the name of the class of a tokenizer, if a file can contain it; a subclass may do something else."""
    for name, kind in _KINDS.items():
        if isinstance(tokenizer, kind) and all(
            getattr(type(tokenizer), method) is getattr(kind, method) for method in ("encode", "decode")
        ):
            return name
    return None


def fingerprint(tokenizer: Tokenizer) -> dict[str, Any]:
    """Return the entry of a tokenizer for a file: its name, its size, and a digest of what it does."""
    size = operator.index(tokenizer.vocab_size)
    ids = [_ids_or_none(tokenizer, word) for word in _PROBE.split(" ")]
    texts = [decode_alone(tokenizer, id) for id in range(0, size, -(-size // _TEXTS))]
    digest = hashlib.sha256(repr([ids, texts]).encode("utf-8", "backslashreplace")).hexdigest()
    name = getattr(tokenizer, "name", None)
    name = name if isinstance(name, str) else type(tokenizer).__name__
    return {"type": EXTERNAL, "name": name, "vocab_size": size, "sha256": digest}


def _ids_or_none(tokenizer: Tokenizer, word: str) -> list[int] | None:
    try:
        return encode_text(tokenizer, word).tolist()
    except Exception:  # a foreign tokenizer may raise anything for an unknown character
        return None
