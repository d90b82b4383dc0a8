"""Save and load: one file with the weights, the settings and the tokenizer, and nothing in it that can run.

Run:   python examples/10_save_and_load.py
Takes: about 5 seconds on two cores.
"""

from pathlib import Path

import torch
from safetensors import safe_open

import tinygpt
from tinygpt import (
    CharTokenizer,
    GPTConfig,
    Sampler,
    TokenDataset,
    Trainer,
    TrainerConfig,
    shakespeare,
)

text = shakespeare()[:200_000]
tokenizer = CharTokenizer.from_text(text)
data = TokenDataset(text, tokenizer)
torch.manual_seed(0)
config = GPTConfig(vocab_size=data.vocab_size, block_size=32, n_layer=2, n_head=2, n_embd=32, dropout=0.0)
model = config.build()
Trainer(model, data, TrainerConfig(max_iters=200, batch_size=16, preview_tokens=0)).fit()

path = Path("small.safetensors")
tinygpt.save(path, model, tokenizer)
print(f"\n{path} has {path.stat().st_size:,} bytes for {model.num_parameters():,} parameters")

loaded, its_tokenizer = tinygpt.load(path)
assert its_tokenizer is not None
before = Sampler(model, tokenizer).generate("KING:", max_new_tokens=60, seed=1)
after = Sampler(loaded, its_tokenizer).generate("KING:", max_new_tokens=60, seed=1)
print("the loaded model writes the same:", before == after)

with safe_open(path, framework="numpy") as file:  # any reader of the format opens it
    for name in list(file.keys())[:4]:
        print(f"  {name}: {file.get_slice(name).get_shape()}")

damaged = bytearray(path.read_bytes())
damaged[-100] ^= 1
path.write_bytes(damaged)
try:
    tinygpt.load(path)
except tinygpt.errors.CheckpointCorruptError as error:
    print(f"one bit flipped: {error}")
