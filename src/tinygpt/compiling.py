"""Compiling where it works: what cannot be compiled is called as it is, after one warning."""

from collections.abc import Callable
from functools import partial
from inspect import signature
from typing import Any

import torch

from tinygpt.errors import cut, warn

Function = Callable[..., Any]
# Whether torch.jit.trace records what is called: sizes are tensors then, and comparing them would be a warning.
is_tracing: Callable[[], bool] = torch.jit.is_tracing  # type: ignore[attr-defined] # public, but not listed
# Whether a program is being exported, where no size of an input may be asked for. From PyTorch 2.7 on.
is_exporting: Callable[[], bool] = getattr(torch.compiler, "is_exporting", lambda: False)


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
