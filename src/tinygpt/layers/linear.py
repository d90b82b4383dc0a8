"""The linear layer and the embedding table, initialised as in GPT-2.

Weights start from N(0, 0.02²) and biases at zero.

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

_INITIALISES = ContextVar("initialises", default=True)


@contextmanager
def skip_init() -> Iterator[None]:
    """Skip the initialisation of layers built inside the block; their weights are about to be loaded."""
    token = _INITIALISES.set(False)
    try:
        yield
    finally:
        _INITIALISES.reset(token)


class Linear(nn.Linear):
    """``torch.nn.Linear`` with GPT-2's initialisation, faster on few rows.

    Without gradients on a CPU, a few rows are multiplied as a batch of products, which the cores share.

    Args:
        in_features: Width of the input.
        out_features: Width of the output.
        bias: Whether to add a learned bias, which starts at zero.
        std: Standard deviation of the initial weights.

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
        """Draw new weights and set the bias to zero."""
        if not _INITIALISES.get():
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
        std: Standard deviation of the initial values.

    Shape:
        ``*leading`` ids in, ``*leading C`` out.

    Raises:
        ConfigError: If a number is out of range.

    Example:
        >>> Embedding(65, 32)(torch.tensor([[1, 2, 3]])).shape
        torch.Size([1, 3, 32])
    """

    def __init__(self, count: int, n_embd: int, *, std: float = STD) -> None:
        check_integer("count", count, minimum=1)
        check_integer("n_embd", n_embd, minimum=1)
        self.std = check_number("std", std, "of at least 0", lambda number: number >= 0)
        super().__init__(count, n_embd)

    def reset_parameters(self) -> None:
        """Draw new vectors."""
        if not _INITIALISES.get():
            return
        nn.init.normal_(self.weight, std=self.std)
