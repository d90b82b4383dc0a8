"""The machine: a step finds its memory again, flushes denormals, and what cannot be compiled is called as it is."""

import subprocess
import sys
from collections.abc import Callable
from typing import Any

import faults
import pytest
import torch
from faults import broken_by
from torch import nn

from tinygpt import BigramLanguageModel, CharTokenizer, Sampler, TokenDataset, Trainer, TrainerConfig
from tinygpt.runtime import compile_loops, compile_or_warn

DATA = TokenDataset([n % 3 for n in range(90)])
flushes = pytest.mark.skipif(not torch.set_flush_denormal(False), reason="the processor cannot flush denormals")


def make_trainer(**options: Any) -> Trainer:
    how = TrainerConfig(max_iters=6, batch_size=1, preview_tokens=0)
    return Trainer(BigramLanguageModel(3), DATA, how, **options)


# --- memory -----------------------------------------------------------------------------------------------------------

ASKED = """
import os
from resource import RUSAGE_SELF, getrusage
import torch
from tinygpt.runtime import keep_freed_memory

def nothing():
    pass

def deterministic():
    torch.use_deterministic_algorithms(True)
    keep_freed_memory()

def on_meta():
    torch.set_default_device("meta")
    keep_freed_memory()

for prepare in (nothing, keep_freed_memory, deterministic, on_meta):
    child = os.fork()
    if child:
        os.waitpid(child, 0)
        continue
    prepare()
    for _ in range(2):
        before = getrusage(RUSAGE_SELF).ru_minflt
        blocks = [torch.ones(1 << 14, device="cpu") for _ in range(640)]  # too small to be mapped one by one
        blocks.clear()
    os.write(1, f"{getrusage(RUSAGE_SELF).ru_minflt - before} ".encode())
    os._exit(0)
"""


def test_memory_that_was_freed_is_used_again() -> None:
    """A process that has freed 40 MiB asks the system for fewer pages when it needs as much again."""
    pytest.importorskip("resource", reason="the system does not say what it was asked for")
    plain, *kept = map(int, subprocess.check_output([sys.executable, "-c", ASKED]).split())
    if plain < 5000:
        pytest.skip("the allocator kept freed memory without being asked")
    assert len(kept) == 3
    assert max(kept) < plain / 5


@pytest.mark.parametrize(
    ("place", "act"),
    [
        ("training.trainer", lambda: next(iter(make_trainer()))),
        (
            "sampling.sampler",
            lambda: Sampler(BigramLanguageModel(3), CharTokenizer("abc")).generate("a", max_new_tokens=1),
        ),
    ],
    ids=["trainer", "sampler"],
)
def test_trainer_and_sampler_keep_memory(place: str, act: Callable[[], Any], monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[bool] = []
    monkeypatch.setattr(f"tinygpt.{place}.keep_freed_memory", lambda: calls.append(True))
    act()
    assert calls


# --- denormals --------------------------------------------------------------------------------------------------------

THREADS = """
import threading
import torch
from tinygpt.runtime import flushing_denormals

def count():
    return int((torch.full((1 << 21,), torch.finfo(torch.float32).tiny) / 2 > 0).sum())

def enter():
    with flushing_denormals():
        print(count())

torch.set_num_threads(2)
enter()
print(count())
torch.set_num_threads(4)
enter()
print(count())
other = threading.Thread(target=lambda: (enter(), print(count())))
other.start()
other.join()
"""


def are_zero() -> bool:
    """Say whether denormals count as zero."""
    return (torch.tensor([torch.finfo(torch.float64).tiny], dtype=torch.float64) / 2).item() == 0.0


@broken_by(faults.denormals_computed, faults.denormals_flushed_after_the_step, only="False")
@flushes
@pytest.mark.parametrize("before", [False, True])
def test_denormals_are_zero_within_a_step_only(before: bool) -> None:
    """Within a step they are zero; around it, and after a step that failed, they are what they were."""

    class Failing(torch.optim.SGD):
        def step(self, *arguments: Any) -> None:  # type: ignore[override] # returns nothing, as the trainer needs nothing
            within.append(are_zero())
            if len(within) == 4:
                raise ZeroDivisionError

    within: list[bool] = []
    around: list[bool] = []
    trainer = make_trainer(make_optimizer=lambda model: Failing(model.parameters(), lr=0.1))
    torch.set_flush_denormal(before)
    try:
        with pytest.raises(ZeroDivisionError):
            around.extend(are_zero() for _ in trainer)
        around.append(are_zero())
    finally:
        torch.set_flush_denormal(False)
    assert around == [before] * 4
    assert within == [True] * 4


@flushes
def test_no_thread_started_in_a_step_keeps_flushing_denormals() -> None:
    counts = list(map(int, subprocess.check_output([sys.executable, "-c", THREADS]).split()))
    assert max(counts[::2]) < 1 << 21, "within"
    assert counts[1::2] == [1 << 21] * 3, "after"


# --- compiling --------------------------------------------------------------------------------------------------------


def test_an_error_of_the_model_is_not_one_of_the_compiler(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch, "compile", lambda model, **options: model)
    call = compile_or_warn(nn.Linear(2, 2))
    call(torch.zeros(1, 2))
    with pytest.raises(RuntimeError):
        call(torch.zeros(1, 3))


def test_what_is_compiled_is_asked_for_no_truth_value(monkeypatch: pytest.MonkeyPatch) -> None:
    class Compiled:
        calls = 0

        def __call__(self, *inputs: Any) -> Any:
            self.calls += 1
            return inputs

        def __len__(self) -> int:  # as PyTorch's own wrapper
            raise TypeError("does not support len()")

    compiled = Compiled()
    monkeypatch.setattr(torch, "compile", lambda model, **options: compiled)
    call = compile_or_warn(nn.Linear(2, 2))
    assert call(1) == call(1) == (1,)
    assert compiled.calls == 2


def test_a_compiler_that_fails_is_a_warning() -> None:
    """The function is called once."""

    def broken(function: Any) -> Any:
        raise ImportError("no compiler in this build")

    calls: list[int] = []
    call = compile_or_warn(calls.append, broken)
    with pytest.warns(UserWarning, match="going on without: .*no compiler in this build"):
        call(1)
    call(2)
    assert calls == [1, 2]


def test_a_compiler_that_fails_at_a_later_call_is_a_warning_too() -> None:
    class CompilerError(RuntimeError):
        __module__ = "torch._inductor.exc"

    def only_once(function: Any) -> Any:
        def compiled(number: int) -> int:
            if number > 1:
                raise CompilerError("another size does not compile")
            return number

        return compiled

    call = compile_or_warn(lambda number: -number, only_once)
    assert call(1) == 1
    with pytest.warns(UserWarning, match="going on without: .*another size does not compile"):
        assert call(2) == -2
    assert call(1) == -1


def test_settings_that_the_compiler_lacks_are_left_out(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Also those that it has as another type."""

    class Older:
        @staticmethod
        def get_config_copy() -> dict[str, Any]:
            return {"realize_reads_threshold": 4, "cpp.enable_floating_point_contract_flag": False}

    def watch(function: Any, *, options: dict[str, Any], **others: Any) -> Any:
        assert options == {"realize_reads_threshold": 0}
        return function

    monkeypatch.setattr("torch._inductor.config", Older)
    monkeypatch.setattr(torch, "compile", watch)
    assert compile_loops(abs) is abs
