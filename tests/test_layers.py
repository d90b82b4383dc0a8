"""The blocks: each keeps the promises of its kind, and the fast ones equal the readable ones."""

import math
from collections.abc import Callable
from typing import Any

import faults
import pytest
import torch
from faults import broken_by
from hypothesis import given, settings
from hypothesis import strategies as st
from strategies import TOLERANCE, randomised
from torch import Tensor, nn
from torch.nn import functional as F

from tinygpt import GPTLanguageModel
from tinygpt.errors import ConfigError, InputTypeError, ShapeError
from tinygpt.layers import (
    Chain,
    DecoderBlock,
    Embedding,
    FeedForward,
    Head,
    KVCache,
    LearnedPositions,
    Linear,
    MultiHeadAttention,
    RMSNorm,
    RotaryPositions,
    ShortConvolution,
    relu_squared,
)
from tinygpt.testing import (
    Sizes,
    check_batch_independent,
    check_cache_equal,
    check_causal,
    check_gradients,
    check_prefix_consistent,
    check_shape,
    sizes,
)

Make = Callable[[Sizes], nn.Module]


def rotary_attention(d: Sizes, **options: Any) -> MultiHeadAttention:
    parts = {"norm": RMSNorm(d.head_size), "positions": RotaryPositions(d.head_size)}
    return MultiHeadAttention(d.n_embd, n_head=d.n_head, **(parts | options))


def block(d: Sizes, attention: nn.Module | None = None, norm: Any = nn.LayerNorm) -> DecoderBlock:
    attention = MultiHeadAttention(d.n_embd, n_head=d.n_head) if attention is None else attention
    return DecoderBlock(d.n_embd, attention=attention, feed_forward=FeedForward(d.n_embd), norm=norm)


MIXERS = [  # they look at other positions: causal by default
    pytest.param(lambda d: Head(d.n_embd, head_size=d.head_size), id="head"),
    pytest.param(lambda d: Head(d.n_embd, head_size=d.head_size, bias=True), id="head with biases"),
    pytest.param(lambda d: MultiHeadAttention(d.n_embd, n_head=d.n_head), id="attention"),
    pytest.param(
        lambda d: MultiHeadAttention(d.n_embd, n_head=d.n_head, bias=True, output_bias=False), id="gpt2 attention"
    ),
    pytest.param(
        lambda d: MultiHeadAttention(d.n_embd, n_head=3, head_size=5, bias=True), id="attention of wide heads"
    ),
    pytest.param(rotary_attention, id="rotary attention"),
    pytest.param(block, id="block"),
    pytest.param(lambda d: block(d, rotary_attention(d), RMSNorm), id="modern block"),
    pytest.param(lambda d: ShortConvolution(d.n_embd, width=3), id="short convolution"),
    pytest.param(lambda d: Chain(RMSNorm(d.n_embd), ShortConvolution(d.n_embd, width=2), block(d)), id="chain"),
]
POSITIONWISE = [  # they work on each position alone
    pytest.param(lambda d: FeedForward(d.n_embd), id="feed_forward"),
    pytest.param(lambda d: FeedForward(d.n_embd, activation=F.gelu, bias=False), id="gelu feed_forward"),
    pytest.param(lambda d: FeedForward(d.n_embd, activation=relu_squared, hidden_size=5), id="narrow feed_forward"),
    pytest.param(lambda d: RMSNorm(d.n_embd), id="rms_norm"),
    pytest.param(lambda d: Linear(d.n_embd, 3), id="linear"),
]
PARTS = [*MIXERS, *POSITIONWISE, pytest.param(lambda d: LearnedPositions(9, n_embd=d.n_embd), id="learned positions")]
CACHING = [param for param in MIXERS if "head" not in str(param.id)]

every_part = pytest.mark.parametrize("make", PARTS)
every_mixer = pytest.mark.parametrize("make", MIXERS)
few = settings(max_examples=15)


