"""Join documents, or prompts with answers, to two splits.

The splits are made between documents, which are shuffled first.
"""

import operator
from collections.abc import Iterable, Sequence
from contextlib import suppress
from itertools import chain
from typing import Any

import numpy as np
from jaxtyping import Integer

from tinygpt.errors import ConfigError, DataError, InputTypeError, TinyGPTError, check_number, cut, short, warn
from tinygpt.randomness import check_seed, derive_seed, permutation
from tinygpt.tokenizer import CharTokenizer, Tokenizer, check_texts, check_tokenizer, encode_text, end_id_of
from tinygpt.windows import Split

__all__ = ["ending_of", "join_documents", "join_examples", "warn_if_unlike"]

# The divergence is 0.002 to 0.05 nats in books, plays and code, and 0.07 to 0.3 in sorted or mixed texts.
_UNLIKE = 0.06
_FEWEST, _MOST = 10_000, 1 << 20  # ids of a split that are compared


def join_documents(
    texts: Iterable[str],
    tokenizer: Tokenizer | None,
    separator: str | None,
    *,
    val: Iterable[str] | None,
    packing: bool,
    **options: Any,
) -> tuple[Tokenizer, Split, Split]:
    """Return the tokenizer and the splits of :meth:`tinygpt.TokenDataset.from_documents`."""
    documents, others = _several("texts", texts), _several("val", val)
    tokenizer = _tokenizer_of([*documents, *others], tokenizer, separator)
    ending, encoded = ending_of(tokenizer, separator), _encoded(tokenizer, documents)
    numbers, held_out = _divided([len(ids) + len(ending) for ids in encoded], val, **options)
    after = _encoded(tokenizer, others) if others else [encoded[number] for number in held_out]
    before = [encoded[number] for number in numbers]
    return tokenizer, _joined(before, ending, packing), _joined(after, ending, packing)


def join_examples(
    examples: Iterable[tuple[str, str]],
    tokenizer: Tokenizer | None,
    separator: str | None,
    *,
    val: Iterable[tuple[str, str]] | None,
    **options: Any,
) -> tuple[Tokenizer, Split, Split]:
    """Return the tokenizer and the splits of :meth:`tinygpt.TokenDataset.from_examples`."""
    pairs, others = _pairs("examples", examples), _pairs("val", val)
    tokenizer = _tokenizer_of(chain.from_iterable([*pairs, *others]), tokenizer, separator)
    ending = ending_of(tokenizer, separator)
    rows, other_rows = (_encoded_pairs(tokenizer, some, ending) for some in (pairs, others))
    numbers, held_out = _divided([len(ids) for ids, _ in rows], val, **options)
    if val is not None:
        held_out, after = np.arange(len(others)), other_rows
    else:
        after = [rows[number] for number in held_out]
    return tokenizer, _examples([rows[number] for number in numbers], numbers), _examples(after, held_out)


