"""The autopilot: where to compute, and in which numbers; a wish that cannot be met is named."""

import sys
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


def default_generators(device: torch.device) -> list[torch.Generator]:
    """Return the generators that a model on the device draws from: the CPU's, and that of the device.

    They are seeded one by one, since ``torch.manual_seed`` looks after every device there might be at a cost.
    """
    generators = [torch.default_generator]
    if device.type == "cuda":
        generators.append(torch.cuda.default_generators[device.index or 0])
    elif device.type == "mps":
        generators.append(torch.mps._get_default_mps_generator())
    return generators


def choose_precision(name: str, device: torch.device, model: nn.Module) -> torch.dtype:
    """Return the number format to compute in; the weights stay in theirs.

    ``"auto"`` leaves a model whose weights are not all in float32 as it is: somebody chose otherwise.

    Raises:
        ConfigError: If the device cannot compute in it.
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
    if name == "fp16" and device.type == "cpu":
        raise ConfigError("precision must be 'auto', 'fp32' or 'bf16' on a CPU, got 'fp16'")
    return DTYPES[name]


def prepare_process() -> None:
    """Have the memory of a step stay with the process for the next one, and start PyTorch's threads.

    glibc gives freed memory back to the system once more than twice the largest block freed so far lies idle. For a
    small model that is less than a step uses, so that every step would take its memory anew, page by page: a sixth of
    its time. Freeing one large block, which is never touched, raises that limit to 62 MiB. Other allocators take no
    notice, and limits that the environment sets stay.

    Source:
        The manual page mallopt(3), M_MMAP_THRESHOLD: how the limits adapt, up to blocks of 32 MiB.
    """
    torch.empty(31 << 20, dtype=torch.uint8)
    torch.ones(1 << 16)  # enough for all threads; one that started within `flushing_denormals` would flush for ever


@contextmanager
def flushing_denormals() -> Iterator[None]:
    """Take for zero what is nearer to it than any normal number, which some processors compute many times more slowly.

    It is a setting of the calling thread, which does all that is small: a table's moments, say, where they fade away
    for the ids that do not occur. It is put back, and where the processor has none, nothing is changed.
    """
    were_flushed = sys.float_info.min / 2 == 0.0
    torch.set_flush_denormal(True)
    try:
        yield
    finally:
        torch.set_flush_denormal(were_flushed)


def _cpu_has_bf16() -> bool:
    """Say whether the processor multiplies bf16 itself; elsewhere it is emulated, at many times the cost."""
    checks = (getattr(torch.cpu, f"_is_{unit}_supported", None) for unit in ("avx512_bf16", "amx_tile"))
    return any(check is not None and check() for check in checks)
