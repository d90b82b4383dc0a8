"""The process: a step finds its memory again, and takes denormals for zero while it lasts."""

import os
import platform
import subprocess
import sys
from typing import Any

import pytest
import torch

from tinygpt import BigramLanguageModel, TokenDataset, Trainer, TrainerConfig

flushes = pytest.mark.skipif(not torch.set_flush_denormal(False), reason="the processor cannot flush denormals")

PAGES = """
from resource import RUSAGE_SELF, getrusage
from tinygpt import CharTokenizer, GPTConfig, GPTLanguageModel, Sampler, TokenDataset, Trainer, TrainerConfig

def train():
    sizes = {"vocab_size": 65, "block_size": 64, "n_layer": 2, "n_head": 4, "n_embd": 128}
    model = GPTLanguageModel.from_config(GPTConfig.modern(**sizes))
    how = TrainerConfig(max_iters=20, batch_size=12, eval_iters=1, sample_length=0, precision="fp32")
    yield from Trainer(model, TokenDataset([n % 65 for n in range(9000)]), how)

def sample():
    model = GPTLanguageModel.from_config(GPTConfig(vocab_size=65, block_size=64, n_layer=2)).half()
    sampler = Sampler(model, CharTokenizer(map(chr, range(65))))
    for _ in range(20):
        yield sampler.generate(["!"] * 16, 1)  # many processors multiply copies of the weights in float32

for number, _ in enumerate(KIND()):
    if number == 4:
        before = getrusage(RUSAGE_SELF).ru_minflt
    if number == 18:
        print((getrusage(RUSAGE_SELF).ru_minflt - before) / 14)
"""

THREADS = """
import torch
from tinygpt.process import flushing_denormals, prepare_process

def count():
    return int((torch.full((1 << 21,), torch.finfo(torch.float32).tiny) / 2 > 0).sum())

torch.set_num_threads(2)
prepare_process()
with flushing_denormals():
    print(count())
print(count())
"""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="other allocators have other habits")
@pytest.mark.parametrize("kind", ["train", "sample"])
def test_a_step_reuses_the_memory_of_the_step_before(kind: str) -> None:
    own = {name: value for name, value in os.environ.items() if not name.startswith(("MALLOC_", "GLIBC_TUN", "LD_PRE"))}
    pages = subprocess.check_output([sys.executable, "-c", PAGES.replace("KIND", kind)], env=own)
    assert float(pages) < 200, "pages asked of the system in each step"


@flushes
@pytest.mark.parametrize("before", [False, True])
def test_denormals_are_zero_within_a_step_and_as_they_were_around_it(before: bool) -> None:
    def are_zero() -> bool:
        return (torch.tensor([torch.finfo(torch.float64).tiny], dtype=torch.float64) / 2).item() == 0.0

    class Failing(torch.optim.SGD):
        def step(self, *arguments: Any) -> None:  # type: ignore[override]
            within.append(are_zero())
            if len(within) == 4:
                raise ZeroDivisionError

    within: list[bool] = []
    around: list[bool] = []
    data = TokenDataset([n % 3 for n in range(90)])
    how = TrainerConfig(max_iters=6, batch_size=1, sample_length=0)
    model = BigramLanguageModel(3, block_size=8)
    trainer = Trainer(model, data, how, optimizer=lambda model: Failing(model.parameters(), lr=0.1))
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
def test_a_thread_that_starts_to_work_in_a_step_does_not_flush_denormals_for_ever() -> None:
    within, after = map(int, subprocess.check_output([sys.executable, "-c", THREADS]).split())
    assert within < after == 1 << 21
