"""The layouts of :class:`~tinygpt.GPTConfig`: build the parts and the model."""

from collections.abc import Callable
from contextlib import nullcontext
from functools import partial
from inspect import signature
from typing import Any, Literal, TypeVar

import torch
from torch import nn

from tinygpt.errors import InputTypeError, short
from tinygpt.layers import (
    Chain,
    DecoderBlock,
    FeedForward,
    LearnedPositions,
    MultiHeadAttention,
    RMSNorm,
    RotaryPositions,
    ShortConvolution,
    relu_squared,
)
from tinygpt.layers.linear import STD, Embedding, Linear
from tinygpt.models.config import GPTConfig, Layout
from tinygpt.models.gpt import GPTLanguageModel
from tinygpt.models.inspection import parts_of
from tinygpt.randomness import check_seed
from tinygpt.runtime import drawing_from

Model = TypeVar("Model", bound=GPTLanguageModel)


def build(config: GPTConfig, model_class: type[Model], seed: int | None, arguments: dict[str, Any]) -> Model:
    """Build the model that a config describes; see :meth:`GPTConfig.build`."""
    if not (isinstance(model_class, type) and issubclass(model_class, GPTLanguageModel)):
        raise InputTypeError(f"model_class must be GPTLanguageModel or a subclass of it, got {short(model_class)}")
    with drawing_from(check_seed(seed), torch.device("cpu")) if seed is not None else nullcontext():
        layouts: dict[Layout, Callable[[GPTConfig], dict[str, Any]]] = {
            "notebook": _notebook,
            "gpt2": _gpt2,
            "nanogpt": partial(_gpt2, approximate="none"),
            "modern": _modern,
        }
        sizes = {"vocab_size": config.vocab_size, "block_size": config.block_size, "n_embd": config.n_embd}
        given = sizes | layouts[config.layout](config) | arguments
        try:
            signature(model_class).bind(**given)
        except TypeError as error:
            raise InputTypeError(
                f"{model_class.__name__}.__init__ must take {', '.join(given)}, got {error}; pass **parts on to "
                f"GPTLanguageModel.__init__, or pass the missing arguments to build"
            ) from error
        model = model_class(**given)
    if not arguments:
        model.config, model.built_as = config, parts_of(model)
    return model


def _notebook(config: GPTConfig) -> dict[str, Any]:
    c = config
    blocks = [
        DecoderBlock(
            c.n_embd,
            attention=MultiHeadAttention(c.n_embd, n_head=c.n_head, dropout=c.dropout),
            feed_forward=FeedForward(c.n_embd),
        )
        for _ in range(c.n_layer)
    ]
    return {"blocks": blocks}


def _gpt2(config: GPTConfig, *, approximate: Literal["none", "tanh"] = "tanh") -> dict[str, Any]:
    c = config
    std = STD / (2 * c.n_layer) ** 0.5  # 2 * n_layer outputs add up in the residual stream
    blocks = [
        DecoderBlock(
            c.n_embd,
            attention=MultiHeadAttention(c.n_embd, n_head=c.n_head, dropout=c.dropout, bias=True, output_std=std),
            feed_forward=FeedForward(c.n_embd, activation=nn.GELU(approximate), dropout=c.dropout, output_std=std),
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
    """Return the parts of the modern layout, each of which lowers the loss after a given training time.

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
                n_head=c.n_head,
                dropout=c.dropout,
                output_bias=False,
                norm=RMSNorm(size),
                positions=rotary,
            ),
            feed_forward=FeedForward(c.n_embd, activation=relu_squared, dropout=c.dropout, bias=False),
            norm=RMSNorm,
        )
        for _ in range(c.n_layer)
    ]
    return {
        "blocks": blocks,
        "token_embedding": Chain(
            Embedding(c.vocab_size, c.n_embd), ShortConvolution(c.n_embd, width=6), RMSNorm(c.n_embd)
        ),
        "positions": None,
        "norm": RMSNorm,
        "head": Linear(c.n_embd, c.vocab_size, bias=False),
    }
