"""A small GPT on Shakespeare: the same few lines, and every character sees up to 64 before it.

Run:   python examples/02_gpt_on_shakespeare.py
Takes: about a minute on two cores.

Draws the losses into shakespeare_losses.png and writes a page of a play that nobody wrote.
"""

import torch

from tinygpt import (
    CharTokenizer,
    GPTConfig,
    Sampler,
    TokenDataset,
    Trainer,
    TrainerConfig,
    shakespeare,
)

text = shakespeare()
tokenizer = CharTokenizer.from_text(text)
data = TokenDataset(text, tokenizer, val_fraction=0.02)

torch.manual_seed(0)  # the first weights; everything later follows from the trainer's seed
config = GPTConfig.modern(vocab_size=data.vocab_size, block_size=64, n_layer=4, n_head=4, n_embd=128)
model = config.build()
settings = TrainerConfig(max_iters=800, batch_size=16, eval_interval=200)
history = Trainer(model, data, settings).fit()
history.plot("shakespeare_losses.png")

print(Sampler(model, tokenizer).generate("ROMEO:\n", max_new_tokens=600, temperature=0.8))
