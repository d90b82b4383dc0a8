"""The block: attention and feed-forward around a residual stream."""

from collections.abc import Callable
from typing import Any

from jaxtyping import Float
from torch import Tensor, nn

from tinygpt.errors import ConfigError, InputTypeError, ShapeError, check_integer, short
from tinygpt.layers.cache import call_with_cache, looks_back, new_cache
from tinygpt.layers.kernels import sizes_are_known


class DecoderBlock(nn.Module):
    """Gather, then think: ``x + attention(norm(x))``, then ``x + feed_forward(norm(x))``.

    The parts are handed in, and anything that maps ``B T C`` to ``B T C`` fits. With an attention that has no causal
    mask it is an encoder's block.

    Args:
        n_embd: Width ``C`` of the residual stream.
        attention: Mixes places, e.g. :class:`MultiHeadAttention`. One that keeps a cache offers
            ``new_cache(batch_size, block_size)`` and takes ``cache=``; one that knows nothing of caches works too.
        feed_forward: Works on each place, e.g. :class:`FeedForward`.
        norm: Makes each of the two norms, called with ``n_embd``.

    Shape:
        ``B T C`` in, ``B T C`` out, for whatever ``B`` and ``T`` the parts take.

    Raises:
        InputTypeError: If a part is not a module.
        ConfigError: If a part that tells its ``n_embd`` has another one.
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
        check_integer("n_embd", n_embd, minimum=1)
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
        """Add what attention gathers, then what the feed-forward makes of it."""
        gathered = call_with_cache(self.attention, self.attention_norm(x), cache)
        x = x + _as_wide_as(x, gathered, "attention")
        changed = call_with_cache(self.feed_forward, self.feed_forward_norm(x), None)
        return x + _as_wide_as(x, changed, "feed_forward")

    def new_cache(self, batch_size: int, block_size: int) -> Any:
        """Return an empty cache of the attention's own kind; None where it has none, or another part needs one too."""
        others = (self.attention_norm, self.feed_forward_norm, self.feed_forward)
        return None if any(map(looks_back, others)) else new_cache(self.attention, batch_size, block_size)


def check_part(name: str, part: Any, n_embd: int) -> None:
    """Raise unless a part can stand in a stream of width ``n_embd``, as far as it can be told before it is called.

    Raises:
        InputTypeError: If it is not a module.
        ConfigError: If it has an ``n_embd`` of its own, and another one.
    """
    if not isinstance(part, nn.Module):
        raise InputTypeError(f"{name} must be a module that maps B T C to B T C, got {short(part)}")
    own = getattr(part, "n_embd", n_embd)
    if own != n_embd:
        raise ConfigError(f"{name} must be as wide as the stream, got n_embd={own} in it and n_embd={n_embd} around it")


def _as_wide_as(x: Tensor, output: Tensor, name: str) -> Tensor:
    """Return what a part made of ``x`` if it can be added to it: a narrower one would be spread without a word."""
    if sizes_are_known() and output.shape != x.shape:
        raise ShapeError(f"{name} must return the shape it is given, {tuple(x.shape)}, got {tuple(output.shape)}")
    return output
