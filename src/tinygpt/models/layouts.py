"""The layouts of :class:`~tinygpt.GPTConfig`: each names the parts of a GPT."""

from functools import partial
from typing import Any

from torch import nn

from tinygpt.layers import (
    Chain,
    DecoderBlock,
    FeedForward,
    LearnedPositions,
    MultiHeadAttention,
    RMSNorm,
    RotaryPositions,
    ShortConvolution,
    SoftCap,
    relu_squared,
)
from tinygpt.layers.linear import STD, Embedding, Linear
from tinygpt.models.config import GPTConfig


def parts_of_layout(config: GPTConfig) -> dict[str, Any]:
    """Return the parts of the model that a config describes, by the names of the constructor's arguments."""
    return {"notebook": _notebook, "gpt2": _gpt2, "modern": _modern}[config.layout](config)


def _notebook(config: GPTConfig) -> dict[str, Any]:
    c = config
    blocks = [
        DecoderBlock(
            c.n_embd,
            attention=MultiHeadAttention(c.n_embd, c.n_head, dropout=c.dropout),
            feed_forward=FeedForward(c.n_embd),
        )
        for _ in range(c.n_layer)
    ]
    return {"blocks": blocks}


def _gpt2(config: GPTConfig) -> dict[str, Any]:
    c = config
    std = STD / (2 * c.n_layer) ** 0.5  # 2 * n_layer outputs add up in the residual stream
    blocks = [
        DecoderBlock(
            c.n_embd,
            attention=MultiHeadAttention(c.n_embd, c.n_head, dropout=c.dropout, bias=True, output_std=std),
            feed_forward=FeedForward(
                c.n_embd, activation=nn.GELU(approximate="tanh"), dropout=c.dropout, output_std=std
            ),
        )
        for _ in range(c.n_layer)
    ]
    table = Embedding(c.vocab_size, c.n_embd)
    head = Linear(c.n_embd, c.vocab_size, bias=False)
    head.weight = table.weight
    return {
        "blocks": blocks,
        "token_embedding": table,
        "positions": partial(LearnedPositions, dropout=c.dropout),
        "head": head,
    }


def _modern(config: GPTConfig) -> dict[str, Any]:
    """Build the recipe of the speed runs: each part is there because it lowers the loss after a given time.

    Source:
        Jordan et al., *modded-nanogpt*, 2024. https://github.com/KellerJordan/modded-nanogpt
    """
    c = config
    size = c.n_embd // c.n_head
    rotary = RotaryPositions(size)
    blocks = [
        DecoderBlock(
            c.n_embd,
            attention=MultiHeadAttention(
                c.n_embd,
                c.n_head,
                dropout=c.dropout,
                output_bias=False,
                output_std=0.0,
                norm=RMSNorm(size),
                positions=rotary,
            ),
            feed_forward=FeedForward(c.n_embd, activation=relu_squared, dropout=c.dropout, bias=False, output_std=0.0),
            norm=RMSNorm,
        )
        for _ in range(c.n_layer)
    ]
    return {
        "blocks": blocks,
        "token_embedding": Chain(Embedding(c.vocab_size, c.n_embd), ShortConvolution(c.n_embd, 6), RMSNorm(c.n_embd)),
        "positions": None,
        "norm": RMSNorm,
        "head": nn.Sequential(Linear(c.n_embd, c.vocab_size, bias=False, std=0.0), SoftCap(15.0)),
    }
