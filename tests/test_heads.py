"""Scores of heads: those of attentions whose kind is known are what they must be."""

from typing import Any

import faults
import numpy as np
import pytest
import torch
from builders import make_gpt
from faults import broken_by
from torch import Tensor, nn

from tinygpt import BigramLanguageModel, GPTLanguageModel
from tinygpt.errors import ConfigError, InputTypeError
from tinygpt.layers import DecoderBlock, FeedForward
from tinygpt.views import HeadScores, head_scores


class Reads(nn.Module):
    """An attention whose position i reads position i - back, or nothing before there is one."""

    def __init__(self, *backs: int) -> None:
        super().__init__()
        self.backs = backs

    def weights(self, x: Tensor) -> Tensor:
        return torch.stack([torch.ones(x.shape[1]).diag().roll(-back, 1).tril() for back in self.backs])[None]

    def forward(self, x: Tensor) -> Tensor:
        return x


def of(attention: nn.Module) -> GPTLanguageModel:
    block = DecoderBlock(8, attention=attention, feed_forward=FeedForward(8))
    return GPTLanguageModel(50, block_size=64, n_embd=8, blocks=[block])


@broken_by(faults.scores_of_the_copy_itself)
def test_heads_of_known_kinds_have_their_scores() -> None:
    """One back; eleven back, which after 12 ids is the token after the copy; the copy itself."""
    scores = head_scores(of(Reads(1, 11, 12)), length=12)
    assert scores.previous["blocks.0.attention"].tolist() == [1, 0, 0]
    assert scores.induction["blocks.0.attention"].tolist() == [0, 1, 0]


def test_a_head_that_reads_evenly_has_the_even_scores() -> None:
    model = make_gpt(block_size=20)
    for block in model.blocks:
        nn.init.zeros_(block.attention.qkv.weight)  # type: ignore[union-attr, arg-type]
    scores = head_scores(model)
    for found, even in zip((scores.previous, scores.induction), scores.even, strict=True):
        np.testing.assert_allclose([*found.values()], even, rtol=0, atol=1e-12)


def test_scores_depend_on_the_seed_alone() -> None:
    model = make_gpt(block_size=16).train()
    nn.init.normal_(model.blocks[0].attention.qkv.weight)  # type: ignore[union-attr, arg-type]
    state = torch.get_rng_state()
    first, again, other = head_scores(model), head_scores(model), head_scores(model, seed=1)
    assert str(first) == str(again) != str(other)
    assert model.training
    assert torch.equal(torch.get_rng_state(), state)


def test_scores_are_a_table() -> None:
    scores = HeadScores({"<a>": np.array([0.25, 0.5])}, {"<a>": np.array([0.0, 0.125])}, (0.1, 0.05))
    assert str(scores).splitlines() == [
        "              previous  induction",
        "<a>, head 0      0.250      0.000",
        "<a>, head 1      0.500      0.125",
        "even reading     0.100      0.050",
    ]
    assert repr(scores) == "HeadScores(2 heads, previous at most 0.500, induction at most 0.125)"
    html = scores._repr_html_()
    assert "<tr><th>&lt;a&gt;, head 1</th><td>0.500</td><td>0.125</td></tr>" in html
    assert html.count("<tr>") == 4


@pytest.mark.usefixtures("unchecked_types")
@pytest.mark.parametrize(
    ("model", "options", "error", "message"),
    [
        (lambda: BigramLanguageModel(5), {}, ConfigError, "must have an attention that offers weights, got none"),
        (make_gpt, {"length": 5}, ConfigError, "length must be an integer from 2 to 4, got length=5"),
        (make_gpt, {"batch_size": 0}, ConfigError, "batch_size must be an integer of at least 1, got batch_size=0"),
        (lambda: nn.Linear(2, 2), {}, InputTypeError, "model must be a LanguageModel, got Linear"),
    ],
)
def test_arguments_are_checked(model: Any, options: Any, error: Any, message: str) -> None:
    with pytest.raises(error) as caught:
        head_scores(model(), **options)
    assert message in str(caught.value)
