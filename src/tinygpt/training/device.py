"""Where to compute, in which numbers, and what a model there draws from; a wish that cannot be met is named."""

import threading
from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import nn

from tinygpt.errors import ConfigError, DeviceError, short

DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}


def choose_device(name: str = "auto") -> torch.device:
    """Return the device of that name; for ``"auto"`` the best that is there: CUDA, MPS, CPU.

    Raises:
        DeviceError: If it is not on this machine, with those that are.
    """
    available = ["cpu"]
    if torch.backends.mps.is_available():
        available.insert(0, "mps")
    available[:0] = [f"cuda:{index}" for index in range(torch.cuda.device_count())] if torch.cuda.is_available() else []
    if name == "auto":
        return torch.device(available[0])
    try:
        device = torch.device(name)
    except (RuntimeError, TypeError):
        device = None
    wanted = None if device is None else f"{device.type}:{device.index or 0}" if device.type == "cuda" else device.type
    if device is None or wanted not in available:
        raise DeviceError(f"device must be one of {available}, got {short(name)}; use device='auto' or device='cpu'")
    return device


def name_hardware(device: torch.device) -> str:
    """Return the name of the processor's instruction set or of the GPU: another one may give other last digits."""
    return torch.cuda.get_device_name(device) if device.type == "cuda" else torch.backends.cpu.get_cpu_capability()


_GENERATORS = threading.RLock()  # PyTorch's default generators belong to all threads


@contextmanager
def drawing_from(seed: int, device: torch.device) -> Iterator[None]:
    """Let what a model on the device draws in the block follow from a seed, and put PyTorch's generators back.

    They are seeded one by one, since ``torch.manual_seed`` looks after every device there might be at a cost. Only one
    thread at a time is in such a block: the others wait.
    """
    generators = [torch.default_generator]
    if device.type == "cuda":
        generators.append(torch.cuda.default_generators[device.index or 0])
    elif device.type == "mps":
        generators.append(torch.mps._get_default_mps_generator())
    with _GENERATORS:
        states = [generator.get_state() for generator in generators]
        try:
            for generator in generators:
                generator.manual_seed(seed)
            yield
        finally:
            for generator, state in zip(generators, states, strict=True):
                generator.set_state(state)


def choose_precision(name: str, device: torch.device, model: nn.Module) -> torch.dtype:
    """Return the number format to compute in; the weights stay in theirs.

    ``"auto"`` leaves a model whose weights are not all in float32 as it is: somebody chose otherwise.

    Raises:
        ConfigError: If the device cannot compute in it, or the model cannot be computed in another than its own.
    """
    if name == "auto":
        if any(parameter.dtype != torch.float32 for parameter in model.parameters()):
            return torch.float32
        if device.type == "cpu":
            return torch.bfloat16 if _cpu_has_bf16() else torch.float32
        if device.type != "cuda":
            return torch.float32
        native = torch.cuda.is_bf16_supported(including_emulation=False)  # emulated bf16, as on a T4, is slower
        return torch.bfloat16 if native else torch.float16
    if name != "fp32" and any(parameter.itemsize < 4 for parameter in model.parameters()):
        raise ConfigError(f"precision must be 'auto' or 'fp32' for weights in 16 bits, got {name!r}; use model.float()")
    if name == "fp16" and device.type == "cpu":
        raise ConfigError("precision must be 'auto', 'fp32' or 'bf16' on a CPU, got 'fp16'")
    return DTYPES[name]


def _cpu_has_bf16() -> bool:
    """Say whether the processor multiplies bf16 itself; elsewhere it is emulated, at many times the cost."""
    checks = (getattr(torch.cpu, f"_is_{unit}_supported", None) for unit in ("avx512_bf16", "amx_tile"))
    return any(check is not None and check() for check in checks)
