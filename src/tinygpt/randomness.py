"""Draw random numbers as a function of a key, without shared state.

A draw depends on its arguments only: the batch of step 700 is the same whether or not a text was sampled before it, and
a run that stops and is resumed draws the same numbers as an uninterrupted one. The generator is SplitMix64, whose n-th
output is a mix of ``key + n * GOLDEN`` and needs no earlier output.

Source:
    Steele, Lea and Flood, *Fast Splittable Pseudorandom Number Generators*, OOPSLA 2014, figure 17.
    https://doi.org/10.1145/2660193.2660195
"""

import zlib

import numpy as np
from jaxtyping import Float64, Int, Int64, UInt64
from numpy.typing import ArrayLike

from tinygpt.errors import check_seed

__all__ = ["check_seed", "derive_seed", "permutation", "shuffled", "uniforms"]

_GOLDEN = 0x9E3779B97F4A7C15
_WORD = (1 << 64) - 1
_ROUNDS = 8  # of the Feistel network; 4 are enough where the rounds draw truly at random


def derive_seed(*words: int | str) -> int:
    """Mix numbers and names into one 64-bit seed.

    The same words give the same seed, and other words give an unrelated seed.

    Example:
        >>> derive_seed(0, "dropout", 7) == derive_seed(0, "dropout", 7)
        True
        >>> derive_seed(0, "dropout", 7) == derive_seed(0, "dropout", 8)
        False
    """
    state = len(words)
    for word in words:
        number = zlib.crc32(word.encode()) if isinstance(word, str) else word
        state = int(_mix(np.array([(state * _GOLDEN + number + 1) & _WORD], np.uint64))[0])
    return state


def uniforms(keys: ArrayLike, numbers: ArrayLike) -> Float64[np.ndarray, "*shape"]:
    """Return draws uniform in ``[0, 1)``, one for each key and number.

    A key names a stream, and a number the draw in it. Keys and numbers broadcast: one key with many numbers gives a
    piece of one stream, many keys with one number give a draw from each stream.

    Example:
        >>> uniforms(7, [0, 1, 2]).shape, uniforms([7, 8], 2).shape
        ((3,), (2,))
        >>> bool(uniforms(7, [0, 1, 2])[2] == uniforms([7, 8], 2)[0])
        True
    """
    steps = (np.asarray(numbers, np.uint64) + np.uint64(1)) * np.array([_GOLDEN], np.uint64)
    words = _mix(np.asarray(keys, np.uint64) + steps)
    return (words >> np.uint64(11)) * 2.0**-53  # the upper 53 bits, as many as a float64 holds


def permutation(key: int, count: int) -> Int[np.ndarray, " N"]:
    """Return the numbers ``0`` to ``count - 1`` in a random order.

    The order is drawn from the stream ``key``. :func:`shuffled` needs no memory for the numbers that are not asked for.
    """
    return np.argsort(uniforms(key, np.arange(count)), kind="stable")


def shuffled(key: int, count: int, positions: ArrayLike) -> Int64[np.ndarray, " N"]:
    """Return the numbers at some positions of a random order of ``0`` to ``count - 1``.

    The other numbers are not computed, so that an order of a billion numbers costs nothing. Another ``key`` gives
    another order. The orders are not those of :func:`permutation`.

    Args:
        key: Number of the order.
        count: How many numbers are in a random order.
        positions: Positions in the order, from 0 to ``count - 1``.

    Example:
        >>> sorted(shuffled(7, 5, [0, 1, 2, 3, 4]).tolist())
        [0, 1, 2, 3, 4]
        >>> shuffled(7, 5, [3]).tolist() == shuffled(7, 5, [2, 3]).tolist()[1:]
        True

    Source:
        Black and Rogaway, *Ciphers with Arbitrary Finite Domains*, CT-RSA 2002, section 4 on cycle walking and
        section 5 on Feistel networks. https://doi.org/10.1007/3-540-45760-7_9
    """
    found = np.array(positions, np.int64)
    half = ((count - 1).bit_length() + 1) // 2  # bits, so that 4**half is the least such power of at least count
    outside = np.arange(len(found))
    while len(outside):  # the network permutes 4**half numbers: go on from those that are too large
        found[outside] = _feistel(key, half, found[outside])
        outside = outside[found[outside] >= count]
    return found


def _feistel(key: int, half: int, numbers: Int64[np.ndarray, " N"]) -> Int64[np.ndarray, " N"]:
    """Permute the numbers of ``2 * half`` bits."""
    left, right = numbers >> half, numbers & ((1 << half) - 1)
    for number in range(_ROUNDS):
        mask = (uniforms(key, (number << half) + right) * (1 << half)).astype(np.int64)
        left, right = right, left ^ mask
    return (left << half) + right


def _mix(words: UInt64[np.ndarray, "*shape"]) -> UInt64[np.ndarray, "*shape"]:
    """Scramble 64-bit words modulo 2**64, so that neighbours are unrelated."""
    words = (words ^ (words >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    words = (words ^ (words >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return words ^ (words >> np.uint64(31))
