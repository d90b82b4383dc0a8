"""The linear layer and the table of vectors: how they start, and how one row passes through quickly.

All weights start from N(0, 0.02²) and all biases at zero, as in GPT-2.

Source:
    Radford et al., *Language Models are Unsupervised Multitask Learners*, 2019; the released code draws weights with
    a standard deviation of 0.02. https://github.com/openai/gpt-2/blob/master/src/model.py
"""

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F

from tinygpt.errors import check_integer, check_number

STD = 0.02
_PIECES = 4  # how many products a single row is cut into, so that several cores read the weights at once


class Linear(nn.Linear):
    """``torch.nn.Linear`` with GPT-2's initialisation, and quick on the single row that decoding passes through it.

    A product with one row is bound by reading the weights, and on a CPU PyTorch reads them with one core. Cut into
    pieces by rows of the weight matrix, it is a batch of products, which is shared among cores.

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
        nn.init.normal_(self.weight, std=self.std)
        if self.bias is not None:
            nn.init.zeros_(self.bias)

    def forward(self, x: Float[Tensor, "*leading C"]) -> Float[Tensor, "*leading K"]:
        """Multiply by the weights and add the bias."""
        one_row = x.numel() == self.in_features and not torch.is_grad_enabled() and x.device.type == "cpu"
        if not one_row or self.out_features % _PIECES or torch.is_autocast_enabled("cpu"):
            return F.linear(x, self.weight, self.bias)
        row = x.reshape(1, 1, -1).expand(_PIECES, -1, -1)
        pieces = self.weight.view(_PIECES, -1, self.in_features).transpose(1, 2)
        if self.bias is None:
            product = torch.bmm(row, pieces)
        else:
            product = torch.baddbmm(self.bias.view(_PIECES, 1, -1), row, pieces)
        return product.view(*x.shape[:-1], self.out_features)


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
        nn.init.normal_(self.weight, std=self.std)
