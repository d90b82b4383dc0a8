"""Your own text: one file in, a model that writes like it out.

Run:   python examples/08_your_own_text.py
Takes: about 15 seconds on two cores.

Put your own path in place of TEXT. Here it is the license beside this folder, which makes a very small corpus: watch
the validation loss turn around while the training loss falls. That is overfitting, and the best weights are kept.
"""

from pathlib import Path

import torch

from tinygpt import CharTokenizer, GPTConfig, Sampler, TokenDataset, Trainer, TrainerConfig, read_text

TEXT = Path(__file__).parent.parent / "LICENSE"

text = read_text(TEXT)  # UTF-8, exactly as it is in the file
tokenizer = CharTokenizer.from_text(text)
data = TokenDataset(text, tokenizer, val_fraction=0.15)
print(data)

torch.manual_seed(0)
config = GPTConfig.modern(vocab_size=data.vocab_size, block_size=64, n_layer=2, n_head=4, n_embd=64)
model = config.build()
settings = TrainerConfig(max_iters=300, batch_size=16, eval_interval=20, patience=4, preview_tokens=0)
Trainer(model, data, settings).fit()
print()
print(Sampler(model, tokenizer).generate("Permission", max_new_tokens=200, temperature=0.5))