def made(make: Make, d: Sizes) -> nn.Module:
    """Build a part with weights that matter, in evaluation mode."""
    return randomised(make(d), d.seed).eval()


# --- which places a place sees ----------------------------------------------------------------------------------------


@broken_by(faults.mask_lets_the_next_in, faults.mask_leaves_itself_out, only="attention")
@broken_by(faults.mask_forgotten, faults.positions_mixed_in_the_feed_forward, only="block")
@pytest.mark.parametrize("make", [param for param in MIXERS if param.id != "short convolution"])
@few
@given(d=sizes(max_length=5))
def test_a_place_sees_itself_and_all_before_and_nothing_later(make: Make, d: Sizes) -> None:
    check_causal(make(d), d.stream())


@few
@given(d=sizes(max_length=6), width=st.integers(2, 4))
def test_a_short_convolution_looks_back_as_far_as_it_is_wide(d: Sizes, width: int) -> None:
    part = ShortConvolution(d.n_embd, width=width)
    randomised(part)
    x = d.stream()
    check_causal(part, x, reach=width - 1)
    wide = F.conv1d(F.pad(x.mT, (width - 1, 0)), torch.cat([part.weight, torch.ones(d.n_embd, 1, 1)], 2),
                    groups=d.n_embd)  # fmt: skip
    torch.testing.assert_close(part(x), wide.mT, **TOLERANCE)


def test_a_short_convolution_starts_as_the_identity() -> None:
    x = torch.randn(2, 5, 3)
    assert torch.equal(ShortConvolution(3)(x), x)


def test_a_part_that_looks_back_without_a_cache_prevents_caching() -> None:
    def looking_back(n_embd: int) -> nn.Module:
        return nn.Sequential(RMSNorm(n_embd), ShortConvolution(n_embd))

    attention, feed_forward = MultiHeadAttention(8, n_head=2), FeedForward(8)
    assert DecoderBlock(8, attention=attention, feed_forward=feed_forward).new_cache(1, 4) is not None
    assert DecoderBlock(8, attention=attention, feed_forward=feed_forward, norm=looking_back).new_cache(1, 4) is None
    assert Chain(looking_back(8), attention).new_cache(1, 4) is None
    assert Chain(RMSNorm(8), attention).new_cache(1, 4) is not None
    assert Chain(RMSNorm(8), FeedForward(8)).new_cache(1, 4) is None
    plain = Chain(nn.Linear(8, 8), nn.GELU())
    assert DecoderBlock(8, attention=attention, feed_forward=plain).new_cache(1, 4) is not None
    for parts in ({"norm": looking_back}, {"head": nn.Sequential(ShortConvolution(8), nn.Linear(8, 5))}):
        blocks = [DecoderBlock(8, attention=MultiHeadAttention(8, n_head=2), feed_forward=FeedForward(8))]
        assert GPTLanguageModel(5, block_size=4, n_embd=8, blocks=blocks, **parts).new_cache(1) is None


@broken_by(faults.narrow_output, only="feed_forward")
@pytest.mark.parametrize("make", [param for param in PARTS if param.id not in ("head", "head with biases", "linear")])
@few
@given(d=sizes())
def test_a_stream_comes_out_as_wide_as_it_went_in(make: Make, d: Sizes) -> None:
    check_shape(make(d), d.stream())


@broken_by(faults.mask_forgotten, only="attention")
@every_part
@few
@given(d=sizes())
def test_the_output_on_a_prefix_is_the_prefix_of_the_output(make: Make, d: Sizes) -> None:
    check_prefix_consistent(make(d), d.stream())


@broken_by(faults.norm_over_the_batch, only="block")
@every_part
@few
@given(d=sizes())
def test_sequences_of_a_batch_do_not_mix(make: Make, d: Sizes) -> None:
    check_batch_independent(make(d), d.stream())


@pytest.mark.parametrize("make", POSITIONWISE)
@few
@given(d=sizes())
def test_a_positionwise_part_treats_each_position_alone(make: Make, d: Sizes) -> None:
    x, part = d.stream(), made(make, d)
    for place in range(d.length):
        torch.testing.assert_close(part(x)[:, place], part(x[:, place : place + 1])[:, 0], **TOLERANCE)


