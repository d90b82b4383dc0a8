"""The public checks: they pass what is sound, catch what is not, and leave everything as it was."""

from collections.abc import Callable
from typing import Any

import faults
import pytest
import torch
from faults import broken_by
from hypothesis import given
from torch import Tensor, nn

from tinygpt import BigramLanguageModel, GPTConfig, GPTLanguageModel
from tinygpt.errors import InputTypeError
from tinygpt.layers import DecoderBlock, FeedForward, MultiHeadAttention
from tinygpt.models.config import Layout
from tinygpt.testing import (
    CheckError,
    Sizes,
    check_batch_independent,
    check_cache_equal,
    check_causal,
    check_gradients,
    check_prefix_consistent,
    check_shape,
    check_trains,
    sizes,
)

CHECKS = [
    check_shape,
    check_causal,
    check_batch_independent,
    check_prefix_consistent,
    check_cache_equal,
    check_gradients,
    check_trains,
]
X = torch.randn(2, 5, 8, generator=torch.Generator().manual_seed(0))
IDX = torch.tensor([[1, 2, 3, 4, 5], [0, 5, 4, 3, 2]])


def block() -> DecoderBlock:
    return DecoderBlock(8, attention=MultiHeadAttention(8, n_head=2), feed_forward=FeedForward(8))


def gpt(layout: Layout = "notebook") -> GPTLanguageModel:
    config = GPTConfig(vocab_size=7, block_size=6, n_layer=1, n_head=2, n_embd=8, layout=layout)
    return config.build()


@broken_by(faults.never_learning, only=("check_trains", "block"))
@pytest.mark.parametrize("check", CHECKS, ids=lambda check: check.__name__)
@pytest.mark.parametrize(
    ("make", "x"), [(block, X), (gpt, IDX), (lambda: gpt("modern"), IDX)], ids=["block", "gpt", "modern"]
)
def test_what_is_sound_passes_and_stays_as_it_was(
    check: Callable[..., None], make: Callable[[], nn.Module], x: Tensor
) -> None:
    part, torch_state = make().float().train(), torch.get_rng_state()
    before = {name: value.clone() for name, value in part.state_dict().items()}
    given_x = x.clone()
    torch.set_default_dtype(torch.float32)
    check(part, x)
    assert torch.get_default_dtype() == torch.float32
    assert part.training
    assert all(torch.equal(value, before[name]) for name, value in part.state_dict().items())
    assert torch.equal(torch.get_rng_state(), torch_state)
    assert torch.equal(x, given_x)
    assert not x.requires_grad


class Leaky(nn.Module):
    """Adds the mean over all positions: a leak that no shape shows."""

    def __init__(self, over: int | tuple[int, ...]) -> None:
        super().__init__()
        self.mix, self.over = nn.Linear(8, 8), over

    def forward(self, x: Tensor) -> Tensor:
        return x + self.mix(x).mean(dim=self.over, keepdim=True)


class Forgetful(MultiHeadAttention):
    """Its cache holds the keys, but it reads the last one only."""

    def forward(self, x: Tensor, cache: Any = None) -> Tensor:
        return super().forward(x, None)


class Detached(nn.Module):
    """A layer whose weights get no derivative, or a wrong one."""

    def __init__(self, is_wrong: bool) -> None:
        super().__init__()
        self.mix, self.is_wrong = nn.Linear(8, 8, bias=False), is_wrong

    def forward(self, x: Tensor) -> Tensor:
        mixed = self.mix(x)
        return x + (mixed * mixed.detach() if self.is_wrong else mixed.detach())


@pytest.mark.parametrize(
    ("check", "part", "message"),
    [
        (check_shape, nn.Linear(8, 9), r"an input of \(2, 1, 8\) must give an output of \(2, 1, 8\), got \(2, 1, 9\)"),
        (check_causal, Leaky(1), "output at position 0 must not depend on the later position 1, got an effect of"),
        (check_causal, MultiHeadAttention(8, n_head=2, causal=False), "must not depend on the later position 1"),
        (check_causal, nn.Identity(), "output at position 1 must depend on position 0, got no effect"),
        (check_batch_independent, Leaky(0), "row 0 alone must be row 0 of the batch, got a difference of"),
        (check_prefix_consistent, Leaky(1), "the output on the first 1 positions must be the beginning of the whole"),
        (check_cache_equal, Forgetful(8, n_head=2), "with a cache of 1 positions the next 1 must be as without one"),
        (check_cache_equal, nn.Identity(), "Identity keeps no cache: new_cache is missing or returned None"),
        (check_gradients, Detached(False), "every parameter must have an effect, got no derivative for 'mix.weight'"),
        (check_gradients, Detached(True), "derivatives must equal finite differences"),
    ],
    ids=lambda value: getattr(value, "__name__", type(value).__name__)[:30],
)
def test_what_is_not_is_named_with_what_was_seen(check: Callable[..., None], part: nn.Module, message: str) -> None:
    with pytest.raises(CheckError, match=message):
        check(part, X)


def test_a_part_that_works_on_each_position_reaches_nowhere() -> None:
    check_causal(FeedForward(8), X, reach=0)
    with pytest.raises(CheckError, match="must not depend on the later position 1"):
        check_causal(Leaky(1), X, reach=0)


def test_a_model_that_cannot_learn_is_named() -> None:
    idx = torch.tensor([[1, 1, 2, 1, 3, 1]])  # what follows a 1 a bigram cannot know
    with pytest.raises(
        CheckError, match=r"one batch must be overfitted to below 0\.05 nats, got [\d.]+ after 300 steps"
    ):
        check_trains(BigramLanguageModel(5), idx)


@pytest.mark.usefixtures("unchecked_types")
def test_inputs_of_another_kind_are_named() -> None:
    with pytest.raises(InputTypeError, match=r"x must be ids of shape \(B, T\) for a model"):
        check_causal(gpt(), X)
    with pytest.raises(InputTypeError, match=r"x must be a residual stream of shape \(B, T, C\) for a part"):
        check_causal(block(), IDX)
    with pytest.raises(InputTypeError, match="part must be a module, got 3"):
        check_causal(3, X)  # type: ignore[arg-type]


@given(s=sizes(min_length=2, max_length=4))
def test_sizes_fit_and_draw_the_same_numbers_again(s: Sizes) -> None:
    assert s.stream().shape == (s.batch_size, s.length, s.n_embd)
    assert 2 <= s.length <= 4
    assert s.n_embd % s.n_head == 0
    assert torch.equal(s.stream(), s.stream())
    assert int(s.ids(9).max()) < s.vocab_size
    assert s.ids(9).shape == (s.batch_size, 9)
