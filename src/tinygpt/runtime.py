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


def compile_whole(function: Function) -> Function:
    """Compile a function for inputs of one size, once for calls with gradients and once for calls without.

    Kept together, a shorter window in an evaluation would turn the graph of a training step into a dynamic one.
    """
    learning = torch.compile(function, **_apart())
    evaluating = torch.compile(partial(_called, function), **_apart())

    def call(*inputs: Any, **named: Any) -> Any:
        return (learning if torch.is_grad_enabled() else evaluating)(*inputs, **named)

    return call


def _called(function: Function, *inputs: Any, **named: Any) -> Any:
    """Call a function. The compiler keeps what it makes of this one apart from what it makes of the function."""
    return function(*inputs, **named)


def compile_loops(function: Function) -> Function:
    """Compile a function that reads a single id, for a past of any length: a few plain loops over the weights.

    By default the compiler computes what enters a product anew for each row of the weights, to save a small buffer. A
    norm is then taken a thousand times over, which costs more than reading the weights. Here a value that a larger
    loop reads again and again is computed once and kept; only products are summed without being stored. What cannot
    be compiled as a whole is not compiled at all, so that nothing has happened yet when that turns out.
    """
    from torch._inductor import config  # takes a while to import

    wanted: dict[str, Any] = {
        "realize_reads_threshold": 0,  # keep whatever is read more than once
        "deterministic": True,  # from PyTorch 2.13 on, only with it a value spread over a loop counts as read again
        "cpp.enable_floating_point_contract_flag": "fast",  # multiply and add in one instruction
    }
    known = config.get_config_copy()  # another version may lack a setting, or have it as another type
    options: dict[str, Any] = {
        name: value for name, value in wanted.items() if isinstance(value, type(known.get(name)))
    }
    return torch.compile(function, fullgraph=True, dynamic=True, options=options, **_apart())


def compile_or_warn(function: Function, how: Callable[[Function], Function] = compile_whole) -> Function:
    """Return a function compiled; should compiling fail, it warns and calls the function itself from then on.

    A module is left as it is: no wrapper, no prefix in the names of its parameters.

    Args:
        function: A function or a module. Nothing is compiled before it is called.
        how: Compiles it.
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
        except Exception as error:  # compilers fail in many ways, and each means the same here
            if works and not type(error).__module__.startswith(("torch._dynamo", "torch._inductor")):
                raise  # an error of the function's own
            works = False
            warn(f"torch.compile does not work here, going on without: {cut(str(error))}")
            return function(*inputs, **named)
        works = True
        return output

    return call


def _apart() -> dict[str, Any]:
    """Return the setting that keeps models apart: else all share one small store, and the ninth is not compiled."""
    return {"isolate_recompiles": True} if "isolate_recompiles" in signature(torch.compile).parameters else {}


def keep_freed_memory() -> None:
    """Have the memory of a step stay with the process for the next one.

    glibc gives the free end of its heap back to the system once that is larger than twice the largest block that was
    mapped by itself and freed. A step of a small model frees more, and the next would take its memory anew, page by
    page. Freeing a block of 31 MiB, which is never touched, raises the limit to 62 MiB. Other allocators take no
    notice, and limits that the environment sets stay.

    Source:
        The manual page mallopt(3), M_MMAP_THRESHOLD: how the limits adapt, up to blocks of 32 MiB.
    """
    torch.UntypedStorage(31 << 20)  # not a tensor: those are filled where all is to be deterministic


@contextmanager
def flushing_denormals() -> Iterator[None]:
    """Take for zero what is nearer to it than any normal number, which some processors compute many times more slowly.

    It is a setting of the calling thread, which computes alone whatever has fewer than 32,768 elements, and shares the
    rest. It is put back, and where the processor has none, nothing is changed.
    """
    torch.ones(1 << 16, device="cpu")  # starts all threads: one that starts within would keep the setting for ever
    were_flushed = sys.float_info.min / 2 == 0.0
    torch.set_flush_denormal(True)
    try:
        yield
    finally:
        torch.set_flush_denormal(were_flushed)


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
