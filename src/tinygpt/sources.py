"""Convert a text or ids of any kind to an array of checked ids."""

import operator
import os
from typing import Any

import numpy as np
import torch
from torch import Tensor

from tinygpt.errors import DataError, InputTypeError, short
from tinygpt.ids import as_integers, first_outside
from tinygpt.tokenizer import Tokenizer, check_corpus, encode_text

__all__ = ["as_ids", "as_mask"]

_INTEGERS = (torch.uint8, torch.int8, torch.uint16, torch.int16, torch.uint32, torch.int32, torch.uint64, torch.int64)


def as_ids(name: str, source: Any, tokenizer: Tokenizer | None) -> np.ndarray:
    """Return the ids of a text, or ids as an array.

    An array, or a tensor on the CPU, is not copied.

    Raises:
        InputTypeError: If the source is neither a text nor integers, or is the name of a file.
        DataError: If an id is negative, too large for an int64, or outside the tokenizer's vocabulary.
    """
    if isinstance(source, str):
        text = check_corpus(name, source)
        return np.empty(0, np.int64) if tokenizer is None else encode_text(tokenizer, text)
    if isinstance(source, list | tuple) and source and all(isinstance(each, str) for each in source):
        raise InputTypeError(
            f"{name} must be one text or ids, got {len(source):,} texts, {short(source[0])} first; use "
            "TokenDataset.from_documents(texts)"
        )
    if isinstance(source, bytes | bytearray):
        raise InputTypeError(f"{name} must be a text or ids, got bytes; decode them first, e.g. {name}.decode('utf-8')")
    if isinstance(source, os.PathLike) or hasattr(source, "read"):
        check_corpus(name, source)
    if (
        isinstance(source, Tensor)
        and source.dtype in _INTEGERS
        and source.layout == torch.strided
        and not source.is_meta
    ):
        source = source.numpy(force=True)
    ids = as_integers(source, f"{name} must be a text or ids, and ids")
    limit = 2**63 - 1 if tokenizer is None else operator.index(tokenizer.vocab_size)  # ids are counted in int64
    outside = first_outside(ids, limit)
    if outside is not None:
        rule = "0 or more, and below 2**63 - 1"
        if tokenizer is not None:
            rule = f"from 0 to {limit - 1}, the tokenizer's range"
        raise DataError(
            f"ids must be {rule}, got ids from {ids.min()} to {ids.max()}, {ids[outside]} at position {outside}"
        )
    return ids


def as_mask(mask: Any, length: int) -> np.ndarray:
    """Return a mask of targets as an array, which is not copied.

    Raises:
        DataError: If it is anything but a bool for each id.
    """
    found = mask.numpy(force=True) if isinstance(mask, Tensor) else np.asarray(mask)
    if found.dtype != np.bool_ or found.shape != (length,):
        raise DataError(
            f"mask must have a bool for each of the {length:,} ids, got {found.dtype} of shape {found.shape}; "
            "True marks a target"
        )
    return found
