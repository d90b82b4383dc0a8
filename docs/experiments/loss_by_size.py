"""The loss by the size of the text and of the model: three GPTs and a table of n-grams on Shakespeare's plays.

python docs/experiments/loss_by_size.py        about 8 minutes on two cores
"""

from tinygpt import GPTConfig, NGramLanguageModel, TokenDataset, Trainer, TrainerConfig, evaluate, shakespeare

TEXTS = (10_000, 50_000, 200_000, 900_000)  # characters to train on
WIDTHS = (32, 64, 128)
STEPS = 400


def config_of(data: TokenDataset, width: int) -> GPTConfig:
    """Return the config of a GPT with two blocks."""
    return GPTConfig.modern(vocab_size=data.vocab_size, block_size=64, n_layer=2, n_head=4, n_embd=width)


def loss_of(data: TokenDataset, width: int) -> float:
    """Train a GPT, and return its best loss, measured eight times."""
    settings = TrainerConfig(max_iters=STEPS, batch_size=16, eval_interval=STEPS // 6, preview_tokens=0)
    return Trainer(config_of(data, width).build(seed=0), data, settings).fit(progress=False).best.val_loss


def main() -> None:
    """Print the table, a row for each length of text."""
    data = TokenDataset(shakespeare()[:1_000_000])
    sizes = [config_of(data, width).build().num_parameters() for width in WIDTHS]
    print(f"{'characters':>10}{'7-gram':>9}" + "".join(f"{f'{size // 1000:,}k':>9}" for size in sizes))
    print("-" * 46)
    for length in TEXTS:
        part = TokenDataset(data.train[-length:], data.tokenizer, val=data.val[:50_000])
        table = NGramLanguageModel.count(part.train, vocab_size=part.vocab_size, order=7)
        losses = [evaluate(table, part, block_size=64).nats, *(loss_of(part, width) for width in WIDTHS)]
        print(f"{length:>10,}" + "".join(f"{loss:>9.3f}" for loss in losses), flush=True)


if __name__ == "__main__":
    main()
