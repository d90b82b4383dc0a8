"""Measure the time and memory of a training step beside nanoGPT's, and of its arithmetic alone.

Run:   NANOGPT=DIR TINYGPT_TINYSHAKESPEARE=FILE python benchmarks/training_speed.py [--compile]
Needs: Linux, an idle machine, a checkout of nanoGPT. Three minutes; with --compile and a C++ compiler six.

A step is that of each project's own loop: gather a batch, forward, backward, clip, AdamW, read the loss. The layout is
GPT-2's, with 4 layers, 4 heads, width 128, block 64, batch 12. Both models compute the same: with biases, which nanoGPT
leaves out by default, and with the exact GELU, which GPT-2 and `GPTConfig.gpt2` approximate by tanh. A third computes
the same in JAX, if JAX and optax are installed. It is always compiled, and is compared with nanoGPT's plain step.
They take turns in one process, so nanoGPT's steps profit too from the memory that tinygpt asks the allocator to keep.
Memory is the rise of the peak of a fresh process in three steps at the notebook's size with a batch of 64. It is the
median of three such processes, in turns.
"""

import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import suppress

import numpy as np
import torch
from harness import corpus, in_turns, peak_megabytes, ratio, record
from jax_step import jax_step
from torch import nn

from tinygpt import GPTConfig, GPTLanguageModel, TokenDataset, Trainer, TrainerConfig

SMALL = {"block_size": 64, "n_layer": 4, "n_head": 4, "n_embd": 128}
NOTEBOOK = {"block_size": 256, "n_layer": 6, "n_head": 6, "n_embd": 384}
ROUNDS, STEPS = 9, 20
Call = Callable[[], object]


def gpt2(data: TokenDataset, sizes: dict[str, int]) -> GPTLanguageModel:
    """Return a model of tinygpt with nanoGPT's architecture."""
    model = GPTConfig.gpt2(vocab_size=data.vocab_size, dropout=0.0, **sizes).build()
    for block in model.blocks:
        block.feed_forward.activation = nn.GELU()  # type: ignore[union-attr] # PyTorch does not type the parts of a list
    return model


def our_step(data: TokenDataset, model: GPTLanguageModel, batch_size: int, **settings: object) -> Call:
    """Return a function that takes one step of tinygpt, by default with AdamW as in nanoGPT."""
    common = {"max_iters": 10**6, "eval_interval": 10**6, "eval_iters": 1, "preview_tokens": 0, "optimizer": "adamw"}
    how = TrainerConfig(**common | settings, batch_size=batch_size)  # type: ignore[arg-type]
    steps = iter(Trainer(model, data, how))
    return lambda: next(steps)


def nanogpt_step(data: TokenDataset, sizes: dict[str, int], batch_size: int, compiled: bool = False) -> Call:
    """Return a function that takes one step of nanoGPT's train.py, with its model and optimizer."""
    sys.path.insert(0, os.environ["NANOGPT"])
    from model import GPT  # type: ignore[import-not-found]
    from model import GPTConfig as Config

    torch.manual_seed(0)
    model = GPT(Config(vocab_size=data.vocab_size, dropout=0.0, bias=True, **sizes))
    assert sum(each.numel() for each in model.parameters()) == gpt2(data, sizes).num_parameters()
    optimizer = model.configure_optimizers(0.1, 1e-3, (0.9, 0.99), "cpu")
    call = torch.compile(model) if compiled else model
    ids, block = data.train.astype(np.uint16), sizes["block_size"]

    def step() -> float:
        starts = torch.randint(len(ids) - block, (batch_size,)).tolist()
        x = torch.stack([torch.from_numpy(ids[i : i + block].astype(np.int64)) for i in starts])
        y = torch.stack([torch.from_numpy(ids[i + 1 : i + 1 + block].astype(np.int64)) for i in starts])
        _, loss = call(x, y)
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        return float(loss)

    return step


