"""Measure the cost and the gain of each part of the modern recipe, one at a time.

Run:   TINYGPT_TINYSHAKESPEARE=FILE python benchmarks/ablation.py
Needs: an idle machine; twenty minutes on two cores.

Each variant replaces one part by that of GPT-2 and is composed from public parts, as a user would compose it. 4 layers,
4 heads, width 128, block 64, batch 12, 300 steps, whole validation split. Steps are timed separately, in turns.

With --large, the parts that gain nothing at that size are replaced in a model of 10.7 million parameters, one at a time
and all at once: 6 layers, 6 heads, width 384, batch 16, 150 steps, two seeds, 20 batches of the validation split. The
steps are not timed. It takes an hour.
"""

import statistics
import sys
from collections.abc import Callable, Iterable
from functools import partial
from typing import Any, NamedTuple

import torch
from harness import corpus, in_turns, ratio, record
from torch import nn
from torch.nn import functional as F

from tinygpt import GPTLanguageModel, TokenDataset, Trainer, TrainerConfig
from tinygpt.layers import (
    Chain,
    DecoderBlock,
    Embedding,
    FeedForward,
    LearnedPositions,
    Linear,
    MultiHeadAttention,
    RMSNorm,
    RotaryPositions,
    ShortConvolution,
    relu_squared,
)


class Size(NamedTuple):
    """The sizes of the models, and how each is trained and measured."""

    layers: int
    heads: int
    width: int
    batch: int
    steps: int
    seeds: tuple[int, ...]
    eval_iters: int | None = None


SMALL = Size(layers=4, heads=4, width=128, batch=12, steps=300, seeds=(1, 2, 3))
LARGE = Size(layers=6, heads=6, width=384, batch=16, steps=150, seeds=(1, 2), eval_iters=20)
BLOCK = 64
ROUNDS, CALLS = 25, 10  # their product must be less than the steps of a run, of which the last is evaluated
MUON = {"optimizer": "muon"}


def build(
    vocab_size: int,
    sizes: Size,
    *,
    rotary: bool = True,
    query_key_norm: bool = True,
    norm: Callable[[int], nn.Module] = RMSNorm,
    activation: Callable[..., Any] = relu_squared,
    bias: bool = False,
    embedding_norm: bool = True,
    convolution: bool = True,
) -> GPTLanguageModel:
    """Compose the recipe, with the named parts replaced."""
    width, size = sizes.width, sizes.width // sizes.heads
    blocks = [
        DecoderBlock(
            width,
            attention=MultiHeadAttention(
                width,
                n_head=sizes.heads,
                bias=bias,
                output_bias=bias,
                norm=RMSNorm(size) if query_key_norm else None,
                positions=RotaryPositions(size) if rotary else None,
            ),
            feed_forward=FeedForward(width, activation=activation, bias=bias),
            norm=norm,
        )
        for _ in range(sizes.layers)
    ]
    embedding: list[nn.Module] = [Embedding(vocab_size, width)]
    embedding += [ShortConvolution(width, width=6)] if convolution else []
    embedding += [norm(width)] if embedding_norm else []
    return GPTLanguageModel(
        vocab_size,
        block_size=BLOCK,
        n_embd=width,
        blocks=blocks,
        token_embedding=Chain(*embedding),
        positions=None if rotary else LearnedPositions,
        norm=norm,
        head=Linear(width, vocab_size, bias=bias),
    )


WHOLE = "the whole recipe"
VARIANTS: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    WHOLE: ({}, MUON),
    "AdamW (at 4e-3) instead of Muon": ({}, {"optimizer": "adamw", "learning_rate": 4e-3}),
    "learned positions instead of rotary": ({"rotary": False}, MUON),
    "no norm on queries and keys": ({"query_key_norm": False}, MUON),
    "LayerNorm instead of RMSNorm without gains": ({"norm": nn.LayerNorm}, MUON),
    "GELU instead of ReLU²": ({"activation": F.gelu}, MUON),
    "biases": ({"bias": True}, MUON),
    "no norm on the embedding": ({"embedding_norm": False}, MUON),
    "no short convolution behind the embedding": ({"convolution": False}, MUON),
}
IDLE = {
    "no norm on queries and keys": {"query_key_norm": False},
    "GELU instead of ReLU²": {"activation": F.gelu},
}
SIMPLE = "both at once"
VARIANTS[SIMPLE] = ({key: value for parts in IDLE.values() for key, value in parts.items()}, MUON)


def trainer(data: TokenDataset, name: str, seed: int, sizes: Size = SMALL) -> Trainer:
    """Return the trainer of a variant."""
    parts, settings = VARIANTS[name]
    torch.manual_seed(seed)
    how = TrainerConfig(
        max_iters=sizes.steps,
        batch_size=sizes.batch,
        eval_interval=sizes.steps,
        eval_iters=sizes.eval_iters,
        preview_tokens=0,
        seed=seed,
        **settings,
    )
    return Trainer(build(data.vocab_size, sizes, **parts), data, how)


def validation_losses(data: TokenDataset, names: Iterable[str], sizes: Size) -> dict[str, list[float]]:
    """Train each variant with each seed, and return the validation losses by variant."""
    losses: dict[str, list[float]] = {name: [] for name in names}
    for seed in sizes.seeds:
        for name, each in losses.items():
            each.append(trainer(data, name, seed, sizes).fit(progress=False).last.val_loss)
            print(f"seed {seed}, {name}: {each[-1]:.4f}", file=sys.stderr, flush=True)
    return losses


def large() -> None:
    """Replace in a larger model the parts that gain nothing in the small one, and record the losses."""
    _, data = corpus()
    record("ablation_large", validation_losses(data, [WHOLE, SIMPLE, *IDLE], LARGE))


def small() -> None:
    """Train each variant with each seed, time the steps of all in turns, and record."""
    _, data = corpus()
    losses = validation_losses(data, [name for name in VARIANTS if name != SIMPLE], SMALL)
    steps = {name: partial(next, iter(trainer(data, name, seed=0))) for name in losses}
    again = partial(next, iter(trainer(data, WHOLE, seed=0)))  # the distance of its ratio from 1 is noise
    seconds = in_turns({"again": again} | steps, ROUNDS, CALLS)
    results = {
        name: {
            "loss": statistics.mean(each),
            "spread": max(each) - min(each),
            "of whole": ratio(seconds["again" if name == WHOLE else WHOLE], seconds[name]),
        }
        for name, each in losses.items()
    }
    record("ablation", results)


if __name__ == "__main__":
    large() if sys.argv[1:] == ["--large"] else small()
