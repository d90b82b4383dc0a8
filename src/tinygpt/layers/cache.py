"""Caches: what a part has read, so that the next position is computed alone, and how a cache reaches its part."""

from typing import Any

from jaxtyping import Float
from torch import Tensor, nn

from tinygpt.errors import InputTypeError, ShapeError, check_integer


class KVCache:
    """The keys and values of the positions already read, so that the next position is computed alone.

    Shapes, dtype and device are those of the first keys and values. Memory grows with the number of positions, by
    doubling, up to ``block_size``.

    Args:
        block_size: Largest number of positions.

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
            ShapeError: If they are more than ``block_size``.
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
    """Return how many positions a cache of ``length`` has memory for, by doubling; always one more than it needs.

    A compiler would make other code for a full cache, which is contiguous, and for one with an axis of the same size
    as another axis, so the numbers are odd.

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


class Chain(nn.Sequential):
    """``torch.nn.Sequential`` in which each part that keeps a cache is given it.

    Each part either offers a cache or works on each place by itself.

    Example:
        >>> embedding = Chain(Embedding(65, 32), ShortConvolution(32), RMSNorm(32))
        >>> embedding(torch.zeros(2, 10, dtype=torch.long)).shape
        torch.Size([2, 10, 32])
    """

    def forward(self, x: Tensor, cache: list[Any] | None = None) -> Tensor:
        """Pass ``x`` through the parts in order; with a cache, ``x`` continues what they have seen."""
        for place, part in enumerate(self):
            x = call_with_cache(part, x, None if cache is None else cache[place])
        return x

    def new_cache(self, batch_size: int, block_size: int) -> list[Any] | None:
        """Return the cache of each part that looks back; None if one of them keeps none, or none looks back."""
        caches = [new_cache(part, batch_size, block_size) for part in self]
        lacking = any(cache is None and looks_back(part) for part, cache in zip(self, caches, strict=True))
        return None if lacking or all(cache is None for cache in caches) else caches


def new_cache(part: nn.Module, batch_size: int, block_size: int) -> Any:
    """Return an empty cache for a part that offers one, else None. Only the part itself knows what is in it."""
    make = getattr(part, "new_cache", None)
    return None if make is None else make(batch_size, block_size)


def looks_back(part: nn.Module) -> bool:
    """Say whether any module in a part offers a cache, and so needs one where it is given one place at a time."""
    return any(hasattr(module, "new_cache") and not isinstance(module, Chain) for module in part.modules())


def call_with_cache(part: nn.Module, x: Tensor, cache: Any) -> Float[Tensor, "B T C"]:
    """Call a part, with its cache if there is one: a part that never made a cache is never handed one."""
    output = part(x) if cache is None else part(x, cache=cache)
    if not isinstance(output, Tensor):
        raise InputTypeError(
            f"a part must return a tensor, got {type(output).__name__} from {type(part).__name__}; wrap it in a module "
            "whose forward returns only the tensor"
        )
    return output
