"""Describe a tokenizer for a file, which contains a tokenizer of characters and recognises any other."""

import hashlib
import operator
from typing import Any

from tinygpt.tokenizer import CharTokenizer, Tokenizer, decode_alone, encode_text

__all__ = ["EXTERNAL", "entry_of", "fingerprint"]

EXTERNAL = "external"  # type of the entry of such a tokenizer
_PROBE = """The quick brown fox, don't \t3.14159 \n\n def f(x): </s> <|endoftext|> naïve Ωμέγα 你好 \U0001f600"""
_TEXTS = 256  # ids that are decoded, evenly spread over the vocabulary


def entry_of(tokenizer: Tokenizer) -> dict[str, Any]:
    """Return the entry of a tokenizer for a file: its symbols, or its fingerprint."""
    if isinstance(tokenizer, CharTokenizer):
        return {"type": "CharTokenizer"} | tokenizer.to_dict()
    return fingerprint(tokenizer)


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
