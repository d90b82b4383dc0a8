"""Filters that know the ids so far: functions of logits and ids, for ``Sampler.generate(filters=[...])``."""

import math
from collections.abc import Callable, Iterable, Mapping, Sequence, Set
from typing import Any

import numpy as np
import torch
from jaxtyping import Float64, Int64
from torch import Tensor

from tinygpt.errors import ConfigError, InputTypeError, check_integer, check_number, short
from tinygpt.ids import as_integers

Filter = Callable[[Tensor, Tensor], Tensor]  # logits B V in float64, ids B T, and new logits B V


def bias(nats: Mapping[int, float]) -> Filter:
    """Return a filter that adds to the logits of some ids.

    Adding ``log(2)`` doubles the odds of an id.

    Args:
        nats: The number to add, by id.

    Raises:
        ConfigError: If an id is negative or a number is not finite; when called, if an id is outside the vocabulary.
        InputTypeError: If ``nats`` is not a mapping, or an id is not an integer.

    Example:
        >>> add = bias({1: 0.5})
        >>> add(torch.tensor([[2.0, 1.0, 0.0]]), torch.tensor([[0]]))
        tensor([[2.0000, 1.5000, 0.0000]])
    """
    if not isinstance(nats, Mapping):
        raise InputTypeError(f"nats must be a dict of numbers by id, got {short(nats)}; use e.g. bias({{3: 1.0}})")
    chosen = _checked_ids(nats)
    added = torch.tensor([check_number("nats", value, "to add", math.isfinite) for value in nats.values()])

    def add(logits: Float64[Tensor, "B V"], ids: Int64[Tensor, "B T"]) -> Float64[Tensor, "B V"]:
        _check_inside(chosen, logits)
        return logits.index_add(1, chosen, added.to(logits.dtype).expand(len(logits), -1))

    return add


def forbid(ids: Iterable[int]) -> Filter:
    """Return a filter after which some ids are never drawn.

    Raises:
        ConfigError: If an id is negative; when called, if it is outside the vocabulary.
        InputTypeError: If an id is not an integer.

    Example:
        >>> drop = forbid([0])
        >>> drop(torch.tensor([[2.0, 1.0, 0.0]]), torch.tensor([[0]]))
        tensor([[-inf, 1., 0.]])
    """
    chosen = _checked_ids(ids)

    def drop(logits: Float64[Tensor, "B V"], ids: Int64[Tensor, "B T"]) -> Float64[Tensor, "B V"]:
        _check_inside(chosen, logits)
        return logits.index_fill(1, chosen, float("-inf"))

    return drop


def allow_only(ids: Iterable[int]) -> Filter:
    """Return a filter after which only some ids are drawn.

    Raises:
        ConfigError: If an id is negative; when called, if it is outside the vocabulary.
        InputTypeError: If an id is not an integer.

    Example:
        >>> keep = allow_only([0, 2])
        >>> keep(torch.tensor([[2.0, 1.0, 0.0]]), torch.tensor([[0]]))
        tensor([[2., -inf, 0.]])
    """
    chosen = _checked_ids(ids)

    def keep(logits: Float64[Tensor, "B V"], ids: Int64[Tensor, "B T"]) -> Float64[Tensor, "B V"]:
        _check_inside(chosen, logits)
        return torch.full_like(logits, float("-inf")).index_copy(1, chosen, logits[:, chosen])

    return keep


def penalise_repetition(penalty: float, *, last: int = 64) -> Filter:
    """Return a filter that makes the latest ids less likely.

    A positive logit is divided by the penalty, and a negative one multiplied by it, once for each distinct id.

    Args:
        penalty: Above 1 for fewer repetitions, below 1 for more; above 0.
        last: Number of ids to look back at. A sampler keeps ``block_size`` of them, the prompt included.

    Raises:
        ConfigError: If a number is out of range.

    Example:
        >>> penalise = penalise_repetition(2.0)
        >>> penalise(torch.tensor([[2.0, 1.0, -1.0]]), torch.tensor([[0, 2, 0]]))
        tensor([[ 1.,  1., -2.]])

    Source:
        Keskar et al., *CTRL: A Conditional Transformer Language Model for Controllable Generation*, 2019, section 4.1.
        https://arxiv.org/abs/1909.05858
    """
    check_number("penalty", penalty, "above 0", lambda number: number > 0)
    check_integer("last", last, minimum=1)

    def penalise(logits: Float64[Tensor, "B V"], ids: Int64[Tensor, "B T"]) -> Float64[Tensor, "B V"]:
        latest = ids[:, -last:]
        seen = logits.gather(1, latest)
        return logits.scatter(1, latest, torch.where(seen > 0, seen / penalty, seen * penalty))

    return penalise


def _checked_ids(ids: Any) -> Int64[Tensor, " N"]:
    """Return the ids that a filter is about as a tensor."""
    numbers = as_integers(list(ids) if isinstance(ids, Set | Mapping) else ids)
    if len(numbers) and numbers.min() < 0:
        raise ConfigError(f"ids of a filter must not be negative, got {numbers.min()}")
    return torch.from_numpy(numbers.astype(np.int64))


def _check_inside(ids: Tensor, logits: Tensor) -> None:
    if len(ids) and int(ids.max()) >= logits.shape[-1]:
        raise ConfigError(f"ids of a filter must be from 0 to {logits.shape[-1] - 1}, got {int(ids.max())}")


def check_filters(filters: Any) -> Sequence[Filter]:
    """Return filters if they are a list of functions.

    Raises:
        InputTypeError: If they are anything else.
    """
    if not isinstance(filters, Sequence) or not all(map(callable, filters)):
        way = "use filters=[f]" if callable(filters) else "use e.g. filters=[forbid([3])]"
        raise InputTypeError(f"filters must be a list of functions, got {short(filters)}; {way}")
    return filters


def steer(
    filters: Sequence[Filter],
    logits: Float64[Tensor, "B V"],
    ids: Int64[Tensor, "B T"],
    where: str,
    numbers: Sequence[int],
) -> Float64[Tensor, "B V"]:
    """Apply filters in their order to the logits after rows of ids.

    In a message, ``where`` describes a row by its number.

    Raises:
        ConfigError: If nothing can be drawn in a row, or a filter returns NaN or infinity.
        InputTypeError: If a filter returns anything but logits of the same shape.
    """
    steered = logits.clone()  # a filter may write into them, and the logits of some models are a view of the weights
    for index, each in enumerate(filters):
        found = each(steered, ids)
        if not isinstance(found, Tensor) or found.shape != logits.shape or not found.is_floating_point():
            got = f"{found.dtype} {tuple(found.shape)}" if isinstance(found, Tensor) else type(found).__name__
            raise InputTypeError(
                f"filters must return logits of the shape (B, V) = {tuple(logits.shape)}, got {got} from "
                f"filters[{index}]; end it with return logits"
            )
        steered = found.to(logits)
    for row, largest in enumerate(steered.amax(dim=-1).tolist()):
        if not math.isfinite(largest):
            rule = "leave an id possible, got none" if largest == -math.inf else f"return numbers, got {largest}"
            raise ConfigError(f"filters must {rule} {where.format(numbers[row])}")
    return steered
