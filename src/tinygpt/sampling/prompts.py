"""Prompts: one or several, as texts or as ids."""

from collections.abc import Sequence
from typing import Any, TypeVar

from tinygpt.errors import InputTypeError, TokenizerError, short
from tinygpt.ids import as_integers, first_outside

Prompt = TypeVar("Prompt", str, list[str], list[int], list[list[int]])


def is_one(prompt: Any) -> bool:
    """Return whether a prompt is one text or one list of ids."""
    return isinstance(prompt, str) or (len(prompt) > 0 and all(hasattr(each, "__index__") for each in prompt))


def as_list(name: str, prompt: Any) -> list[Any]:
    """Return one or several texts, or lists of ids, as a list of them.

    Raises:
        InputTypeError: If the argument is anything else.
    """
    rule = f"{name} must be a str, a list of ids, or a list of such"
    if isinstance(prompt, bytes) or not isinstance(prompt, str | Sequence):
        hint = "; decode it first" if isinstance(prompt, bytes) else "; pass a text, which may be empty, ''"
        hint = f"; use {name}.tolist()" if hasattr(prompt, "tolist") else hint
        raise InputTypeError(f"{rule}, got {type(prompt).__name__}{hint}")
    if is_one(prompt):
        return [prompt]
    for each in prompt:
        if isinstance(each, bytes) or not isinstance(each, str | Sequence):
            raise InputTypeError(f"{rule}, got a list with {short(each)} of type {type(each).__name__}; pass texts")
    return list(prompt)


def check_text(prompt: Any) -> None:
    """Raise an InputTypeError unless a prompt is one text."""
    if not isinstance(prompt, str):
        as_list("prompt", prompt)
        raise InputTypeError(
            f"prompt must be a str, got {type(prompt).__name__}; use generate for ids and for several texts"
        )


def joined(prompt: Any, written: list[Any]) -> Any:
    """Return a prompt and what was written after it: pieces of text, or ids."""
    return prompt + "".join(written) if isinstance(prompt, str) else [*prompt, *written]


def check_ids(name: str, ids: Any, vocab_size: int) -> list[int]:
    """Return ids as a list if they are in the vocabulary.

    Raises:
        InputTypeError: If they are not integers in one dimension.
        TokenizerError: If an id is not in ``range(vocab_size)``.
    """
    numbers = as_integers(ids, name)
    outside = first_outside(numbers, vocab_size)
    if outside is not None:
        raise TokenizerError(f"{name} must be from 0 to {vocab_size - 1}, got {numbers[outside]} at position {outside}")
    return [int(id) for id in numbers]
