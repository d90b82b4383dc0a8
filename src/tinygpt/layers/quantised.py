"""The linear layer and the embedding table with int8 weights, for inference.

A row is the product of integers from -127 to 127 and one scale, so it takes a quarter of the memory of float32.
:func:`tinygpt.quantised` puts these layers into a model.

Source:
    Dettmers et al., *LLM.int8(): 8-bit Matrix Multiplication for Transformers at Scale*, 2022, section 2.1 (a scale for
    each row, from its largest absolute value). https://arxiv.org/abs/2208.07339
"""

import torch
from jaxtyping import BFloat16, Float, Int, Int8
from torch import Tensor, nn

from tinygpt.layers.kernels import linear_int8

_LARGEST = 127


def quantise_rows(weight: Float[Tensor, "K C"]) -> tuple[Int8[Tensor, "K C"], BFloat16[Tensor, " K"]]:
    """Round each row of a matrix to int8, and return the scale of each.

    ``rows * scale[:, None]`` differs from a finite matrix by at most half a scale. A scale is a number of bfloat16, in
    which a CPU multiplies these rows, so no product rounds it again.

    Example:
        >>> rows, scale = quantise_rows(torch.tensor([[127.0, -1.6], [0.5, 0.25]]))
        >>> rows.tolist(), scale.tolist()
        ([[127, -2], [127, 64]], [1.0, 0.0039...])
    """
    wide = weight.detach().to(torch.promote_types(weight.dtype, torch.float32))
    scale = (wide.abs().amax(dim=1) / _LARGEST).bfloat16()
    scale = scale.where(scale > 0, 1)  # a row of zeros
    rows = (wide / scale[:, None]).round().clamp(-_LARGEST, _LARGEST)
    return rows.to(torch.int8), scale


class QuantisedLinear(nn.Module):
    """A linear layer with int8 weights, which cannot be trained.

    ``torch.nn.functional.linear(x, weight * scale[:, None], bias)``. Without gradients on a CPU, a few rows in float32
    are rounded to bfloat16 and multiplied by the integers themselves.

    Args:
        weight: The int8 rows.
        scale: A scale for each. A CPU is only fast with scales in bfloat16.
        bias: A number to add to each output, or None.

    Shape:
        ``*leading C`` in, ``*leading K`` out.

    Example:
        >>> linear = Linear(8, 3)
        >>> QuantisedLinear(*quantise_rows(linear.weight), linear.bias)(torch.zeros(2, 5, 8)).shape
        torch.Size([2, 5, 3])
    """

    scale: Tensor

    def __init__(self, weight: Int8[Tensor, "K C"], scale: Float[Tensor, " K"], bias: Tensor | None = None) -> None:
        super().__init__()
        # a parameter, so that it counts as one and stays tied
        self.weight = nn.Parameter(weight, requires_grad=False)
        self.register_buffer("scale", scale)
        self.bias = None if bias is None else nn.Parameter(bias.detach(), requires_grad=False)

    def forward(self, x: Float[Tensor, "*leading C"]) -> Float[Tensor, "*leading K"]:
        """Multiply by the weights and add the bias."""
        return linear_int8(x, self.weight, self.scale, self.bias)

    def extra_repr(self) -> str:
        """Show the sizes in ``repr``."""
        return f"in_features={self.weight.shape[1]}, out_features={len(self.weight)}, bias={self.bias is not None}"


class QuantisedEmbedding(nn.Module):
    """An embedding table with int8 weights, which cannot be trained.

    ``torch.nn.functional.embedding(idx, weight * scale[:, None])``.

    Args:
        weight: The int8 rows, one for each id.
        scale: A scale for each; its dtype is that of the output.

    Shape:
        ``*leading`` ids in, ``*leading C`` out.

    Example:
        >>> rows, scale = quantise_rows(Embedding(65, 32).weight)
        >>> table = QuantisedEmbedding(rows, scale.float())
        >>> table(torch.tensor([[1, 2, 3]])).shape
        torch.Size([1, 3, 32])
    """

    scale: Tensor

    def __init__(self, weight: Int8[Tensor, "V C"], scale: Float[Tensor, " V"]) -> None:
        super().__init__()
        self.weight = nn.Parameter(weight, requires_grad=False)
        self.register_buffer("scale", scale)

    def forward(self, idx: Int[Tensor, "*leading"]) -> Float[Tensor, "*leading C"]:
        """Look up the row of each id."""
        return self.weight[idx] * self.scale[idx].unsqueeze(-1)

    def extra_repr(self) -> str:
        """Show the sizes in ``repr``."""
        return f"{len(self.weight)}, {self.weight.shape[1]}"
