"""A small GPT on Shakespeare: ten lines from a text to a model that writes.

Run:   python examples/02_gpt_on_shakespeare.py
Takes: about a minute on two cores.

Each character is predicted from up to 64 characters before it. The program draws the losses into
shakespeare_losses.png and prints a page of a play that nobody wrote.
"""

from tinygpt import GPTConfig, TokenDataset, Trainer, TrainerConfig, shakespeare

data = TokenDataset(shakespeare(), val_fraction=0.02)
config = GPTConfig.modern(vocab_size=data.vocab_size, block_size=64, n_layer=4, n_head=4, n_embd=128)
settings = TrainerConfig(max_iters=800, batch_size=16, eval_interval=200)
trainer = Trainer(config.build(seed=0), data, settings)
history = trainer.fit()
history.plot("shakespeare_losses.png")

print(trainer.sampler()("ROMEO:\n", max_new_tokens=600, temperature=0.8))
