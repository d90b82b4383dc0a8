"""What attention buys: a GPT beside counted n-grams and their mixture, over time and over the size of the corpus.

The corpus is the first million characters of Shakespeare's plays. The GPT has 4 layers of width 128.

    python docs/experiments/what_attention_buys.py        about 6 minutes on two cores
"""

import math
import time
from pathlib import Path

from matplotlib.figure import Figure
from matplotlib.ticker import NullFormatter, NullLocator, StrMethodFormatter

from tinygpt import (
    GPTConfig,
    LanguageModel,
    MixtureLanguageModel,
    NGramLanguageModel,
    Sampler,
    TokenDataset,
    Trainer,
    TrainerConfig,
    evaluate,
    shakespeare,
)

ORDERS = (1, 2, 3, 4, 5, 6, 7)
MOMENTS = (25, 50, 100, 200, 400, 800)  # steps after which the GPT is measured
SIZES = (30_000, 100_000, 300_000, 900_000)  # characters to train on
STEPS = 300  # for each size
WEIGHTS = (0.4, 0.6)  # of GPT and table
BLOCK = 64


def trainer_on(data: TokenDataset, steps: int) -> Trainer:
    """Return the trainer of the GPT."""
    config = GPTConfig.modern(vocab_size=data.vocab_size, block_size=BLOCK, n_layer=4, n_head=4, n_embd=128)
    settings = TrainerConfig(max_iters=steps, batch_size=12, eval_interval=steps, eval_iters=1, preview_tokens=0)
    return Trainer(config.build(seed=0), data, settings)


def loss_of(model: LanguageModel, data: TokenDataset) -> float:
    """Return the loss on the validation split in nats, in windows of one length for all models."""
    return evaluate(model, data, block_size=BLOCK).nats


def mixture_of(gpt: LanguageModel, table: NGramLanguageModel) -> MixtureLanguageModel:
    """Return the mixture of a GPT and a table."""
    return MixtureLanguageModel([gpt, table], weights=WEIGHTS)


def sample(model: LanguageModel, data: TokenDataset) -> str:
    """Return the first line that a model writes, or most of it."""
    assert data.tokenizer is not None
    text = Sampler(model, data.tokenizer)("\n", max_new_tokens=60, temperature=0.8, seed=0)
    return " ".join(text.split())[:44]


def ladder(data: TokenDataset) -> dict[int, NGramLanguageModel]:
    """Print the losses of all counted models, and return them by their order."""
    print(f"{'model':<12}{'nats':>7}{'seconds':>9}{'weights':>11}   writes")
    print("-" * 84)
    print(f"{'even guess':<12}{math.log(data.vocab_size):>7.3f}{0:>9.1f}{0:>11,}")
    tables = {}
    for order in ORDERS:
        started = time.perf_counter()
        table = tables[order] = NGramLanguageModel.count(data.train, vocab_size=data.vocab_size, order=order)
        show(f"{order}-gram", table, data, time.perf_counter() - started)
    return tables


def show(name: str, model: LanguageModel, data: TokenDataset, seconds: float) -> None:
    """Print a row of the ladder."""
    nats, weights = loss_of(model, data), model.num_parameters()
    print(f"{name:<12}{nats:>7.3f}{seconds:>9.1f}{weights:>11,}   {sample(model, data)}")


def over_time(data: TokenDataset, table: NGramLanguageModel) -> dict[str, list[float]]:
    """Train the GPT, and return its losses and those of the mixture at the moments."""
    trainer = trainer_on(data, MOMENTS[-1])
    losses: dict[str, list[float]] = {"GPT": [], "mixture": []}
    seconds = 0.0
    for step in trainer:
        seconds += step.seconds
        if step.number in MOMENTS:
            losses["GPT"].append(loss_of(trainer.model, data))
            losses["mixture"].append(loss_of(mixture_of(trainer.model, table), data))
    show("GPT", trainer.model, data, seconds)
    show("mixture", mixture_of(trainer.model, table), data, seconds)
    return losses


def over_sizes(data: TokenDataset) -> dict[str, list[float]]:
    """Return the losses by the size of the training split, on one validation split."""
    losses: dict[str, list[float]] = {"7-gram": [], "GPT": [], "mixture": []}
    print(f"\n{'characters':>10}{'7-gram':>9}{'GPT':>9}{'mixture':>10}")
    print("-" * 38)
    for size in SIZES:
        part = TokenDataset(data.train[-size:], data.tokenizer, val=data.val)
        table = NGramLanguageModel.count(part.train, vocab_size=part.vocab_size)
        trainer = trainer_on(part, STEPS)
        trainer.fit(progress=False)
        models = {"7-gram": table, "GPT": trainer.model, "mixture": mixture_of(trainer.model, table)}
        for name, model in models.items():
            losses[name].append(loss_of(model, part))
        print(f"{size:>10,}{losses['7-gram'][-1]:>9.3f}{losses['GPT'][-1]:>9.3f}{losses['mixture'][-1]:>10.3f}")
    return losses


def main() -> None:
    """Print both tables, and draw both pictures."""
    data = TokenDataset(shakespeare()[:1_000_000])
    tables = ladder(data)
    counted = {order: loss_of(table, data) for order, table in tables.items()}
    time_losses = over_time(data, tables[7])
    size_losses = over_sizes(data)

    figure = Figure(figsize=(7.2, 3.4), layout="constrained", facecolor="white")
    left, right = figure.subplots(1, 2, sharey=True)
    styles = {"7-gram": ("0.35", "s", ":"), "GPT": ("C0", "o", "-"), "mixture": ("C1", "D", "--")}
    for name, values in time_losses.items():
        colour, marker, line = styles[name]
        left.plot(MOMENTS, values, color=colour, marker=marker, linestyle=line, label=name)
    for order in (2, 4, 7):
        left.axhline(counted[order], color="0.35", linewidth=0.8, linestyle=":")
        where = {"xytext": (0, 2), "textcoords": "offset points", "ha": "right"}
        left.annotate(f"{order}-gram", (MOMENTS[-1], counted[order]), **where)
    for name, values in size_losses.items():
        colour, marker, line = styles[name]
        right.plot(SIZES, values, color=colour, marker=marker, linestyle=line, label=name)
    left.set(xscale="log", xlabel="steps of the GPT", ylabel="validation loss (nats)", title="900,000 characters")
    right.set(xscale="log", xlabel="characters to train on", title=f"{STEPS} steps of the GPT")
    for axes, ticks in ((left, MOMENTS), (right, SIZES)):
        axes.set_xticks(ticks)
        axes.xaxis.set_major_formatter(StrMethodFormatter("{x:,.0f}"))
        axes.xaxis.set_minor_locator(NullLocator())
        axes.xaxis.set_minor_formatter(NullFormatter())
        axes.spines[["top", "right"]].set_visible(False)
        axes.legend(frameon=False)
    figure.savefig(Path(__file__).parent.parent / "images" / "what_attention_buys.png", dpi=110)


if __name__ == "__main__":
    main()