@pytest.mark.parametrize("causal", [True, False])
def test_without_the_mask_a_permutation_passes_through(causal: bool) -> None:
    d = Sizes(batch_size=2, length=6, n_head=2, head_size=4, vocab_size=5, seed=2)
    for part in (Head(8, head_size=4, causal=causal), MultiHeadAttention(8, n_head=2, causal=causal)):
        randomised(part)
        order = torch.tensor([3, 0, 5, 1, 4, 2])
        equal = torch.allclose(part(d.stream()[:, order]), part(d.stream())[:, order], rtol=0, atol=1e-12)
        assert equal == (not causal)


# --- what attention computes ------------------------------------------------------------------------------------------


def check_equals_pytorch(head: Head, x: Tensor) -> None:
    """The same output and the same gradients as PyTorch's own attention."""
    expected = F.scaled_dot_product_attention(head.query(x), head.key(x), head.value(x), is_causal=True)
    torch.testing.assert_close(head(x), expected, **TOLERANCE)
    parameters = list(head.parameters())
    for ours, theirs in zip(
        torch.autograd.grad(head(x).square().sum(), parameters),
        torch.autograd.grad(expected.square().sum(), parameters),
        strict=True,
    ):
        torch.testing.assert_close(ours, theirs, **TOLERANCE)


@broken_by(faults.scale_by_the_stream, faults.softmax_over_the_rows)
@given(d=sizes())
def test_a_head_is_scaled_dot_product_attention(d: Sizes) -> None:
    head = Head(d.n_embd, head_size=d.head_size)
    check_equals_pytorch(randomised(head, d.seed), d.stream())  # type: ignore[arg-type] # a Head serves as well


@given(d=sizes())
def test_attention_is_that_of_pytorch_outputs_and_gradients(d: Sizes) -> None:
    ours = MultiHeadAttention(d.n_embd, n_head=d.n_head, bias=True)
    theirs = nn.MultiheadAttention(d.n_embd, d.n_head, batch_first=True)
    randomised(ours, d.seed)
    with torch.no_grad():
        theirs.in_proj_weight.copy_(ours.qkv.weight)
        theirs.in_proj_bias.copy_(ours.qkv.bias)
        theirs.out_proj.load_state_dict(ours.output.state_dict())
    x = d.stream()
    mask = nn.Transformer.generate_square_subsequent_mask(d.length)
    expected, _ = theirs(x, x, x, attn_mask=mask, is_causal=True, need_weights=False)
    torch.testing.assert_close(ours(x), expected, **TOLERANCE)
    ours(x).square().sum().backward()
    expected.square().sum().backward()
    assert theirs.in_proj_weight.grad is not None
    torch.testing.assert_close(ours.qkv.weight.grad, theirs.in_proj_weight.grad, **TOLERANCE)
    torch.testing.assert_close(ours.output.weight.grad, theirs.out_proj.weight.grad, **TOLERANCE)


def heads_of(attention: MultiHeadAttention) -> list[Head]:
    """Return the heads that an attention computes side by side, each with its part of the weights."""
    query, key, value = attention.qkv.weight.unflatten(0, (3, attention.n_head, attention.head_size))
    heads = []
    for number in range(attention.n_head):
        head = Head(attention.n_embd, head_size=attention.head_size, causal=attention.causal)
        weights = {"query.weight": query[number], "key.weight": key[number], "value.weight": value[number]}
        head.load_state_dict({name: weight.detach() for name, weight in weights.items()})
        heads.append(head)
    return heads


