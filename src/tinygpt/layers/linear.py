"""The linear layer and the table of vectors: how they start, and how a few rows pass through quickly.

All weights start from N(0, 0.02²) and all biases at zero, as in GPT-2.

Source:
    Radford et al., *Language Models are Unsupervised Multitask Learners*, 2019; the released code draws weights with
    a standard deviation of 0.02. https://github.com/openai/gpt-2/blob/master/src/model.py
"""

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F

from tinygpt.errors import check_integer, check_number
from tinygpt.runtime import is_exporting, is_tracing

STD = 0.02
_PIECES = 4  # how many products the weights are cut into, so that several cores read them at once
_FEW_ROWS = 32  # beyond, arithmetic takes longer than reading the weights, and cutting gains nothing
_VERY_FEW_ROWS = 4  # up to here PyTorch's own product is the quickest
_LARGE = 1 << 17  # weights: fewer are read before another core has begun
# Whether the processor has products in float16; else PyTorch's own loops take longer than a copy in float32.
_MULTIPLIES_HALF = getattr(torch.ops.mkldnn, "_is_mkldnn_fp16_supported", lambda: False)()

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

    A product with few rows is bound by reading the weights, and on a CPU PyTorch reads them with one core. Cut into
    pieces by rows of the weight matrix it is a batch of products, which cores share. On a processor that does not multiply float16 itself, more than four rows in it meet a copy of the weights
    in float32, which lasts for the call.

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
        weight, bias = self.weight, self.bias
        if torch.is_grad_enabled() or not x.is_cpu or torch.is_autocast_enabled("cpu") or is_tracing():
            return F.linear(x, weight, bias)
        return (_multiply_compiled if torch.compiler.is_compiling() else _multiply)(x, weight, bias)


def _multiply(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """Compute ``F.linear`` on a CPU, without a graph, in the way that is quickest for the number of rows."""
    numbers = x.numel()
    if type(numbers) is not int:  # a symbol of a fake tensor
        return F.linear(x, weight, bias)
    count = numbers // (x.size(-1) or 1)
    if x.dtype == weight.dtype == torch.float16 and not _MULTIPLIES_HALF and count > _VERY_FEW_ROWS:
        return _multiply(x.float(), weight.float(), None if bias is None else bias.float()).half()
    if (
        not _VERY_FEW_ROWS < count <= _FEW_ROWS or weight.numel() < _LARGE or weight.itemsize < 4
    ):  # PyTorch's own is quick
        return F.linear(x, weight, bias)
    if len(weight) % _PIECES or not _is_plain(x, weight, bias):
        return F.linear(x, weight, bias)
    rows, pieces = x.reshape(-1, weight.shape[1]), weight.view(_PIECES, -1, weight.shape[1])
    rows = rows.expand(_PIECES, -1, -1)
    product = torch.bmm(rows, pieces.mT) if bias is None else torch.baddbmm(bias.view(_PIECES, 1, -1), rows, pieces.mT)
    return product.transpose(0, 1).reshape(*x.shape[:-1], weight.shape[0])


def _multiply_compiled(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """Compute ``F.linear`` so that a compiler makes one loop over the weights where there is a single row."""
    # The number of rows is not asked for in an export: a length that is free would become a fixed one.
    if is_exporting() or x.numel() != x.shape[-1] or not _is_plain(x, weight, bias):
        return F.linear(x, weight, bias)
    product = (weight * x.reshape(1, -1)).sum(dim=-1)
    return (product if bias is None else product + bias).view(*x.shape[:-1], weight.shape[0])


def _is_plain(x: Tensor, weight: Tensor, bias: Tensor | None) -> bool:
    """Return whether these are dense tensors of the usual shapes, where a product of pieces is that of the whole."""
    return (
        type(x) is Tensor
        and type(weight) in (nn.Parameter, Tensor)
        and weight.layout is torch.strided
        and not x.is_nested
        and x.dtype == weight.dtype
        and weight.ndim == 2
        and weight.shape[1] == x.shape[-1]
        and (bias is None or bias.shape == weight.shape[:1])
    )


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
