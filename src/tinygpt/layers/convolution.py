"""A short look back: what the few places before a place say, without attention."""

import torch
from jaxtyping import Float
from torch import Tensor, nn

from tinygpt.errors import check_integer


class ShortConvolution(nn.Module):
    """Adds to each place a weighted sum of the few places before it, each channel by itself.

    A character alone says little. With this behind the embedding, the first block reads pieces of words, which
    attention would have to gather first. It costs ``(width - 1) * n_embd`` parameters and starts as the identity.

    Args:
        n_embd: Width ``C`` of the residual stream.
        width: How many places are looked at, the place itself included.

    Shape:
        ``B T C`` in, ``B T C`` out, for any ``B`` and ``T``.

    Raises:
        ConfigError: If a number is out of range.

    Example:
        >>> ShortConvolution(64, width=4)(torch.zeros(2, 10, 64)).shape
        torch.Size([2, 10, 64])

    Source:
        So et al., *Primer: Searching for Efficient Transformers for Language Modeling*, 2021, section 4 (a depthwise
        convolution of width 3 behind the projections). https://arxiv.org/abs/2109.08668
    """

    def __init__(self, n_embd: int, width: int = 4) -> None:
        super().__init__()
        self.n_embd = check_integer("n_embd", n_embd, minimum=1)
        self.width = check_integer("width", width, minimum=2)
        self.weight = nn.Parameter(torch.zeros(n_embd, 1, width - 1))  # as in a depthwise nn.Conv1d, less the last

    def forward(self, x: Float[Tensor, "B T C"], cache: Tensor | None = None) -> Float[Tensor, "B T C"]:
        """Add what came before; with a cache, ``x`` continues what it holds."""
        seen = self.width - 1
        before = x.new_zeros(len(x), seen, self.n_embd) if cache is None else cache.to(x.dtype)
        places = torch.cat([before, x], dim=1)  # B seen+T C
        if cache is not None:
            cache.copy_(places[:, -seen:])
        for back in range(1, self.width):
            x = torch.addcmul(x, places[:, seen - back : places.shape[1] - back], self.weight[:, 0, -back])
        return x

    def new_cache(self, batch_size: int, block_size: int) -> Float[Tensor, "B W C"]:
        """Return the places before the first, ``width - 1`` of them, all zero; ``forward`` keeps them up to date."""
        return self.weight.new_zeros(batch_size, self.width - 1, self.n_embd)

    def extra_repr(self) -> str:
        """Show the settings in ``repr``."""
        return f"n_embd={self.n_embd}, width={self.width}"
