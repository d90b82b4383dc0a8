"""The loss of a counted bigram, a baseline for every model."""

import numpy as np

from tinygpt.data import TokenDataset
from tinygpt.ids import Ids

_PIECES = 64  # of a long split, spread evenly over it
_PAIRS_IN_A_PIECE = 1 << 16  # 4 million pairs in all: enough for about 0.001 nats


def bigram_loss(data: TokenDataset) -> float:
    """Return the loss of a counted bigram on the validation split, in nats.

    The bigram counts the pairs of the training split, with Witten-Bell smoothing: after an id that was followed by
    ``k`` different ids, the frequencies of single ids get the weight of ``k`` further observations. These frequencies
    have one observation added for each id, so every pair has a probability. A split with more than 4 million pairs is
    read in 64 pieces, always the same, spread evenly over it.

    Args:
        data: The corpus; each split must have at least two ids.

    Example:
        >>> round(bigram_loss(TokenDataset([0, 1] * 500)), 3)
        0.001

    Source:
        Witten and Bell, *The Zero-Frequency Problem*, 1991, method C. https://doi.org/10.1109/18.87000
    """
    size = data.vocab_size
    train, val = (_pairs(data.split(name), data.splits[name].mask, size) for name in ("train", "val"))
    seen, counts = np.unique(train, return_counts=True)  # a table of all possible pairs would be huge
    asked, weights = np.unique(val, return_counts=True)
    followed = np.bincount(train // size, minlength=size)  # how often each id is the first of a pair
    kinds = np.bincount(seen // size, minlength=size)  # how many different ids follow it
    alone = (np.bincount(train % size, minlength=size) + 1) / (len(train) + size)
    index = np.searchsorted(seen, asked).clip(max=len(seen) - 1)
    together = np.where(seen[index] == asked, counts[index], 0)
    first, second = asked // size, asked % size
    total = np.maximum(followed[first] + kinds[first], 1)
    share = np.where(followed[first] > 0, kinds[first], 1)  # an id that is never first leaves all to single ids
    probability = (together + share * alone[second]) / total
    return float(-(weights * np.log(probability)).sum() / weights.sum())


def _pairs(ids: Ids, mask: Ids | None, size: int) -> np.ndarray:
    """Return each target and the id before it as ``before * size + target``."""
    if len(ids) <= _PIECES * _PAIRS_IN_A_PIECE:
        pieces = [slice(0, len(ids))]
    else:
        starts = np.linspace(0, len(ids) - 1 - _PAIRS_IN_A_PIECE, _PIECES).astype(np.int64)
        pieces = [slice(start, start + _PAIRS_IN_A_PIECE + 1) for start in starts]
    found = []
    for piece in pieces:
        some = ids[piece].astype(np.int64)
        pairs = some[:-1] * size + some[1:]
        found.append(pairs if mask is None else pairs[mask[piece][1:]])
    return np.concatenate(found)
