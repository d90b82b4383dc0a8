"""Learning-rate schedules: pure functions of the step, so that a resumed run has the same rates."""

import math
from collections.abc import Callable


def warmup_cosine(step: int, *, max_iters: int, warmup_iters: int, floor: float = 0.1) -> float:
    """Return the share of the peak learning rate for a step: a linear rise to 1, then half a cosine down to ``floor``.

    The first step has a rate above zero.

    Args:
        step: Number of steps taken before this one.
        max_iters: Steps of the run; after them the share stays at ``floor``.
        warmup_iters: Number of steps of the rise.
        floor: The share at the end.

    Example:
        >>> [round(warmup_cosine(s, max_iters=8, warmup_iters=2), 2) for s in (0, 1, 2, 5, 8)]
        [0.5, 1.0, 1.0, 0.55, 0.1]

    Source:
        Loshchilov and Hutter, *SGDR: Stochastic Gradient Descent with Warm Restarts*, 2016, section 3.
        https://arxiv.org/abs/1608.03983
    """
    return _warmup_then(lambda done: 0.5 * (1 + math.cos(math.pi * done)), step, max_iters, warmup_iters, floor)


def warmup_linear(step: int, *, max_iters: int, warmup_iters: int, floor: float = 0.0) -> float:
    """Return the share of the peak learning rate for a step: a linear rise to 1, then a straight line to ``floor``.

    Args:
        step: Number of steps taken before this one.
        max_iters: Steps of the run; after them the share stays at ``floor``.
        warmup_iters: Number of steps of the rise.
        floor: The share at the end.

    Example:
        >>> [round(warmup_linear(s, max_iters=8, warmup_iters=2), 2) for s in (0, 1, 2, 5, 8)]
        [0.5, 1.0, 1.0, 0.5, 0.0]

    Source:
        Bergsma et al., *Straight to Zero: Why Linearly Decaying the Learning Rate to Zero Works Best for LLMs*, 2025.
        https://arxiv.org/abs/2502.15938
    """
    return _warmup_then(lambda done: 1 - done, step, max_iters, warmup_iters, floor)


def _warmup_then(fall: Callable[[float], float], step: int, max_iters: int, warmup_iters: int, floor: float) -> float:
    """Rise to 1 in a straight line, then follow ``fall``, a function from [0, 1] to [1, 0], down to the floor."""
    if step < warmup_iters:
        return (step + 1) / warmup_iters
    done = min(1.0, (step - warmup_iters) / max(1, max_iters - warmup_iters))
    return floor + (1 - floor) * fall(done)
