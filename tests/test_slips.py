"""Slips that are easily made: each is named where it is made, with the way out."""

from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import tinygpt
from tinygpt import (
    BigramLanguageModel,
    CharTokenizer,
    GPTConfig,
    GPTLanguageModel,
    MixtureLanguageModel,
    NGramLanguageModel,
    Sampler,
    TokenDataset,
    Trainer,
    TrainerConfig,
)
from tinygpt.errors import ConfigError, InputTypeError, NonFiniteError, ShapeError
from tinygpt.layers import (
    DecoderBlock,
    FeedForward,
    KVCache,
    LearnedPositions,
    MultiHeadAttention,
    RMSNorm,
    RotaryPositions,
)
from tinygpt.optim import Muon
from tinygpt.training import Advice

TEXT = "to be, or not to be: " * 20
TOKENIZER = CharTokenizer.from_text(TEXT)
DATA = TokenDataset(TEXT, TOKENIZER)
QUICK = TrainerConfig(max_iters=2, batch_size=2, preview_tokens=0)


def bigram(vocab_size: int = DATA.vocab_size) -> BigramLanguageModel:
    return BigramLanguageModel(vocab_size)


def made_within_inference_mode() -> BigramLanguageModel:
    with torch.inference_mode():
        return bigram()


SAMPLER: Any = Sampler(bigram(), TOKENIZER)


def train(**parts: Any) -> Trainer:
    whole: dict[str, Any] = {"model": bigram(), "data": DATA, "config": QUICK}
    return Trainer(**(whole | parts))


def block(**parts: Any) -> DecoderBlock:
    return DecoderBlock(8, **({"attention": MultiHeadAttention(8, n_head=2), "feed_forward": FeedForward(8)} | parts))


class Narrow(BigramLanguageModel):
    def compute_logits(self, idx: Tensor, cache: Any = None) -> Tensor:
        return super().compute_logits(idx)[..., :2]


