"""Measure the time until a model is as good as nanoGPT's CPU quick start, and the loss after its time.

Run:   NANOGPT=DIR TINYGPT_TINYSHAKESPEARE=FILE python benchmarks/time_to_quality.py
Needs: an idle machine, a checkout of nanoGPT. Eight minutes on two cores.

nanoGPT runs its own train.py with the settings of its README for a CPU (4 layers, 4 heads, width 128, block 64, batch
12, 2,000 iterations), and its clock starts after `import torch`. The clock of tinygpt starts with `fit`, which
evaluates on 5 batches of each split at its start and its end. nanoGPT evaluates on 20, every 250 steps. The same code
measures both models: cross-entropy in float32 on the whole validation split, each token predicted once.

The two recipes of tinygpt were chosen with seed 0, on this text and this split. The results are those of seeds 1 to 3.
Neither has more parameters than nanoGPT's model. The long recipe has as many steps as fit into nanoGPT's time, by two
short runs before.
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

import numpy as np
import torch
from harness import corpus, record
from torch import Tensor
from torch.nn import functional as F

from tinygpt import GPTConfig, TokenDataset, Trainer, TrainerConfig

SEEDS = (1, 2, 3)
QUICK = {"n_layer": 3, "n_embd": 128, "block_size": 64, "batch_size": 12, "max_iters": 260}
LONG = {"n_layer": 3, "n_embd": 144, "block_size": 128, "batch_size": 12, "learning_rate": 7e-3}
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


def run_ours(
    data: TokenDataset, seed: int, n_layer: int, n_embd: int, block_size: int, **settings: float
) -> dict[str, float]:
    """Train the fast recipe, and measure the model after ``fit``."""
    torch.manual_seed(seed)
    sizes = {"block_size": block_size, "n_layer": n_layer, "n_head": 4, "n_embd": n_embd}
    config = GPTConfig.modern(vocab_size=data.vocab_size, **sizes)
    model = config.build()
    max_iters = int(settings.pop("max_iters"))
    how = TrainerConfig(
        max_iters=max_iters, eval_interval=max_iters, eval_iters=5, preview_tokens=0, seed=seed, optimizer="muon",
        precision=os.environ.get("TINYGPT_PRECISION", "auto"), **settings,
    )  # fmt: skip
    trainer = Trainer(model, data, how)
    started = time.perf_counter()
    trainer.fit(progress=False)
    seconds = time.perf_counter() - started
    model.eval()
    loss = whole_split(lambda x: model(x).logits, data, block_size)
    return {"seconds": seconds, "loss": loss, "parameters": model.num_parameters(), "iterations": max_iters}


def summary(runs: list[dict[str, float]], nanogpt: dict[str, float]) -> dict[str, object]:
    """Return medians over seeds, and their ratios to nanoGPT's run."""
    seconds, losses = ([run[name] for run in runs] for name in ("seconds", "loss"))
    return {
        "seconds": statistics.median(seconds),
        "loss": statistics.median(losses),
        "worst loss": max(losses),
        "parameters": runs[0]["parameters"],
        "times as fast": nanogpt["seconds"] / statistics.median(seconds),
        "runs": runs,
    }


def main() -> None:
    """Run nanoGPT, then both recipes with each seed, in one process tree, and record."""
    _, data = corpus()
    nanogpt = run_nanogpt(data)
    quick = [run_ours(data, seed, **QUICK) for seed in SEEDS]
    few, many = 20, 320
    short, longer = (run_ours(data, 0, max_iters=count, **LONG)["seconds"] for count in (few, many))
    most = int(0.97 * (nanogpt["seconds"] - short) / (longer - short) * (many - few))  # steps in nanoGPT's time
    long = [run_ours(data, seed, max_iters=most, **LONG) for seed in SEEDS]
    results = {"nanogpt": nanogpt, "quick": summary(quick, nanogpt), "long": summary(long, nanogpt)}
    record("time_to_quality", results)


if __name__ == "__main__":
    main()
