"""Sampling speed beside peers: ids per second at the notebook's size, in one process, in turns.

Run:   python benchmarks/sampling_speed.py
Needs: an idle machine. Peers are measured where they are found: Hugging Face transformers if it is installed, nanoGPT
       if the environment variable NANOGPT names a folder with its model.py.

All models have the same shape (6 layers, 6 heads, 384 wide, block 256, 65 ids) with random weights, in float32, and
write from one id. The peers take turns in each round, and what counts is the ratio within a round.
"""

import os
import platform
import statistics
import sys
import time
from collections.abc import Callable

import torch

from tinygpt import CharTokenizer, GPTConfig, GPTLanguageModel, Sampler

ROUNDS, NEW_IDS, ROWS = 5, 255, 16
VOCAB, BLOCK, LAYERS, HEADS, WIDTH = 65, 256, 6, 6, 384

Writer = Callable[[int, int], object]  # rows, new ids


def make_tinygpt() -> dict[str, Writer]:
    """Return our sampler, and the definition that it is the fast version of."""
    config = GPTConfig(vocab_size=VOCAB, block_size=BLOCK, n_layer=LAYERS, n_head=HEADS, n_embd=WIDTH)
    model = GPTLanguageModel.from_config(config).eval()
    sampler = Sampler(model, CharTokenizer(map(chr, range(VOCAB))))
    return {
        "tinygpt, Sampler": lambda rows, count: sampler.generate([chr(1)] * rows, count),
        "tinygpt, generate": lambda rows, count: model.generate(torch.zeros(rows, 1, dtype=torch.long), count),
    }


def make_nanogpt() -> dict[str, Writer]:
    """Return nanoGPT's own generate, if there is a copy."""
    if "NANOGPT" not in os.environ:
        return {}
    sys.path.insert(0, os.environ["NANOGPT"])
    from model import GPT  # type: ignore[import-not-found]
    from model import GPTConfig as Config

    config = Config(
        block_size=BLOCK, vocab_size=VOCAB, n_layer=LAYERS, n_head=HEADS, n_embd=WIDTH, dropout=0.0, bias=False
    )
    model = GPT(config).eval()
    return {"nanoGPT": lambda rows, count: model.generate(torch.zeros(rows, 1, dtype=torch.long), count)}


def make_transformers() -> dict[str, Writer]:
    """Return Hugging Face's GPT-2 with its cache, if it is installed."""
    try:
        from transformers import GPT2Config, GPT2LMHeadModel  # type: ignore[import-not-found]
    except ImportError:
        return {}
    config = GPT2Config(
        vocab_size=VOCAB,
        n_positions=BLOCK,
        n_embd=WIDTH,
        n_layer=LAYERS,
        n_head=HEADS,
        bos_token_id=0,
        eos_token_id=None,
    )
    model = GPT2LMHeadModel(config).eval()

    def write(rows: int, count: int) -> object:
        idx = torch.zeros(rows, 1, dtype=torch.long)
        mask = torch.ones_like(idx)
        return model.generate(
            idx,
            attention_mask=mask,
            max_new_tokens=count,
            min_new_tokens=count,
            do_sample=True,
            top_k=0,
            pad_token_id=0,
        )

    return {"transformers, cache": write}


def main() -> None:
    """Print a table of medians, and of the ratios to each peer."""
    writers = make_tinygpt() | make_nanogpt() | make_transformers()
    print(f"{platform.processor() or platform.machine()}, {torch.get_num_threads()} threads, torch {torch.__version__}")
    for title, rows, count in (
        ("one sequence", 1, NEW_IDS),
        (f"{ROWS} sequences", ROWS, NEW_IDS // 2),
        ("one sequence, past the block", 1, 2 * BLOCK),
    ):
        names = [name for name in writers if count <= BLOCK or "transformers" not in name]  # its positions end there
        speeds: dict[str, list[float]] = {name: [] for name in names}
        for name in names:
            writers[name](rows, 8)
        for _ in range(ROUNDS if rows == 1 and count <= BLOCK else 1):
            for name in names:
                start = time.perf_counter()
                writers[name](rows, count)
                speeds[name].append(rows * count / (time.perf_counter() - start))
        ours = speeds["tinygpt, Sampler"]
        print(f"\n{title}, {count} new ids each{'':<12}{'ids per second':>16}{'ours is':>10}")
        for name in names:
            ratio = statistics.median(our / their for our, their in zip(ours, speeds[name], strict=True))
            print(f"  {name:<40}{statistics.median(speeds[name]):>16,.0f}{ratio:>9.1f}x")


if __name__ == "__main__":
    main()