def warn_if_unlike(train: Integer[np.ndarray, " N"], val: Integer[np.ndarray, " M"], vocab_size: int) -> None:
    """Warn if the ids of the validation split have other frequencies than those of the training split.

    The measure is the Kullback-Leibler divergence between the frequencies of single ids, less its expectation for two
    samples of one distribution. Short splits and large vocabularies are not compared.
    """
    if min(len(train), len(val)) < max(_FEWEST, 100 * vocab_size):
        return
    ours, theirs = (np.bincount(ids[:: len(ids) // _MOST + 1], minlength=vocab_size) for ids in (train, val))
    seen = np.flatnonzero(theirs)
    chances = theirs[seen] / theirs.sum()
    expected = (ours[seen] + 0.5) / (ours.sum() + 0.5 * vocab_size)
    divergence = (chances * np.log(chances / expected)).sum() - (len(seen) - 1) / (2 * theirs.sum())
    if divergence > _UNLIKE:
        warn(
            "the validation split, the end of the text, is unlike the training split: the frequencies of their symbols "
            f"differ by {divergence:.2f} nats; if the text is a list in an order, use "
            r"TokenDataset.from_documents(text.split('\n')), which shuffles it"
        )


def _tokenizer_of(texts: Iterable[str], tokenizer: Tokenizer | None, separator: str | None) -> Tokenizer:
    """Return a checked tokenizer, by default one of the characters with an end."""
    if tokenizer is not None:
        return check_tokenizer(tokenizer)
    if separator is None:
        return CharTokenizer.from_text(texts, end="\x03")
    return CharTokenizer.from_text([*texts, separator])


def _several(name: str, texts: Iterable[str] | None) -> list[str]:
    """Return documents without the empty ones."""
    if isinstance(texts, str):
        raise InputTypeError(f"{name} must be several texts, got one, {short(texts)}; use TokenDataset(text)")
    return [] if texts is None else [text for text in check_texts(name, texts) if text]


def _pairs(name: str, examples: Iterable[tuple[str, str]] | None) -> list[tuple[str, str]]:
    """Return examples after a check of each."""
    pairs = [] if examples is None else list(examples)
    for number, pair in enumerate(pairs):
        is_pair = isinstance(pair, list | tuple) and len(pair) == 2 and all(isinstance(text, str) for text in pair)
        if not is_pair:
            raise InputTypeError(f"{name} must be pairs of a prompt and an answer, got {short(pair)} at {number}")
        if not pair[0]:
            raise DataError(f"a prompt must not be empty, got example {number}; use TokenDataset.from_documents")
    return pairs


def ending_of(tokenizer: Tokenizer, separator: str | None) -> np.ndarray:
    """Return the ids after each document.

    Raises:
        ConfigError: If the tokenizer has no ``end_id`` and there is no separator.
    """
    if separator is not None:
        return encode_text(tokenizer, separator)
    end_id = end_id_of(tokenizer)
    if end_id is None:
        raise ConfigError(
            f"documents must have an end, got {type(tokenizer).__name__} without end_id and no separator; use "
            r"CharTokenizer.from_text(texts, end='\x03'), or separator='\n'"
        )
    return np.array([end_id], np.min_scalar_type(operator.index(tokenizer.vocab_size) - 1))


def _encoded(tokenizer: Tokenizer, texts: Sequence[str]) -> list[np.ndarray]:
    """Return the ids of each text; an error names its number."""
    if (
        texts and type(tokenizer) is CharTokenizer and tokenizer.on_unknown != "skip"
    ):  # an id for each character: encode at once
        with suppress(TinyGPTError):  # the loop below finds the document
            return np.split(encode_text(tokenizer, "".join(texts)), np.cumsum([len(text) for text in texts[:-1]]))
    found = []
    for number, text in enumerate(texts):
        try:
            found.append(encode_text(tokenizer, text))
        except TinyGPTError as error:
            raise type(error)(f"document {number}: {cut(str(error), 280)}") from error
    return found


def _encoded_pairs(
    tokenizer: Tokenizer, pairs: list[tuple[str, str]], ending: np.ndarray
) -> list[tuple[np.ndarray, int]]:
    """Return the ids of each example, and the number of them in its prompt."""
    prompts, answers = (_encoded(tokenizer, [pair[side] for pair in pairs]) for side in (0, 1))
    return [(np.concatenate([a, b, ending]), len(a)) for a, b in zip(prompts, answers, strict=True)]


def _divided(
    sizes: list[int], val: Any, *, val_fraction: float, shuffle: bool, seed: int
) -> tuple[np.ndarray, np.ndarray]:
    """Return the numbers of the documents in the training split, and of those in the validation split."""
    check_number("val_fraction", val_fraction, "in [0, 1)", lambda share: 0 <= share < 1)
    order = np.arange(len(sizes))
    if shuffle:
        order = permutation(derive_seed(check_seed(seed), "documents"), len(sizes))
    if not sizes:
        raise DataError("a dataset must have at least one document that is not empty, got none; pass the documents")
    if val is not None or not val_fraction:
        return order, order[:0]
    if len(sizes) < 2:
        raise DataError(f"documents must be at least 2 to be split between them, got {len(sizes)}; use val_fraction=0")
    ends = np.cumsum(np.array(sizes)[order])
    nearest = int(np.abs(ends[:-1] - (1 - val_fraction) * ends[-1]).argmin()) + 1
    return order[:nearest], order[nearest:]


def _joined(documents: list[np.ndarray], ending: np.ndarray, packing: bool) -> Split:
    """Return the split of documents with their ends."""
    if not documents:
        return Split(ending[:0])
    pieces = [piece for ids in documents for piece in (ids, ending)]
    if packing:
        return Split(np.concatenate(pieces))
    # A window begins at the end of the document before, so that a model learns how documents begin.
    before = ending[-1:]
    last = np.cumsum([len(ids) + len(ending) for ids in documents]) + len(before) - 1
    first = np.append(0, last[:-1] + (0 if len(before) else 1))
    ids = np.concatenate([before, *pieces])
    mask = None
    if not len(before):
        mask = np.full(len(ids), True)
        mask[first] = False
    return Split(ids, mask, (first, last))


def _examples(rows: list[tuple[np.ndarray, int]], numbers: np.ndarray) -> Split:
    """Return the split of examples, of which the prompts are no targets."""
    if not rows:
        return Split(np.empty(0, np.uint8))
    ids = np.concatenate([ids for ids, _ in rows])
    ends = np.cumsum([len(ids) for ids, _ in rows])
    first = np.append(0, ends[:-1])
    prompts = np.array([length for _, length in rows])
    mask = np.arange(len(ids)) >= np.repeat(first + prompts, np.diff(ends, prepend=0))
    return Split(ids, mask, (first, ends - 1), numbers)
