"""Add up the gradients of the micro-batches of a step, in one order for any number of processes.

The order is a binary tree over the numbers of the micro-batches: 0 and 1, 2 and 3, then the two sums, and so on. Each
process has neighbouring micro-batches. If their number per process is a power of two, its sum is a branch of the tree.
"""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn

from tinygpt.errors import ConfigError
from tinygpt.ranks import Ranks
from tinygpt.sharded_tensors import is_sharded


def add_in_tree(
    numbers: Sequence[int], backward: Callable[[int], Tensor | float], parameters: Sequence[nn.Parameter]
) -> Tensor | float:
    """Add up the gradients and the losses of micro-batches, in the order of the tree.

    Args:
        numbers: Numbers of the micro-batches.
        backward: Adds the gradient of a micro-batch to ``.grad`` of the parameters, and returns its part of the loss.
        parameters: The parameters, without gradients.
    """
    if len(numbers) == 1:
        return backward(numbers[0])
    half = _half(len(numbers))
    loss = add_in_tree(numbers[:half], backward, parameters)
    if len(numbers) == 2:  # a single gradient may be added to what is there
        return loss + backward(numbers[1])
    first = [parameter.grad for parameter in parameters]
    for parameter in parameters:
        parameter.grad = None
    loss = loss + add_in_tree(numbers[half:], backward, parameters)
    for parameter, gradient in zip(parameters, first, strict=True):
        if parameter.grad is None:
            parameter.grad = gradient
        elif gradient is not None:
            parameter.grad.add_(gradient)
    return loss


def add_over_ranks(ranks: Ranks, loss: Tensor | float, parameters: Sequence[nn.Parameter]) -> Tensor | float:
    """Go on with the tree over the ranks: add up their gradients in place, and return the sum of their losses.

    A parameter without a gradient on any rank stays without: an optimizer would move it for a gradient of zero. The
    gradient of a sharded parameter was added over the ranks in its backward pass.
    """
    if ranks.world == 1:
        return loss
    parameters = [parameter for parameter in parameters if parameter.requires_grad and not is_sharded(parameter)]
    if any(parameter.grad is not None and parameter.grad.is_sparse for parameter in parameters):
        raise ConfigError("gradients must be dense with several processes, got a sparse one; use sparse=False")
    # Each rank tells which gradients it has, whether its loss is in float64, and the loss, in a position of its own.
    told = torch.zeros(len(parameters) + 1 + ranks.world, dtype=torch.float64)
    told[: len(parameters)] = torch.tensor([float(parameter.grad is not None) for parameter in parameters])
    told[len(parameters)] = isinstance(loss, Tensor) and loss.dtype == torch.float64
    told[len(parameters) + 1 + ranks.here] = float(loss)
    for parameter in parameters:
        if parameter.grad is None:
            parameter.grad = torch.full_like(parameter, -0.0)  # adding it keeps every bit, also of a -0.0
    ranks.sum_([told, *(parameter.grad for parameter in parameters if parameter.grad is not None)])
    for parameter, count in zip(parameters, told.tolist(), strict=False):
        if not count:
            parameter.grad = None
    dtype = torch.float64 if told[len(parameters)] else torch.float32
    return _sum_in_tree(told[len(parameters) + 1 :].to(dtype))


def _sum_in_tree(values: Tensor) -> Tensor:
    half = _half(len(values))
    return _sum_in_tree(values[:half]) + _sum_in_tree(values[half:]) if half else values[0]


def _half(count: int) -> int:
    """Return the size of the first branch: the largest power of two below ``count``, or 0."""
    return (1 << (count - 1).bit_length()) >> 1
