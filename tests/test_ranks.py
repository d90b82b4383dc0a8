"""Several processes agree on the same bits."""

import hashlib

import faults
import pytest
import torch
from faults import broken_by
from ranked import on_ranks, results
from torch import Tensor

from tinygpt.ranks import join


def digest(tensors: list[Tensor]) -> str:
    raw = [tensor.detach().contiguous().reshape(-1).view(torch.uint8).numpy().tobytes() for tensor in tensors]
    return hashlib.sha256(b"".join(raw)).hexdigest()


# --- sums -------------------------------------------------------------------------------------------------------------


@broken_by(faults.summed_by_all_reduce, only=("4", "1000"))
@pytest.mark.parametrize("size", [1, 2, 3, 5, 1000])
@pytest.mark.parametrize("world", [2, 4, 8])
def test_a_sum_over_ranks_is_that_of_the_tree(world: int, size: int) -> None:
    numbers = torch.randn(world, size, dtype=torch.float32) * 10.0 ** torch.arange(world, dtype=torch.float32)[:, None]
    expected = numbers.clone()
    while len(expected) > 1:
        expected = expected[0::2] + expected[1::2]

    def add(here: int) -> str:
        join().sum_([mine := numbers[here].clone()])
        return digest([mine])

    assert results(on_ranks(world, add)) == [digest([expected[0]])] * world


def test_tensors_of_all_kinds_are_summed(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of several shapes, dtypes and memory orders, in several buckets."""
    monkeypatch.setattr("tinygpt.ranks._BUCKET", 100)
    shapes = [(3, 5), (2,), (0,), (), (4, 4, 2), (30,)]
    kinds = [torch.float32, torch.float64, torch.bfloat16]

    def add(here: int) -> list[list[float]]:
        tensors = [torch.full(shape, here + 1.0, dtype=kinds[i % 3]) for i, shape in enumerate(shapes)]
        tensors[4] = torch.full((2, 4, 4), here + 1.0).transpose(0, 2)
        join().sum_(tensors)
        return [sorted(set(tensor.flatten().tolist())) for tensor in tensors]

    for world in (2, 3):
        total = world * (world + 1) / 2
        assert results(on_ranks(world, add)) == [[[total], [total], [], [total], [total], [total]]] * world
