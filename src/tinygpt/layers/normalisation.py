"""Normalisation of vectors: RMSNorm."""

from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F

from tinygpt.errors import check_integer


class RMSNorm(nn.Module):
    """Divides each vector by its root mean square, without learned gains.

    :func:`torch.nn.functional.rms_norm` without a weight, so it has no parameters.

    Args:
        n_embd: Width of the vectors.

    Shape:
        ``*leading n_embd`` in, the same out.

    Raises:
        ConfigError: If ``n_embd`` is not a positive integer.

    Example:
        >>> RMSNorm(2)(torch.tensor([3.0, 4.0])).square().mean()
        tensor(1.)

    Source:
        Zhang and Sennrich, *Root Mean Square Layer Normalization*, 2019. https://arxiv.org/abs/1910.07467
    """

    def __init__(self, n_embd: int) -> None:
        super().__init__()
        self.n_embd = check_integer("n_embd", n_embd, minimum=1)

    def forward(self, x: Float[Tensor, "*shape"]) -> Float[Tensor, "*shape"]:
        """Scale each vector to a mean square of 1."""
        return F.rms_norm(x, (self.n_embd,))

    def extra_repr(self) -> str:
        """Show the width in ``repr``."""
        return f"n_embd={self.n_embd}"
