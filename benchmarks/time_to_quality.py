"""Measure the time until a model is as good as nanoGPT's CPU quick start, and the losses after its time.

Run:   NANOGPT=DIR TINYGPT_TINYSHAKESPEARE=FILE python benchmarks/time_to_quality.py
Needs: an idle machine, a checkout of nanoGPT. Twenty minutes on two cores.

nanoGPT runs its own train.py with the settings of its README for a CPU (4 layers, 4 heads, width 128, block 64, batch
12, 2,000 iterations), and its clock starts after `import torch`. The clock of tinygpt starts with `fit`, which
evaluates on 5 batches of each split at its start and its end. nanoGPT evaluates on 20, every 250 steps. The same code
measures all models: cross-entropy on the whole validation split, each token predicted once.

The two recipes of tinygpt were chosen with seed 0, on this text and this split. The results are those of seeds 1 to 3.
Neither has more parameters than nanoGPT's model. The long recipe takes 0.95 of nanoGPT's time by `max_seconds`, which
decides in the first seconds how many steps fit. Its model is also mixed with a table of 7-grams, which is counted on
the training split. All but the short recipe is measured on a second text too: ten plays, two of them held out whole.
"""

import os
import pickle
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from harness import corpus, record
from torch import Tensor
from torch.nn import functional as F

from tinygpt import GPTConfig, MixtureLanguageModel, NGramLanguageModel, TokenDataset, Trainer, TrainerConfig
from tinygpt.corpora import shakespeare_plays

WEIGHTS = (0.4, 0.6)  # of the GPT and the table
SEEDS = (1, 2, 3)
QUICK: dict[str, Any] = {"n_layer": 3, "n_embd": 128, "block_size": 64, "batch_size": 12, "max_iters": 220}
LONG: dict[str, Any] = {
    "n_layer": 3,
    "n_embd": 144,
    "block_size": 128,
    "batch_size": 12,
    "max_iters": 5000,
    "learning_rate": 7e-3,
}
NANOGPT = (
    "--device=cpu --compile=False --eval_iters=20 --log_interval=1 --block_size=64 --batch_size=12 --n_layer=4 "
    "--n_head=4 --n_embd=128 --max_iters=2000 --lr_decay_iters=2000 --dropout=0.0"
)
TIMED = """
import sys, time, runpy, torch
sys.argv = sys.argv[1:]
started = time.perf_counter()
runpy.run_path("train.py", run_name="__main__")
print("SECONDS", time.perf_counter() - started)
"""


def whole_split(logits: Callable[[Tensor], Tensor], data: TokenDataset, block_size: int) -> float:
    """Return the mean cross-entropy in nats on the validation split, each token once."""
    total = 0.0
    with torch.no_grad():
        for x, y in data.windows("val", batch_size=64, block_size=block_size):
            total += float(F.cross_entropy(logits(x).flatten(0, 1).double(), y.flatten(), reduction="sum"))
    return total / (len(data.val) - 1)


def run_nanogpt(data: TokenDataset) -> dict[str, float]:
    """Run nanoGPT's own training in a copy of its checkout, and measure its last model."""
    with tempfile.TemporaryDirectory() as directory:
        home = Path(directory) / "nanogpt"
        shutil.copytree(os.environ["NANOGPT"], home, ignore=shutil.ignore_patterns(".git", "out*"))
        corpus_dir = home / "data" / "shakespeare_char"
        data.train.astype(np.uint16).tofile(corpus_dir / "train.bin")
        data.val.astype(np.uint16).tofile(corpus_dir / "val.bin")
        (corpus_dir / "meta.pkl").write_bytes(pickle.dumps({"vocab_size": data.vocab_size}))
        words = [sys.executable, "-c", TIMED, "train.py", "config/train_shakespeare_char.py", *NANOGPT.split()]
        output = subprocess.run(words, cwd=home, check=True, capture_output=True, text=True).stdout
        seconds = float(output.rsplit("SECONDS", 1)[1])
        saved = torch.load(home / "out-shakespeare-char" / "ckpt.pt", weights_only=False)  # the run above wrote it
        sys.path.insert(0, str(home))
        from model import GPT  # type: ignore[import-not-found]
        from model import GPTConfig as Config

        model = GPT(Config(**saved["model_args"]))
        model.load_state_dict(saved["model"])
        model.eval()
        loss = whole_split(lambda x: model(x, x.contiguous())[0], data, saved["model_args"]["block_size"])
        return {"seconds": seconds, "loss": loss, "parameters": sum(p.numel() for p in model.parameters())}


