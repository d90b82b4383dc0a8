"""Each process holds some rows of a tensor, and a function of whole matrices sees them whole."""

from collections.abc import Sequence
from typing import Any

import faults
import pytest
import torch
from faults import broken_by
from ranked import on_ranks, results
from torch import Tensor, nn

from tinygpt.optim import Muon
from tinygpt.sharded_tensors import apply_to_whole, from_rows, local, share_of_rows, whole


@pytest.fixture(autouse=True, scope="module")
def _warm() -> None:
    """Import once what every rank would import late, before the ranks are forked."""
    import torch._dynamo
    import torch.distributed.fsdp  # noqa: F401


def mesh_of(world: int) -> Any:
    from torch.distributed.device_mesh import init_device_mesh

    return init_device_mesh("cpu", (world,))


def cut(tensor: Tensor, here: int, world: int) -> Tensor:
    """Return a tensor of which this process holds its rows."""
    first, end = share_of_rows(len(tensor), here, world)
    return from_rows(tensor[first:end].clone(), len(tensor), mesh_of(world))


@pytest.mark.parametrize(("world", "count", "rows"), [(2, 5, 7), (3, 2, 7), (4, 1, 5), (3, 4, 2)])
def test_a_function_sees_whole_matrices(world: int, count: int, rows: int) -> None:
    """Also with more processes than matrices, and more than rows."""
    matrices = torch.randn(count, rows, 3)

    def work(here: int) -> list[Any]:
        held = torch.stack([local(cut(matrix, here, world)) for matrix in matrices])
        found = apply_to_whole(lambda some: some.cumsum(dim=1), held, cut(matrices[0], here, world))
        first, end = share_of_rows(rows, here, world)
        return [torch.equal(found, matrices.cumsum(dim=1)[:, first:end])]

    assert results(on_ranks(world, work)) == [[True]] * world


@broken_by(faults.rows_orthogonalised_alone)
def test_muon_moves_shared_matrices_as_whole_ones() -> None:
    """Matrices, stacks of matrices and vectors, with numbers of rows that three processes cannot share evenly."""
    shapes = [(7, 3), (2, 9), (7, 3), (4, 3, 5), (1, 3, 5), (8,), (2,)]
    values, gradients = ([torch.randn(shape) for shape in shapes] for _ in range(2))

    def moved(parameters: Sequence[Tensor], some: list[Tensor]) -> Sequence[Tensor]:
        groups: list[dict[str, Any]] = [{"params": parameters[:5], "is_muon": True}, {"params": parameters[5:]}]
        optimizer = Muon(groups, lr=0.1)
        for _ in range(3):
            for parameter, gradient in zip(parameters, some, strict=True):
                parameter.grad = gradient
            optimizer.step()
        return parameters

    def work(here: int) -> list[float]:
        expected = moved([nn.Parameter(value.clone()) for value in values], gradients)
        parts: list[Tensor] = [nn.Parameter(cut(value, here, 3)) for value in values]
        found = moved(parts, [cut(gradient, here, 3) for gradient in gradients])
        return [float((whole(a) - b).detach().abs().max()) for a, b in zip(found, expected, strict=True)]

    for errors in results(on_ranks(3, work)):
        assert max(errors) < 1e-12