@broken_by(faults.heads_cut_without_turning)
@given(d=sizes(), causal=st.booleans(), head_size=st.sampled_from([None, 1, 3, 10]))
def test_attention_is_its_heads_side_by_side_and_projected(d: Sizes, causal: bool, head_size: int | None) -> None:
    attention = MultiHeadAttention(d.n_embd, n_head=d.n_head, head_size=head_size, causal=causal)
    assert attention.head_size == (head_size or d.head_size)
    randomised(attention, d.seed)
    x, heads = d.stream(), heads_of(attention)
    expected = attention.output(torch.cat([head(x) for head in heads], dim=-1))
    torch.testing.assert_close(attention(x), expected, **TOLERANCE)


ATTENTIONS = [  # those of the layouts
    pytest.param(lambda d, **o: MultiHeadAttention(d.n_embd, n_head=d.n_head, **o), id="notebook"),
    pytest.param(lambda d, **o: MultiHeadAttention(d.n_embd, n_head=d.n_head, bias=True, **o), id="gpt2"),
    pytest.param(rotary_attention, id="modern"),
]


@broken_by(faults.weights_without_their_scale, faults.weights_without_their_mask, only="notebook")
@broken_by(faults.weights_without_their_norm, faults.weights_without_their_positions, only="modern")
@pytest.mark.parametrize("make", ATTENTIONS)
@given(d=sizes(), causal=st.booleans())
def test_attention_averages_values_by_its_weights(make: Any, d: Sizes, causal: bool) -> None:
    """In training mode too: the weights are those without dropout."""
    attention, dropping = make(d, causal=causal), make(d, causal=causal, dropout=0.5)
    randomised(attention, d.seed), randomised(dropping, d.seed)
    x = d.stream()
    weights = attention.weights(x)
    assert weights.shape == (d.batch_size, d.n_head, d.length, d.length)
    torch.testing.assert_close(weights.sum(dim=-1), torch.ones(weights.shape[:-1]), **TOLERANCE)
    assert bool((weights.triu(1) == 0).all()) or not causal
    assert torch.equal(dropping.weights(x), weights)
    value = attention.qkv(x).unflatten(-1, (3, d.n_head, d.head_size))[:, :, 2].transpose(1, 2)
    mixed = attention.output((weights @ value).transpose(1, 2).flatten(2))
    torch.testing.assert_close(attention(x), mixed, **TOLERANCE)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32])
def test_attention_weights_are_float32_at_least(dtype: torch.dtype) -> None:
    attention = MultiHeadAttention(8, n_head=2).to(dtype)
    x = torch.randn(1, 5, 8).to(dtype)
    for weights in (attention.weights(x), under_autocast(attention.weights, x)):
        assert weights.dtype == torch.float32
        torch.testing.assert_close(weights.sum(dim=-1), torch.ones(1, 2, 5), rtol=0, atol=1e-6, check_dtype=False)


def under_autocast(function: Callable[[Tensor], Tensor], x: Tensor) -> Tensor:
    with torch.autocast("cpu", torch.bfloat16):
        return function(x)


def test_the_order_of_heads_is_a_matter_of_the_projection_alone() -> None:
    attention = MultiHeadAttention(12, n_head=3)
    randomised(attention)
    x, order = torch.randn(2, 5, 12), [2, 0, 1]
    expected = attention(x)
    with torch.no_grad():
        qkv = attention.qkv.weight.unflatten(0, (3, 3, 4))[:, order].flatten(0, 2).clone()
        output = attention.output.weight.unflatten(1, (3, 4))[:, order].flatten(1).clone()
        attention.qkv.weight.copy_(qkv)
        assert not torch.allclose(attention(x), expected)  # heads moved, projection not
        attention.output.weight.copy_(output)
    torch.testing.assert_close(attention(x), expected, **TOLERANCE)


@given(d=sizes())
def test_weights_are_averages_of_what_may_be_seen(d: Sizes) -> None:
    head = Head(d.n_embd, head_size=d.head_size)
    randomised(head, d.seed)
    rows = head.weights(d.stream())
    torch.testing.assert_close(rows.sum(-1), torch.ones(d.batch_size, d.length), rtol=0, atol=1e-12)
    assert bool((rows.triu(1) == 0).all())


