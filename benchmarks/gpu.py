"""Measure a training step on a GPU beside nanoGPT's, and the best loss at the notebook's size.

Run:   NANOGPT=DIR TINYGPT_TINYSHAKESPEARE=FILE python benchmarks/gpu.py [steps] [quality]
Needs: a GPU of NVIDIA with bf16, a checkout of nanoGPT. Some ten minutes, a third of them for compiling.

Steps: GPT-2's layout in both, AdamW, bf16 autocast, both compiled; and the recommended recipe. They take turns, and
each reads its loss, which waits for the GPU.

Quality: the notebook's size, trained on 5.7 million tokens, measured on the whole validation split. The recipe is the
best of 32 on this split with seed 0: batches of 10 to 64 windows, 500 to 2,000 steps, dropout 0.15 to 0.4, rates of
3e-3 to 8e-3, weight decay 0.1 to 1.
"""

import os
import statistics
import sys
import time
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from harness import corpus, in_turns, ratio, record
from time_to_quality import whole_split
from torch import nn
from training_speed import NOTEBOOK, SMALL, gpt2, our_step

from tinygpt import (
    GPTConfig,
    GPTLanguageModel,
    LanguageModel,
    MixtureLanguageModel,
    NGramLanguageModel,
    TokenDataset,
    Trainer,
    TrainerConfig,
)

SEEDS = (1, 2, 3)
DROPOUT = 0.2
RECIPE: dict[str, Any] = {"batch_size": 16, "max_iters": 1400, "learning_rate": 4e-3, "weight_decay": 0.6}


def nanogpt_step(data: TokenDataset, sizes: dict[str, int], batch_size: int) -> Callable[[], float]:
    """Return a function that takes one step of nanoGPT's train.py on a GPU: bf16, fused AdamW, compiled."""
    sys.path.insert(0, os.environ["NANOGPT"])
    from model import GPT  # type: ignore[import-not-found]
    from model import GPTConfig as Config

    torch.manual_seed(0)
    model = GPT(Config(vocab_size=data.vocab_size, dropout=0.0, bias=True, **sizes)).cuda()
    optimizer = model.configure_optimizers(0.1, 1e-3, (0.9, 0.99), "cuda")
    compiled = torch.compile(model)
    ids, block = data.train.astype(np.uint16), sizes["block_size"]

    def batch() -> list[torch.Tensor]:
        starts = torch.randint(len(ids) - block - 1, (batch_size,)).tolist()
        rows = [np.stack([ids[i + shift : i + shift + block].astype(np.int64) for i in starts]) for shift in (0, 1)]
        return [torch.from_numpy(each).pin_memory().cuda(non_blocking=True) for each in rows]

    x, y = batch()

    def step() -> float:
        nonlocal x, y
        with torch.autocast("cuda", torch.bfloat16):
            _, loss = compiled(x, y)
        x, y = batch()  # while the GPU computes
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        return float(loss.detach())

    return step


def steps(data: TokenDataset) -> dict[str, object]:
    """Return milliseconds of a step at two sizes, and the ratios to nanoGPT's."""
    results: dict[str, object] = {}
    for name, sizes, batch_size in (("small", SMALL, 12), ("notebook", NOTEBOOK, 64)):
        modern = GPTConfig.modern(vocab_size=data.vocab_size, **sizes)
        contestants = {
            "nanogpt compiled": nanogpt_step(data, sizes, batch_size),
            "compiled": our_step(data, gpt2(data, sizes), batch_size, compile=True),
            "modern, Muon, compiled": our_step(data, modern.build(), batch_size, optimizer="muon", compile=True),
        }
        seconds = in_turns(contestants, rounds=7, calls=30)
        results[name] = {
            each: {"ms": 1000 * statistics.median(spent), "ratio": ratio(seconds["nanogpt compiled"], spent)}
            for each, spent in seconds.items()
        }
        print(name, results[name], file=sys.stderr, flush=True)
    return results


def train(data: TokenDataset, seed: int) -> tuple[GPTLanguageModel, dict[str, float]]:
    """Train a model of the notebook's size, and return it with its loss on the whole split and its time."""
    how = TrainerConfig(**RECIPE, eval_interval=RECIPE["max_iters"], eval_iters=20, preview_tokens=0, seed=seed)
    started = time.perf_counter()
    model = GPTConfig.modern(vocab_size=data.vocab_size, dropout=DROPOUT, **NOTEBOOK).build(seed=seed)
    Trainer(model, data, how).fit(progress=False)
    torch.cuda.synchronize()
    seconds = time.perf_counter() - started
    model.eval()
    return model, {"seconds": seconds, "loss": loss_of(model, data)}


def loss_of(model: LanguageModel, data: TokenDataset) -> float:
    """Return the loss of a model on the GPU on the whole split."""
    return whole_split(lambda x: model(x.cuda()).logits.float().cpu(), data, NOTEBOOK["block_size"])


def quality(data: TokenDataset) -> dict[str, object]:
    """Return loss and seconds with three seeds, and the loss of the mixture with a table."""
    table = NGramLanguageModel.count(data.train, vocab_size=data.vocab_size, order=7).cuda()
    runs = []
    for seed in SEEDS:
        model, run = train(data, seed)
        run["mixture"] = loss_of(MixtureLanguageModel([model, table], weights=[0.5, 0.5]), data)
        runs.append(run)
        print(run, file=sys.stderr, flush=True)
    return {"dropout": DROPOUT, **RECIPE, "runs": runs}


def main() -> None:
    """Measure what is named, or all, and record each."""
    wanted = sys.argv[1:] or ["steps", "quality"]
    _, data = corpus()
    torch.set_float32_matmul_precision("high")
    parts = {"steps": steps, "quality": quality}
    for name in wanted:
        record(f"gpu_{name}", parts[name](data))


if __name__ == "__main__":
    main()
