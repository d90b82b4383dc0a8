"""A playground in the browser: the model writes while you type, and shows what it expected.

Run:   python examples/15_a_playground.py
Takes: about 30 seconds of training on two cores; then the page is there until you press Enter.

The page is served on this computer alone. `tinygpt serve MODEL` does the same for a model that is saved.
"""

import sys
import webbrowser

from tinygpt import GPTConfig, TokenDataset, Trainer, TrainerConfig, shakespeare
from tinygpt.serve import Playground

data = TokenDataset(shakespeare(), val_fraction=0.02)
config = GPTConfig.modern(vocab_size=data.vocab_size, block_size=128, n_layer=4, n_head=4, n_embd=96)
trainer = Trainer(config.build(seed=0), data, TrainerConfig(max_iters=600, batch_size=12, preview_tokens=0))
trainer.fit()

with Playground(trainer.sampler(), title="Shakespeare") as playground:
    webbrowser.open(playground.url)
    print(f"{playground.url} is open: type 'ROMEO:' there. Press Enter here to end it.", flush=True)
    sys.stdin.readline()