@given(d=sizes())
def test_attention_with_zero_queries_is_the_running_mean(d: Sizes) -> None:
    """The mean of the values."""
    head = Head(d.n_embd, head_size=d.head_size)
    randomised(head, d.seed)
    nn.init.zeros_(head.query.weight)
    values = head.value(d.stream())
    mean = values.cumsum(dim=1) / torch.arange(1, d.length + 1).view(1, -1, 1)
    torch.testing.assert_close(head(d.stream()), mean, rtol=0, atol=1e-12)


@given(d=sizes())
def test_one_vector_added_to_all_keys_changes_nothing(d: Sizes) -> None:
    head = Head(d.n_embd, head_size=d.head_size, bias=True)
    randomised(head, d.seed)
    before = head(d.stream())
    with torch.no_grad():
        head.key.bias.add_(torch.randn(d.head_size, generator=d.generator()))
    torch.testing.assert_close(head(d.stream()), before, **TOLERANCE)


@broken_by(faults.weights_detached, only="block")
@every_part
def test_derivatives_are_those_of_finite_differences(make: Make) -> None:
    d = Sizes(batch_size=2, length=3, n_head=2, head_size=2, vocab_size=5, seed=3)
    check_gradients(make(d), d.stream())


@broken_by(faults.no_residual, faults.norm_after)
def test_a_block_whose_outputs_are_zero_passes_the_stream_on() -> None:
    part = block(Sizes(batch_size=2, length=5, n_head=2, head_size=4, vocab_size=5, seed=3))
    for name, parameter in part.named_parameters():
        if ".output." in name:
            nn.init.zeros_(parameter)
    x = torch.randn(2, 5, 8)
    assert torch.equal(part(x), x)


# --- dropout, state, caches -------------------------------------------------------------------------------------------

DROPPING = [
    pytest.param(lambda p: Head(8, head_size=4, dropout=p), id="head"),
    pytest.param(lambda p: MultiHeadAttention(8, n_head=2, dropout=p), id="attention"),
    pytest.param(lambda p: FeedForward(8, dropout=p), id="feed_forward"),
    pytest.param(lambda p: LearnedPositions(9, n_embd=8, dropout=p), id="learned positions"),
]


@broken_by(faults.dropout_always, only="feed_forward")
@pytest.mark.parametrize("make", DROPPING)
def test_dropout_acts_in_training_alone_and_leaves_the_mean(make: Callable[[float], nn.Module]) -> None:
    part, plain = randomised(make(0.3)), randomised(make(0.0))
    x = torch.randn(1, 3, 8)
    expected = plain(x).detach()
    assert torch.equal(plain.eval()(x), expected)
    assert torch.equal(part.eval()(x), expected)
    many = part.train()(x.expand(20_000, -1, -1)).detach()
    assert not torch.equal(many[0], many[1])
    error = (many.mean(dim=0) - expected[0]).abs() / (many.std(dim=0) / len(many) ** 0.5 + 1e-12)
    assert float(error.max()) < 5


def test_attention_follows_its_dropout_module() -> None:
    """The module may be replaced, or its probability and mode changed."""
    x = torch.randn(2, 5, 8)
    attention = MultiHeadAttention(8, n_head=2, dropout=0.5)
    expected = attention.eval()(x)
    attention.train()
    assert not torch.equal(attention(x), expected)
    attention.dropout.eval()
    assert torch.equal(attention(x), expected)
    attention.dropout = nn.Identity()  # type: ignore[assignment]
    assert torch.equal(attention(x), expected)
    attention.dropout = nn.Dropout(0.0)
    assert torch.equal(attention(x), expected)
    attention.dropout.p = 0.5
    assert not torch.equal(attention(x), expected)


@every_part
def test_nothing_of_the_size_of_a_window_is_stored(make: Make) -> None:
    d = Sizes(batch_size=1, length=7, n_head=3, head_size=4, vocab_size=5, seed=0)
    part = made(make, d)
    before = {name: value.shape for name, value in part.state_dict().items()}
    part(d.stream())
    assert {name: value.shape for name, value in part.state_dict().items()} == before
    assert before.keys() == dict(part.named_parameters()).keys()  # no buffer at all
    assert all(d.length not in shape for shape in before.values())


