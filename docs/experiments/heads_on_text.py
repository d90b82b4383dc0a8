"""How many heads, on real text: a tiny model on Shakespeare, with two seeds to show the noise.

python docs/experiments/heads_on_text.py        about 15 s on one core
"""

import torch

from tinygpt import GPTLanguageModel, TokenDataset, Trainer, TrainerConfig, shakespeare
from tinygpt.layers import DecoderBlock, FeedForward, MultiHeadAttention

WIDTH, BLOCK_SIZE, STEPS = 48, 32, 250


def train(data: TokenDataset, n_head: int, seed: int) -> float:
    """Train a model of one block, and return its validation loss."""
    torch.manual_seed(seed)
    block = DecoderBlock(WIDTH, attention=MultiHeadAttention(WIDTH, n_head=n_head), feed_forward=FeedForward(WIDTH))
    model = GPTLanguageModel(data.vocab_size, block_size=BLOCK_SIZE, n_embd=WIDTH, blocks=[block])
    config = TrainerConfig(
        max_iters=STEPS,
        batch_size=16,
        optimizer="adamw",
        learning_rate=5e-3,
        eval_interval=STEPS,
        eval_iters=40,
        preview_tokens=0,
        seed=seed,
    )
    return Trainer(model, data, config).fit(progress=False).last.val_loss


def main() -> None:
    """Print the table."""
    data = TokenDataset(shakespeare()[:1_000_000])
    print(f"validation loss (nats) after {STEPS} steps, one block at n_embd={WIDTH}")
    print(f"{'n_head':>6}{'head_size':>11}{'seed 0':>9}{'seed 1':>9}")
    print("-" * 35)
    for n_head in (1, 2, 3, 4, 6, 12):
        first, second = (train(data, n_head, seed) for seed in (0, 1))
        print(f"{n_head:>6}{WIDTH // n_head:>11}{first:>9.3f}{second:>9.3f}")


if __name__ == "__main__":
    main()
