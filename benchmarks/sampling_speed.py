"""Measure sampling speed beside peers: tokens per second at the notebook's size.

Run:   NANOGPT=DIR python benchmarks/sampling_speed.py
Needs: an idle machine. Peers are measured if they are found: nanoGPT if NANOGPT names a checkout, transformers, and
       llama.cpp (packages `llama-cpp-python` and `gguf`) if they are installed.

All models have the same shape (6 layers, 6 heads, width 384, block 256, 65 ids) and random weights, and continue a
prompt of one token. The peers take turns in one process, and the ratio within a round counts. Each writes a whole text
before the first round, which includes the compilation. Its time is recorded too.
"""

import statistics
import sys
import time

import torch
from harness import record
from peers import BLOCK, HEADS, LAYERS, VOCAB, WIDTH, Writer, llama_cpp, nanogpt, transformers

from tinygpt import CharTokenizer, GPTConfig, Sampler, quantised

SCENES = {  # rows, new tokens, rounds
    "one sequence": (1, 255, 5),
    "16 sequences": (16, 127, 3),
    "one, past the block": (1, 2 * BLOCK, 2),
}
MANY, LONG = ("llama",), ("llama", "transformers")  # left out: no several rows, no sliding window


def our_writers(name: str) -> dict[str, Writer]:
    """Return the sampler of tinygpt with weights of a dtype, eager and compiled."""
    config = GPTConfig(vocab_size=VOCAB, block_size=BLOCK, n_layer=LAYERS, n_head=HEADS, n_embd=WIDTH)
    model = config.build().eval()
    model = quantised(model) if name == "int8" else model.to(getattr(torch, name))
    tokenizer = CharTokenizer(map(chr, range(VOCAB)))

    def writer(sampler: Sampler) -> Writer:
        return lambda rows, n: sampler.generate([chr(1)] * rows, max_new_tokens=n)

    return {
        f"tinygpt, {name}": writer(Sampler(model, tokenizer)),
        f"tinygpt, {name}, compiled": writer(Sampler(model, tokenizer, compile=True)),
    }


def _seconds(write: Writer, rows: int, count: int) -> float:
    started = time.perf_counter()
    write(rows, count)
    return time.perf_counter() - started


def main() -> None:
    """Measure each scene, and record medians and ratios."""
    writers = {}
    for name in ("float32", "bfloat16", "float16", "int8"):
        writers |= our_writers(name)
    writers |= nanogpt() | transformers() | llama_cpp()
    results = {}
    for scene, (rows, count, rounds) in SCENES.items():
        absent = MANY if rows > 1 else LONG if count > BLOCK else ()
        names = [name for name in writers if not name.startswith(absent)] if absent else list(writers)
        speeds: dict[str, list[float]] = {name: [] for name in names}
        before = {name: _seconds(writers[name], rows, count) for name in names}
        for _ in range(rounds):
            for name in names:
                speeds[name].append(rows * count / _seconds(writers[name], rows, count))
                print(scene, name, f"{speeds[name][-1]:.0f}", file=sys.stderr)
        ours = speeds["tinygpt, float32"]
        results[scene] = {
            name: {
                "ids per second": statistics.median(each),
                "float32 is times as fast": statistics.median(
                    our / their for our, their in zip(ours, each, strict=True)
                ),
                "seconds of a first text": before[name],
            }
            for name, each in speeds.items()
        }
    record("sampling_speed", results)


if __name__ == "__main__":
    main()
