"""What keeps values in range: vectors by their root mean square, logits by a soft cap."""

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F

from tinygpt.errors import check_integer, check_number


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
        return F.rms_norm(x, (self.n_embd,))

    def extra_repr(self) -> str:
        """Show the width in ``repr``."""
        return f"n_embd={self.n_embd}"


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
