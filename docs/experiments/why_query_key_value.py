"""Why queries, keys and values: a task that raw embeddings cannot solve, and the gain of each projection.

Each position holds a letter and a digit, such as ``c4``. Within one sequence a letter always has the same digit. At
each position the model must predict the digit of the *next* letter, if that has occurred: ``c4`` looks for ``d``, and
``h`` for ``a``. There are no feed-forward and no norms, so attention alone must solve it.

    python docs/experiments/why_query_key_value.py        about 10 s on one core
"""

import math
from pathlib import Path

import torch
from matplotlib.figure import Figure
from torch import Tensor, nn

from tinygpt import GPTLanguageModel
from tinygpt.layers import DecoderBlock, Embedding, Head

LETTERS, DIGITS, POSITIONS, WIDTH, STEPS = 8, 8, 32, 32, 600


class Nothing(nn.Module):
    """A feed-forward that adds nothing."""

    def forward(self, x: Tensor) -> Tensor:
        """Return zeros."""
        return torch.zeros_like(x)


def no_norm(n_embd: int) -> nn.Module:
    """Return a norm that leaves the residual stream as it is."""
    return nn.Identity()


def draw_batch(generator: torch.Generator, rows: int = 64) -> tuple[Tensor, Tensor]:
    """Return ids, ``letter * DIGITS + digit``, and the digits to predict: -100 where one is unknown."""
    letters = torch.randint(LETTERS, (rows, POSITIONS), generator=generator)
    digit_of = torch.randint(DIGITS, (rows, LETTERS), generator=generator)
    wanted = (letters + 1) % LETTERS
    seen = (letters[:, None, :] == wanted[:, :, None]).tril().any(dim=-1)  # B T T: has the next letter occurred?
    idx = letters * DIGITS + digit_of.gather(1, letters)
    return idx, digit_of.gather(1, wanted).masked_fill(~seen, -100)


def train(learned: str) -> list[float]:
    """Train a model of one head with the named projections only, and return its losses."""
    torch.manual_seed(1)
    head = Head(WIDTH, head_size=WIDTH)
    for name in ("query", "key", "value"):
        if name not in learned:
            setattr(head, name, nn.Identity())  # the raw embedding instead of its projection
    block = DecoderBlock(WIDTH, attention=head, feed_forward=Nothing(), norm=no_norm)
    table = Embedding(LETTERS * DIGITS, WIDTH, std=1.0)
    model = GPTLanguageModel(
        LETTERS * DIGITS,
        block_size=POSITIONS,
        n_embd=WIDTH,
        blocks=[block],
        token_embedding=table,
        positions=None,
        norm=no_norm,
    )
    optimizer = torch.optim.Adam(model.parameters(), lr=0.02)
    generator = torch.Generator().manual_seed(0)
    losses = []
    for _ in range(STEPS):
        loss = model(*draw_batch(generator)).loss
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    return losses


def main() -> None:
    """Train the four variants, print their last losses, and draw their curves."""
    figure = Figure(figsize=(7, 4), layout="constrained", facecolor="white")
    axes = figure.subplots()
    print(f"{'learned projections':<24}{'loss (nats)':>12}")
    print("-" * 36)
    for learned in ("none", "value", "query, key", "query, key, value"):
        losses = torch.tensor(train(learned))
        print(f"{learned:<24}{losses[-50:].mean():>12.3f}")
        axes.plot(torch.arange(5, STEPS, 10), losses.unfold(0, 10, 10).mean(dim=1), label=learned)
    axes.axhline(math.log(DIGITS), color="0.5", linestyle=":", label="even guess")
    axes.set(xlabel="step", ylabel="loss (nats)", ylim=(0, None), title="One head, with and without its projections")
    axes.legend(title="learned projections", frameon=False)
    axes.spines[["top", "right"]].set_visible(False)
    figure.savefig(Path(__file__).parent.parent / "images" / "why_query_key_value.png", dpi=110)


if __name__ == "__main__":
    main()
