"""Compare the models: what does attention buy? A bigram and a small GPT, the same text, side by side.

Run:   python examples/11_compare_the_models.py   (or: make demo)
Takes: about a minute and a half on two cores.

Both learn all of Shakespeare's plays, character by character, from nothing. The table shows their losses beside an
even guess; the samples show what the difference means.
"""

import torch

from tinygpt import (
    BigramLanguageModel,
    CharTokenizer,
    GPTConfig,
    TokenDataset,
    TrainerConfig,
    compare,
    shakespeare,
)

text = shakespeare()
tokenizer = CharTokenizer.from_text(text)
data = TokenDataset(text, tokenizer, val_fraction=0.02)  # 2 % of 4.8 million characters are plenty to measure with

torch.manual_seed(0)
config = GPTConfig.modern(vocab_size=data.vocab_size, block_size=128, n_layer=3, n_head=4, n_embd=144)
models = {
    "bigram": BigramLanguageModel(data.vocab_size),
    "gpt": config.build(),
}
configs = {
    "bigram": TrainerConfig(max_iters=600, batch_size=32, learning_rate=0.05, eval_interval=300, preview_tokens=0),
    "gpt": TrainerConfig(max_iters=800, batch_size=12, learning_rate=7e-3, eval_interval=400, preview_tokens=200),
}
print(compare(models, data, configs, prompt="ROMEO:\n", sample_length=500, temperature=0.8))
