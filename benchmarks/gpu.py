"""Measure a training step on a GPU beside nanoGPT's, and the best loss at the notebook's size.

Run:   NANOGPT=DIR TINYGPT_TINYSHAKESPEARE=FILE python benchmarks/gpu.py [steps] [quality]
Needs: a GPU of NVIDIA with bf16, a checkout of nanoGPT. Six minutes, most of them for compiling.

Steps: GPT-2's layout in both, AdamW, bf16 autocast, both compiled; and the recommended recipe. They take turns, and
each reads its loss, which waits for the GPU.

Quality: the notebook's size, trained with the recommended recipe, measured on the whole validation split.
"""

import os
import statistics
import sys
import time
from collections.abc import Callable

import numpy as np
import torch
from harness import corpus, in_turns, ratio, record
from time_to_quality import whole_split
from torch import nn
from training_speed import NOTEBOOK, SMALL, gpt2, our_step

from tinygpt import (
    GPTConfig,
    GPTLanguageModel,
    MixtureLanguageModel,
    NGramLanguageModel,
    TokenDataset,
    Trainer,
    TrainerConfig,
)

SEEDS = (1, 2, 3)


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


def train(data: TokenDataset, seed: int, **settings: object) -> tuple[GPTLanguageModel, dict[str, float]]:
    """Train a model of the notebook's size, and return it with its loss on the whole split and its time."""
    common = {"batch_size": 64, "max_iters": 1000, "learning_rate": 6e-3, "dropout": 0.2, "eval_iters": 20}
    options = common | settings
    dropout = options.pop("dropout")
    config = GPTConfig.modern(vocab_size=data.vocab_size, dropout=dropout, **NOTEBOOK)
    how = TrainerConfig(**options, eval_interval=options["max_iters"], preview_tokens=0, seed=seed)  # type: ignore[arg-type]
    started = time.perf_counter()
    model = config.build(seed=seed)
    Trainer(model, data, how).fit(progress=False)
    torch.cuda.synchronize()
    seconds = time.perf_counter() - started
    model.eval()
    loss = whole_split(lambda x: model(x.cuda()).logits.float().cpu(), data, NOTEBOOK["block_size"])
    return model, {"seconds": seconds, "loss": loss}


def quality(data: TokenDataset) -> dict[str, object]:
    """Return loss and seconds of a few lengths with one seed, then of the best with three, alone and mixed."""
    table = NGramLanguageModel.count(data.train, vocab_size=data.vocab_size, order=7).cuda()
    tried = {}
    for dropout, iters in ((0.2, 350), (0.3, 500), (0.4, 700)):
        _, tried[dropout, iters] = train(data, 0, max_iters=iters, dropout=dropout)
        print(dropout, iters, tried[dropout, iters], file=sys.stderr, flush=True)
    dropout, iters = min(tried, key=lambda pair: tried[pair]["loss"])
    runs = []
    for seed in SEEDS:
        model, run = train(data, seed, max_iters=iters, dropout=dropout)
        mixture = MixtureLanguageModel([model, table], weights=[0.5, 0.5])
        run["mixture"] = whole_split(lambda x, m=mixture: m(x.cuda()).logits.float().cpu(), data, 256)  # type: ignore[misc]
        runs.append(run)
        print(run, file=sys.stderr, flush=True)
    names = {f"dropout {dropout}, {iters} steps": run for (dropout, iters), run in tried.items()}
    return {"tried with seed 0": names, "dropout": dropout, "steps": iters, "runs": runs}


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
