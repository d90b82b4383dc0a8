"""Why scores are divided by the square root of ``head_size``: how far the softmax spreads, scaled and unscaled.

Queries and keys are drawn with unit variance, as they come out of a norm and a sound initialisation. The entropy of
the weights says among how many places a query shares its attention: ``ln T`` if evenly, 0 if it looks at one alone.

    python docs/experiments/why_scale_scores.py        about 2 s on one core
"""

import math
from pathlib import Path

import torch
from matplotlib.figure import Figure
from torch import Tensor

PLACES, QUERIES = 64, 2000


def entropy(scores: Tensor) -> float:
    """Return the mean entropy, in nats, of the softmax of each row."""
    return torch.distributions.Categorical(logits=scores).entropy().mean().item()


def main() -> None:
    """Print the table and draw it."""
    generator = torch.Generator().manual_seed(0)
    sizes = [2**power for power in range(11)]
    unscaled, scaled = [], []
    print(f"{'':>9} | {'unscaled':^18} | {'divided by sqrt(D)':^18}")
    print(f"{'head_size':>9} | {'variance':>9}{'entropy':>9} | {'variance':>9}{'entropy':>9}")
    print("-" * 51)
    for size in sizes:
        query = torch.randn(QUERIES, size, generator=generator, dtype=torch.float64)
        key = torch.randn(PLACES, size, generator=generator, dtype=torch.float64)
        raw = query @ key.T
        even = raw / math.sqrt(size)
        unscaled.append(entropy(raw))
        scaled.append(entropy(even))
        print(f"{size:>9} | {raw.var():>9.2f}{unscaled[-1]:>9.2f} | {even.var():>9.2f}{scaled[-1]:>9.2f}")
    figure = Figure(figsize=(7, 4), layout="constrained", facecolor="white")
    axes = figure.subplots()
    axes.axhline(math.log(PLACES), color="0.5", linestyle=":", label=f"even: ln {PLACES}")
    axes.plot(sizes, scaled, "o-", label="divided by sqrt(head_size)")
    axes.plot(sizes, unscaled, "o-", label="unscaled")
    axes.set_xscale("log", base=2)
    axes.set_xticks(sizes, labels=map(str, sizes))
    axes.set(xlabel="head_size", ylabel="entropy of the weights (nats)", ylim=(0, None))
    axes.set_title(f"How widely a query looks among {PLACES} places")
    axes.legend(frameon=False)
    axes.spines[["top", "right"]].set_visible(False)
    figure.savefig(Path(__file__).parent.parent / "images" / "why_scale_scores.png", dpi=110)


if __name__ == "__main__":
    main()
