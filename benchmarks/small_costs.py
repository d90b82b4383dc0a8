"""The small costs: encoding a text, gathering a batch, saving and loading a model, importing the package.

Run:   python benchmarks/small_costs.py
Needs: an idle machine. The text is the plays; TINYGPT_TINYSHAKESPEARE may name a copy of tiny Shakespeare instead.
"""

import hashlib
import os
import subprocess
import sys
import tempfile
import timeit
from collections.abc import Callable
from pathlib import Path

import torch
from safetensors.torch import load as load_tensors

import tinygpt
from tinygpt import CharTokenizer, GPTConfig, GPTLanguageModel, TokenDataset, read_text, shakespeare
from tinygpt.checkpoint import read


def best(function: Callable[[], object], repeat: int = 15) -> float:
    """Return the least seconds that a call took: what it costs when nothing else runs."""
    return min(timeit.repeat(function, number=1, repeat=repeat))


def import_seconds(name: str) -> float:
    """Return how long importing takes in a fresh interpreter that has imported torch."""
    program = f"import time, torch; start = time.perf_counter(); import {name}; print(time.perf_counter() - start)"
    return min(float(subprocess.check_output([sys.executable, "-c", program])) for _ in range(5))


def print_file_costs() -> None:
    """Print what it costs to save and load a model of 10 MB, and what of it safetensors and the digest take alone."""
    model = GPTLanguageModel.from_config(GPTConfig(vocab_size=65, n_layer=4, n_head=4, n_embd=224))
    with tempfile.TemporaryDirectory() as directory:
        path = Path(directory) / "model.safetensors"
        tinygpt.save(path, model)
        raw = path.read_bytes()
        costs = {
            "save": best(lambda: tinygpt.save(path, model)),
            "read and verify": best(lambda: read(path)),
            "load": best(lambda: tinygpt.load(path)),
            "safetensors alone": best(lambda: load_tensors(path.read_bytes())),
            "sha256 alone": best(lambda: hashlib.sha256(raw).hexdigest()),
        }
    print(f"a model of {len(raw):,} bytes:", ", ".join(f"{name} {cost * 1e3:.1f} ms" for name, cost in costs.items()))


def main() -> None:
    """Print one line for each cost."""
    path = os.environ.get("TINYGPT_TINYSHAKESPEARE")
    text = read_text(path) if path else shakespeare()
    tokenizer = CharTokenizer.from_text(text)
    stoi = {symbol: number for number, symbol in enumerate(tokenizer.symbols)}
    ids = tokenizer.encode_array(text)
    assert ids.tolist() == [stoi[character] for character in text]

    ours, notebook = best(lambda: tokenizer.encode_array(text)), best(lambda: [stoi[character] for character in text])
    print(f"encode {len(text):,} characters: {ours * 1e3:.2f} ms, a dictionary {notebook * 1e3:.1f} ms,", end=" ")
    print(f"{notebook / ours:.0f} times")
    ours, notebook = best(lambda: tokenizer.decode(ids)), best(lambda: "".join([tokenizer.symbols[i] for i in ids]), 3)
    print(f"decode them: {ours * 1e3:.2f} ms, a list {notebook * 1e3:.1f} ms, {notebook / ours:.0f} times")

    data = TokenDataset(text, tokenizer)
    steps = iter(range(1000))
    gather = best(lambda: data.batch("train", step=next(steps), batch_size=64, block_size=256), repeat=200)
    print(f"gather a batch of 64 x 256: {gather * 1e3:.2f} ms")
    print_file_costs()
    print(f"import tinygpt, beyond torch {torch.__version__}: {import_seconds('tinygpt') * 1e3:.0f} ms")


if __name__ == "__main__":
    main()
