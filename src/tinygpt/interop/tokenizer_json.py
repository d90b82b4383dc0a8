"""The file ``tokenizer.json`` of Hugging Face, for characters as for any other tokens.

Source:
    https://github.com/huggingface/tokenizers
"""

from pathlib import Path
from typing import Any

from tinygpt.errors import TinyGPTError, cut, show, warn
from tinygpt.files import parse_json, to_json
from tinygpt.interop.names import check_utf8
from tinygpt.interop.tokenizers import adapt
from tinygpt.tokenizer import CharTokenizer, Tokenizer

_UNKNOWN = "<unknown>"  # not in the vocabulary, so that an unknown character is an error there too
# Byte pairs without merges, so that each character is a token.
_PLAIN: dict[str, Any] = {"normalizer": None, "pre_tokenizer": None, "added_tokens": [], "decoder": {"type": "Fuse"}}
_PLAIN_MODEL: dict[str, Any] = {
    "type": "BPE",
    "dropout": None,
    "continuing_subword_prefix": None,
    "end_of_word_suffix": None,
    "fuse_unk": False,
    "byte_fallback": False,
    "merges": [],
}


def to_huggingface(tokenizer: CharTokenizer) -> str:
    """Return a tokenizer in the format of Hugging Face, the text of ``tokenizer.json``.

    An unknown character is an error, is left out, or is replaced, as :class:`CharTokenizer` has it.

    Raises:
        TokenizerError: If a symbol is a lone surrogate.

    Example:
        .. code-block:: python

            theirs = tokenizers.Tokenizer.from_str(to_huggingface(tokenizer))
            theirs.encode("to be").ids == tokenizer.encode("to be")  # True
    """
    check_utf8(tokenizer, "Hugging Face")
    unknown = {"error": _UNKNOWN, "skip": None}.get(tokenizer.on_unknown, tokenizer.on_unknown)
    rest = {"version": "1.0", "truncation": None, "padding": None, "post_processor": None}
    return to_json(rest | _PLAIN | {"model": _PLAIN_MODEL | {"unk_token": unknown, "vocab": tokenizer.stoi}})


def read_tokenizer(path: Path, raw: bytes, end_id: int | None) -> Tokenizer | None:
    """Return the tokenizer of a ``tokenizer.json``, or None after a warning.

    Args:
        path: The path of the file, for messages.
        raw: Its content.
        end_id: The id that ends a text, or None.

    Returns:
        A :class:`CharTokenizer` if each token is a character, and else an :class:`AdaptedTokenizer`, which needs the
        package tokenizers.
    """
    if found := _characters(raw, end_id):
        return found
    try:
        import tokenizers
    except ImportError:
        fix = "run: pip install tokenizers"
        warn(f"the tokenizer {show(path)} needs the package tokenizers, which is not installed; {fix}")
        return None
    try:
        theirs = tokenizers.Tokenizer.from_str(raw.decode())
        return adapt(theirs, end=None if end_id is None else theirs.id_to_token(end_id))
    except Exception as error:  # the package raises nothing more special
        warn(f"the tokenizer {show(path)} cannot be read: {cut(str(error))}")
        return None


def _characters(raw: bytes, end_id: int | None) -> CharTokenizer | None:
    """Return the tokenizer of characters that a file describes, or None if it describes another."""
    try:
        settings = parse_json(raw)
        model, symbols = settings["model"], {id: symbol for symbol, id in settings["model"]["vocab"].items()}
        is_plain = all(settings.get(name) == value for name, value in _PLAIN.items()) and all(
            model.get(name) == value for name, value in _PLAIN_MODEL.items()
        )
        if not is_plain or symbols.keys() != set(range(len(symbols))):
            return None
        unknown = model["unk_token"]
        policy = unknown if unknown in model["vocab"] else "skip" if unknown is None else "error"
        ordered = [symbols[id] for id in range(len(symbols))]
        return CharTokenizer(ordered, on_unknown=policy, end=None if end_id is None else symbols.get(end_id))
    except (ValueError, KeyError, TypeError, AttributeError, TinyGPTError):
        return None
