"""Caches: keep what a part has read, so that the next position is computed alone.

A cache is optional. A part that reads earlier positions offers two things:

- ``new_cache(batch_size, block_size)`` returns an empty cache, which may be any object, or None to do without;
- ``forward(x, cache=None)``: with a cache, ``x`` continues the positions that the cache holds, and is added to them.

A part that works on each position alone offers neither. Containers ask with :func:`~tinygpt.layers.new_cache` and pass
a cache on with :func:`~tinygpt.layers.call_with_cache`, so a part without a cache needs no special case. If a block
returns no cache, sampling reads whole windows, and the text is the same.

Example:
    A block that caches two attentions:

    >>> from tinygpt.layers import call_with_cache, new_cache
    >>> from tinygpt.testing import check_cache_equal
    >>> class TwoAttentions(nn.Module):
    ...     def __init__(self, n_embd):
    ...         super().__init__()
    ...         self.attentions = nn.ModuleList(MultiHeadAttention(n_embd, n_head=2) for _ in range(2))
    ...
    ...     def new_cache(self, batch_size, block_size):
    ...         return [new_cache(attention, batch_size, block_size) for attention in self.attentions]
    ...
    ...     def forward(self, x, cache=None):
    ...         for attention, own in zip(self.attentions, cache or (None, None)):
    ...             x = x + call_with_cache(attention, x, own)
    ...         return x
    >>> check_cache_equal(TwoAttentions(8), torch.randn(2, 5, 8))
"""

from typing import Any

from jaxtyping import Float
from torch import Tensor, nn

from tinygpt.errors import InputTypeError, ShapeError, check_integer


def new_cache(part: nn.Module, batch_size: int, block_size: int) -> Any:
    """Return an empty cache for a part, or None if the part offers none.

    Args:
        part: A module, with or without a method ``new_cache``.
        batch_size: Number of sequences ``B``.
        block_size: Largest number of positions that the cache will hold.
    """
    make = getattr(part, "new_cache", None)
    return None if make is None else make(batch_size, block_size)


def call_with_cache(part: nn.Module, x: Tensor, cache: Any) -> Float[Tensor, "B T C"]:
    """Call a part, with its cache if there is one.

    Args:
        part: A module. Its ``forward`` takes ``cache=`` only if the part made a cache.
        x: The input, ``B T C``, or ids ``B T`` for an embedding.
        cache: What :func:`~tinygpt.layers.new_cache` returned for this part, or None.

    Raises:
        InputTypeError: If the part does not return a tensor.
    """
    output = part(x) if cache is None else part(x, cache=cache)
    if not isinstance(output, Tensor):
        raise InputTypeError(
            f"a part must return a tensor, got {type(output).__name__} from {type(part).__name__}; wrap it in a module "
            "whose forward returns only the tensor"
        )
    return output


def looks_back(part: nn.Module) -> bool:
    """Return whether any module in a part offers a cache, and so reads earlier positions."""
    return any(hasattr(module, "new_cache") and not isinstance(module, Chain) for module in part.modules())


class Chain(nn.Sequential):
    """``torch.nn.Sequential`` that gives each part its cache.

    Each part either offers a cache or works on each position alone.

    Shape:
        ``B T C`` in, ``B T C`` out, or any other input that the first part takes.

    Example:
        >>> embedding = Chain(Embedding(65, 32), ShortConvolution(32), RMSNorm(32))
        >>> embedding(torch.zeros(2, 10, dtype=torch.long)).shape
        torch.Size([2, 10, 32])
    """

    def forward(self, x: Tensor, cache: list[Any] | None = None) -> Tensor:
        """Pass ``x`` through the parts in order; with a cache, ``x`` continues what they have read."""
        for part, own in zip(self, [None] * len(self) if cache is None else cache, strict=True):
            x = call_with_cache(part, x, own)
        return x

    def new_cache(self, batch_size: int, block_size: int) -> list[Any] | None:
        """Return a cache for each part; None if a part that looks back offers none, or no part looks back."""
        caches = [new_cache(part, batch_size, block_size) for part in self]
        lacking = any(cache is None and looks_back(part) for part, cache in zip(self, caches, strict=True))
        return None if lacking or all(cache is None for cache in caches) else caches


class KVCache:
    """The keys and values of the positions already read.

    Shapes, dtype and device are those of the first keys and values. Memory grows with the number of positions, by
    doubling, up to ``block_size``.

    Args:
        block_size: Largest number of positions.

    Attributes:
        length: Number of positions that it holds.

    Raises:
        ConfigError: If ``block_size`` is not a positive integer.

    Example:
        >>> cache = KVCache(block_size=8)
        >>> key, value = cache.append(torch.zeros(1, 2, 3, 4), torch.zeros(1, 2, 3, 4))
        >>> key, value = cache.append(torch.zeros(1, 2, 1, 4), torch.zeros(1, 2, 1, 4))
        >>> key.shape, cache.length
        (torch.Size([1, 2, 4, 4]), 4)
    """

    def __init__(self, block_size: int) -> None:
        self.block_size = check_integer("block_size", block_size, minimum=1)
        self.key: Tensor | None = None
        self.value: Tensor | None = None
        self.length = 0

    def append(
        self, key: Float[Tensor, "B H T D"], value: Float[Tensor, "B H T E"]
    ) -> tuple[Float[Tensor, "B H S D"], Float[Tensor, "B H S E"]]:
        """Store ``T`` more positions and return all ``S`` so far, as views.

        Raises:
            ShapeError: If there would be more than ``block_size`` positions.
        """
        start, count = self.length, key.shape[2]
        end = start + count
        if end > self.block_size:
            raise ShapeError(f"the cache has {self.block_size} positions, got {count} more after {start}")
        if self.key is None or self.value is None or end >= self.key.shape[2]:
            room = min(room_for(end), self.block_size + 1)
            self.key, self.value = _grown(self.key, key, room, start), _grown(self.value, value, room, start)
        self.length = end
        self.key.narrow(2, start, count).copy_(key)
        self.value.narrow(2, start, count).copy_(value)
        return self.key.narrow(2, 0, end), self.value.narrow(2, 0, end)


def room_for(length: int) -> int:
    """Return how many positions a cache of ``length`` has memory for, more than it needs.

    Spare memory keeps the views of a cache non-contiguous, and an odd length differs from the other axes. A compiler
    would make separate code for a contiguous cache, and for one with two axes of the same length.

    Example:
        >>> room_for(3), room_for(62), room_for(63)
        (63, 63, 127)
    """
    return max(63, (1 << (length + 1).bit_length()) - 1)


def _grown(stored: Tensor | None, new: Tensor, room: int, length: int) -> Tensor:
    """Return memory for ``room`` positions that begins with the ``length`` positions stored so far."""
    grown = (new if stored is None else stored).new_zeros(*new.shape[:2], room, new.shape[3])
    if stored is not None:
        grown.narrow(2, 0, length).copy_(stored.narrow(2, 0, length))
    return grown
