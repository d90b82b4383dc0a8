"""Operations of the layers, computed in the fastest way that this device has.

Each equals one function of PyTorch, which its docstring names. No other file of the layers depends on device, item
size, autocast, compiling or tracing.
"""

import torch
from jaxtyping import Float, Int8
from torch import Tensor, nn
from torch.nn import functional as F

_PIECES = 4  # number of products that the weights are split into, so that several cores read them
_FEW_ROWS = range(1, 33)  # with more, arithmetic takes longer than reading the weights
_LARGE = 1 << 18  # number of weights from which a second core pays
# Whether the processor multiplies matrices of bfloat16. Then it attends in 16 bits, and pieces gain nothing.
_HAS_AMX = getattr(torch.cpu, "_is_amx_tile_supported", lambda: False)()
# Whether the processor multiplies float16; otherwise PyTorch's loops take longer than a copy in float32.
_MULTIPLIES_HALF = getattr(torch.ops.mkldnn, "_is_mkldnn_fp16_supported", lambda: False)()
# Whether PyTorch has vectorised loops over int8 weights; its other loops take longer than a copy in float32.
_HAS_INT8 = torch.backends.cpu.get_cpu_capability().startswith("AVX")
_MOST_ROWS_INT8 = 16  # with more, a copy in float32 takes less time
_LANES = 16  # numbers that these loops read at once, from an address that must be a multiple of it


def sizes_are_known() -> bool:
    """Return whether sizes can be compared: :func:`torch.jit.trace` records them as tensors."""
    return not torch.jit.is_tracing()  # type: ignore[attr-defined, no-untyped-call] # public, but not listed


def linear(x: Float[Tensor, "*leading C"], weight: Tensor, bias: Tensor | None) -> Float[Tensor, "*leading K"]:
    """Multiply by a matrix and add a bias: :func:`torch.nn.functional.linear`."""
    if torch.is_grad_enabled() or not x.is_cpu or torch.is_autocast_enabled("cpu") or not sizes_are_known():
        return F.linear(x, weight, bias)
    return (_linear_compiled if torch.compiler.is_compiling() else _linear_on_cpu)(x, weight, bias)