ADVICE: Any = Advice(GPTConfig(vocab_size=DATA.vocab_size), QUICK)
NOT_IDS: list[tuple[Any, str]] = [
    (TEXT, r"got 'to be, .*; encode it first, e\.g\. tokenizer\.encode\(text\)"),
    (["be"], r"got 'be' of type str at position 0; encode the text first, e\.g\. tokenizer\.encode\(text\)"),
    (DATA, r"got TokenDataset.*; use the ids of a split, e\.g\. data\.train"),
]
SLIPS: list[tuple[Callable[[], object], type[Exception], str]] = [
    (partial(tinygpt.plan, ADVICE), InputTypeError, r"got Advice; use .* plan\(advice.model, advice.config\); "),
    (
        lambda: train(model=ADVICE),
        InputTypeError,
        r"got Advice; use its parts, .*; advice\.model\.build\(\) is a model",
    ),
    (lambda: train(config=ADVICE), InputTypeError, r"config must be a TrainerConfig, got Advice.*; pass its \.config"),
    *(
        (partial(call, None), InputTypeError, "got NoneType; pass a text, which may be empty, ''")
        for call in (SAMPLER, SAMPLER.stream, SAMPLER.choices, SAMPLER.score)
    ),
    (lambda: SAMPLER(b"a"), InputTypeError, "got bytes; decode it first"),
    (lambda: SAMPLER([None]), InputTypeError, "got a list with None of type NoneType; pass texts"),
    *(
        (partial(call, ids), InputTypeError, message)
        for call in (
            partial(NGramLanguageModel.count, vocab_size=9),
            MixtureLanguageModel([bigram()]).fit_weights,
            TOKENIZER.decode,
        )
        for ids, message in NOT_IDS
    ),
    (lambda: MixtureLanguageModel(bigram()), InputTypeError, r"; use \[model, \.\.\.\]"),  # type: ignore[arg-type]
    (lambda: train(model=bigram(2)), ConfigError, "in the data and 2 in the model; use vocab_size=data.vocab_size"),
    (
        lambda: train(make_optimizer=torch.optim.SGD),
        InputTypeError,
        "must be a function of the model, e.g. lambda",
    ),
    (
        lambda: train(make_optimizer=torch.optim.SGD(bigram().parameters(), 0.1)),
        InputTypeError,
        "make_optimizer must be a function of the model",
    ),
    (
        lambda: train(make_optimizer=lambda model: None),
        InputTypeError,
        "must return a torch.optim.Optimizer, .* got None",
    ),
    (
        lambda: train(make_optimizer=lambda model: torch.optim.SGD(bigram().parameters(), 0.1)),
        ConfigError,
        "make_optimizer must return an optimizer of the model",
    ),
    (lambda: Sampler(bigram(), CharTokenizer), InputTypeError, "must be an instance, .* got the class CharTokenizer"),  # type: ignore[arg-type]
    (lambda: TokenDataset(TEXT, CharTokenizer), InputTypeError, "must be an instance, .* got the class CharTokenizer"),  # type: ignore[arg-type]
    (lambda: TokenDataset(TEXT.encode(), TOKENIZER), InputTypeError, "got bytes; decode them first"),
    (lambda: TrainerConfig(compile="yes"), ConfigError, "compile must be True or False, got compile='yes'"),  # type: ignore[arg-type]
    (
        lambda: block(norm=nn.LayerNorm(8)),
        InputTypeError,
        "norm must make a norm when called with n_embd, e.g.",
    ),
    (
        lambda: block(feed_forward=nn.Linear(8, 1))(torch.ones(1, 2, 8)),
        ShapeError,
        r"feed_forward must return the shape it is given, \(1, 2, 8\), got \(1, 2, 1\)",
    ),
    (
        lambda: block(attention=nn.Linear(8, 16))(torch.ones(1, 2, 8)),
        ShapeError,
        r"attention must return the shape it is given, \(1, 2, 8\), got \(1, 2, 16\)",
    ),
    (
        lambda: GPTLanguageModel(65, block_size=8, n_embd=16, blocks=[], head=nn.Linear(16, 7))(
            torch.zeros(1, 2, dtype=torch.long)
        ),
        ShapeError,
        r"must return the shape \(B, T, V\) = \(1, 2, 65\), got \(1, 2, 7\)",
    ),
    (lambda: Narrow(5)(torch.zeros(1, 2, dtype=torch.long)), ShapeError, r"got \(1, 2, 2\)"),
    (lambda: FeedForward(8, activation="gelu"), InputTypeError, "activation must be a function .* got 'gelu'"),  # type: ignore[arg-type]
    (lambda: FeedForward(8, activation=nn.GELU), InputTypeError, "activation must be a function of a tensor"),  # type: ignore[arg-type]
    (
        lambda: MultiHeadAttention(8, n_head=2, positions=RotaryPositions),  # type: ignore[arg-type]
        InputTypeError,
        "positions must be a module or None, got <class",
    ),
    (lambda: RMSNorm("a"), ConfigError, "got n_embd='a'"),  # type: ignore[arg-type]
    (
        lambda: RotaryPositions(2)(torch.ones(1, 2, 3, 8)),
        ShapeError,
        "vectors must be as wide as head_size, got 8 and head_size=2; use RotaryPositions\\(8\\)",
    ),
    (lambda: KVCache(0), ConfigError, "block_size must be an integer of at least 1, got block_size=0"),
    (
        lambda: LearnedPositions(4, n_embd=8)(torch.ones(1, 3, 8), 2),
        ShapeError,
        "there are 4 learned positions, got 3 from position 2 on",
    ),
    (
        lambda: KVCache(3).append(torch.ones(1, 2, 4, 4), torch.ones(1, 2, 4, 4)),
        ShapeError,
        "the cache has 3 positions, got 4 more after 0",
    ),
    (lambda: Muon(bigram().parameters(), lr=0.1), InputTypeError, "groups must be mappings with 'params', "),  # type: ignore[arg-type]
    (lambda: Muon([{"is_muon": True}], lr=0.1), InputTypeError, "groups must be mappings with 'params', "),
    (lambda: Muon([], dtype=torch.int8), InputTypeError, "dtype must be a dtype of floating point or None"),
    (lambda: TrainerConfig().schedule(-3), ConfigError, "got step=-3"),
    (lambda: Trainer(bigram().requires_grad_(False), DATA), ConfigError, "a parameter that can move, got none"),
    (
        lambda: train(model=bigram().half(), config=replace(QUICK, learning_rate=1e9)).fit(progress=False),
        NonFiniteError,
        r"train model.float\(\) and convert afterwards",
    ),
    (lambda: train().fit(progress="no"), ConfigError, "progress must be True or False, got progress='no'"),  # type: ignore[arg-type]
    (lambda: train().fit(resume="runs/a"), ConfigError, "resume must be True, False or 'auto', got resume='runs/a'"),  # type: ignore[arg-type]
    (lambda: TrainerConfig(device=None), InputTypeError, "device must be a str, got device=None; use 'auto' or 'cpu'"),  # type: ignore[arg-type]
    (lambda: TrainerConfig(precision=np.ones(2)), ConfigError, r"precision must be one of .* got array\(\[1., 1.\]\)"),  # type: ignore[arg-type]
    (
        lambda: train(make_optimizer=lambda model: torch.optim.SGD(model.parameters(), lr=float("nan"))),
        ConfigError,
        "lr must be a number of at least 0 in each group of the optimizer, got lr=nan",
    ),
    (
        lambda: train(make_optimizer=lambda model: torch.optim.LBFGS(model.parameters())),
        InputTypeError,
        "must return an optimizer that steps without a closure, .* got LBFGS",
    ),
    (
        lambda: train(model=bigram().half(), config=replace(QUICK, precision="bf16")),
        ConfigError,
        r"precision must be 'auto' or 'fp32' for weights in 16 bits, got 'bf16'; use model.float\(\)",
    ),
    (lambda: train(model=made_within_inference_mode()), ConfigError, r"made outside of torch.inference_mode\(\)"),
    (lambda: tinygpt.read_text(None), InputTypeError, "path must be a str or a path, got None"),  # type: ignore[arg-type]
]


@pytest.mark.usefixtures("unchecked_types")
@pytest.mark.parametrize(("slip", "kind", "message"), SLIPS, ids=[message[:40] for _, _, message in SLIPS])
def test_a_slip_is_named(slip: Callable[[], object], kind: type[Exception], message: str) -> None:
    with pytest.raises(kind, match=message) as caught:
        slip()
    assert len(str(caught.value)) <= 300


def test_bare_ids_need_not_reach_the_end_of_the_vocabulary() -> None:
    Trainer(bigram(500), TokenDataset(range(99)), QUICK).fit(progress=False)
