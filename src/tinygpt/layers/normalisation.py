"""What keeps values in range: vectors by their root mean square, logits by a soft cap."""

from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F

from tinygpt.errors import check_integer, check_number
from tinygpt.runtime import is_tracing


class RMSNorm(nn.Module):
    """Divides each vector by its root mean square; without gains, so it has no parameters.

    Source:
        Zhang and Sennrich, *Root Mean Square Layer Normalization*, 2019. https://arxiv.org/abs/1910.07467
    """

    def __init__(self, n_embd: int) -> None:
        super().__init__()
        self.n_embd = check_integer("n_embd", n_embd, minimum=1)

    def forward(self, x: Float[Tensor, "*shape"]) -> Float[Tensor, "*shape"]:
        """Scale the vectors to unit mean square."""
        is_recorded = torch.compiler.is_compiling() or is_tracing()
        if x.requires_grad and x.is_cpu and x.itemsize >= 4 and not is_recorded and x.shape[-1] == self.n_embd:
            scaled: Tensor = _ScaledByRootMeanSquare.apply(x)  # type: ignore[no-untyped-call] # PyTorch does not annotate it
            return scaled
        return F.rms_norm(x, (self.n_embd,))

    def extra_repr(self) -> str:
        """Show the width in ``repr``."""
        return f"n_embd={self.n_embd}"


class _ScaledByRootMeanSquare(torch.autograd.Function):
    """``F.rms_norm`` with its derivative written out: on a CPU PyTorch's own takes two to four times as long.

    With ``y = x / r`` for the root mean square ``r``, a gradient ``g`` of ``y`` is one of ``(g - y mean(g y)) / r``.
    """

    generate_vmap_rule = True

    @staticmethod
    def forward(x: Tensor) -> Tensor:
        return x * _one_over_root_mean_square(x)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor], output: Tensor) -> None:
        ctx.save_for_backward(*inputs, output)  # no more than these, so that second derivatives are right too

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Tensor:
        (gradient,), (x, y) = gradients, ctx.saved_tensors
        across = torch.addcmul(gradient, y, (gradient * y).mean(dim=-1, keepdim=True), value=-1)
        return across * _one_over_root_mean_square(x)


def _one_over_root_mean_square(x: Tensor) -> Tensor:
    square = torch.linalg.vector_norm(x, dim=-1, keepdim=True).square() / x.shape[-1]
    return (square + torch.finfo(x.dtype).eps).rsqrt()


class SoftCap(nn.Module):
    """Bends values so that none exceeds a cap: ``cap * tanh(x / cap)``.

    Source:
        Gemma Team, *Gemma 2*, 2024, section 2. https://arxiv.org/abs/2408.00118
    """

    def __init__(self, cap: float) -> None:
        super().__init__()
        self.cap = check_number("cap", cap, "above 0", lambda number: number > 0)

    def forward(self, x: Float[Tensor, "*shape"]) -> Float[Tensor, "*shape"]:
        """Bend the values."""
        return self.cap * torch.tanh(x / self.cap)

    def extra_repr(self) -> str:
        """Show the cap in ``repr``."""
        return f"cap={self.cap:g}"
