"""Compare the models: a bigram and a small GPT on the same text.

Run:   python examples/11_compare_the_models.py   (or: make demo)
Takes: about a minute and a half on two cores.

Both learn all of Shakespeare's plays, character by character. The table shows their losses beside an even guess, and
the samples show how much better a GPT writes.
"""

from tinygpt import BigramLanguageModel, GPTConfig, TokenDataset, Trainer, TrainerConfig, compare, shakespeare

data = TokenDataset(shakespeare(), val_fraction=0.02)  # 2 % of 4.8 million characters are enough to measure with
config = GPTConfig.modern(vocab_size=data.vocab_size, block_size=128, n_layer=3, n_head=4, n_embd=144)
table = TrainerConfig(
    max_iters=600, batch_size=32, block_size=128, learning_rate=0.05, eval_interval=300, preview_tokens=0
)
settings = TrainerConfig(max_iters=800, batch_size=12, learning_rate=7e-3, eval_interval=400, preview_tokens=200)
trainers = {
    "bigram": Trainer(BigramLanguageModel(data.vocab_size), data, table),
    "gpt": Trainer(config.build(seed=0), data, settings),
}
print(compare(trainers, prompt="ROMEO:\n", max_new_tokens=500))