@broken_by(
    faults.upper_left_mask,
    faults.offset_forgotten,
    faults.cache_read_at_its_first_position,
    only="rotary attention",
)
@pytest.mark.parametrize("make", CACHING)
@few
@given(d=sizes())
def test_with_a_cache_in_pieces_of_any_size_it_is_the_same(make: Make, d: Sizes) -> None:
    check_cache_equal(make(d), d.stream())


@pytest.mark.parametrize("block_size", [1, 63, 64, 100, 10**12])
def test_a_cache_grows_with_its_contents(block_size: int) -> None:
    """It copies each position a few times at most."""
    cache, pieces, rooms = KVCache(block_size), [], [0]
    for length in [1] * min(block_size, 300):
        key, value = torch.randn(2, 3, length, 4), torch.randn(2, 3, length, 5)
        pieces.append((key, value))
        keys, values = cache.append(key, value)
        assert cache.key is not None
        rooms += [cache.key.shape[2]] if cache.key.shape[2] != rooms[-1] else []
    assert torch.equal(keys, torch.cat([key for key, _ in pieces], dim=2))
    assert torch.equal(values, torch.cat([value for _, value in pieces], dim=2))
    assert sum(rooms[:-1]) <= 2 * cache.length  # how many positions were copied
    assert rooms[-1] <= min(block_size + 1, max(64, 2 * cache.length + 1))
    if block_size <= 300:
        with pytest.raises(ShapeError, match=f"the cache has {block_size} positions, got 1 more after {block_size}"):
            cache.append(key, value)


def test_a_cache_takes_long_beginnings_at_once() -> None:
    cache, key, more = KVCache(1000), torch.randn(1, 1, 700, 2), torch.randn(1, 1, 300, 2)
    cache.append(key, key)
    keys, _ = cache.append(more, more)
    assert torch.equal(keys, torch.cat([key, more], dim=2))
    assert cache.key is not None
    assert cache.key.shape[2] == 1001
    with pytest.raises(ShapeError, match="the cache has 1000 positions, got 2 more after 1000"):
        cache.append(more[:, :, :2], more[:, :, :2])


def test_without_the_mask_there_is_no_cache() -> None:
    assert MultiHeadAttention(8, n_head=2, causal=False).new_cache(3, 9) is None


# --- positions, norms, linear layers ----------------------------------------------------------------------------------


@given(d=sizes(min_length=2), shift=st.integers(0, 500))
def test_rotary_scores_depend_on_distance_alone_and_lengths_stay(d: Sizes, shift: int) -> None:
    rotary = RotaryPositions(d.head_size)
    query, key = torch.randn(2, d.batch_size, d.n_head, d.length, d.head_size, generator=d.generator())
    scores = rotary(query) @ rotary(key).transpose(-1, -2)
    shifted = rotary(query, shift) @ rotary(key, shift).transpose(-1, -2)
    torch.testing.assert_close(scores, shifted, rtol=0, atol=1e-10)
    torch.testing.assert_close(rotary(query).norm(dim=-1), query.norm(dim=-1), **TOLERANCE)
    torch.testing.assert_close(rotary(query)[:, :, 1:], rotary(query[:, :, 1:], 1), **TOLERANCE)
    assert not torch.allclose(scores, query @ key.transpose(-1, -2))


def test_rotary_turns_pairs_by_the_angles_of_the_paper() -> None:
    rotated = RotaryPositions(4, base=100.0)(torch.tensor([1.0, 2.0, 3.0, 4.0]).expand(1, 1, 3, 4))[0, 0]
    for place in range(3):
        for pair, (first, second) in enumerate(((1, 3), (2, 4))):
            angle = place * 100.0 ** (-pair / 2)
            turned = complex(first, second) * complex(math.cos(angle), math.sin(angle))
            assert rotated[place, pair].item() == pytest.approx(turned.real, abs=1e-12)
            assert rotated[place, pair + 2].item() == pytest.approx(turned.imag, abs=1e-12)


