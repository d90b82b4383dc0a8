"""Your own training loop: the trainer one step at a time, then plain PyTorch.

Run:   python examples/07_your_own_training_loop.py
Takes: about 15 seconds on two cores.

The body of ``for step in trainer`` does the work of a callback: print, log, stop. A model is an ordinary PyTorch
module, so the usual loop works as well.
"""

import torch

from tinygpt import GPTConfig, TokenDataset, Trainer, TrainerConfig, shakespeare

data = TokenDataset(shakespeare(), val_fraction=0.02)
config = GPTConfig(vocab_size=data.vocab_size, block_size=32, n_layer=2, n_head=4, n_embd=64, dropout=0.0)

print("The trainer, step by step, until the loss is good enough:")
settings = TrainerConfig(max_iters=400, batch_size=32, eval_interval=100, preview_tokens=0)
trainer = Trainer(config.build(seed=0), data, settings)
for step in trainer:
    if step.evaluation is not None:
        print(f"step {step.number:>4}: loss {step.loss:.3f}, val {step.evaluation.val_loss:.3f}")
        if step.evaluation.val_loss < 2.2:
            break
trainer.restore_best()
print(f"on the whole validation split: {trainer.evaluate('val').nats:.4f} nats")

print("\nPlain PyTorch, one pass over a part of the text:")
model = config.build(seed=0)
optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3)
part = TokenDataset(data.train[:200_000], data.tokenizer, val_fraction=0)
for number, (x, y) in enumerate(part.epoch("train", batch_size=32, block_size=32)):
    logits, loss = model(x, y)
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()
    if number % 50 == 0:
        print(f"batch {number:>4}: loss {loss.item():.3f}")
