"""What moves the weights: which of them decay, and how fast they move at each step."""

import math
from typing import Any

import torch
from torch import nn

from tinygpt.errors import ConfigError, InputTypeError, short


def parameter_groups(model: nn.Module, weight_decay: float) -> list[dict[str, Any]]:
    """Return the parameters in two groups, as optimizers take them: matrices, which decay, and the rest.

    Decay pulls weights toward zero. That keeps matrices small, but a norm's gain or a bias has no reason to be zero,
    and a row of an embedding would shrink in all the steps in which its id does not occur. Frozen parameters are left
    out, and a matrix that is shared with an embedding counts as one.

    Example:
        >>> [group["weight_decay"] for group in parameter_groups(nn.Linear(3, 2), 0.1)]
        [0.1, 0.0]
    """
    tables = {id(module.weight) for module in model.modules() if isinstance(module, nn.Embedding)}
    groups: tuple[list[nn.Parameter], list[nn.Parameter]] = ([], [])
    for parameter in model.parameters():
        if parameter.requires_grad:
            groups[parameter.ndim < 2 or id(parameter) in tables].append(parameter)
    return [{"params": groups[0], "weight_decay": weight_decay}, {"params": groups[1], "weight_decay": 0.0}]


def adamw(
    model: nn.Module, *, learning_rate: float, betas: tuple[float, float], weight_decay: float
) -> torch.optim.AdamW:
    """Return AdamW over :func:`parameter_groups`, in the fused version where the device has one.

    Source:
        Loshchilov and Hutter, *Decoupled Weight Decay Regularization*, 2017. https://arxiv.org/abs/1711.05101
    """
    fused = all(parameter.device.type in ("cpu", "cuda", "mps") for parameter in model.parameters())
    groups = parameter_groups(model, weight_decay)
    return torch.optim.AdamW(groups, lr=learning_rate, betas=betas, fused=fused)


def warmup_cosine(step: int, *, max_iters: int, warmup_iters: int, floor: float = 0.1) -> float:
    """Return the share of the peak learning rate for a step: a linear rise to 1, then half a cosine down to ``floor``.

    A pure function, so that a run that stops and goes on has the same rates. The first step has a rate above zero.

    Args:
        step: Number of steps taken before this one.
        max_iters: Number of steps in all; after them the share stays at ``floor``.
        warmup_iters: Number of steps of the rise.
        floor: The share at the end.

    Example:
        >>> [round(warmup_cosine(s, max_iters=8, warmup_iters=2), 2) for s in (0, 1, 2, 5, 8)]
        [0.5, 1.0, 1.0, 0.55, 0.1]

    Source:
        Loshchilov and Hutter, *SGDR: Stochastic Gradient Descent with Warm Restarts*, 2016, section 3.
        https://arxiv.org/abs/1608.03983
    """
    if step < warmup_iters:
        return (step + 1) / warmup_iters
    progress = min(1.0, (step - warmup_iters) / max(1, max_iters - warmup_iters))
    return floor + (1 - floor) * 0.5 * (1 + math.cos(math.pi * progress))


def make_optimizer(make: Any, model: nn.Module) -> torch.optim.Optimizer:
    """Return the optimizer that a user's function makes, if it is one for this model.

    Raises:
        InputTypeError: If the function is none, or makes something else.
        ConfigError: If the optimizer moves parameters that the model does not have.
    """
    example = "e.g. lambda model: torch.optim.SGD(model.parameters(), lr=0.1)"
    if isinstance(make, type | torch.optim.Optimizer) or not callable(make):
        raise InputTypeError(f"optimizer must be a function of the model that makes one, {example}, got {short(make)}")
    optimizer = make(model)
    if not isinstance(optimizer, torch.optim.Optimizer):
        raise InputTypeError(f"optimizer must make a torch.optim.Optimizer, {example}, got {short(optimizer)}")
    own = set(map(id, model.parameters()))
    if not all(id(parameter) in own for group in optimizer.param_groups for parameter in group["params"]):
        raise ConfigError(f"optimizer must move the parameters of the model that it is given, {example}")
    return optimizer
