"""See attention: the tokens that each head reads, as scores, as a line of text, and as a page.

Run:   python examples/13_see_attention.py
Takes: about 20 seconds on two cores, most of it training.

Each head of a small GPT gets a score: how much it reads the token before. The best one then shows the tokens that it
reads at the end of a line. The page look.html has all heads, on any text.
"""

from tinygpt import GPTConfig, TokenDataset, Trainer, TrainerConfig, shakespeare
from tinygpt.views import head_scores, read

data = TokenDataset(shakespeare(), val_fraction=0.02)
config = GPTConfig.modern(vocab_size=data.vocab_size, block_size=64, n_layer=3, n_head=4, n_embd=96)
settings = TrainerConfig(max_iters=400, batch_size=16, eval_interval=400, preview_tokens=0)
trainer = Trainer(config.build(seed=0), data, settings)
trainer.fit()

scores = head_scores(trainer.model)
print(scores)
name = max(scores.previous, key=lambda each: scores.previous[each].max())
head = int(scores.previous[name].argmax())

line = "ROMEO:\nMy lord, I will not speak of love to thee."
reading = read(trainer.model, trainer.sampler().tokenizer, line)
weights = reading.attention[name][head]
print(f"\n{name}, head {head}, when it predicts the last token: the share of its attention on each token before")
for column in weights[-1].argsort()[:-6:-1]:
    token = reading.pieces[column - 1] if column else "the start"
    print(f"{weights[-1, column]:6.1%}  {token!r} at position {column - 1}")

reading.page("look.html")
print("\nOpen look.html in a browser, and press the arrow keys in the text.")