def _linear_on_cpu(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    numbers = x.numel()
    if type(numbers) is not int:  # symbolic, in a fake tensor
        return F.linear(x, weight, bias)
    count = numbers // (x.size(-1) or 1)
    if x.dtype == weight.dtype == torch.float16 and not _MULTIPLIES_HALF and count > 4:
        return _linear_on_cpu(x.float(), weight.float(), None if bias is None else bias.float()).half()
    if _HAS_AMX or count not in _FEW_ROWS or weight.numel() < _LARGE or weight.itemsize < 4:
        return F.linear(x, weight, bias)
    if len(weight) % _PIECES or not _is_plain(x, weight, bias):
        return F.linear(x, weight, bias)
    # Reading the weights takes longest, and PyTorch reads them with one core. Cores share a batch of products.
    rows, pieces = x.reshape(1, -1, x.shape[-1]).expand(_PIECES, -1, -1), weight.view(_PIECES, -1, x.shape[-1]).mT
    product = torch.bmm(rows, pieces) if bias is None else torch.baddbmm(bias.view(_PIECES, 1, -1), rows, pieces)
    return product.transpose(0, 1).reshape(*x.shape[:-1], len(weight))


def _linear_compiled(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    # An export must not compare the number of rows: a dynamic length would become a constant.
    if torch.compiler.is_exporting() or x.numel() != x.shape[-1] or not _is_plain(x, weight, bias):
        return F.linear(x, weight, bias)
    product = (weight * x.reshape(1, -1)).sum(dim=-1)  # compiles to one loop over the weights
    return (product if bias is None else product + bias).view(*x.shape[:-1], weight.shape[0])


def linear_int8(
    x: Float[Tensor, "*leading C"], weight: Int8[Tensor, "K C"], scale: Float[Tensor, " K"], bias: Tensor | None
) -> Float[Tensor, "*leading K"]:
    """Multiply by int8 rows with a scale each: :func:`torch.nn.functional.linear` of ``weight * scale[:, None]``.

    Without gradients on a CPU, few rows in float32 are rounded to bfloat16.
    """
    if _multiplies_int8(x, weight, scale):
        product = _multiply_int8(x, weight, scale)
        return product if bias is None else product + bias
    return F.linear(x, weight * scale.to(x.dtype)[:, None], bias)


def _multiply_int8(x: Tensor, weight: Tensor, scale: Tensor) -> Tensor:
    rows = x.reshape(-1, weight.shape[1]).to(torch.bfloat16, memory_format=torch.contiguous_format)
    product = torch.ops.aten._weight_int8pack_mm(rows, weight, scale).to(x.dtype)
    return product.view(*x.shape[:-1], weight.shape[0])


def _multiplies_int8(x: Tensor, weight: Tensor, scale: Tensor) -> bool:
    """Return whether PyTorch's loops over int8 weights are faster, and safe: they read beyond other shapes."""
    if torch.is_grad_enabled() or not x.is_cpu or torch.is_autocast_enabled("cpu") or not sizes_are_known():
        return False
    is_compiling = torch.compiler.is_compiling()
    return (
        _HAS_INT8
        # an export must not compare the number of rows: a dynamic length would become a constant
        and not torch.compiler.is_exporting()
        and (is_compiling or (type(x) is Tensor and not x.is_nested))
        and x.dtype is torch.float32
        and scale.dtype is torch.bfloat16
        and weight.shape[1] % _LANES == 0
        and 0 < x.numel() <= _MOST_ROWS_INT8 * weight.shape[1]
        and x.shape[-1] == weight.shape[1]
        and (is_compiling or (weight.is_contiguous() and weight.data_ptr() % _LANES == 0))
    )


def _is_plain(x: Tensor, weight: Tensor, bias: Tensor | None) -> bool:
    """Return whether these are dense tensors of the usual shapes, neither empty nor broadcast."""
    return (
        type(x) is Tensor
        and type(weight) in (nn.Parameter, Tensor)
        and weight.layout is torch.strided
        and not x.is_nested
        and x.dtype == weight.dtype
        and weight.ndim == 2
        and weight.numel() > 0
        and weight.shape[1] == x.shape[-1]
        and (bias is None or bias.shape == weight.shape[:1])
    )


def attend(
    query: Float[Tensor, "B H T D"],
    key: Float[Tensor, "B H S D"],
    value: Float[Tensor, "B H S E"],
    *,
    mask: Tensor | None = None,
    dropout: float = 0.0,
    is_causal: bool = False,
) -> Float[Tensor, "B H T E"]:
    """Average values by scores: :func:`torch.nn.functional.scaled_dot_product_attention`."""
    if (wide := _dtype_to_attend_in(query)) != query.dtype or torch.is_autocast_enabled("cpu"):
        with torch.autocast("cpu", enabled=False):
            mixed = attend(
                query.to(wide), key.to(wide), value.to(wide), mask=mask, dropout=dropout, is_causal=is_causal
            )
        return mixed.to(query.dtype)
    # An export must not compare the length: a dynamic one would become a constant.
    is_plain = query.is_cpu and mask is None and not (dropout or is_causal) and torch.compiler.is_compiling()
    if is_plain and not torch.compiler.is_exporting() and query.shape[2] == 1:
        scores = (query * query.shape[-1] ** -0.5 * key).sum(dim=-1)  # B H S, compiles to two short loops
        return (scores.softmax(dim=-1).unsqueeze(-1) * value).sum(dim=2, keepdim=True)
    return F.scaled_dot_product_attention(query, key, value, mask, dropout, is_causal)


def to_attend(x: Float[Tensor, "B H T D"]) -> Float[Tensor, "B H T D"]:
    """Convert keys or values to the dtype that :func:`attend` computes in, so that a cache keeps them converted."""
    return x.to(_dtype_to_attend_in(x))


def _dtype_to_attend_in(x: Tensor) -> torch.dtype:
    """Return float32 instead of 16 bits on a CPU, which is faster, except where it multiplies matrices of bfloat16."""
    if not x.is_cpu:
        return x.dtype
    narrow = torch.get_autocast_dtype("cpu") if torch.is_autocast_enabled("cpu") else x.dtype
    if _HAS_AMX and narrow == torch.bfloat16 and not torch.is_grad_enabled():
        return narrow
    return torch.promote_types(x.dtype, torch.float32)
