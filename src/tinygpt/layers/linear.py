"""The linear layer and the table of vectors: how they start, and how a few rows pass through quickly.

All weights start from N(0, 0.02²) and all biases at zero, as in GPT-2.

Source:
    Radford et al., *Language Models are Unsupervised Multitask Learners*, 2019; the released code draws weights with
    a standard deviation of 0.02. https://github.com/openai/gpt-2/blob/master/src/model.py
"""

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar

from jaxtyping import Float
from torch import Tensor, nn

from tinygpt.errors import check_integer, check_number
from tinygpt.layers.kernels import linear

STD = 0.02

_DRAWS = ContextVar("draws", default=True)


@contextmanager
def undrawn() -> Iterator[None]:
    """Leave the first weights of what is built in this block undrawn: others are about to take their place."""
    token = _DRAWS.set(False)
    try:
        yield
    finally:
        _DRAWS.reset(token)


class Linear(nn.Linear):
    """``torch.nn.Linear`` with GPT-2's initialisation, and quick on the few rows that decoding passes through it.

    Args:
        in_features: Width of the input.
        out_features: Width of the output.
        bias: Whether a learned bias is added; it starts at zero.
        std: Standard deviation of the first weights; 0 starts them at zero.

    Shape:
        ``*leading in_features`` in, ``*leading out_features`` out.

    Raises:
        ConfigError: If a number is out of range.

    Example:
        >>> Linear(8, 3)(torch.zeros(2, 5, 8)).shape
        torch.Size([2, 5, 3])
    """

    def __init__(self, in_features: int, out_features: int, *, bias: bool = True, std: float = STD) -> None:
        check_integer("in_features", in_features, minimum=1)
        check_integer("out_features", out_features, minimum=1)
        self.std = check_number("std", std, "of at least 0", lambda number: number >= 0)
        super().__init__(in_features, out_features, bias=bias)

    def reset_parameters(self) -> None:
        """Draw the weights anew."""
        if not _DRAWS.get():
            return
        nn.init.normal_(self.weight, std=self.std)
        if self.bias is not None:
            nn.init.zeros_(self.bias)

    def forward(self, x: Float[Tensor, "*leading C"]) -> Float[Tensor, "*leading K"]:
        """Multiply by the weights and add the bias."""
        return linear(x, self.weight, self.bias)


class Embedding(nn.Embedding):
    """``torch.nn.Embedding`` with GPT-2's initialisation.

    Args:
        count: Number of vectors.
        n_embd: Width ``C`` of each.
        std: Standard deviation of the first values.

    Raises:
        ConfigError: If a number is out of range.
    """

    def __init__(self, count: int, n_embd: int, *, std: float = STD) -> None:
        check_integer("count", count, minimum=1)
        check_integer("n_embd", n_embd, minimum=1)
        self.std = check_number("std", std, "of at least 0", lambda number: number >= 0)
        super().__init__(count, n_embd)

    def reset_parameters(self) -> None:
        """Draw the vectors anew."""
        if not _DRAWS.get():
            return
        nn.init.normal_(self.weight, std=self.std)