def test_learned_positions_start_at_the_offset() -> None:
    positions = LearnedPositions(9, n_embd=4)
    x = torch.randn(2, 3, 4)
    assert torch.equal(positions(x, 5), x + positions.table.weight[5:8])


@given(d=sizes())
def test_rms_norm_makes_the_mean_square_one(d: Sizes) -> None:
    x = d.stream()
    torch.testing.assert_close(RMSNorm(d.n_embd)(x), x / x.square().mean(-1, keepdim=True).sqrt(), rtol=0, atol=1e-9)


class Doubled(nn.Module):
    def forward(self, weight: Tensor) -> Tensor:
        return 2 * weight


def grown() -> Linear:
    layer = Linear(6, 8)
    layer.weight, layer.bias = nn.Parameter(torch.randn(9, 6)), nn.Parameter(torch.randn(9))
    return layer


def parametrised() -> Linear:
    layer = Linear(6, 8)
    nn.utils.parametrize.register_parametrization(layer, "weight", Doubled())
    return layer


def as_a_buffer() -> Linear:
    layer = Linear(6, 8)
    del layer.weight
    layer.register_buffer("weight", torch.randn(16, 6))
    layer.bias = None  # type: ignore[assignment]
    return layer


@pytest.mark.parametrize("make", [grown, parametrised, as_a_buffer])
def test_a_linear_layer_multiplies_by_its_current_weights(make: Callable[[], Linear]) -> None:
    layer, x = make(), torch.randn(5, 6)
    with torch.no_grad():
        torch.testing.assert_close(layer(x), F.linear(x, layer.weight, layer.bias), **TOLERANCE)


@pytest.mark.parametrize("is_learning", [True, False])
def test_rows_of_another_width_are_refused(is_learning: bool) -> None:
    for leading, width in [((1,), 1), ((2,), 3), ((3, 2), 12), ((40,), 2)]:
        with torch.set_grad_enabled(is_learning), pytest.raises(RuntimeError, match="shapes cannot be multiplied"):
            Linear(6, 8)(torch.zeros(*leading, width))
    with torch.set_grad_enabled(is_learning), pytest.raises(RuntimeError, match="normalized_shape"):
        RMSNorm(4)(torch.zeros(2, 5, requires_grad=True))


@pytest.mark.parametrize("n_embd", [3, 7])
def test_a_short_convolution_is_as_wide_as_its_weights(n_embd: int) -> None:
    part = ShortConvolution(5, width=3)
    part.weight = nn.Parameter(torch.randn(n_embd, 1, 4))  # of another reach too
    twin = ShortConvolution(n_embd, width=5)
    twin.load_state_dict(part.state_dict())
    x = torch.randn(2, 6, n_embd)
    assert torch.equal(part(x), twin(x))
    check_cache_equal(part, x)


def test_a_head_is_scaled_by_the_width_that_its_queries_have() -> None:
    head, x = Head(6, head_size=4), torch.randn(2, 5, 6)
    for name in ("query", "key"):
        setattr(head, name, Linear(6, 9, std=1.0))
    expected = F.scaled_dot_product_attention(head.query(x), head.key(x), head.value(x), is_causal=True)
    torch.testing.assert_close(head(x), expected, **TOLERANCE)


@pytest.mark.parametrize("count", [1, 40])
def test_rows_of_another_dtype_are_refused(count: int) -> None:
    """However many there are."""
    layer = Linear(8, 3).half()
    with torch.no_grad(), pytest.raises(RuntimeError, match="dtype"):
        layer(torch.zeros(count, 8, dtype=torch.float32))


