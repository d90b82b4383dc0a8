"""Measure the cost and the gain of each part of the modern recipe, one at a time.

Run:   TINYGPT_TINYSHAKESPEARE=FILE python benchmarks/ablation.py
Needs: an idle machine; twenty minutes on two cores.

Each variant replaces one part by that of GPT-2 and is composed from public parts, as a user would compose it. 4 layers,
4 heads, width 128, block 64, batch 12, 300 steps, whole validation split. Steps are timed separately, in turns.
"""

import statistics
from collections.abc import Callable
from functools import partial
from typing import Any

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
    SoftCap,
    relu_squared,
)
from tinygpt.layers.linear import STD

SEEDS = (1, 2, 3)
LAYERS, HEADS, WIDTH, BLOCK, BATCH, STEPS = 4, 4, 128, 64, 12, 300
ROUNDS, CALLS = 25, 10  # their product must be less than the steps of a run, of which the last is evaluated
MUON = {"optimizer": "muon"}


def build(
    vocab_size: int,
    *,
    rotary: bool = True,
    query_key_norm: bool = True,
    norm: Callable[[int], nn.Module] = RMSNorm,
    activation: Callable[..., Any] = relu_squared,
    bias: bool = False,
    output_std: float = 0.0,
    cap: bool = True,
    embedding_norm: bool = True,
    convolution: bool = True,
) -> GPTLanguageModel:
    """Compose the recipe, with the named parts replaced."""
    size = WIDTH // HEADS
    blocks = [
        DecoderBlock(
            WIDTH,
            attention=MultiHeadAttention(
                WIDTH,
                n_head=HEADS,
                bias=bias,
                output_bias=bias,
                output_std=output_std,
                norm=RMSNorm(size) if query_key_norm else None,
                positions=RotaryPositions(size) if rotary else None,
            ),
            feed_forward=FeedForward(WIDTH, activation=activation, bias=bias, output_std=output_std),
            norm=norm,
        )
        for _ in range(LAYERS)
    ]
    embedding: list[nn.Module] = [Embedding(vocab_size, WIDTH)]
    embedding += [ShortConvolution(WIDTH, width=6)] if convolution else []
    embedding += [norm(WIDTH)] if embedding_norm else []
    read_out = Linear(WIDTH, vocab_size, bias=bias, std=output_std)
    return GPTLanguageModel(
        vocab_size,
        block_size=BLOCK,
        n_embd=WIDTH,
        blocks=blocks,
        token_embedding=Chain(*embedding),
        positions=None if rotary else LearnedPositions,
        norm=norm,
        head=nn.Sequential(read_out, SoftCap(15.0)) if cap else read_out,
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
    "outputs that start at N(0, 0.02²) instead of zero": ({"output_std": STD}, MUON),
    "no cap on the logits": ({"cap": False}, MUON),
    "no norm on the embedding": ({"embedding_norm": False}, MUON),
    "no short convolution behind the embedding": ({"convolution": False}, MUON),
}


def trainer(data: TokenDataset, name: str, seed: int) -> Trainer:
    """Return the trainer of a variant."""
    parts, settings = VARIANTS[name]
    torch.manual_seed(seed)
    how = TrainerConfig(max_iters=STEPS, batch_size=BATCH, eval_interval=STEPS, preview_tokens=0, seed=seed, **settings)
    return Trainer(build(data.vocab_size, **parts), data, how)


def main() -> None:
    """Train each variant with each seed, time the steps of all in turns, and record."""
    _, data = corpus()
    losses: dict[str, list[float]] = {name: [] for name in VARIANTS}
    for seed in SEEDS:
        for name, each in losses.items():
            each.append(trainer(data, name, seed).fit(progress=False).last.val_loss)
    steps = {name: partial(next, iter(trainer(data, name, seed=0))) for name in VARIANTS}
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
    main()
