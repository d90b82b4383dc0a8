"""Attention: :class:`Head` defines it, :class:`MultiHeadAttention` is the fast one."""

import torch
from jaxtyping import Float
from torch import Tensor, nn

from tinygpt.errors import InputTypeError, check_dropout, check_head_size, check_integer, checked_names, short
from tinygpt.layers.cache import KVCache
from tinygpt.layers.kernels import attend, to_attend
from tinygpt.layers.linear import STD, Linear


class Head(nn.Module):
    """One attention head: a weighted mean of values at each position.

    The definition to read. :class:`MultiHeadAttention` computes the same for several heads at once.

    Args:
        n_embd: Width ``C`` of the residual stream.
        head_size: Width ``D`` of queries, keys and values.
        dropout: Probability of dropping an attention weight, in training mode only.
        causal: Whether a position attends only to itself and earlier positions; otherwise it attends to all.
        bias: Whether the projections to query, key and value have a bias.

    Shape:
        ``B T C`` in, ``B T D`` out, for any ``B`` and ``T``.

    Raises:
        ConfigError: If a number is out of range.

    Example:
        >>> Head(n_embd=64, head_size=16)(torch.zeros(2, 10, 64)).shape
        torch.Size([2, 10, 16])

    Source:
        Vaswani et al., *Attention Is All You Need*, 2017, section 3.2.1. https://arxiv.org/abs/1706.03762
    """

    @checked_names
    def __init__(
        self, n_embd: int, *, head_size: int, dropout: float = 0.0, causal: bool = True, bias: bool = False
    ) -> None:
        super().__init__()
        check_integer("n_embd", n_embd, minimum=1)
        self.head_size = check_integer("head_size", head_size, minimum=1)
        self.causal = causal
        self.query = Linear(n_embd, head_size, bias=bias)
        self.key = Linear(n_embd, head_size, bias=bias)
        self.value = Linear(n_embd, head_size, bias=bias)
        self.dropout = nn.Dropout(check_dropout(dropout))

    def forward(self, x: Float[Tensor, "B T C"]) -> Float[Tensor, "B T D"]:
        """Average the values at each position by its attention weights."""
        return self.dropout(self.weights(x)) @ self.value(x)

    def weights(self, x: Float[Tensor, "B T C"]) -> Float[Tensor, "B T T"]:
        """Return the attention weights: each row is one position's, and sums to 1."""
        return weigh(self.query(x), self.key(x), causal=self.causal)


def weigh(
    query: Float[Tensor, "*leading T D"], key: Float[Tensor, "*leading T D"], *, causal: bool
) -> Float[Tensor, "*leading T T"]:
    """Return the weights with which each query reads the keys."""
    # score each pair of positions; a product of D unit-variance numbers has variance D, hence the scale
    scores = query @ key.mT * query.shape[-1] ** -0.5
    # hide later positions
    if causal:
        visible = torch.ones(scores.shape[-2:], dtype=torch.bool, device=scores.device).tril()
        scores = scores.masked_fill(~visible, float("-inf"))
    # turn scores into weights
    return scores.softmax(dim=-1)


