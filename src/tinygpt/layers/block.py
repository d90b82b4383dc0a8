"""The decoder block: attention and feed-forward around a residual stream."""

from collections.abc import Callable
from typing import Any

from jaxtyping import Float
from torch import Tensor, nn

from tinygpt.errors import ConfigError, InputTypeError, ShapeError, short
from tinygpt.layers.cache import call_with_cache, looks_back, new_cache
from tinygpt.layers.kernels import sizes_are_known


class DecoderBlock(nn.Module):
    """Attention, then feed-forward, each added to the residual stream.

    ``x + attention(norm(x))``, then ``x + feed_forward(norm(x))``. Both parts are passed in, and any module that maps
    ``B T C`` to ``B T C`` fits. With an attention without a causal mask it is an encoder block.

    Args:
        n_embd: Width ``C`` of the residual stream.
        attention: Mixes positions, e.g. :class:`MultiHeadAttention`. It may keep a cache, see
            :func:`~tinygpt.layers.new_cache`.
        feed_forward: Works on each position alone, e.g. :class:`FeedForward`.
        norm: Makes each of the two norms, called with ``n_embd``.

    Shape:
        ``B T C`` in, ``B T C`` out, for any ``B`` and ``T`` that the parts take.

    Raises:
        InputTypeError: If a part is not a module, or ``norm`` is one.
        ConfigError: If a part has an attribute ``n_embd`` of another value.
        ShapeError: When called, if a part does not return ``B T C``.

    Example:
        >>> block = DecoderBlock(64, attention=MultiHeadAttention(64, n_head=4), feed_forward=FeedForward(64))
        >>> block(torch.zeros(2, 10, 64)).shape
        torch.Size([2, 10, 64])

    Source:
        Xiong et al., *On Layer Normalization in the Transformer Architecture*, 2020 (norms before the parts).
        https://arxiv.org/abs/2002.04745
    """

    def __init__(
        self,
        n_embd: int,
        *,
        attention: nn.Module,
        feed_forward: nn.Module,
        norm: Callable[[int], nn.Module] = nn.LayerNorm,
    ) -> None:
        super().__init__()
        self.n_embd = n_embd
        check_part("attention", attention, n_embd)
        check_part("feed_forward", feed_forward, n_embd)
        if isinstance(norm, nn.Module):
            raise InputTypeError(f"norm must make a norm when called with n_embd, e.g. nn.LayerNorm, got {short(norm)}")
        self.attention_norm = norm(n_embd)
        self.attention = attention
        self.feed_forward_norm = norm(n_embd)
        self.feed_forward = feed_forward

    def forward(self, x: Float[Tensor, "B T C"], cache: Any = None) -> Float[Tensor, "B T C"]:
        """Add the output of the attention, then that of the feed-forward; with a cache, ``x`` continues it."""
        # gather from other positions
        gathered = call_with_cache(self.attention, self.attention_norm(x), cache)
        x = x + _checked_shape("attention", gathered, x)
        # compute on each position alone
        computed = call_with_cache(self.feed_forward, self.feed_forward_norm(x), None)
        return x + _checked_shape("feed_forward", computed, x)

    def new_cache(self, batch_size: int, block_size: int) -> Any:
        """Return an empty cache of the attention; None if it offers none, or another part would need one too."""
        others = (self.attention_norm, self.feed_forward_norm, self.feed_forward)
        return None if any(map(looks_back, others)) else new_cache(self.attention, batch_size, block_size)


def check_part(name: str, part: Any, n_embd: int) -> None:
    """Raise unless a part is a module, and of this width if it has an attribute ``n_embd``."""
    if not isinstance(part, nn.Module):
        raise InputTypeError(f"{name} must be a module that maps B T C to B T C, got {short(part)}")
    own = getattr(part, "n_embd", n_embd)
    if own != n_embd:
        raise ConfigError(f"{name} must be as wide as the stream, got n_embd={own} in it and n_embd={n_embd} around it")


def _checked_shape(name: str, output: Tensor, x: Tensor) -> Tensor:
    # a narrower output would be broadcast silently
    if sizes_are_known() and output.shape != x.shape:
        raise ShapeError(f"{name} must return the shape it is given, {tuple(x.shape)}, got {tuple(output.shape)}")
    return output
