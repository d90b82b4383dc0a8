"""Climb the ladder of baselines: tables of n-grams, a GPT, and the mixture of both.

Run:   python examples/19_what_attention_buys.py
Takes: about a minute and a half on two cores.

A table counts which token follows the last few, in a second and without a gradient. A GPT has to beat it before
attention has shown anything, and the mixture is better than both. Read the samples beside the losses.
"""

from tinygpt import (
    GPTConfig,
    MixtureLanguageModel,
    NGramLanguageModel,
    TokenDataset,
    Trainer,
    TrainerConfig,
    compare,
    shakespeare,
)

data = TokenDataset(shakespeare()[:1_000_000])
tables = {
    f"{order}-gram": NGramLanguageModel.count(data.train, vocab_size=data.vocab_size, order=order)
    for order in (1, 2, 3, 5, 7)
}
config = GPTConfig.modern(vocab_size=data.vocab_size, block_size=64, n_layer=4, n_head=4, n_embd=128)
settings = TrainerConfig(max_iters=600, batch_size=12, eval_interval=300, preview_tokens=0)
gpt = Trainer(config.build(seed=0), data, settings)

# finished models are measured after the training, so the mixture holds the trained GPT
mixture = MixtureLanguageModel([gpt.model, tables["7-gram"]], weights=[0.4, 0.6])
print(compare(tables | {"gpt": gpt, "mixture": mixture}, prompt="ROMEO:\n", max_new_tokens=200))
