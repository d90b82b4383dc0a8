"""Your own text: from one file to a model that writes like it.

Run:   python examples/08_your_own_text.py
Takes: about 15 seconds on two cores.

Replace TEXT by the path of your file. Here it is the license of tinygpt, a very small corpus: the training loss keeps
falling, but the validation loss soon rises. That is overfitting. ``patience`` stops the run, and the best weights are
kept.
"""

from pathlib import Path

from tinygpt import GPTConfig, TokenDataset, Trainer, TrainerConfig, read_text

TEXT = Path(__file__).parent.parent / "LICENSE"

data = TokenDataset(read_text(TEXT), val_fraction=0.15)
print(data)

config = GPTConfig.modern(vocab_size=data.vocab_size, block_size=64, n_layer=2, n_head=4, n_embd=64)
settings = TrainerConfig(max_iters=300, batch_size=16, eval_interval=20, patience=4, preview_tokens=0)
trainer = Trainer(config.build(seed=0), data, settings)
trainer.fit()
print()
print(trainer.sampler()("Permission", temperature=0.5))
