"""Measure the loss at every size with Muon's default learning rate, a third and three times it.

Run:   TINYGPT_TINYSHAKESPEARE=FILE python benchmarks/sizes.py
Needs: 4 GB of memory; twenty minutes on two cores, most of it for the largest model.

`GPTConfig.modern` from 0.1 to 100 million parameters, block 64, batch 8. Larger models take fewer steps: enough to
recognise a rate that is too high or too low, not to train the model. One seed, 20 batches of the validation split.
"""

import sys

import torch
from harness import corpus, record

from tinygpt import GPTConfig, TokenDataset, Trainer, TrainerConfig

SHAPES = ((2, 4, 64, 300), (4, 9, 144, 300), (6, 6, 384, 100), (14, 12, 768, 40))  # layers, heads, width, steps
FACTORS = (1 / 3, 1, 3)  # of the default rate


def run(data: TokenDataset, layers: int, heads: int, width: int, steps: int, factor: float) -> tuple[int, float]:
    """Return the number of parameters, and the loss after training with a multiple of the default rate."""
    torch.manual_seed(1)
    sizes = {"block_size": 64, "n_layer": layers, "n_head": heads}
    model = GPTConfig.modern(vocab_size=data.vocab_size, n_embd=width, **sizes).build()
    how = TrainerConfig(
        optimizer="muon",
        learning_rate=factor * TrainerConfig(optimizer="muon").peak,
        max_iters=steps,
        batch_size=8,
        eval_interval=steps,
        eval_iters=20,
        preview_tokens=0,
        seed=1,
    )
    history = Trainer(model, data, how).fit(progress=False)
    return model.num_parameters(), history.last.val_loss


def main() -> None:
    """Train each size with each rate, and record."""
    _, data = corpus()
    results = []
    for layers, heads, width, steps in SHAPES:
        losses = {}
        for factor in FACTORS:
            name = f"{factor:.2g}"
            count, losses[name] = run(data, layers, heads, width, steps, factor)
            print(count, steps, name, losses[name], file=sys.stderr)
        results.append({"parameters": count, "steps": steps, "losses": losses})
    record("sizes", results)


if __name__ == "__main__":
    main()
