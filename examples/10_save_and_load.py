"""Save and load: one file with weights, settings and tokenizer, and without code.

Run:   python examples/10_save_and_load.py
Takes: about 5 seconds on two cores.

The program saves a model, loads it, opens the file with another reader, and flips one bit, which is detected.
"""

from pathlib import Path

from safetensors import safe_open

from tinygpt import GPTConfig, Sampler, TokenDataset, Trainer, TrainerConfig, shakespeare
from tinygpt.errors import CheckpointCorruptError

data = TokenDataset(shakespeare()[:200_000])
config = GPTConfig(vocab_size=data.vocab_size, block_size=32, n_layer=2, n_head=2, n_embd=32, dropout=0.0)
trainer = Trainer(config.build(seed=0), data, TrainerConfig(max_iters=200, batch_size=16, preview_tokens=0))
trainer.fit()

path = Path("small.safetensors")
sampler = trainer.sampler()
sampler.save(path)
print(f"\n{path} has {path.stat().st_size:,} bytes for {sampler.model.num_parameters():,} parameters")

loaded = Sampler.load(path)
print("the loaded model writes the same text:", loaded("KING:", seed=1) == sampler("KING:", seed=1))

with safe_open(path, framework="numpy") as file:  # any reader of the format opens it
    for name in list(file.keys())[:4]:
        print(f"  {name}: {file.get_slice(name).get_shape()}")

damaged = bytearray(path.read_bytes())
damaged[-100] ^= 1
path.write_bytes(damaged)
try:
    Sampler.load(path)
except CheckpointCorruptError as error:
    print(f"one bit flipped: {error}")
