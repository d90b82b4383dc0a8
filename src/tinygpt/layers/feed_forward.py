"""The feed-forward half of a block: two linear layers at each position."""

from collections.abc import Callable

from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F

from tinygpt.errors import InputTypeError, check_dropout, check_integer, checked_names, short
from tinygpt.layers.linear import STD, Linear


def relu_squared(x: Float[Tensor, "..."]) -> Float[Tensor, "..."]:
    """Return ``max(x, 0)²``, elementwise.

    Source:
        So et al., *Primer: Searching for Efficient Transformers for Language Modeling*, 2021, section 4.
        https://arxiv.org/abs/2109.08668
    """
    return F.relu(x).square()


class FeedForward(nn.Module):
    """Two linear layers with an activation between, at each position alone.

    Args:
        n_embd: Width ``C`` of the residual stream.
        hidden_size: Width between the two layers; by default ``4 * n_embd``.
        activation: A function of a tensor, e.g. :func:`torch.nn.functional.gelu`.
        dropout: Probability of dropping an output, in training mode only; None for no dropout layer.
        bias: Whether the two layers have biases.
        output_std: Standard deviation of the second layer's first weights.

    Shape:
        ``B T C`` in, ``B T C`` out, for any ``B`` and ``T``.

    Raises:
        ConfigError: If a number is out of range.
        InputTypeError: If ``activation`` is not a function or a module.

    Example:
        >>> FeedForward(64, activation=torch.nn.functional.gelu)(torch.zeros(2, 10, 64)).shape
        torch.Size([2, 10, 64])

    Source:
        Vaswani et al., *Attention Is All You Need*, 2017, section 3.3. https://arxiv.org/abs/1706.03762
    """

    @checked_names
    def __init__(
        self,
        n_embd: int,
        *,
        hidden_size: int | None = None,
        activation: Callable[[Tensor], Tensor] = F.relu,
        dropout: float | None = None,
        bias: bool = True,
        output_std: float = STD,
    ) -> None:
        super().__init__()
        self.n_embd = check_integer("n_embd", n_embd, minimum=1)
        hidden_size = check_integer("hidden_size", 4 * n_embd if hidden_size is None else hidden_size, minimum=1)
        self.expand = Linear(n_embd, hidden_size, bias=bias)
        if isinstance(activation, type) or not callable(activation):
            raise InputTypeError(f"activation must be a function of a tensor, e.g. F.relu, got {short(activation)}")
        self.activation = activation
        self.output = Linear(hidden_size, n_embd, bias=bias, std=output_std)
        self.dropout = None if dropout is None else nn.Dropout(check_dropout(dropout))

    def forward(self, x: Float[Tensor, "B T C"]) -> Float[Tensor, "B T C"]:
        """Widen, activate, and return to the width of the residual stream."""
        x = self.output(self.activation(self.expand(x)))
        return x if self.dropout is None else self.dropout(x)

    def extra_repr(self) -> str:
        """Show the activation in ``repr``, unless it is a module, which shows itself."""
        name = getattr(self.activation, "__name__", self.activation)
        return "" if isinstance(self.activation, nn.Module) else f"activation={name}"