def count(data: TokenDataset) -> tuple[NGramLanguageModel, dict[str, float]]:
    """Count the table, and return it with its seconds and its loss in windows of the long recipe."""
    started = time.perf_counter()
    table = NGramLanguageModel.count(data.train, vocab_size=data.vocab_size, order=7)
    seconds = time.perf_counter() - started
    loss = whole_split(lambda x: table(x).logits, data, int(LONG["block_size"]))
    return table, {"seconds": seconds, "loss": loss, "parameters": table.num_parameters()}


def run_ours(
    data: TokenDataset, seed: int, table: NGramLanguageModel | None, *, n_layer: int, n_embd: int, block_size: int,
    max_iters: int, **settings: float,
) -> dict[str, float]:  # fmt: skip
    """Train a recipe, and measure the model after ``fit``, alone and mixed with the table if there is one."""
    sizes = {"block_size": block_size, "n_layer": n_layer, "n_head": 4, "n_embd": n_embd}
    model = GPTConfig.modern(vocab_size=data.vocab_size, **sizes).build(seed=seed)
    how = TrainerConfig(
        max_iters=max_iters, eval_interval=max_iters, eval_iters=5, preview_tokens=0, seed=seed,
        precision=os.environ.get("TINYGPT_PRECISION", "auto"), **settings,
    )  # fmt: skip
    trainer = Trainer(model, data, how)
    started = time.perf_counter()
    trainer.fit(progress=False)
    seconds = time.perf_counter() - started
    model.eval()
    loss = whole_split(lambda x: model(x).logits, data, block_size)
    run = {"seconds": seconds, "loss": loss, "parameters": model.num_parameters(), "iterations": trainer.steps_taken}
    if table is not None:
        mixture = MixtureLanguageModel([model, table], weights=WEIGHTS)
        run["mixture"] = whole_split(lambda x: mixture(x).logits, data, block_size)
    return run


def summary(runs: list[dict[str, float]], nanogpt: dict[str, float]) -> dict[str, object]:
    """Return medians over seeds, and their ratios to nanoGPT's run."""
    middle = {name: statistics.median(run[name] for run in runs) for name in runs[0] if name != "iterations"}
    worst = max(run["loss"] for run in runs)
    return middle | {"worst loss": worst, "times as fast": nanogpt["seconds"] / middle["seconds"], "runs": runs}


def main() -> None:
    """Run nanoGPT, then both recipes with each seed, then the long one on the plays, and record."""
    _, data = corpus()
    nanogpt = run_nanogpt(data)
    quick = [run_ours(data, seed, None, **QUICK) for seed in SEEDS]
    results: dict[str, object] = {"quick": summary(quick, nanogpt)}
    plays = TokenDataset.from_documents(shakespeare_plays()[::4], val_fraction=0.2)
    for name, text in (("a tenth", data), ("whole plays", plays)):
        theirs = nanogpt if text is data else run_nanogpt(text)
        table, counted = count(text)
        limit = 0.95 * theirs["seconds"]
        long = [run_ours(text, seed, table, max_seconds=limit, **LONG) for seed in SEEDS]
        results[name] = {"nanogpt": theirs, "table": counted, "long": summary(long, theirs)}
    record("time_to_quality", results)


if __name__ == "__main__":
    main()
