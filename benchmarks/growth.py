"""Measure how time and memory grow with parameters, block size, batch and corpus.

Run:   TINYGPT_TINYSHAKESPEARE=FILE python benchmarks/growth.py
Needs: Linux, an idle machine, matplotlib; five minutes on two cores. Writes results/growth.json and
       docs/images/growth.png.

Theory: a training step takes 6 FLOP per parameter and token, and attention 12 x layers x block x width more per token.
The dashed line goes through the largest size, so points above it elsewhere are overhead. Memory is the rise of the peak
of a fresh process.
"""

import json
import statistics
import subprocess
import sys
import time
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
import torch
from harness import RESULTS, corpus, peak_megabytes, record

from tinygpt import CharTokenizer, GPTConfig, TokenDataset, Trainer, TrainerConfig

IMAGE = Path(__file__).parents[1] / "docs" / "images" / "growth.png"
SIZE = {"n_layer": 4, "n_embd": 128, "block_size": 64, "batch_size": 16}
AXES: dict[str, list[dict[str, int]]] = {
    "parameters": [{"n_embd": width} for width in (64, 128, 192, 256, 384, 512)],
    "block size": [{"block_size": block, "batch_size": 2} for block in (32, 64, 128, 256, 512, 1024)],
    "batch": [{"batch_size": batch} for batch in (2, 4, 8, 16, 32, 64)],
}
COPIES = (1, 2, 4, 8, 16, 32)
ROUNDS = 3  # through all sizes; medians are taken over rounds, since a shared machine drifts


def measure(sizes: dict[str, int]) -> dict[str, float]:
    """Return milliseconds and FLOP of a step, and the rise of the peak in MB; call it in a fresh process."""
    _, data = corpus()
    before = peak_megabytes()
    config = GPTConfig.modern(
        vocab_size=data.vocab_size,
        n_head=4,
        n_layer=sizes["n_layer"],
        n_embd=sizes["n_embd"],
        block_size=sizes["block_size"],
    )
    model = config.build()
    how = TrainerConfig(
        max_iters=10**6, eval_interval=10**6, eval_iters=1, preview_tokens=0, batch_size=sizes["batch_size"],
        precision="fp32", optimizer="adamw",
    )  # fmt: skip
    steps = iter(Trainer(model, data, how))
    seconds = []
    for _ in range(13):
        started = time.perf_counter()
        next(steps)
        seconds.append(time.perf_counter() - started)
    tokens = sizes["batch_size"] * sizes["block_size"]
    count = model.num_parameters()
    flop = tokens * (6 * count + 12 * sizes["n_layer"] * sizes["block_size"] * sizes["n_embd"])
    return {
        "parameters": count,
        "block size": sizes["block_size"],
        "batch": sizes["batch_size"],
        "milliseconds": statistics.median(seconds[3:]) * 1e3,
        "megabytes": peak_megabytes() - before,
        "flop": flop,
    }


def measure_afresh(change: dict[str, int]) -> dict[str, float]:
    """Measure one size in a fresh process."""
    words = [sys.executable, __file__, json.dumps(SIZE | change)]
    output = subprocess.run(words, check=True, capture_output=True, text=True).stdout
    measured: dict[str, float] = json.loads(output.splitlines()[-1])
    return measured


def measure_corpus(text: str, copies: int) -> dict[str, float]:
    """Return the milliseconds to make a dataset from a text, and to gather a batch of it."""
    longer = text * copies
    started = time.perf_counter()
    data = TokenDataset(longer, CharTokenizer.from_text(longer))
    built = time.perf_counter() - started
    batches = []
    for step in range(200):
        started = time.perf_counter()
        data.batch("train", step=step, batch_size=64, block_size=256)
        batches.append(time.perf_counter() - started)
    return {
        "corpus": len(longer),
        "milliseconds": built * 1e3,
        "batch milliseconds": statistics.median(batches) * 1e3,
        "megabytes": (data.train.nbytes + data.val.nbytes) / 1e6,
    }


def draw(results: dict[str, list[dict[str, float]]]) -> None:
    """Draw time and memory over each axis, with the theory through the largest size."""
    figure, axes = plt.subplots(2, 4, figsize=(12, 5.4), layout="constrained")
    for (time_, memory), (name, points) in zip(axes.T, results.items(), strict=True):
        x = [point[name] for point in points]
        work = [point.get("flop", point[name]) for point in points]
        milliseconds, megabytes = ([point[unit] for point in points] for unit in ("milliseconds", "megabytes"))
        time_.loglog(x, milliseconds, "o-", label="measured")
        time_.loglog(x, [milliseconds[-1] * each / work[-1] for each in work], "--", color="0.5", label="in proportion")
        if name == "corpus":
            time_.loglog(x, [point["batch milliseconds"] for point in points], "s-", label="one batch of it")
        memory.plot(x, megabytes, "o-", label="measured")
        memory.plot(x, np.poly1d(np.polyfit(x, megabytes, 1))(x), "--", color="0.5", label="a straight line")
        for each in (time_, memory):
            each.minorticks_off()
            each.set_xlabel("corpus, characters" if name == "corpus" else name)
            each.grid(alpha=0.3)
            each.legend()
    axes[0, 0].set_ylabel("a step, milliseconds")
    axes[0, 3].set_ylabel("to a data set, milliseconds")
    axes[1, 0].set_ylabel("rise of the peak, MB")
    axes[1, 3].set_ylabel("ids, MB")
    figure.savefig(IMAGE, dpi=64)


def main() -> None:
    """Measure each size in a fresh process, record and draw; measure only a size on the command line."""
    if sys.argv[1:] == ["--draw"]:
        draw(json.loads((RESULTS / "growth.json").read_text(encoding="utf-8"))["results"])
        return
    if len(sys.argv) > 1:
        print(json.dumps(measure(json.loads(sys.argv[1]))))
        return
    torch.manual_seed(0)
    text, _ = corpus()
    rounds = [
        {name: [measure_afresh(change) for change in changes] for name, changes in AXES.items()}
        | {"corpus": [measure_corpus(text, copies) for copies in COPIES]}
        for _ in range(ROUNDS)
    ]
    results = {
        name: [
            {unit: statistics.median(point[unit] for point in points) for unit in points[0]}
            for points in zip(*(each[name] for each in rounds), strict=True)
        ]
        for name in rounds[0]
    }
    record("growth", results)
    draw(results)


if __name__ == "__main__":
    main()
