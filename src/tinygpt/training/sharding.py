"""Share the weights of a model out among the processes, by PyTorch's ``fully_shard``.

Each process holds some rows of every weight, of its gradient, and of its state in the optimizer. A block gathers its
weights when it computes, and frees them afterwards.
"""

from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import chain
from typing import Any

import torch
from torch import nn

from tinygpt.errors import ConfigError, listed, warn
from tinygpt.models import LanguageModel
from tinygpt.ranks import Ranks


def check_shardable(model: LanguageModel, device: torch.device, dtype: torch.dtype) -> None:
    """Raise unless a model can be sharded.

    Raises:
        ConfigError: If products are in fp16, a parameter has no rows or another dtype than the others, or the device is
            neither a CPU nor CUDA.
    """
    if dtype == torch.float16:
        raise ConfigError("precision must be 'bf16' or 'fp32' with shard=True, got 'fp16'")
    if device.type not in ("cpu", "cuda"):
        raise ConfigError(f"device must be 'cpu' or 'cuda' with shard=True, got {str(device)!r}")
    if scalars := [name for name, parameter in model.named_parameters() if not parameter.ndim]:
        raise ConfigError(
            f"parameters must have at least one dimension with shard=True, got the scalar {listed(scalars)}; give it "
            "the shape (1,)"
        )
    if len(dtypes := {str(parameter.dtype) for parameter in model.parameters()}) > 1:
        raise ConfigError(
            f"parameters must have one dtype with shard=True, got {' and '.join(sorted(dtypes))}; use model.float()"
        )


def shard(model: LanguageModel, ranks: Ranks, device: torch.device, dtype: torch.dtype) -> None:
    """Leave each process its rows of the weights. A single process keeps them whole, with a warning.

    Gradients are added over the processes, in float32 at least. Each block gathers its weights in the dtype of the
    products; the other weights, such as tables and LM head, keep theirs.

    Args:
        model: The model, with the same weights in all processes.
        ranks: The processes.
        device: Device of the model.
        dtype: Dtype of products under autocast; float32 turns autocast off.
    """
    if ranks.world == 1:
        warn("shard=True needs several processes to share the weights, got 1, which holds them whole; use torchrun")
        return
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.fsdp import MixedPrecisionPolicy, fully_shard

    mesh = init_device_mesh(device.type, (ranks.world,))
    policy = MixedPrecisionPolicy()
    if dtype != torch.float32:
        policy = MixedPrecisionPolicy(param_dtype=dtype, reduce_dtype=torch.float32, cast_forward_inputs=False)
    blocks = separate_blocks(model)
    for part in (*blocks, model):  # the model takes the rest
        sharded: Any = fully_shard(part, mesh=mesh, mp_policy=MixedPrecisionPolicy() if part is model else policy)
        sharded.set_gradient_divide_factor(1.0)  # each process computes its part of the loss, not a mean of its own
        type(part).__name__ = type(part).__mro__[2].__name__  # files describe a model by the names of its classes
    # Weights outside the blocks stay gathered until the backward pass; without one they are freed here.
    model.register_forward_hook(lambda *_: None if torch.is_grad_enabled() else sharded.reshard())


def separate_blocks(model: LanguageModel) -> list[nn.Module]:
    """Return the blocks of a model that share no parameter with each other or with the rest.

    They are the modules in the attribute ``blocks``; a model without one has none.
    """
    blocks = getattr(model, "blocks", None)
    if not isinstance(blocks, nn.ModuleList):
        return []
    others = [child for child in model.children() if child is not blocks]
    outside = {id(p) for part in others for p in part.parameters()} | set(map(id, model.parameters(recurse=False)))
    owners = Counter(chain(outside, *({id(p) for p in block.parameters()} for block in blocks)))
    return [block for block in blocks if all(owners[id(p)] == 1 for p in block.parameters())]


@contextmanager
def readable(model: Any) -> Iterator[None]:
    """Gather the weights outside the blocks, so that ``compute_logits`` can be called inside the block."""
    model.unshard()
    try:
        yield
    finally:
        model.reshard()
