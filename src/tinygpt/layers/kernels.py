"""The operations that layers share, each computed in the way that is quickest on the device.

Each equals one function of PyTorch. No other file of the layers asks for device, item size, autocast or compiler.
"""

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F

_PIECES = 4  # how many products the weights are cut into, so that several cores read them at once
_FEW_ROWS = range(5, 33)  # with fewer PyTorch is quicker, with more arithmetic takes longer than reading the weights
_LARGE = 1 << 17  # weights: fewer are read before another core has begun
# Whether the processor has products in float16; else PyTorch's own loops take longer than a copy in float32.
_MULTIPLIES_HALF = getattr(torch.ops.mkldnn, "_is_mkldnn_fp16_supported", lambda: False)()


def sizes_are_known() -> bool:
    """Return whether sizes can be compared; :func:`torch.jit.trace` records them as tensors."""
    return not torch.jit.is_tracing()  # type: ignore[attr-defined, no-untyped-call] # public, but not listed


def linear(x: Float[Tensor, "*leading C"], weight: Tensor, bias: Tensor | None) -> Float[Tensor, "*leading K"]:
    """Multiply by a matrix and add a bias: :func:`torch.nn.functional.linear`."""
    if torch.is_grad_enabled() or not x.is_cpu or torch.is_autocast_enabled("cpu") or not sizes_are_known():
        return F.linear(x, weight, bias)
    return (_linear_compiled if torch.compiler.is_compiling() else _linear_on_cpu)(x, weight, bias)


def _linear_on_cpu(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    numbers = x.numel()
    if type(numbers) is not int:  # a symbol of a fake tensor
        return F.linear(x, weight, bias)
    count = numbers // (x.size(-1) or 1)
    if x.dtype == weight.dtype == torch.float16 and not _MULTIPLIES_HALF and count >= _FEW_ROWS.start:
        return _linear_on_cpu(x.float(), weight.float(), None if bias is None else bias.float()).half()
    if count not in _FEW_ROWS or weight.numel() < _LARGE or weight.itemsize < 4:  # PyTorch's own is quick
        return F.linear(x, weight, bias)
    if len(weight) % _PIECES or not _is_plain(x, weight, bias):
        return F.linear(x, weight, bias)
    # A product with few rows is bound by reading the weights, which PyTorch does with one core. A batch of products
    # of pieces of the weights is shared by the cores.
    rows, pieces = x.reshape(1, -1, x.shape[-1]).expand(_PIECES, -1, -1), weight.view(_PIECES, -1, x.shape[-1]).mT
    product = torch.bmm(rows, pieces) if bias is None else torch.baddbmm(bias.view(_PIECES, 1, -1), rows, pieces)
    return product.transpose(0, 1).reshape(*x.shape[:-1], len(weight))


def _linear_compiled(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    # The number of rows is not asked for in an export: a length that is free would become a fixed one.
    if torch.compiler.is_exporting() or x.numel() != x.shape[-1] or not _is_plain(x, weight, bias):
        return F.linear(x, weight, bias)
    product = (weight * x.reshape(1, -1)).sum(dim=-1)  # a compiler makes one loop over the weights of this
    return (product if bias is None else product + bias).view(*x.shape[:-1], weight.shape[0])


def _is_plain(x: Tensor, weight: Tensor, bias: Tensor | None) -> bool:
    """Return whether these are dense tensors of the usual shapes, where a product of pieces is that of the whole."""
    return (
        type(x) is Tensor
        and type(weight) in (nn.Parameter, Tensor)
        and weight.layout is torch.strided
        and not x.is_nested
        and x.dtype == weight.dtype
        and weight.ndim == 2
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
    if query.is_cpu and (query.dtype == torch.float16 or torch.is_autocast_enabled("cpu")):
        # Both are slow there in 16 bits, the gradient most of all.
        wide = torch.promote_types(query.dtype, torch.float32)
        with torch.autocast("cpu", enabled=False):
            mixed = attend(
                query.to(wide), key.to(wide), value.to(wide), mask=mask, dropout=dropout, is_causal=is_causal
            )
        return mixed.to(query.dtype)
    # The length is asked for last, and not in an export: one that is free would become a fixed one.
    is_plain = query.is_cpu and mask is None and not (dropout or is_causal) and torch.compiler.is_compiling()
    if is_plain and not torch.compiler.is_exporting() and query.shape[2] == 1:
        scores = (query * query.shape[-1] ** -0.5 * key).sum(dim=-1)  # B H S, of which a compiler makes two short loops
        return (scores.softmax(dim=-1).unsqueeze(-1) * value).sum(dim=2, keepdim=True)
    return F.scaled_dot_product_attention(query, key, value, mask, dropout, is_causal)
