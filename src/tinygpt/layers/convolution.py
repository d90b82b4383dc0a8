"""A short causal convolution: earlier positions without attention."""

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor, nn

from tinygpt.errors import check_integer


class ShortConvolution(nn.Module):
    """A causal depthwise convolution, added to the residual stream.

    Each channel adds a weighted sum of its last ``width - 1`` values. After the embedding of a character model it gives
    the first block pieces of words, which attention would have to gather first. It has ``(width - 1) * n_embd``
    parameters and starts as the identity.

    Args:
        n_embd: Width ``C`` of the residual stream.
        width: Number of positions read, the current one included; at least 2.

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

    def __init__(self, n_embd: int, *, width: int = 4) -> None:
        super().__init__()
        self.n_embd = check_integer("n_embd", n_embd, minimum=1)
        self.width = check_integer("width", width, minimum=2)
        self.weight = nn.Parameter(torch.zeros(n_embd, 1, width - 1))  # a depthwise nn.Conv1d without its last tap

    def forward(self, x: Float[Tensor, "B T C"], cache: "ConvolutionCache | None" = None) -> Float[Tensor, "B T C"]:
        """Add earlier positions to each; with a cache, ``x`` continues the positions that it holds."""
        weight = self.weight[:, 0]  # C seen
        seen = weight.shape[1]  # from the weights, which may have been replaced
        # put the last positions of the cache in front, or zeros
        if cache is None or cache.before is None:
            before = x.new_zeros(x.shape[0], seen, x.shape[2])
        else:
            before = cache.before.to(x.dtype)
        positions = torch.cat([before, x], dim=1)  # B seen+T C
        # remember the last positions
        if cache is not None:
            cache.before = positions[:, x.shape[1] :].clone()  # a view would keep them all alive
        # add each earlier position by its weight
        for back in range(1, seen + 1):
            x = torch.addcmul(x, positions[:, seen - back : positions.shape[1] - back], weight[:, -back])
        return x

    def new_cache(self, batch_size: int, block_size: int) -> "ConvolutionCache":
        """Return an empty cache for ``forward``."""
        return ConvolutionCache()

    def extra_repr(self) -> str:
        """Show the settings in ``repr``."""
        return f"n_embd={self.n_embd}, width={self.width}"


@dataclass
class ConvolutionCache:
    """The last ``width - 1`` positions that a :class:`ShortConvolution` has read; None before the first."""

    before: Float[Tensor, "B W C"] | None = None
