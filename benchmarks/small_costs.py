"""Measure small costs: encode a text, gather a batch, save and load a model, import the package.

Run:   python benchmarks/small_costs.py
Needs: an idle machine. The text is the plays; TINYGPT_TINYSHAKESPEARE may name a copy of tiny Shakespeare instead.
"""

import hashlib
import subprocess
import sys
import tempfile
import timeit
from collections.abc import Callable
from pathlib import Path

from harness import corpus, record
from safetensors.torch import load as load_tensors

import tinygpt
from tinygpt import CharTokenizer, GPTConfig
from tinygpt.checkpoint import read


def best(function: Callable[[], object], repeat: int = 15) -> float:
    """Return the shortest time of a call in seconds: its cost when nothing else runs."""
    return min(timeit.repeat(function, number=1, repeat=repeat))


def import_seconds() -> float:
    """Return the seconds to import all public names in a fresh interpreter, beyond torch."""
    everything = "import tinygpt; [getattr(tinygpt, name) for name in tinygpt.__all__]"
    program = f"import time, torch; start = time.perf_counter(); {everything}; print(time.perf_counter() - start)"
    return min(float(subprocess.check_output([sys.executable, "-c", program])) for _ in range(5))


def file_costs() -> dict[str, float]:
    """Return the cost to save and load a model of 10 MB, and that of safetensors and the digest alone."""
    model = GPTConfig(vocab_size=65, n_layer=4, n_head=4, n_embd=224).build()
    with tempfile.TemporaryDirectory() as directory:
        path = Path(directory) / "model.safetensors"
        tinygpt.save(path, model)
        raw = path.read_bytes()
        return {
            "save a model of 10 MB": best(lambda: tinygpt.save(path, model)),
            "read and verify it": best(lambda: read(path)),
            "load it, model and all": best(lambda: tinygpt.load(path)),
            "safetensors alone, unverified": best(lambda: load_tensors(path.read_bytes())),
            "SHA-256 alone": best(lambda: hashlib.sha256(raw).hexdigest()),
        }


def main() -> None:
    """Measure, and record milliseconds."""
    text, data = corpus()
    tokenizer = CharTokenizer.from_text(text)
    stoi = {symbol: number for number, symbol in enumerate(tokenizer.symbols)}
    ids = tokenizer.encode_array(text)
    assert ids.tolist() == [stoi[character] for character in text]
    steps = iter(range(1000))
    costs = {
        f"encode {len(text):,} characters": best(lambda: tokenizer.encode_array(text)),
        "the same by a dictionary, as the notebook does": best(lambda: [stoi[character] for character in text]),
        "decode them": best(lambda: tokenizer.decode(ids)),
        "the same by a list, as the notebook does": best(lambda: "".join([tokenizer.symbols[i] for i in ids]), 3),
        "gather a batch of 64 x 256": best(
            lambda: data.batch("train", step=next(steps), batch_size=64, block_size=256), repeat=200
        ),
        **file_costs(),
        "import tinygpt, beyond torch": import_seconds(),
    }
    record("small_costs", {name: seconds * 1e3 for name, seconds in costs.items()})


if __name__ == "__main__":
    main()
