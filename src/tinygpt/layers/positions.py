"""Positions: attention alone does not know the order of its input."""

import torch
from jaxtyping import Float
from torch import Tensor, nn

from tinygpt.errors import ConfigError, ShapeError, check_dropout, check_integer, check_number
from tinygpt.layers.kernels import sizes_are_known
from tinygpt.layers.linear import Embedding


class LearnedPositions(nn.Module):
    """A learned vector for each position, added to the residual stream.

    As in the notebook and in GPT-2.

    Args:
        block_size: Number of positions.
        n_embd: Width ``C`` of the residual stream.
        dropout: Probability of dropping a value of the sum, in training mode only; None for no dropout layer.

    Shape:
        ``B T C`` in, ``B T C`` out, for ``offset + T`` up to ``block_size``.

    Raises:
        ConfigError: If a number is out of range.
        ShapeError: When called, if ``offset + T`` is more than ``block_size``.

    Source:
        Radford et al., *Improving Language Understanding by Generative Pre-Training*, 2018, section 4.1.
    """

    def __init__(self, block_size: int, *, n_embd: int, dropout: float | None = None) -> None:
        super().__init__()
        check_integer("block_size", block_size, minimum=1)
        self.table = Embedding(block_size, n_embd)
        self.dropout = None if dropout is None else nn.Dropout(check_dropout(dropout))

    def forward(self, x: Float[Tensor, "B T C"], offset: int = 0) -> Float[Tensor, "B T C"]:
        """Add the vectors of positions ``offset`` to ``offset + T - 1``."""
        end, weight = offset + x.shape[1], getattr(self.table, "weight", None)
        if weight is not None and sizes_are_known() and end > len(weight):
            raise ShapeError(f"there are {len(weight)} learned positions, got {x.shape[1]} from position {offset} on")
        # consecutive rows are a slice, unless the table was replaced
        if type(self.table) is Embedding:
            vectors = self.table.weight[offset:end]
        else:
            vectors = self.table(torch.arange(offset, end, device=x.device))
        return x + vectors if self.dropout is None else self.dropout(x + vectors)


class RotaryPositions(nn.Module):
    """Rotary positions: rotates queries and keys by angles that grow with position.

    Scores then depend on the distance between positions alone. It has no parameters and sets no limit on ``T``. Several
    :class:`MultiHeadAttention` may share one.

    Args:
        head_size: Width ``D`` of a head; must be even, since values are rotated in pairs.
        base: Pair ``i`` rotates by ``base ** (-2 * i / head_size)`` radians per position.

    Shape:
        ``B H T D`` in, ``B H T D`` out.

    Raises:
        ConfigError: If ``head_size`` is odd or a number is out of range.
        ShapeError: When called, if ``D`` is not ``head_size``.

    Example:
        >>> rotary = RotaryPositions(head_size=8)
        >>> attention = MultiHeadAttention(n_embd=32, n_head=4, positions=rotary)

    Source:
        Su et al., *RoFormer: Enhanced Transformer with Rotary Position Embedding*, 2021, section 3.2.
        https://arxiv.org/abs/2104.09864
    """

    def __init__(self, head_size: int, *, base: float = 10_000.0) -> None:
        super().__init__()
        if check_integer("head_size", head_size, minimum=1) % 2:
            raise ConfigError(
                f"head_size must be even for rotary positions, got head_size={head_size}; use {head_size + 1}"
            )
        self.head_size = head_size
        self.base = check_number("base", base, "above 1", lambda number: number > 1)

    def forward(self, x: Float[Tensor, "B H T D"], offset: int = 0) -> Float[Tensor, "B H T D"]:
        """Rotate the vectors of positions ``offset`` to ``offset + T - 1``."""
        if sizes_are_known() and x.shape[-1] != self.head_size:  # angles of one pair would be broadcast to any width
            raise ShapeError(
                f"vectors must be as wide as head_size, got {x.shape[-1]} and head_size={self.head_size}; "
                f"use RotaryPositions({x.shape[-1]})"
            )
        # compute an angle for each position and pair, in float32: 16 bits are too coarse for large angles
        precise = torch.promote_types(x.dtype, torch.float32)
        pairs = torch.arange(0, self.head_size, 2, device=x.device, dtype=precise)
        positions = torch.arange(offset, offset + x.shape[2], device=x.device, dtype=precise)
        angles = positions[:, None] * self.base ** (-pairs / self.head_size)  # T D/2
        cos, sin = angles.cos().to(x.dtype), angles.sin().to(x.dtype)
        # rotate each pair, one value from either half of the vector
        first, second = x.chunk(2, dim=-1)
        return torch.cat([first * cos - second * sin, second * cos + first * sin], dim=-1)

    def extra_repr(self) -> str:
        """Show the settings in ``repr``."""
        return f"head_size={self.head_size}, base={self.base:g}"
