"""Why scores are divided by the square root of ``head_size``: how far the softmax spreads, scaled and unscaled.

Queries and keys have unit variance, as after a norm and a usual initialisation. The entropy of the weights measures
how many positions a query reads: ``ln T`` for equal weights, 0 for a single position.

    python docs/experiments/why_scale_scores.py        about 2 s on one core
"""

import math
from pathlib import Path

import torch
from matplotlib.figure import Figure
from torch import Tensor

POSITIONS, QUERIES = 64, 2000


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
        key = torch.randn(POSITIONS, size, generator=generator, dtype=torch.float64)
        raw = query @ key.T
        even = raw / math.sqrt(size)
        unscaled.append(entropy(raw))
        scaled.append(entropy(even))
        print(f"{size:>9} | {raw.var():>9.2f}{unscaled[-1]:>9.2f} | {even.var():>9.2f}{scaled[-1]:>9.2f}")
    figure = Figure(figsize=(7, 4), layout="constrained", facecolor="white")
    axes = figure.subplots()
    axes.axhline(math.log(POSITIONS), color="0.5", linestyle=":", label=f"even: ln {POSITIONS}")
    axes.plot(sizes, scaled, "o-", label="divided by sqrt(head_size)")
    axes.plot(sizes, unscaled, "o-", label="unscaled")
    axes.set_xscale("log", base=2)
    axes.set_xticks(sizes, labels=map(str, sizes))
    axes.set(xlabel="head_size", ylabel="entropy of the weights (nats)", ylim=(0, None))
    axes.set_title(f"Entropy of attention weights over {POSITIONS} positions")
    axes.legend(frameon=False)
    axes.spines[["top", "right"]].set_visible(False)
    figure.savefig(Path(__file__).parent.parent / "images" / "why_scale_scores.png", dpi=110)


if __name__ == "__main__":
    main()