@pytest.mark.parametrize("make", [lambda std: Linear(200, 300, std=std), lambda std: Embedding(300, 200, std=std)])
@pytest.mark.parametrize("std", [0.0, 0.02, 1.0])
def test_weights_start_with_the_standard_deviation_asked_for(make: Callable[[float], nn.Module], std: float) -> None:
    layer = make(std)
    assert layer.get_parameter("weight").std().item() == pytest.approx(std, rel=0.02)
    if isinstance(layer, nn.Linear):
        assert bool((layer.bias == 0).all())


@every_part
def test_a_part_shows_itself_in_a_line_or_a_few(make: Make) -> None:
    shown = repr(make(Sizes(batch_size=1, length=1, n_head=2, head_size=4, vocab_size=5, seed=0)))
    assert shown.startswith(type(make(Sizes(1, 1, 2, 4, 5, 0))).__name__ + "(")
    assert "object at 0x" not in shown


# --- bad input --------------------------------------------------------------------------------------------------------


@pytest.mark.usefixtures("unchecked_types")
@pytest.mark.parametrize(
    ("build", "message"),
    [
        (
            lambda: MultiHeadAttention(10, n_head=3),
            "n_head must divide n_embd, got n_embd=10 and n_head=3; use n_embd=12",
        ),
        (
            lambda: MultiHeadAttention(8, n_head=2, head_size=0),
            "head_size must be an integer of at least 1, got head_size=0",
        ),
        (lambda: MultiHeadAttention(0, n_head=1), "n_embd must be an integer of at least 1, got n_embd=0"),
        (lambda: MultiHeadAttention(8, n_head=2.0), "got n_head=2.0"),  # type: ignore[arg-type] # wrong on purpose
        (lambda: MultiHeadAttention(8, n_head=True), "got n_head=True"),
        (
            lambda: MultiHeadAttention(8, n_head=2, dropout=1.0),
            r"dropout must be a number in \[0, 1\), got dropout=1.0",
        ),
        (lambda: MultiHeadAttention(8, n_head=2, dropout=-0.1), "got dropout=-0.1"),
        (lambda: MultiHeadAttention(8, n_head=2, dropout=math.nan), "got dropout=nan"),
        (lambda: MultiHeadAttention(8, n_head=2, output_std=-1), "std must be a number of at least 0, got std=-1"),
        (lambda: Head(8, head_size=0), "head_size must be an integer of at least 1, got head_size=0"),
        (lambda: Head("8", head_size=2), "got n_embd='8'"),  # type: ignore[arg-type]
        (lambda: FeedForward(8, hidden_size=0), "got hidden_size=0"),
        (lambda: FeedForward(8, dropout="a"), "got dropout='a'"),  # type: ignore[arg-type]
        (lambda: RotaryPositions(3), "head_size must be even for rotary positions, got head_size=3; use 4"),
        (lambda: RotaryPositions(4, base=1), "base must be a number above 1, got base=1"),
        (lambda: LearnedPositions(0, n_embd=4), "got block_size=0"),
        (lambda: Linear(0, 4), "in_features must be an integer of at least 1, got in_features=0"),
        (lambda: Embedding(-1, 4), "got count=-1"),
    ],
)
def test_sizes_out_of_range_are_named(build: Callable[[], object], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        build()


@pytest.mark.usefixtures("unchecked_types")
@pytest.mark.parametrize("name", ["attention", "feed_forward"])
def test_a_part_that_is_no_module_is_named(name: str) -> None:
    parts: dict[str, Any] = {"attention": MultiHeadAttention(8, n_head=2), "feed_forward": FeedForward(8)}
    with pytest.raises(InputTypeError, match=f"{name} must be a module that maps B T C to B T C, got 7"):
        DecoderBlock(8, **(parts | {name: 7}))


def test_a_part_of_another_width_is_named_before_it_is_called() -> None:
    with pytest.raises(
        ConfigError, match="feed_forward must be as wide as the stream, got n_embd=16 in it and n_embd=8"
    ):
        DecoderBlock(8, attention=MultiHeadAttention(8, n_head=2), feed_forward=FeedForward(16))
