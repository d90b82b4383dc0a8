"""The bigram baseline: the best loss that the last character alone allows.

Run:   python examples/01_bigram_baseline.py
Takes: about 10 seconds on two cores.

The model is a table of how often each character follows each other one. Its loss cannot fall below the conditional
entropy of the text, which is counted here for comparison. A GPT has to do better.
"""

import numpy as np

from tinygpt import BigramLanguageModel, TokenDataset, Trainer, TrainerConfig, shakespeare

data = TokenDataset(shakespeare())
config = TrainerConfig(max_iters=1000, learning_rate=0.05, eval_interval=250, preview_tokens=0)
trainer = Trainer(BigramLanguageModel(data.vocab_size), data, config)
trainer.fit()

# The conditional entropy of the validation split, from the counts of its pairs of characters
pairs = np.zeros((data.vocab_size, data.vocab_size))
np.add.at(pairs, (data.val[:-1], data.val[1:]), 1)
with np.errstate(divide="ignore", invalid="ignore"):
    surprise = np.where(pairs > 0, -pairs * np.log(pairs / pairs.sum(axis=1, keepdims=True)), 0)
entropy = surprise.sum() / pairs.sum()

print(f"\neven guess             {np.log(data.vocab_size):.4f} nats per character")
print(f"the trained bigram     {trainer.evaluate('val').nats:.4f}")
print(f"limit of every bigram  {entropy:.4f}")
print("\nIt writes:\n" + trainer.sampler()("ROMEO:\n"))
