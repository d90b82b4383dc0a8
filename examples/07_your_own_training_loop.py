"""Your own training loop: the trainer one step at a time, and then no trainer at all.

Run:   python examples/07_your_own_training_loop.py
Takes: about 15 seconds on two cores.

The body of ``for step in trainer`` is the callback: print, stop, change, log. And since a model is a function of ids,
the plain PyTorch loop that you know works as well.
"""

import torch

from tinygpt import CharTokenizer, GPTConfig, TokenDataset, Trainer, TrainerConfig, shakespeare

text = shakespeare()
data = TokenDataset(text, CharTokenizer.from_text(text), val_fraction=0.02)
config = GPTConfig(vocab_size=data.vocab_size, block_size=32, n_layer=2, n_head=4, n_embd=64, dropout=0.0)

print("The trainer, step by step; we stop it ourselves once the loss is good enough.")
torch.manual_seed(0)
trainer = Trainer(
    config.build(),
    data,
    TrainerConfig(max_iters=400, batch_size=32, eval_interval=100, preview_tokens=0),
)
for step in trainer:
    if step.evaluation is not None:
        print(f"step {step.number:>4}: loss {step.loss:.3f}, val {step.evaluation.val_loss:.3f}")
        if step.evaluation.val_loss < 2.2:
            break
trainer.restore_best()
print(f"on the whole validation split: {trainer.evaluate('val').nats:.4f} nats")

print("\nNo trainer: PyTorch alone, one pass over a part of the text without repetition.")
torch.manual_seed(0)
model = config.build()
optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3)
part = TokenDataset(data.train[:200_000], data.tokenizer, val_fraction=0)
for number, (x, y) in enumerate(part.epoch("train", batch_size=32, block_size=32)):
    logits, loss = model(x, y)
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()
    if number % 50 == 0:
        print(f"batch {number:>4}: loss {loss.item():.3f}")
