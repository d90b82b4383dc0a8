"""Learn to add three-digit numbers, from batches that a function of the step makes.

Run:   python examples/18_addition.py
Takes: about a minute on two cores.

Each step has new problems, from a generator that the step seeds, so that a resumed run has the same ones. The digits of
a sum are reversed, so that a carry comes from the digit before. minGPT's demo sets the same task.
"""

import numpy as np
import torch
from torch import Tensor

from tinygpt import CharTokenizer, GPTConfig, TokenDataset, Trainer, TrainerConfig


def problem(number: int) -> tuple[str, str]:
    """Return the prompt and the answer of one of a million problems."""
    a, b = divmod(number, 1000)
    return f"{a:03d}+{b:03d}=", f"{a + b:04d}"[::-1]


numbers = np.random.default_rng(0).permutation(10**6)
practice, held_out = numbers[1000:], [problem(number) for number in numbers[:1000].tolist()]
examples = [problem(number) for number in practice[:1000].tolist()]

# The trainer measures the loss on the data, and draws its batches from the function below.
tokenizer = CharTokenizer("0123456789+=\n")
data = TokenDataset.from_examples(examples, tokenizer, val=held_out, separator="\n")


def batches(step: int) -> tuple[Tensor, Tensor]:
    """Return new problems for each step."""
    drawn = map(problem, np.random.default_rng(step).choice(practice, 128).tolist())
    text = "".join(f"{prompt}{answer}\n" for prompt, answer in drawn)
    ids = torch.tensor(tokenizer.encode(text)).view(128, 13)
    y = ids[:, 1:].clone()
    y[:, :7] = -100  # no loss on the prompt, which is random
    return ids[:, :-1], y


config = GPTConfig.modern(vocab_size=data.vocab_size, block_size=12, n_layer=2, n_head=4, n_embd=64)
settings = TrainerConfig(max_iters=800, eval_interval=200, preview_tokens=0)
trainer = Trainer(config.build(seed=0), data, settings, batches=batches)
trainer.fit()

written = trainer.sampler()([prompt for prompt, _ in held_out], max_new_tokens=4, temperature=0)
right = sum(text == prompt + answer for text, (prompt, answer) in zip(written, held_out, strict=True))
for text in written[:5]:
    print(text[:8] + text[8:][::-1])
print(f"{right} of {len(held_out)} held-out sums are right")
