"""The process: a step finds its memory again, and takes denormals for zero while it lasts."""

import subprocess
import sys
from collections.abc import Callable
from typing import Any

import pytest
import torch

from tinygpt import BigramLanguageModel, CharTokenizer, Sampler, TokenDataset, Trainer, TrainerConfig

DATA = TokenDataset([n % 3 for n in range(90)])
flushes = pytest.mark.skipif(not torch.set_flush_denormal(False), reason="the processor cannot flush denormals")


def make_trainer(**options: Any) -> Trainer:
    how = TrainerConfig(max_iters=6, batch_size=1, sample_length=0)
    return Trainer(BigramLanguageModel(3, block_size=8), DATA, how, **options)


# --- memory -----------------------------------------------------------------------------------------------------------

ASKED = """
from resource import RUSAGE_SELF, getpagesize, getrusage
import torch
from tinygpt.process import keep_freed_memory

SETTING
for _ in range(3):
    before = getrusage(RUSAGE_SELF).ru_minflt
    blocks = [torch.ones(1 << 18, device="cpu") for _ in range(40)]
    blocks.clear()
print((getrusage(RUSAGE_SELF).ru_minflt - before) * getpagesize() / (1 << 20))
"""


def asked_again(setting: str) -> float:
    """Return how many of 40 MiB a fresh process asks the system for after it has freed as much."""
    return float(subprocess.check_output([sys.executable, "-c", ASKED.replace("SETTING", setting)]))


def test_memory_that_was_freed_is_used_again() -> None:
    pytest.importorskip("resource", reason="the system does not say what it was asked for")
    if asked_again("") < 20:
        pytest.skip("the allocator of this system keeps memory by itself")
    assert asked_again("keep_freed_memory()") < 4
    assert asked_again("torch.use_deterministic_algorithms(True); keep_freed_memory()") < 4
    assert asked_again("torch.set_default_device('meta'); keep_freed_memory()") < 4


@pytest.mark.parametrize(
    ("place", "act"),
    [
        ("training.trainer", lambda: next(iter(make_trainer()))),
        ("sampling.sampler", lambda: Sampler(BigramLanguageModel(3), CharTokenizer("abc")).generate("a", 1)),
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
from tinygpt.process import flushing_denormals

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


def check_denormals(before: bool) -> None:
    """Within a step they are zero; around it, and after a step that failed, they are what they were."""

    class Failing(torch.optim.SGD):
        def step(self, *arguments: Any) -> None:  # type: ignore[override] # returns nothing, as the trainer needs nothing
            within.append(are_zero())
            if len(within) == 4:
                raise ZeroDivisionError

    within: list[bool] = []
    around: list[bool] = []
    trainer = make_trainer(optimizer=lambda model: Failing(model.parameters(), lr=0.1))
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
@pytest.mark.parametrize("before", [False, True])
def test_denormals_are_zero_within_a_step_and_as_they_were_around_it(before: bool) -> None:
    check_denormals(before)


@flushes
def test_no_thread_that_starts_to_work_in_a_step_flushes_denormals_for_ever() -> None:
    counts = list(map(int, subprocess.check_output([sys.executable, "-c", THREADS]).split()))
    assert max(counts[::2]) < 1 << 21, "within"
    assert counts[1::2] == [1 << 21] * 3, "after"
