"""Learn to sort six digits from examples of a prompt and its answer.

Run:   python examples/16_learn_to_sort.py
Takes: about a minute on two cores.

Only the answer has a loss: the digits of the prompt are random, so that nothing about them can be learnt. The model
then sorts digits that it has never seen. minGPT's demo sets the same task.
"""

import numpy as np

from tinygpt import GPTConfig, TokenDataset, Trainer, TrainerConfig

numbers = np.random.default_rng(0).choice(10**6, 20_500, replace=False)  # all different, so the held-out ones are new
pairs = [(f"{number:06d}>", "".join(sorted(f"{number:06d}"))) for number in numbers]
examples, held_out = pairs[:20_000], pairs[20_000:]

data = TokenDataset.from_examples(examples, val_fraction=0.05)
config = GPTConfig.modern(vocab_size=data.vocab_size, block_size=13, n_layer=3, n_head=4, n_embd=64)
settings = TrainerConfig(max_iters=400, batch_size=128, preview_tokens=0)
trainer = Trainer(config.build(seed=0), data, settings)
trainer.fit()

prompts = [prompt for prompt, _ in held_out]
written = trainer.sampler()(prompts, max_new_tokens=6, temperature=0)
right = sum(text == prompt + answer for text, (prompt, answer) in zip(written, held_out, strict=True))
for text in written[:5]:
    print(text)
print(f"{right} of {len(held_out)} held-out examples are sorted")
