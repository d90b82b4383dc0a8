"""The machine: device, precision and compiling, denormal floats, freed memory, and PyTorch's generators."""

import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from inspect import signature
from typing import Any

import torch
from torch import nn

from tinygpt.errors import ConfigError, DeviceError, cut, short, warn

DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}
Function = Callable[..., Any]
_GENERATORS = threading.RLock()  # PyTorch's default generators belong to all threads


def available_devices() -> list[str]:
    """Return the names of the devices of this machine, the one that ``"auto"`` takes first."""
    devices = [f"cuda:{index}" for index in range(torch.cuda.device_count())] if torch.cuda.is_available() else []
    return devices + ["mps"] * torch.backends.mps.is_available() + ["cpu"]


def choose_device(name: str = "auto", *, local: int | None = None) -> torch.device:
    """Return the device of that name; ``"auto"`` takes the first available of CUDA, MPS, CPU.

    Args:
        name: The name.
        local: Number of this process, if several share the machine: each then gets the GPU of its number.

    Raises:
        ConfigError: If several processes name one GPU.
        DeviceError: If the device is not available; the message lists the available ones.
    """
    available = available_devices()
    if local is not None and name.startswith("cuda:"):
        raise ConfigError(f"device must leave the number to each of several processes, got {name!r}; use device='cuda'")
    if local is not None and (name == "cuda" or (name == "auto" and available[0].startswith("cuda"))):
        torch.cuda.set_device(own := choose_device(f"cuda:{local}"))
        return own
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
    """Return the CPU's instruction set or the name of the GPU; the last digits of a result depend on it."""
    return torch.cuda.get_device_name(device) if device.type == "cuda" else torch.backends.cpu.get_cpu_capability()


def choose_precision(name: str, device: torch.device, model: nn.Module) -> torch.dtype:
    """Return the dtype to compute products in; the weights keep theirs.

    ``"auto"`` turns autocast off for a model with weights in another dtype than float32, which its user chose.

    Raises:
        ConfigError: If the device does not support the dtype, or the weights are in 16 bits already.
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
    """Return whether the CPU has bf16 instructions; without them bf16 is emulated and slow."""
    checks = (getattr(torch.cpu, f"_is_{unit}_supported", None) for unit in ("avx512_bf16", "amx_tile"))
    return any(check is not None and check() for check in checks)


def compile_whole(function: Function, *, record: bool = False) -> Function:
    """Compile a function for inputs of one size, separately with and without gradients.

    Compiled together, a shorter window in an evaluation would make the graph of a training step dynamic.

    Args:
        function: The function.
        record: Whether to record the kernels of a GPU once, as CUDA graphs, and then start them together. Starting them
            one by one takes longer than a small model computes. The output of a call, and the gradients of its backward
            pass, last until the next call.
    """
    options: dict[str, Any] | None = {"triton.cudagraphs": True} if record else None
    learning = torch.compile(function, options=options, **_apart())
    evaluating = torch.compile(partial(_called, function), options=options, **_apart())

    def call(*inputs: Any, **named: Any) -> Any:
        return (learning if torch.is_grad_enabled() else evaluating)(*inputs, **named)

    return call


def _called(function: Function, *inputs: Any, **named: Any) -> Any:
    """Call a function; the compiler caches this wrapper apart from the function."""
    return function(*inputs, **named)


def compile_loops(function: Function) -> Function:
    """Compile a function that reads a single token, for a past of any length.

    By default the compiler recomputes the input of a product for each row of the weights, to save a small buffer. A
    norm is then computed a thousand times, which costs more than reading the weights. With these options a value that a
    larger loop reads repeatedly is computed once and stored. A function that does not compile as a whole is not
    compiled at all.
    """
    from torch._inductor import config  # takes a while to import

    wanted: dict[str, Any] = {
        "realize_reads_threshold": 0,  # store every value that is read more than once
        "deterministic": True,  # needed from PyTorch 2.13 on for a broadcast value to count as read again
        "cpp.enable_floating_point_contract_flag": "fast",  # multiply and add in one instruction
    }
    known = config.get_config_copy()  # other versions lack some settings, or have them as another type
    options: dict[str, Any] = {
        name: value for name, value in wanted.items() if isinstance(value, type(known.get(name)))
    }
    return torch.compile(function, fullgraph=True, dynamic=True, options=options, **_apart())


def compile_or_warn(function: Function, how: Callable[[Function], Function] = compile_whole) -> Function:
    """Return the compiled function; if compiling fails, warn once and call the function itself.

    A module keeps its class and the names of its parameters. Nothing is compiled before the first call.
    """
    compiled: Function | None = None
    works: bool | None = None

    def call(*inputs: Any, **named: Any) -> Any:
        nonlocal compiled, works
        if works is False:
            return function(*inputs, **named)
        try:
            if compiled is None:
                compiled = how(function)
            output = compiled(*inputs, **named)
        except Exception as error:  # compilers raise errors of many types
            if works and not type(error).__module__.startswith(("torch._dynamo", "torch._inductor")):
                raise  # an error of the function itself
            works = False
            warn(f"torch.compile does not work here, going on without: {cut(str(error))}")
            return function(*inputs, **named)
        works = True
        return output

    return call


def _apart() -> dict[str, Any]:
    """Return the option that gives each model its own cache: a shared one is full after eight models."""
    return {"isolate_recompiles": True} if "isolate_recompiles" in signature(torch.compile).parameters else {}


def keep_freed_memory() -> None:
    """Let the process keep the memory that a step frees, for the next step.

    glibc returns the free end of its heap to the system when it exceeds twice the largest block that was mapped
    separately and freed. A step of a small model frees more, and the next step would request it again page by page.
    Freeing an untouched block of 31 MiB raises the limit to 62 MiB. Other allocators and limits that the environment
    sets are not affected.

    Source:
        The manual page mallopt(3), M_MMAP_THRESHOLD: how the limits adapt, up to blocks of 32 MiB.
    """
    torch.UntypedStorage(31 << 20)  # a tensor would be filled in deterministic mode


@contextmanager
def flushing_denormals() -> Iterator[None]:
    """Treat denormal floats as zero inside the block; many CPUs compute with them far more slowly.

    The setting belongs to the calling thread, which computes small tensors alone. It is restored afterwards. On a CPU
    without the setting nothing changes.
    """
    torch.ones(1 << 16, device="cpu")  # starts the worker threads, which would otherwise inherit the setting
    were_flushed = sys.float_info.min / 2 == 0.0
    torch.set_flush_denormal(True)
    try:
        yield
    finally:
        torch.set_flush_denormal(were_flushed)


@contextmanager
def drawing_from(seed: int, device: torch.device) -> Iterator[None]:
    """Seed PyTorch's generators of the CPU and the device inside the block, and restore them afterwards.

    The generators are seeded directly, because ``torch.manual_seed`` also visits all other devices. One thread at a
    time is in such a block.
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
