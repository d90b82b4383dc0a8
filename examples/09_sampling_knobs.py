"""Sampling options: temperature, top-k, top-p, min-p, stop strings, seeds, several prompts, streams, scores.

Run:   python examples/09_sampling_knobs.py
Takes: about 25 seconds on two cores, most of it training.

The same small model writes with each option, so that you can compare the texts.
"""

from typing import Any

from tinygpt import GPTConfig, TokenDataset, Trainer, TrainerConfig, shakespeare

data = TokenDataset(shakespeare(), val_fraction=0.02)
config = GPTConfig.modern(vocab_size=data.vocab_size, block_size=64, n_layer=3, n_head=4, n_embd=96)
settings = TrainerConfig(max_iters=600, batch_size=16, eval_interval=300, preview_tokens=0)
trainer = Trainer(config.build(seed=0), data, settings)
trainer.fit()
sampler = trainer.sampler()

variations: dict[str, dict[str, Any]] = {
    "temperature 0: greedy, soon in circles": {"temperature": 0},
    "temperature 0.7: more conservative": {"temperature": 0.7},
    "temperature 1.3: more random": {"temperature": 1.3},
    "top_k 5: one of the five most likely": {"top_k": 5},
    "top_p 0.8: from the most likely four fifths": {"top_p": 0.8},
    "min_p 0.1: at least a tenth as likely as the best": {"min_p": 0.1},
    "another seed, another text": {"temperature": 0.7, "seed": 1},
}
for title, options in variations.items():
    written = sampler("ROMEO:\nO, ", max_new_tokens=80, **({"seed": 0} | options))
    print(f"--- {title}\n{written}\n")

print("--- stop at the end of a speech")
print(sampler("JULIET:\n", max_new_tokens=500, temperature=0.7, stop="\n\n"))

print(f"\n--- without a seed each text is a new one; seed={sampler.last_seed} writes the last one again")

print("\n--- several prompts at once")
for written in sampler(["KING:\nWhat ", "First Servant:\nMy lord, "], max_new_tokens=40, temperature=0.7):
    print(repr(written))

print("\n--- a stream: one piece per token")
for piece in sampler.stream("HAMLET:\nTo be", max_new_tokens=80, temperature=0.7):
    print(piece, end="", flush=True)

print("\n\n--- a score: the loss of a text, in nats per character")
for line in ("My lord, I will.", "My lrod, I wlil.", "xqzv jkkw pfgh."):
    print(f"{-sampler.score(line).mean():.2f}  {line}")
