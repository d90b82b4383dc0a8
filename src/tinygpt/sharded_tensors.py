"""Tensors of which each process holds some rows: PyTorch's DTensor, sharded along its first dimension.

Every function takes an ordinary tensor too, and leaves it as it is.
"""

from collections.abc import Callable, Mapping
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional as F

__all__ = ["apply_to_whole", "from_rows", "is_sharded", "local", "rows_of", "share_of_rows", "whole", "whole_on_first"]


def is_sharded(tensor: Any) -> bool:
    """Return whether the processes hold a tensor together."""
    return hasattr(tensor, "to_local")  # asked without an import of torch.distributed.tensor, which takes a while


def local(tensor: Tensor) -> Tensor:
    """Return the part of a tensor that this process holds, which shares its memory."""
    with torch.no_grad():
        part: Tensor = tensor.to_local() if is_sharded(tensor) else tensor  # type: ignore[attr-defined]
    return part


def whole(tensor: Tensor) -> Tensor:
    """Return the whole tensor, which every process must ask for."""
    with torch.no_grad():
        full: Tensor = tensor.full_tensor() if is_sharded(tensor) else tensor  # type: ignore[attr-defined]
    return full


def whole_on_first(tensors: Mapping[str, Tensor], *, is_first: bool) -> dict[str, Tensor]:
    """Return whole tensors on the CPU of the first process, one gathered at a time, and nothing on the others."""
    found = {}
    for name, tensor in tensors.items():
        full = whole(tensor)
        if is_first:
            found[name] = full.cpu() if is_sharded(tensor) else full
    return found


def share_of_rows(rows: int, here: int, world: int) -> tuple[int, int]:
    """Return the first row of a process and the row after its last; the last processes may have fewer, or none."""
    each = -(-rows // world)
    return min(here * each, rows), min((here + 1) * each, rows)


def rows_of(tensor: Any) -> tuple[int, int, int] | None:
    """Return the first row that this process holds, the row after its last, and their number in all.

    None if the tensor is not sharded along its first dimension over all processes of its mesh.
    """
    mesh = tensor.device_mesh
    if mesh.ndim != 1 or not tensor.placements[0].is_shard(0):
        return None
    return (*share_of_rows(tensor.shape[0], mesh.get_local_rank(), mesh.size()), tensor.shape[0])


def from_rows(rows: Tensor, count: int, mesh: Any) -> Tensor:
    """Return the tensor of ``count`` rows of which this process holds some.

    Args:
        rows: The rows of this process, those of :func:`share_of_rows`.
        count: Number of rows over all processes.
        mesh: The processes, as PyTorch's device mesh.
    """
    from torch.distributed.tensor import DTensor, Shard

    shape = torch.Size([count, *rows.shape[1:]])
    stride = torch.empty(shape, device="meta").stride()
    return DTensor.from_local(rows.contiguous(), mesh, [Shard(0)], run_check=False, shape=shape, stride=stride)


def apply_to_whole(
    function: Callable[[Tensor], Tensor], pieces: Float[Tensor, "N r C"], like: Tensor
) -> Float[Tensor, "N r C"]:
    """Apply a function to whole matrices, of each of which this process holds some rows.

    Process ``i % W`` of ``W`` gathers matrix ``i`` and applies the function. Every process gets its rows back.

    Args:
        function: Maps matrices ``N R C`` to others of the same shape, each on its own.
        pieces: The rows that this process holds.
        like: A sharded matrix whose rows are shared out in the same way.
    """
    from torch.distributed import all_to_all_single

    mesh: Any = like.device_mesh  # type: ignore[attr-defined] # it is sharded
    rows, world = like.shape[0], mesh.size()
    count, held, columns = pieces.shape
    most, each = -(-rows // world), -(-count // world)  # rows of a process, and matrices, at most
    padded = pieces.new_zeros(each * world, most, columns)
    padded[:count, :held] = pieces
    # gather the matrices of this process
    sent = padded.unflatten(0, (each, world)).transpose(0, 1).contiguous()  # W each most C
    received = torch.empty_like(sent)
    all_to_all_single(received, sent, group=mesh.get_group())
    results = function(received.transpose(0, 1).flatten(1, 2)[:, :rows])  # each R C
    # return the rows of the results to the processes that hold them
    sent = F.pad(results, (0, 0, 0, world * most - rows)).unflatten(1, (world, most)).transpose(0, 1).contiguous()
    all_to_all_single(received, sent, group=mesh.get_group())
    return received.transpose(0, 1).flatten(0, 1)[:count, :held]
