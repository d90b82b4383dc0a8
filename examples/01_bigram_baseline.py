"""The bigram baseline: what can be known from the last character alone.

Run:   python examples/01_bigram_baseline.py
Takes: about 10 seconds on two cores.

The table learns how often each character follows each other. Its loss can only fall to the conditional entropy of the
text, which is counted here, so that you can see how near it comes. It is the number that a GPT has to beat.
"""

import numpy as np

from tinygpt import BigramLanguageModel, CharTokenizer, Sampler, TokenDataset, Trainer, TrainerConfig, shakespeare

text = shakespeare()
tokenizer = CharTokenizer.from_text(text)
data = TokenDataset(text, tokenizer)

model = BigramLanguageModel(data.vocab_size)
trainer = Trainer(model, data, TrainerConfig(max_iters=1000, learning_rate=0.05, eval_interval=250, preview_tokens=0))
history = trainer.fit()

pairs = np.zeros((data.vocab_size, data.vocab_size))
np.add.at(pairs, (data.val[:-1], data.val[1:]), 1)
with np.errstate(divide="ignore", invalid="ignore"):
    surprise = np.where(pairs > 0, -pairs * np.log(pairs / pairs.sum(axis=1, keepdims=True)), 0)
entropy = surprise.sum() / pairs.sum()

print(f"\nknowing nothing        {np.log(data.vocab_size):.4f} nats per character")
print(f"the bigram             {trainer.evaluate('val').nats:.4f}")
print(f"no bigram can do more  {entropy:.4f}")
print("\nIt writes:\n" + Sampler(model, tokenizer).generate("ROMEO:\n", max_new_tokens=200))
