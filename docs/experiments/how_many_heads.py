"""How many heads: their cost, and a task that one head cannot solve.

The cost is that of one ``MultiHeadAttention`` at the notebook's width. The task is that of
``why_query_key_value.py`` with two questions: at ``c4`` the model must predict the digits of ``d`` *and* of ``e``.

    python docs/experiments/how_many_heads.py        about 15 s on one core
"""

import time
from pathlib import Path

import torch
from matplotlib.figure import Figure
from torch import Tensor, nn

from tinygpt import GPTLanguageModel
from tinygpt.layers import DecoderBlock, Embedding, MultiHeadAttention

N_HEADS = (1, 2, 3, 4, 6, 12)
LETTERS, DIGITS, POSITIONS, WIDTH, STEPS = 8, 8, 32, 24, 400


class Nothing(nn.Module):
    """A feed-forward that adds nothing."""

    def forward(self, x: Tensor) -> Tensor:
        """Return zeros."""
        return torch.zeros_like(x)


def no_norm(n_embd: int) -> nn.Module:
    """Return a norm that leaves the residual stream as it is."""
    return nn.Identity()


def draw_batch(generator: torch.Generator, rows: int = 64) -> tuple[Tensor, Tensor]:
    """Return ids, ``letter * DIGITS + digit``, and the pairs of digits to predict: -100 where one is unknown."""
    letters = torch.randint(LETTERS, (rows, POSITIONS), generator=generator)
    digit_of = torch.randint(DIGITS, (rows, LETTERS), generator=generator)
    pair, known = torch.zeros_like(letters), torch.ones_like(letters, dtype=torch.bool)
    for distance in (1, 2):
        wanted = (letters + distance) % LETTERS
        pair = pair * DIGITS + digit_of.gather(1, wanted)
        known &= (letters[:, None, :] == wanted[:, :, None]).tril().any(dim=-1)  # has that letter occurred?
    idx = letters * DIGITS + digit_of.gather(1, letters)
    return idx, pair.masked_fill(~known, -100)


def train(n_head: int) -> float:
    """Return the mean loss of the last 50 steps."""
    torch.manual_seed(1)
    attention = MultiHeadAttention(WIDTH, n_head=n_head)
    block = DecoderBlock(WIDTH, attention=attention, feed_forward=Nothing(), norm=no_norm)
    table = Embedding(LETTERS * DIGITS, WIDTH, std=1.0)
    model = GPTLanguageModel(
        DIGITS * DIGITS,
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
    return sum(losses[-50:]) / 50


def measure(parts: dict[int, nn.Module], x: Tensor, rounds: int = 15) -> dict[int, float]:
    """Return the milliseconds of a forward pass: the best of some rounds over all parts."""
    best = dict.fromkeys(parts, float("inf"))
    with torch.no_grad():
        for _ in range(rounds):
            for n_head, part in parts.items():
                started = time.perf_counter()
                part(x)
                best[n_head] = min(best[n_head], 1000 * (time.perf_counter() - started))
    return best


def main() -> None:
    """Print both tables and draw them side by side."""
    torch.set_num_threads(1)
    parts: dict[int, nn.Module] = {n_head: MultiHeadAttention(384, n_head=n_head) for n_head in N_HEADS}
    milliseconds = measure(parts, torch.randn(4, 256, 384))
    print("one attention at n_embd=384, on 4 sequences of 256 positions")
    print(f"{'n_head':>6}{'head_size':>11}{'parameters':>12}{'ms':>7}")
    print("-" * 36)
    for n_head, part in parts.items():
        count = sum(parameter.numel() for parameter in part.parameters())
        print(f"{n_head:>6}{384 // n_head:>11}{count:>12,}{milliseconds[n_head]:>7.1f}")

    print(f"\ntwo questions at once, one block at n_embd={WIDTH}")
    print(f"{'n_head':>6}{'head_size':>11}{'loss (nats)':>13}")
    print("-" * 30)
    losses = {}
    for n_head in N_HEADS:
        losses[n_head] = train(n_head)
        print(f"{n_head:>6}{WIDTH // n_head:>11}{losses[n_head]:>13.3f}")

    figure = Figure(figsize=(7, 3.2), layout="constrained", facecolor="white")
    cost, task = figure.subplots(1, 2)
    names = [str(n_head) for n_head in N_HEADS]
    cost.bar(names, [milliseconds[n_head] for n_head in N_HEADS], color="C0")
    cost.set(xlabel="n_head", ylabel="milliseconds", title="Cost at n_embd=384")
    task.bar(names, [losses[n_head] for n_head in N_HEADS], color="C1")
    task.set(xlabel="n_head", ylabel="loss (nats)", title="Two questions at once")
    for axes in (cost, task):
        axes.spines[["top", "right"]].set_visible(False)
    figure.savefig(Path(__file__).parent.parent / "images" / "how_many_heads.png", dpi=110)


if __name__ == "__main__":
    main()