class MultiHeadAttention(nn.Module):
    """Several attention heads side by side, mixed by an output projection.

    The same function as a list of :class:`Head`, only faster: the heads share one matrix multiply and PyTorch's fused
    attention kernel. It stores no causal mask, and so sets no limit on ``T``.

    Args:
        n_embd: Width ``C`` of the residual stream.
        n_head: Number of heads ``H``.
        head_size: Width ``D`` of each; by default ``n_embd // n_head``, and then ``n_head`` must divide ``n_embd``.
        dropout: Probability of dropping an attention weight or an output, in training mode only.
        causal: Whether a position attends only to itself and earlier positions; otherwise it attends to all, as in an
            encoder.
        bias: Whether the projections to queries, keys and values have a bias.
        output_bias: Whether the output projection has one.
        output_std: Standard deviation of the output projection's first weights.
        norm: A module applied to queries and keys, ``B 2H T D``, e.g. ``nn.RMSNorm(head_size)``.
        positions: A module called with queries and keys, ``B 2H T D``, and the index of their first position, e.g.
            :class:`RotaryPositions`.

    Shape:
        ``B T C`` in, ``B T C`` out, for any ``B`` and ``T``.

    Raises:
        ConfigError: If a number is out of range, or without ``head_size`` ``n_head`` does not divide ``n_embd``.
        InputTypeError: If ``norm`` or ``positions`` is not a module.

    Example:
        >>> attention = MultiHeadAttention(n_embd=64, n_head=4)
        >>> attention(torch.zeros(2, 10, 64)).shape
        torch.Size([2, 10, 64])

    Source:
        Vaswani et al., *Attention Is All You Need*, 2017, section 3.2.2. https://arxiv.org/abs/1706.03762
    """

    @checked_names
    def __init__(
        self,
        n_embd: int,
        *,
        n_head: int,
        head_size: int | None = None,
        dropout: float = 0.0,
        causal: bool = True,
        bias: bool = False,
        output_bias: bool = True,
        output_std: float = STD,
        norm: nn.Module | None = None,
        positions: nn.Module | None = None,
    ) -> None:
        super().__init__()
        self.n_embd = check_integer("n_embd", n_embd, minimum=1)
        self.n_head = check_integer("n_head", n_head, minimum=1)
        head_size = check_head_size(n_embd, n_head) if head_size is None else head_size
        self.head_size = check_integer("head_size", head_size, minimum=1)
        self.causal = causal
        self.qkv = Linear(n_embd, 3 * n_head * head_size, bias=bias)
        for name, part in (("norm", norm), ("positions", positions)):
            if part is not None and not isinstance(part, nn.Module):
                raise InputTypeError(f"{name} must be a module or None, got {short(part)}")
        self.norm = norm
        self.positions = positions
        self.output = Linear(n_head * head_size, n_embd, bias=output_bias, std=output_std)
        self.dropout = nn.Dropout(check_dropout(dropout))

    def forward(self, x: Float[Tensor, "B T C"], cache: KVCache | None = None) -> Float[Tensor, "B T C"]:
        """Attend in each head, then mix the heads; with a cache, ``x`` continues the positions that it holds."""
        past = 0 if cache is None else cache.length
        query, key, value = self._project(x, past)
        # take the earlier keys and values from the cache
        if cache is not None:
            key, value = cache.append(to_attend(key), to_attend(value))
        # hide later positions; the kernel's own mask assumes that there are no earlier ones
        length = x.shape[1]
        mask = None
        if self.causal and past and length > 1:
            mask = torch.ones(length, past + length, dtype=torch.bool, device=x.device).tril(past)
        # average the values
        dropout = getattr(self.dropout, "p", 0.0) if self.dropout.training else 0.0  # it may have been replaced
        mixed = attend(query, key, value, mask=mask, dropout=dropout, is_causal=self.causal and not past)
        # put the heads side by side and mix them
        return self.dropout(self.output(mixed.transpose(1, 2).flatten(2)))

    def weights(self, x: Float[Tensor, "B T C"]) -> Float[Tensor, "B H T T"]:
        """Return the attention weights of each head: each row is one position's, and sums to 1.

        :meth:`forward` averages the values by them, inside PyTorch's fused kernel. Here they are at least in float32,
        without dropout.
        """
        query, key, _ = self._project(x)
        with torch.autocast(x.device.type, enabled=False):
            precise = torch.promote_types(query.dtype, torch.float32)
            return weigh(query.to(precise), key.to(precise), causal=self.causal)

    def _project(
        self, x: Float[Tensor, "B T C"], past: int = 0
    ) -> tuple[Float[Tensor, "B H T D"], Float[Tensor, "B H T D"], Float[Tensor, "B H T D"]]:
        """Return queries, keys and values of positions that come after ``past`` others."""
        # project to queries, keys and values
        qkv = self.qkv(x).unflatten(-1, (3 * self.n_head, -1))  # B T 3H D
        queries_and_keys, value = qkv.split((2 * self.n_head, self.n_head), dim=2)
        # transposed after the split: otherwise their gradients would be copied once more
        queries_and_keys, value = queries_and_keys.transpose(1, 2), value.transpose(1, 2)  # B 2H T D and B H T D
        # norm queries and keys and tell them their positions, both at once: half as many small operations
        if self.norm is not None:
            queries_and_keys = self.norm(queries_and_keys)
        if self.positions is not None:
            queries_and_keys = self.positions(queries_and_keys, past)
        query, key = queries_and_keys.chunk(2, dim=1)  # each B H T D
        return query, key, value

    def new_cache(self, batch_size: int, block_size: int) -> KVCache | None:
        """Return an empty cache; None without the causal mask, where later positions change earlier ones."""
        return KVCache(block_size) if self.causal else None

    def extra_repr(self) -> str:
        """Show the settings in ``repr``."""
        return f"n_head={self.n_head}, head_size={self.head_size}, causal={self.causal}"
