"""Filters of the next token and the draw: pure functions of logits.

Probabilities are computed in float64 for logits of any dtype; rounded to 16 bits they would keep other ids. Filters
that also depend on the ids so far are in :mod:`tinygpt.sampling.steering`.
"""

import torch
from jaxtyping import Float, Float64, Int64
from torch import Tensor

from tinygpt.errors import check_integer, check_number


def keep_top_k(logits: Float[Tensor, "*leading V"], k: int) -> Float[Tensor, "*leading V"]:
    """Keep the ``k`` largest logits and set the rest to ``-inf``.

    Exactly ``k`` ids are kept: among equal logits the lowest ids come first.

    Args:
        logits: Scores of any leading shape.
        k: Number of ids to keep, at least 1. With ``k >= V`` all are kept.

    Raises:
        ConfigError: If ``k`` is not an integer of at least 1.

    Example:
        >>> keep_top_k(torch.tensor([1.0, 3.0, 2.0, 3.0]), 1)
        tensor([-inf, 3., -inf, -inf])
    """
    check_integer("top_k", k, minimum=1)
    _, order = logits.sort(dim=-1, descending=True, stable=True)
    return logits.scatter(-1, order[..., k:], float("-inf"))


def keep_top_p(logits: Float[Tensor, "*leading V"], p: float) -> Float[Tensor, "*leading V"]:
    """Keep the smallest set of most likely ids with probability ``p``.

    The rest are set to ``-inf``. The id that reaches ``p`` is kept, so at least one is.

    Args:
        logits: Scores of any leading shape.
        p: Probability to reach, in ``(0, 1]``; 1 keeps all.

    Raises:
        ConfigError: If ``p`` is outside ``(0, 1]``.

    Example:
        >>> keep_top_p(torch.tensor([0.5, 0.3, 0.2]).log(), 0.6).exp()
        tensor([0.5000, 0.3000, 0.0000])

    Source:
        Holtzman et al., *The Curious Case of Neural Text Degeneration*, 2019, section 3.1.
        https://arxiv.org/abs/1904.09751
    """
    check_number("top_p", p, "in (0, 1]", lambda number: 0 < number <= 1)
    if p == 1:
        return logits
    sorted_logits, order = _precise(logits).sort(dim=-1, descending=True, stable=True)
    probabilities = sorted_logits.softmax(dim=-1)
    before = probabilities.cumsum(dim=-1) - probabilities  # the sum of all more likely ids: the id that crosses p stays
    dropped = before >= p
    dropped[..., 0] = False
    return logits.masked_fill(dropped.scatter(-1, order, dropped), float("-inf"))


def keep_min_p(logits: Float[Tensor, "*leading V"], p: float) -> Float[Tensor, "*leading V"]:
    """Keep the ids with at least ``p`` times the largest probability.

    The rest are set to ``-inf``.

    Args:
        logits: Scores of any leading shape.
        p: Share of the largest probability, in ``[0, 1]``; 0 keeps all.

    Raises:
        ConfigError: If ``p`` is outside ``[0, 1]``.

    Example:
        >>> keep_min_p(torch.tensor([0.5, 0.3, 0.2]).log(), 0.5).exp()
        tensor([0.5000, 0.3000, 0.0000])

    Source:
        Nguyen et al., *Turning Up the Heat: Min-p Sampling for Creative and Coherent LLM Outputs*, 2024, section 4.
        https://arxiv.org/abs/2407.01082
    """
    check_number("min_p", p, "in [0, 1]", lambda number: 0 <= number <= 1)
    probabilities = _precise(logits).softmax(dim=-1)
    return logits.masked_fill(probabilities < p * probabilities.amax(dim=-1, keepdim=True), float("-inf"))


def draw(logits: Float[Tensor, "*leading V"], uniform: Float[Tensor, "*leading"]) -> Int64[Tensor, "*leading"]:
    """Draw an id from each distribution.

    The draw is the id at which the cumulative probabilities pass a number in ``[0, 1)``.

    Args:
        logits: Scores of any leading shape; an id with ``-inf`` is never returned.
        uniform: One number in ``[0, 1)`` per distribution.

    Example:
        >>> draw(torch.tensor([0.5, 0.0, 0.5]).log(), torch.tensor(0.5))
        tensor(2)
    """
    cumulated = _precise(logits).softmax(dim=-1).cumsum(dim=-1)
    # Rounding may leave the total below 1; scaled by it, a number below 1 always falls on an id.
    passed = _precise(uniform).unsqueeze(-1) * cumulated[..., -1:]
    return torch.searchsorted(cumulated, passed, right=True).squeeze(-1)


def _precise(x: Tensor) -> Tensor:
    """Convert to float64, for accurate sums of many probabilities.

    Apple's GPUs have no float64 and get float32.
    """
    return x.float() if x.device.type == "mps" else x.double()


def filter_logits(
    logits: Float64[Tensor, "B V"],
    *,
    temperature: float,
    top_k: int | None,
    top_p: float | None,
    min_p: float | None,
) -> Float64[Tensor, "B V"]:
    """Apply the temperature and the filters that are not None."""
    check_number("temperature", temperature, "of at least 0", lambda number: number >= 0)
    if temperature == 0:
        logits = keep_top_k(logits, 1)
    elif temperature != 1:
        logits = (logits - logits.amax(dim=-1, keepdim=True)) / temperature  # a maximum of 0 cannot overflow
    if top_k is not None:
        logits = keep_top_k(logits, top_k)
    if top_p is not None:
        logits = keep_top_p(logits, top_p)
    if min_p is not None:
        logits = keep_min_p(logits, min_p)
    return logits