def flop_per_step(model: nn.Module, batch_size: int, block_size: int) -> float:
    """Return the FLOP of a step: products forward, and twice that backward; attention over all positions."""
    linear = sum(module.weight.numel() for module in model.modules() if isinstance(module, nn.Linear))
    attention = 2 * SMALL["n_layer"] * block_size * SMALL["n_embd"]
    return 3 * 2 * batch_size * block_size * (linear + attention)


def rate(dtype: torch.dtype) -> float:
    """Return the FLOP per second of the matrix products of a step, measured alone."""
    x, weight = torch.randn(768, 128, dtype=dtype), torch.randn(512, 128, dtype=dtype)
    seconds = in_turns({"product": lambda: nn.functional.linear(x, weight)}, rounds=15, calls=100)["product"]
    return 2 * 768 * 128 * 512 / statistics.median(seconds)


def peak_memory(whose: str) -> float:
    """Return the rise in MB of the peak of a fresh process in three steps at the notebook's size."""
    words = [sys.executable, __file__, "--memory", whose]
    return float(subprocess.run(words, check=True, capture_output=True, text=True).stdout.split()[-1])


def print_memory(whose: str) -> None:
    """Take three steps and print the rise of this process's peak, in MB."""
    _, data = corpus()
    before = peak_megabytes()
    if whose == "nanogpt":
        step = nanogpt_step(data, NOTEBOOK, 64)
    else:
        step = our_step(data, gpt2(data, NOTEBOOK), 64, precision=whose)
    for _ in range(3):
        step()
    print(peak_megabytes() - before)


def main() -> None:
    """Measure in turns, and record."""
    if "--memory" in sys.argv:
        print_memory(sys.argv[-1])
        return
    _, data = corpus()
    modern = GPTConfig.modern(vocab_size=data.vocab_size, **SMALL).build()
    contestants = {
        "nanoGPT": nanogpt_step(data, SMALL, 12),
        "tinygpt, fp32": our_step(data, gpt2(data, SMALL), 12, precision="fp32"),
        "tinygpt, auto": our_step(data, gpt2(data, SMALL), 12),
        "tinygpt, auto, modern with Muon": our_step(data, modern, 12, optimizer="muon"),
    }
    if "--compile" in sys.argv:
        contestants |= {
            "nanoGPT, compiled": nanogpt_step(data, SMALL, 12, compiled=True),
            "tinygpt, fp32, compiled": our_step(data, gpt2(data, SMALL), 12, precision="fp32", compile=True),
            "tinygpt, auto, compiled": our_step(data, gpt2(data, SMALL), 12, compile=True),
        }
    with suppress(ImportError):
        contestants["JAX"] = jax_step(data.train.astype(np.int32), data.vocab_size, SMALL, 12)
    started = time.perf_counter()
    seconds = in_turns(contestants, ROUNDS, STEPS)
    print(f"measured in {time.perf_counter() - started:.0f} s", file=sys.stderr)
    peaks: dict[str, list[float]] = {"nanogpt": [], "fp32": [], "auto": []}
    for _ in range(3):
        for whose, each in peaks.items():
            each.append(peak_memory(whose))
    flop = flop_per_step(gpt2(data, SMALL), 12, SMALL["block_size"])
    results = {
        "step": {
            name: {
                "milliseconds": statistics.median(each) * 1e3,
                "of nanoGPT": 1 / ratio(each, seconds["nanoGPT, compiled" if "compiled" in name else "nanoGPT"]),
            }
            for name, each in seconds.items()
        },
        "GFLOP of a step": flop / 1e9,
        "milliseconds of arithmetic": {
            "fp32": flop / rate(torch.float32) * 1e3,
            "bf16": flop / rate(torch.bfloat16) * 1e3,
        },
        "peak memory, MB": {whose: statistics.median(each) for whose, each in peaks.items()},
    }
    record("training_speed", results)


if __name__ == "__main__":
    main()
