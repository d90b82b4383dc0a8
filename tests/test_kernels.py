"""The kernels of the layers: on every branch each equals the function of PyTorch that defines it."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any
from unittest.mock import patch

import pytest
import torch
from hypothesis import example, given
from hypothesis import strategies as st
from strategies import TOLERANCE
from torch import Tensor
from torch.nn import functional as F

from tinygpt.layers import MultiHeadAttention, kernels

DTYPES = [torch.float64, torch.float32, torch.bfloat16, torch.float16]


class Packed(Tensor):
    """A weight of another kind, as quantised ones are: it takes part in whole products and in nothing else."""

    @classmethod
    def __torch_function__(cls, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if function in (Tensor.view, torch.bmm, torch.baddbmm):
            raise NotImplementedError(f"a packed weight knows no {function}")
        return super().__torch_function__(function, types, args, kwargs or {})  # type: ignore[no-untyped-call]


WEIGHTS: dict[str, Callable[[], Tensor]] = {
    "plain": lambda: torch.randn(8, 6),
    "not in four pieces": lambda: torch.randn(9, 6),
    "transposed": lambda: torch.randn(6, 8).T,
    "not contiguous": lambda: torch.randn(16, 12)[::2, ::2],
    "no inputs": lambda: torch.randn(8, 0),
    "no outputs": lambda: torch.randn(0, 6),
    "sparse": lambda: torch.randn(8, 6).to_sparse(),
    "packed": lambda: torch.randn(8, 6).as_subclass(Packed),
}
LEADING = [(), (1, 1), (3, 1), (2, 4), (0,), (2, 20)]
every_way = pytest.mark.parametrize("way", ["learning", "evaluating", "compiling"])


def check_equal(
    ours: Callable[..., Tensor], theirs: Callable[..., Tensor], inputs: Sequence[Tensor], is_learning: bool
) -> None:
    """Compare values, and gradients of dense inputs, with those of PyTorch in float64; in other dtypes nearly."""
    dtype, dense = inputs[0].dtype, [x.detach() for x in inputs if not x.is_sparse]
    exact = [x.detach() if x.is_sparse else x.detach().double() for x in inputs]
    if is_learning:
        for x in (*inputs, *exact):
            x.requires_grad_(not x.is_sparse)
    with torch.set_grad_enabled(is_learning):
        output, expected = ours(*inputs), theirs(*exact)
    eps = 8 * torch.finfo(dtype).eps
    tolerance: Any = TOLERANCE if dtype == torch.float64 else {"rtol": eps, "atol": eps * 8}
    assert output.dtype == dtype
    torch.testing.assert_close(output.double(), expected, **tolerance)
    if is_learning and len(dense) == len(inputs) and output.numel():
        weights = torch.randn(output.shape)
        found = torch.autograd.grad((output * weights.to(dtype)).sum(), list(inputs))
        wanted = torch.autograd.grad((expected * weights).sum(), exact)
        for gradient, derivative in zip(found, wanted, strict=True):
            torch.testing.assert_close(gradient.double(), derivative, **tolerance)


@contextmanager
def branches(way: str, *, multiplies_half: bool = False, has_amx: bool = False) -> Iterator[None]:
    """Take the branches of a compiler or another processor, and those of large weights for small ones."""
    with (
        patch.object(torch.compiler, "is_compiling", lambda: way == "compiling"),
        patch.multiple(kernels, _LARGE=0, _MULTIPLIES_HALF=multiplies_half, _HAS_AMX=has_amx),
    ):
        yield


@every_way
@given(
    weight=st.sampled_from(list(WEIGHTS)),
    dtype=st.sampled_from(DTYPES),
    leading=st.sampled_from(LEADING),
    has_bias=st.booleans(),
    multiplies_half=st.booleans(),
    has_amx=st.booleans(),
    seed=st.integers(0, 99),
)
@example(
    weight="plain", dtype=torch.float64, leading=(2, 4), has_bias=True, multiplies_half=False, has_amx=False, seed=0
)
def test_linear_is_that_of_pytorch(
    way: str,
    weight: str,
    dtype: torch.dtype,
    leading: tuple[int, ...],
    has_bias: bool,
    multiplies_half: bool,
    has_amx: bool,
    seed: int,
) -> None:
    """For all shapes and kinds of weights, and rows that are not contiguous."""
    torch.manual_seed(seed)
    matrix = WEIGHTS[weight]()
    if matrix.is_sparse:
        dtype, has_bias = torch.float64, False  # PyTorch has no other such product
    rows = torch.randn(*leading, 2 * matrix.shape[1])[..., ::2].to(dtype)
    inputs = [rows, matrix.to(dtype), *([torch.randn(len(matrix)).to(dtype)] if has_bias else [])]
    with branches(way, multiplies_half=multiplies_half, has_amx=has_amx):
        check_equal(lambda x, w, b=None: kernels.linear(x, w, b), F.linear, inputs, way == "learning")


@every_way
@given(
    dtype=st.sampled_from(DTYPES),
    sizes=st.tuples(*(st.integers(1, 3) for _ in range(4))),
    length=st.integers(1, 3),
    kind=st.sampled_from(["mask", "causal", "all"]),
    has_amx=st.booleans(),
    seed=st.integers(0, 99),
)
def test_attend_is_that_of_pytorch(
    way: str,
    dtype: torch.dtype,
    sizes: tuple[int, ...],
    length: int,
    kind: str,
    has_amx: bool,
    seed: int,
) -> None:
    """With a mask, the causal one or none, for values of another width, for one query, and from a cache."""
    torch.manual_seed(seed)
    batch, heads, past, width = sizes
    query, key, value = (
        torch.randn(batch, heads, *shape).to(dtype)
        for shape in ((length, width), (past + length, width), (past + length, 5))
    )
    mask = torch.ones(length, past + length, dtype=torch.bool).tril(past) if kind == "mask" else None
    with branches(way, has_amx=has_amx):
        check_equal(
            lambda q, k, v: kernels.attend(
                q, kernels.to_attend(k), kernels.to_attend(v), mask=mask, is_causal=kind == "causal"
            ),
            lambda q, k, v: F.scaled_dot_product_attention(q, k, v, mask, is_causal=kind == "causal"),
            [query, key, value],
            way == "learning",
        )


@pytest.mark.parametrize(
    ("dtype", "has_amx", "kept"),
    [
        (torch.bfloat16, False, torch.float32),
        (torch.bfloat16, True, torch.bfloat16),
        (torch.float16, True, torch.float32),
        (torch.float64, False, torch.float64),
    ],
)
def test_a_cache_keeps_what_attention_reads(dtype: torch.dtype, has_amx: bool, kept: torch.dtype) -> None:
    """In float32, unless the processor multiplies matrices of bfloat16."""
    attention = MultiHeadAttention(8, n_head=2).to(dtype)
    cache = attention.new_cache(1, 4)
    assert cache is not None
    with branches("eager", has_amx=has_amx), torch.no_grad():
        attention(torch.zeros(1, 3, 8, dtype=dtype), cache)
    assert cache.key is not None
    assert cache.key.dtype == kept
