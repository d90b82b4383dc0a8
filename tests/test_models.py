"""The models: the notebook's to the last digit, and what every language model promises."""

import itertools
import json
import math
import subprocess
import sys
from collections.abc import Iterator
from typing import Any

import faults
import numpy as np
import pytest
import torch
from faults import broken_by
from hypothesis import given, settings
from hypothesis import strategies as st
from strategies import TOLERANCE, randomised
from torch import Tensor, nn
from torch.nn import functional as F

from tinygpt import (
    BigramLanguageModel,
    CharTokenizer,
    GPTConfig,
    GPTLanguageModel,
    LanguageModel,
    Sampler,
    TokenDataset,
    Trainer,
    TrainerConfig,
)
from tinygpt.errors import ConfigError, InputTypeError, ShapeError
from tinygpt.layers import DecoderBlock, FeedForward, LearnedPositions, MultiHeadAttention
from tinygpt.models import ModelOutput
from tinygpt.models.config import LAYOUTS, Layout
from tinygpt.testing import check_batch_independent, check_causal, check_prefix_consistent

VOCAB, BLOCK, N_EMBD = 7, 6, 8


def make_gpt(layout: str = "notebook", **changes: Any) -> GPTLanguageModel:
    sizes = {"vocab_size": VOCAB, "block_size": BLOCK, "n_layer": 2, "n_head": 2, "n_embd": N_EMBD, "dropout": 0.2}
    model = GPTConfig(**sizes | {"layout": layout} | changes).build()
    randomised(model)
    return model.eval()


def make_composed() -> GPTLanguageModel:
    model = GPTLanguageModel(VOCAB, block_size=BLOCK, n_embd=N_EMBD, blocks=[MeanOfThePast() for _ in range(2)])
    randomised(model)
    return model.eval()


def make_bigram() -> BigramLanguageModel:
    return BigramLanguageModel(VOCAB).eval()


class MeanOfThePast(nn.Module):
    """A block of one's own that knows nothing of this library."""

    def __init__(self) -> None:
        super().__init__()
        self.mix = nn.Linear(N_EMBD, N_EMBD)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.mix(x.cumsum(dim=1) / torch.arange(1, x.shape[1] + 1).view(1, -1, 1)).tanh()


GPTS = {layout: (lambda layout=layout: make_gpt(layout)) for layout in LAYOUTS} | {"composed": make_composed}
every_gpt = pytest.mark.parametrize("make", GPTS.values(), ids=GPTS.keys())
every_model = pytest.mark.parametrize("make", [*GPTS.values(), make_bigram], ids=[*GPTS.keys(), "bigram"])
few = settings(max_examples=15)


def ids(batch: int = 2, time: int = BLOCK, seed: int = 0) -> Tensor:
    return torch.randint(VOCAB, (batch, time), generator=torch.Generator().manual_seed(seed))


# --- the notebook's model ---------------------------------------------------------------------------------------------


class NotebookBlock(nn.Module):
    """The notebook's classes written out again, head by head, from its description."""

    def __init__(self, n_embd: int, n_head: int) -> None:
        super().__init__()
        size = n_embd // n_head
        self.queries, self.keys, self.values = (
            nn.ModuleList(nn.Linear(n_embd, size, bias=False) for _ in range(n_head)) for _ in range(3)
        )
        self.projection = nn.Linear(n_embd, n_embd)
        self.hidden, self.back = nn.Linear(n_embd, 4 * n_embd), nn.Linear(4 * n_embd, n_embd)
        self.norm_1, self.norm_2 = nn.LayerNorm(n_embd), nn.LayerNorm(n_embd)

    def forward(self, x: Tensor) -> Tensor:
        normed, found = self.norm_1(x), []
        for query, key, value in zip(self.queries, self.keys, self.values, strict=True):
            q, k = query(normed), key(normed)
            scores = q @ k.transpose(-2, -1) * q.shape[-1] ** -0.5
            scores = scores.masked_fill(torch.tril(torch.ones(x.shape[1], x.shape[1])) == 0, -math.inf)
            found.append(F.softmax(scores, dim=-1) @ value(normed))
        x = x + self.projection(torch.cat(found, dim=-1))
        return x + self.back(F.relu(self.hidden(self.norm_2(x))))


class NotebookGPT(nn.Module):
    def __init__(self, vocab_size: int, block_size: int, n_layer: int, n_head: int, n_embd: int) -> None:
        super().__init__()
        self.tokens, self.places = nn.Embedding(vocab_size, n_embd), nn.Embedding(block_size, n_embd)
        self.blocks = nn.Sequential(*[NotebookBlock(n_embd, n_head) for _ in range(n_layer)])
        self.norm, self.head = nn.LayerNorm(n_embd), nn.Linear(n_embd, vocab_size)

    def forward(self, idx: Tensor) -> Tensor:
        x = self.tokens(idx) + self.places(torch.arange(idx.shape[1]))
        logits: Tensor = self.head(self.norm(self.blocks(x)))
        return logits

    def take_weights(self, ours: GPTLanguageModel) -> None:
        """Copy the weights of a model of ours, name by name."""
        theirs = {
            "tokens.weight": ours.get_parameter("token_embedding.weight"),
            "places.weight": ours.get_parameter("positions.table.weight"),
        }
        renamed = {"norm_1": "attention_norm", "norm_2": "feed_forward_norm", "projection": "attention.output"}
        renamed |= {"hidden": "feed_forward.expand", "back": "feed_forward.output"}
        for name in self.state_dict():
            first, *rest = name.split(".")
            if first == "blocks" and rest[1] in renamed:
                theirs[name] = ours.get_parameter(f"blocks.{rest[0]}.{renamed[rest[1]]}.{rest[2]}")
            elif first == "blocks":
                part, head = ["queries", "keys", "values"].index(rest[1]), int(rest[2])
                qkv = ours.get_parameter(f"blocks.{rest[0]}.attention.qkv.weight")
                size = qkv.shape[1] // len(self.get_submodule(f"blocks.{rest[0]}.queries"))  # type: ignore[arg-type]
                theirs[name] = qkv.unflatten(0, (3, -1, size))[part, head]
            elif first in ("norm", "head"):
                theirs[name] = ours.get_parameter(name)
        self.load_state_dict({name: weight.detach() for name, weight in theirs.items()})


@pytest.mark.parametrize(("n_layer", "n_head", "n_embd", "block_size"), [(2, 2, 8, 9), (3, 3, 12, 7), (1, 1, 4, 5)])
def test_logits_equal_the_notebooks_at_every_length(n_layer: int, n_head: int, n_embd: int, block_size: int) -> None:
    sizes = {"block_size": block_size, "n_layer": n_layer, "n_head": n_head, "n_embd": n_embd}
    ours, theirs = make_gpt("notebook", **sizes), NotebookGPT(VOCAB, **sizes)
    theirs.take_weights(ours)
    for length in range(1, block_size + 1):
        idx = ids(3, length, seed=length)
        torch.testing.assert_close(ours(idx).logits, theirs(idx), **TOLERANCE)
    assert ours.num_parameters() == sum(parameter.numel() for parameter in theirs.parameters())


@pytest.mark.slow
def test_logits_equal_the_notebooks_at_its_size_and_every_length() -> None:
    ours = GPTConfig(vocab_size=65).build().eval()
    theirs = NotebookGPT(65, 256, 6, 6, 384)
    theirs.take_weights(ours)
    idx = torch.randint(65, (1, 256))
    with torch.no_grad():
        for length in range(1, 257):
            torch.testing.assert_close(ours(idx[:, :length]).logits, theirs(idx[:, :length]), **TOLERANCE)


@pytest.mark.parametrize(("vocab_size", "expected"), [(137, 10_844_297), (65, 10_788_929)])
def test_the_default_model_has_the_notebooks_parameters(vocab_size: int, expected: int) -> None:
    with torch.device("meta"):
        assert GPTConfig(vocab_size=vocab_size).build().num_parameters() == expected


def test_gpt2_has_the_parameters_of_gpt2() -> None:
    with torch.device("meta"):
        assert GPTConfig.gpt2().build().num_parameters() == 124_439_808


@given(n_layer=st.integers(1, 3), n_head=st.integers(1, 3), vocab_size=st.integers(1, 9), block_size=st.integers(1, 9))
def test_the_number_of_parameters_follows_from_the_sizes(
    n_layer: int, n_head: int, vocab_size: int, block_size: int
) -> None:
    c = 4 * n_head
    sizes = {"n_layer": n_layer, "n_head": n_head, "n_embd": c, "vocab_size": vocab_size, "block_size": block_size}
    block = 12 * c * c + 10 * c  # 4 norms' vectors, 1 + 4 + 1 biases
    assert make_gpt("notebook", **sizes).num_parameters() == (
        vocab_size * c + block_size * c + n_layer * block + 2 * c + c * vocab_size + vocab_size
    )
    assert make_gpt("modern", **sizes).num_parameters() == (2 * vocab_size + 5) * c + n_layer * 12 * c * c
    gpt2 = vocab_size * c + block_size * c + n_layer * (block + 3 * c) + 2 * c
    assert make_gpt("gpt2", **sizes).num_parameters() == gpt2


def test_the_layout_of_nanogpt_has_the_exact_gelu() -> None:
    """And is that of GPT-2 in everything else."""
    idx, ours, theirs = ids(), make_gpt("nanogpt"), make_gpt("gpt2")
    theirs.load_state_dict(ours.state_dict())
    assert (ours(idx).logits - theirs(idx).logits).abs().max() > 1e-6
    for block in theirs.blocks:
        block.get_submodule("feed_forward").add_module("activation", nn.GELU())
    assert torch.equal(ours(idx).logits, theirs(idx).logits)


def test_weights_start_as_the_notebooks() -> None:
    torch.manual_seed(0)
    model = GPTConfig(vocab_size=65, n_layer=2).build()
    for module in model.modules():
        if isinstance(module, nn.Linear | nn.Embedding):
            assert module.weight.std().item() == pytest.approx(0.02, rel=0.03)
            assert abs(module.weight.mean().item()) < 1e-3
        if isinstance(module, nn.Linear) and module.bias is not None:
            assert bool((module.bias == 0).all())


def test_losses_at_the_start_are_those_of_an_even_guess() -> None:
    torch.manual_seed(0)
    idx, targets = torch.randint(65, (2, 4, 64)).unbind()
    for config in (GPTConfig(vocab_size=65, n_layer=2), GPTConfig.modern(vocab_size=65, n_layer=2)):
        loss = config.build()(idx, targets).loss.item()
        assert math.log(65) - 0.02 < loss < math.log(65) + 384 * 0.02**2 / 2 + 0.05
    bigram = BigramLanguageModel(65)
    assert bigram(idx, targets).loss.item() == pytest.approx(math.log(65) + 0.5, abs=0.1)
    nn.init.zeros_(bigram.table.weight)
    assert bigram(idx, targets).loss.item() == pytest.approx(math.log(65), abs=1e-12)


# --- every model ------------------------------------------------------------------------------------------------------


@broken_by(faults.targets_shifted)
@every_model
@few
@given(batch=st.integers(1, 3), time=st.integers(1, BLOCK), seed=st.integers(0, 99))
def test_the_loss_is_the_mean_surprise_of_the_logits(make: Any, batch: int, time: int, seed: int) -> None:
    """The logits always have the shape B T V."""
    model, idx = make(), ids(batch, time, seed)
    assert model(idx).logits.shape == (batch, time, VOCAB)
    assert model(idx).loss is None
    targets = ids(time, batch, seed + 1).T  # not contiguous
    assert torch.equal(model(idx, targets).logits, model(idx).logits)
    logits, loss = model(idx, targets)
    surprises = -logits.log_softmax(-1).gather(2, targets.unsqueeze(2)).squeeze(2)
    torch.testing.assert_close(loss, surprises.mean(), rtol=0, atol=1e-12)
    torch.testing.assert_close(model(idx.int(), targets.int()).loss, model(idx, targets).loss, rtol=0, atol=0)


def test_ignored_targets_count_for_nothing() -> None:
    model, idx, targets = make_gpt(), ids(), ids(seed=1)
    targets[:, 3:] = -100
    torch.testing.assert_close(model(idx, targets).loss, model(idx[:, :3], targets[:, :3]).loss, **TOLERANCE)


@broken_by(faults.mask_forgotten, only="notebook")
@every_gpt
def test_a_logit_depends_on_the_past_and_on_nothing_later(make: Any) -> None:
    check_causal(make(), ids())
    check_prefix_consistent(make(), ids())
    check_batch_independent(make(), ids())


def test_a_model_of_blocks_without_the_mask_sees_the_future() -> None:
    blocks = [
        DecoderBlock(
            N_EMBD, attention=MultiHeadAttention(N_EMBD, n_head=2, causal=False), feed_forward=FeedForward(N_EMBD)
        )
    ]
    model = GPTLanguageModel(VOCAB, block_size=BLOCK, n_embd=N_EMBD, blocks=blocks)
    randomised(model)
    changed = ids()
    changed[:, -1] = (changed[:, -1] + 1) % VOCAB
    assert not torch.allclose(model(ids()).logits[:, 0], model(changed).logits[:, 0])
    assert model.new_cache(1) is None


@broken_by(faults.positions_forgotten, only="notebook")
@pytest.mark.parametrize("layout", LAYOUTS)
def test_the_order_of_earlier_ids_matters(layout: str) -> None:
    model = make_gpt(layout)
    orders = itertools.permutations([1, 2, 3])
    logits = torch.stack([model(torch.tensor([[*order, 4]])).logits[0, -1] for order in orders])
    assert logits.std(dim=0).max().item() > 1e-6


@every_gpt
def test_relabelling_the_vocabulary_relabels_the_logits(make: Any) -> None:
    model, other, order = make(), make(), torch.tensor([3, 0, 6, 1, 5, 2, 4])
    rows = [parameter for parameter in other.parameters() if parameter.shape[0] == VOCAB]
    with torch.no_grad():
        for parameter in rows:
            parameter.copy_(parameter[order].clone())
    relabelled = torch.argsort(order)[ids()]
    torch.testing.assert_close(other(relabelled).logits, model(ids()).logits[..., order], rtol=0, atol=1e-12)


@every_model
def test_reading_changes_nothing(make: Any) -> None:
    model = make()
    state = {name: value.clone() for name, value in model.state_dict().items()}
    generator = torch.get_rng_state()
    model(ids(), ids(seed=1))
    model.generate(ids(), 3, generator=torch.Generator())
    assert torch.equal(torch.get_rng_state(), generator)
    assert not model.training
    assert torch.is_grad_enabled()
    assert all(torch.equal(value, state[name]) for name, value in model.state_dict().items())


@every_model
def test_dtypes_convert_and_agree(make: Any) -> None:
    model, idx = make(), ids()
    single = make().float()
    model.load_state_dict(single.state_dict())  # rounded alike
    before = [parameter.clone() for parameter in single.parameters()]
    torch.testing.assert_close(single(idx).logits.double(), model(idx).logits, rtol=1e-4, atol=1e-4)
    after = single.double().float().parameters()
    assert all(torch.equal(a, b) for a, b in zip(before, after, strict=True))
    half = [parameter.clone() for parameter in single.bfloat16().parameters()]
    assert all(torch.equal(a, b) for a, b in zip(half, single.float().bfloat16().parameters(), strict=True))


DIGESTS = """
import hashlib, torch, tinygpt

def digest(layout, seed):
    torch.manual_seed(seed)
    config = tinygpt.GPTConfig(vocab_size=7, block_size=6, n_layer=2, n_head=2, n_embd=8, layout=layout)
    weights = torch.cat([parameter.detach().flatten() for parameter in config.build().parameters()])
    return hashlib.sha256(weights.numpy().tobytes()).hexdigest()

def digests(seed):
    return [digest(layout, seed) for layout in ("notebook", "gpt2", "modern")]
"""


def test_a_seed_gives_the_same_weights_in_a_fresh_process() -> None:
    names: dict[str, Any] = {}
    torch.set_default_dtype(torch.float32)
    exec(DIGESTS, names)
    printed = subprocess.check_output([sys.executable, "-c", DIGESTS + "print(*digests(1))"], text=True)
    assert printed.split() == names["digests"](1)
    assert len({*names["digests"](1), *names["digests"](2)}) == 2 * 3


@pytest.mark.parametrize("layout", LAYOUTS)
def test_a_model_learns_one_batch_by_heart(layout: Layout) -> None:
    torch.manual_seed(0)
    config = GPTConfig(vocab_size=VOCAB, block_size=BLOCK, n_layer=2, n_head=2, n_embd=16, dropout=0.0, layout=layout)
    model = config.build()
    optimizer = torch.optim.Adam(model.parameters(), lr=0.02)
    idx, targets = ids(1), ids(1, seed=1)
    for _ in range(300):
        loss = model(idx, targets).loss
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    assert loss.item() < 0.05


# --- the bigram in closed form ----------------------------------------------------------------------------------------


@few
@given(text=st.lists(st.integers(0, VOCAB - 1), min_size=2, max_size=60))
def test_a_bigram_of_log_counts_has_the_entropy_of_the_text(text: list[int]) -> None:
    """Nothing is left to learn: the gradient is zero."""
    x, y = torch.tensor([text[:-1]]), torch.tensor([text[1:]])
    counts = torch.zeros(VOCAB, VOCAB).index_put((x[0], y[0]), torch.ones(len(text) - 1), accumulate=True)
    model = BigramLanguageModel(VOCAB)
    with torch.no_grad():
        model.table.weight.copy_((counts + 1e-300).log())
    entropy = -(counts * (counts / counts.sum(1, keepdim=True)).log()).nansum() / counts.sum()
    loss = model(x, y).loss
    torch.testing.assert_close(loss, entropy, rtol=0, atol=1e-9)
    loss.backward()
    assert model.table.weight.grad is not None
    assert float(model.table.weight.grad.abs().max()) < 1e-9


def test_a_trained_bigram_reaches_the_entropy_of_the_text() -> None:
    """Rows that were not seen stay as they were."""
    text = torch.tensor([[0, 1, 2, 0, 2, 1, 0, 1, 1, 2] * 6])
    x, y = text[:, :-1], text[:, 1:]
    counts = torch.zeros(VOCAB, VOCAB).index_put((x[0], y[0]), torch.ones(x.numel()), accumulate=True)
    entropy = -(counts * (counts / counts.sum(1, keepdim=True)).log()).nansum() / counts.sum()
    model = BigramLanguageModel(VOCAB)
    before = model.table.weight.detach().clone()
    optimizer = torch.optim.Adam(model.parameters(), lr=0.3)
    for _ in range(600):
        loss = model(x, y).loss
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    assert loss.item() == pytest.approx(entropy.item(), abs=1e-3)
    assert torch.equal(model.table.weight[3:], before[3:])


# --- subclasses, wrapped parts, models without parameters -------------------------------------------------------------


class Smoothed(GPTLanguageModel):
    """A loss of its own, and an argument of its own."""

    def __init__(self, *sizes: Any, smoothing: float = 0.1, **parts: Any) -> None:
        super().__init__(*sizes, **parts)
        self.smoothing = smoothing

    def forward(self, idx: Tensor, targets: Tensor | None = None) -> ModelOutput:
        logits, _ = super().forward(idx)
        if targets is None:
            return ModelOutput(logits, None)
        return ModelOutput(
            logits, F.cross_entropy(logits.flatten(0, 1), targets.flatten(), label_smoothing=self.smoothing)
        )


class Shifted(GPTLanguageModel):
    def compute_logits(self, idx: Tensor, cache: Any = None) -> Tensor:
        return super().compute_logits(idx, cache=cache) + 1


@pytest.mark.parametrize("layout", LAYOUTS)
def test_a_config_builds_the_class_that_it_is_asked_of(layout: Layout) -> None:
    config = GPTConfig(vocab_size=VOCAB, block_size=BLOCK, n_layer=1, n_head=2, n_embd=N_EMBD, layout=layout)
    torch.manual_seed(0)
    plain = config.build().eval()
    torch.manual_seed(0)
    smoothed = config.build(Smoothed, smoothing=0.3).eval()
    assert type(plain) is GPTLanguageModel
    assert type(smoothed) is Smoothed
    assert plain.config == config
    assert smoothed.config is None  # it does not describe the smoothing
    logits, loss = smoothed(ids(), ids(seed=1))
    assert torch.equal(logits, plain(ids()).logits)
    expected = F.cross_entropy(logits.flatten(0, 1), ids(seed=1).flatten(), label_smoothing=0.3)
    assert torch.equal(loss, expected)
    shifted = config.build(Shifted).eval()
    shifted.load_state_dict(plain.state_dict())
    torch.testing.assert_close(shifted(ids()).logits, plain(ids()).logits + 1, **TOLERANCE)


def test_a_subclass_with_other_arguments_is_named() -> None:
    class Narrow(GPTLanguageModel):
        def __init__(self, width: int) -> None:
            super().__init__(VOCAB, block_size=BLOCK, n_embd=width, blocks=[])

    config = GPTConfig(vocab_size=VOCAB, n_head=2, n_embd=N_EMBD, n_layer=1)
    with pytest.raises(
        InputTypeError,
        match=r"Narrow.__init__ must take vocab_size, block_size, n_embd, blocks, got .*'width'; pass \*\*parts",
    ):
        config.build(Narrow)
    with pytest.raises(InputTypeError, match=r"GPTLanguageModel.__init__ must take .* got .*'smoothing'"):
        config.build(smoothing=0.1)


class LoRA(nn.Module):
    """A wrapper that tells nothing of what it wraps."""

    def __init__(self, base: nn.Module, n_in: int, n_out: int) -> None:
        super().__init__()
        self.base = base.requires_grad_(False)
        self.down, self.up = nn.Linear(n_in, 2, bias=False), nn.Linear(2, n_out, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        output: Tensor = self.base(x)
        return output + self.up(self.down(x))


class Added(nn.Module):
    """A wrapper of a part whose input is ids, or has further arguments, or both."""

    def __init__(self, base: nn.Module) -> None:
        super().__init__()
        self.base = base
        self.gain = nn.Parameter(torch.randn(()))

    def forward(self, *inputs: Any, **named: Any) -> Tensor:
        output: Tensor = self.base(*inputs, **named)
        return output * self.gain


def wrapped_models() -> Iterator[Any]:
    for layout in LAYOUTS:
        for name, part in make_gpt(layout, n_layer=1).named_modules():
            if isinstance(part, nn.Linear):
                yield pytest.param(layout, name, True, id=f"{layout} {name}")
            elif name and not isinstance(part, nn.ModuleList):
                yield pytest.param(layout, name, False, id=f"{layout} {name}")


@pytest.mark.usefixtures("unchecked_types")
@pytest.mark.parametrize(("layout", "name", "is_linear"), list(wrapped_models()))
def test_any_part_may_be_wrapped_and_the_model_learns_and_writes(layout: str, name: str, is_linear: bool) -> None:
    model = make_gpt(layout, n_layer=1)
    part = model.get_submodule(name)
    model.set_submodule(
        name,
        LoRA(part, part.in_features, part.out_features) if isinstance(part, nn.Linear) else Added(part),
    )
    tokenizer = CharTokenizer("abcdefg")
    data = TokenDataset(tokenizer.decode(ids(1, 300)[0].tolist()), tokenizer)
    config = TrainerConfig(max_iters=2, batch_size=2, eval_interval=1, preview_tokens=9, learning_rate=1e-3)
    Trainer(model, data, config).fit(progress=False)
    model.eval()
    likeliest = model.generate(torch.tensor([[0, 1]]), 9, temperature=0)[0].tolist()
    assert Sampler(model, tokenizer, stride=1).generate("ab", max_new_tokens=9, temperature=0) == tokenizer.decode(
        likeliest
    )
    cache = model.new_cache(2)
    assert cache is not None or not is_linear
    if cache is not None:
        pieces = [model.compute_logits(piece, cache=cache) for piece in ids().split([1, 2, 3], dim=1)]
        torch.testing.assert_close(torch.cat(pieces, dim=1), model(ids()).logits, **TOLERANCE)


class Counts(LanguageModel):
    counts: Tensor | None

    def __init__(self, counts: Tensor | None) -> None:
        super().__init__(VOCAB, block_size=BLOCK)
        self.register_buffer("counts", counts)

    def compute_logits(self, idx: Tensor, cache: Any = None) -> Tensor:
        table = torch.eye(VOCAB, dtype=torch.float64) if self.counts is None else self.counts.log()
        return table[idx]


@pytest.mark.parametrize("counts", [torch.arange(1.0, 1 + VOCAB**2).view(VOCAB, VOCAB), None])
def test_a_model_without_parameters_is_a_model(counts: Tensor | None) -> None:
    model = Counts(counts)
    assert model.device == torch.device("cpu")
    assert model(ids(), ids(seed=1)).loss is not None
    assert model.num_parameters() == 0
    sampler = Sampler(model, CharTokenizer("abcdefg"))
    assert len(sampler.generate("ab", max_new_tokens=20)) == 22
    assert sampler.score("abcdefg").shape == (7,)
    assert model.generate(ids(), 3).shape == (2, BLOCK + 3)
    assert model.to("meta").device == torch.device("cpu" if counts is None else "meta")


def test_a_huge_block_takes_no_memory_before_it_is_filled() -> None:
    model = make_gpt("modern", block_size=10**9)
    sampler = Sampler(model, CharTokenizer("abcdefg"))
    assert len(sampler.generate(["a", "abc"], max_new_tokens=100)[0]) == 101
    cache = model.new_cache(2)
    assert cache is not None
    model.compute_logits(ids(), cache=cache)
    assert cache.blocks[0].key.numel() < 10_000


def test_dropout_stands_where_the_notebook_has_it() -> None:
    model = make_gpt("notebook", dropout=0.2)
    dropping = {name for name, part in model.named_modules() if isinstance(part, nn.Dropout)}
    assert dropping == {"blocks.0.attention.dropout", "blocks.1.attention.dropout"}
    gpt2 = {name for name, part in make_gpt("gpt2").named_modules() if isinstance(part, nn.Dropout)}
    assert gpt2 == dropping | {"positions.dropout", "blocks.0.feed_forward.dropout", "blocks.1.feed_forward.dropout"}


@pytest.mark.usefixtures("unchecked_types")
def test_a_table_of_positions_may_be_wrapped_or_grown() -> None:
    positions, x = LearnedPositions(5, n_embd=N_EMBD), torch.randn(2, 4, N_EMBD)
    expected = positions(x, 1)
    positions.table = Added(positions.table)  # type: ignore[assignment]
    torch.testing.assert_close(positions(x, 1), x + (expected - x) * positions.table.gain, **TOLERANCE)
    grown = LearnedPositions(5, n_embd=N_EMBD)
    grown.table.weight = nn.Parameter(torch.randn(9, N_EMBD))
    assert torch.equal(grown(x, 5), x + grown.table.weight[5:9])
    with pytest.raises(ShapeError, match="there are 9 learned positions, got 4 from position 6 on"):
        grown(x, 6)


# --- generate, caches, composing --------------------------------------------------------------------------------------


@broken_by(faults.offset_forgotten, faults.memory_that_stands_still, only="modern")
@every_gpt
def test_any_pieces_through_a_cache_give_the_logits_of_the_whole(make: Any) -> None:
    model = make()
    if model.new_cache(1) is None:
        assert isinstance(model.blocks[0], MeanOfThePast)
        return
    for split in range(1, BLOCK):
        cache = model.new_cache(2)
        pieces = [model.compute_logits(part, cache=cache) for part in (ids()[:, :split], ids()[:, split:])]
        torch.testing.assert_close(torch.cat(pieces, dim=1), model(ids()).logits, **TOLERANCE)


@every_model
@pytest.mark.parametrize("length", [1, BLOCK - 1, BLOCK, 2 * BLOCK])
def test_generate_draws_from_the_last_window(make: Any, length: int) -> None:
    """It continues a prompt of any length."""
    model, idx = make(), ids(2, length)
    assert torch.equal(model.generate(idx, 0), idx)
    greedy = model.generate(idx, 9, temperature=0)
    assert torch.equal(greedy[:, :length], idx)
    for end in range(length, length + 9):
        window = greedy[:, max(0, end - BLOCK) : end]
        assert torch.equal(greedy[:, end], model(window).logits[:, -1].argmax(-1))
    first, second = (model.generate(idx, 9, generator=torch.Generator().manual_seed(3)) for _ in range(2))
    assert torch.equal(first, second)
    assert torch.equal(model.generate(idx, 9, top_k=1), greedy)
    assert torch.equal(model.generate(idx.int(), 9, temperature=0), greedy)


@every_model
def test_generate_is_the_loop_of_the_notebook_draw_for_draw(make: Any) -> None:
    """It restores the mode of the model."""
    model = make()
    for temperature, top_k in itertools.product((1.0, 0.7), (None, 3)):
        torch.manual_seed(5)
        idx = ids(3, 2)
        for _ in range(12):
            logits = model(idx[:, -BLOCK:]).logits[:, -1] / temperature
            if top_k is not None:  # as nanoGPT has it
                logits = logits.masked_fill(logits < logits.topk(top_k).values[:, [-1]], -math.inf)
            idx = torch.cat([idx, torch.multinomial(F.softmax(logits, dim=-1), num_samples=1)], dim=1)
        torch.manual_seed(5)
        model.train()
        assert torch.equal(model.generate(ids(3, 2), 12, temperature=temperature, top_k=top_k), idx)
        assert all(module.training for module in model.modules())
        model.eval()


def test_generate_puts_the_mode_back_after_an_error() -> None:
    model = make_gpt().train()
    model.get_submodule("blocks.0").eval()
    before = [module.training for module in model.modules()]
    model.get_submodule("norm").register_forward_pre_hook(lambda module, inputs: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        model.generate(ids(), 2)
    assert [module.training for module in model.modules()] == before
    assert torch.is_grad_enabled()


def test_top_k_of_generate_draws_from_k_ids_alone() -> None:
    model = make_bigram()
    drawn = model.generate(torch.full((500, 1), 2), 1, top_k=3)[:, 1]
    assert set(drawn.tolist()) == set(model(torch.tensor([[2]])).logits[0, 0].topk(3).indices.tolist())


def test_a_model_of_your_own_blocks_takes_three_lines_and_learns() -> None:
    blocks = [MeanOfThePast() for _ in range(2)]
    model = GPTLanguageModel(vocab_size=VOCAB, block_size=BLOCK, n_embd=N_EMBD, blocks=blocks)
    optimizer = torch.optim.Adam(model.parameters(), lr=0.02)
    first = None
    for _ in range(40):
        loss = model(ids(1), ids(1, seed=1)).loss
        first = loss.item() if first is None else first
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    assert first is not None
    assert loss.item() < first / 3


def test_your_own_model_needs_one_method() -> None:
    class Constant(LanguageModel):
        def __init__(self) -> None:
            super().__init__(VOCAB, block_size=BLOCK)
            self.table = nn.Parameter(torch.arange(float(VOCAB)))

        def compute_logits(self, idx: Tensor, cache: Any = None) -> Tensor:
            return self.table.expand(*idx.shape, -1)

    model = Constant()
    assert model.num_parameters() == VOCAB
    assert model.new_cache(1) is None
    assert model.generate(ids(1, 1), 3, temperature=0).tolist()[0][1:] == [VOCAB - 1] * 3
    with pytest.raises(TypeError, match="abstract"):
        LanguageModel(VOCAB)  # type: ignore[abstract]


def test_parameters_are_counted_once_and_shown() -> None:
    model = make_gpt("gpt2")
    assert model.get_parameter("head.weight") is model.get_parameter("token_embedding.weight")
    model.get_parameter("norm.weight").requires_grad_(False)
    assert model.num_parameters() - model.num_parameters(trainable_only=True) == N_EMBD
    shown = repr(model)
    assert f"vocab_size={VOCAB}, block_size={BLOCK}, {model.num_parameters():,} parameters" in shown
    assert "(0-1): 2 x DecoderBlock" in shown


# --- settings and bad input -------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "config", [GPTConfig(vocab_size=65), GPTConfig.gpt2(), GPTConfig.modern(vocab_size=9, n_layer=1, dropout=0.1)]
)
def test_a_config_survives_json_and_cannot_be_changed(config: GPTConfig) -> None:
    assert GPTConfig.from_dict(json.loads(json.dumps(config.to_dict()))) == config
    with pytest.raises(AttributeError):
        config.n_layer = 3  # type: ignore[misc]


@pytest.mark.usefixtures("unchecked_types")
@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"n_embd": 10, "n_head": 3}, "n_head must divide n_embd, got n_embd=10 and n_head=3; use n_embd=12"),
        ({"n_layer": 0}, "n_layer must be an integer of at least 1, got n_layer=0"),
        ({"n_head": 2.0}, "got n_head=2.0"),
        ({"n_embd": True}, "got n_embd=True"),
        ({"block_size": "8"}, "got block_size='8'"),
        ({"vocab_size": None}, "got vocab_size=None"),
        ({"n_embd": 2**40, "n_head": 1}, r"at most 1e\+11 parameters, got about 8\.7e\+25 from .*use smaller ones"),
        ({"vocab_size": 2**40}, r"at most 1e\+11 parameters"),
        ({"dropout": 1.0}, r"dropout must be a number in \[0, 1\), got dropout=1.0"),
        ({"dropout": -0.1}, "got dropout=-0.1"),
        ({"dropout": math.nan}, "got dropout=nan"),
        (
            {"layout": "modem"},
            "layout must be one of 'notebook', 'gpt2', 'nanogpt', 'modern', got 'modem'; did you mean 'modern'?",
        ),
        ({"layout": "modern", "n_embd": 9, "n_head": 3}, "n_embd / n_head must be even for rotary positions, got"),
        ({"n_heads": 4}, "GPTConfig has no argument 'n_heads'; did you mean 'n_head'?"),
        ({"_target_": "os.system"}, "GPTConfig has no argument '_target_'; see help"),
    ],
    ids=str,
)
def test_settings_out_of_range_are_named(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        GPTConfig(**{"vocab_size": 65} | changes)


@pytest.mark.usefixtures("unchecked_types")
def test_numpy_integers_are_integers() -> None:
    config = GPTConfig(vocab_size=np.int64(65))  # type: ignore[arg-type]
    assert config == GPTConfig(vocab_size=65)
    assert type(config.vocab_size) is int


@pytest.mark.usefixtures("unchecked_types")
@pytest.mark.parametrize(
    ("inputs", "kind", "message"),
    [
        (
            (torch.zeros(2, 3),),
            InputTypeError,
            r"idx must be an int32 or int64 tensor, got torch.float32; use idx.long\(\)",
        ),
        ((torch.zeros(2, 3, dtype=torch.bool),), InputTypeError, "got torch.bool"),
        ((torch.zeros(2, 3, dtype=torch.uint8),), InputTypeError, "got torch.uint8"),
        (([[1, 2]],), InputTypeError, "got list"),
        ((torch.zeros(3, dtype=torch.long),), ShapeError, r"shape \(B, T\) with B and T at least 1, got \(3,\)"),
        ((torch.zeros(1, 2, 3, dtype=torch.long),), ShapeError, r"got \(1, 2, 3\)"),
        ((torch.zeros(1, 0, dtype=torch.long),), ShapeError, r"got \(1, 0\)"),
        ((torch.zeros(0, 2, dtype=torch.long),), ShapeError, r"got \(0, 2\)"),
        (
            (torch.tensor([[1, 7]]),),
            ShapeError,
            r"from 0 to vocab_size - 1 = 6, got ids from 1 to 7, 7 at position \(0, 1\)",
        ),
        ((torch.tensor([[1, 2], [-1, 3]]),), ShapeError, r"got ids from -1 to 3, -1 at position \(1, 0\)"),
        ((ids(), ids(2, 5)), ShapeError, r"targets must have the shape of idx, got \(2, 5\) beside \(2, 6\)"),
        ((ids(), ids().double()), InputTypeError, "targets must be an int32 or int64 tensor, got torch.float64"),
        ((ids(), ids() - 3), ShapeError, "targets must hold ids from 0"),
        (
            (ids(), torch.full((2, 6), -100)),
            ShapeError,
            "targets must hold at least one id to predict, got -100 everywhere",
        ),
        ((torch.zeros(1, 2, dtype=torch.long, device="meta"),), InputTypeError, "idx on meta and the model on cpu"),
    ],
)
def test_ids_that_do_not_fit_are_named(inputs: tuple[Any, ...], kind: type[Exception], message: str) -> None:
    for model in (make_gpt(), make_bigram()):
        with pytest.raises(kind, match=message):
            model(*inputs)


def test_a_gpt_reads_block_size_and_a_bigram_any_length() -> None:
    long = torch.zeros(1, 9, dtype=torch.long)
    message = r"idx has length 9, longer than block_size=6; crop it first, e.g. idx\[:, -6:\]"
    with pytest.raises(ShapeError, match=message):
        make_gpt()(long)
    assert make_bigram()(long).logits.shape == (1, 9, VOCAB)


@pytest.mark.usefixtures("unchecked_types")
@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"max_new_tokens": -1}, "got max_new_tokens=-1"),
        ({"temperature": -1.0}, "temperature must be a number of at least 0, got temperature=-1.0"),
        ({"top_k": -2}, "top_k must be an integer of at least 1, got top_k=-2"),
        ({"top_k": 0}, "top_k must be an integer of at least 1, got top_k=0"),
    ],
)
def test_options_of_generate_are_named(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        make_bigram().generate(ids(), **({"max_new_tokens": 2} | options))


@pytest.mark.usefixtures("unchecked_types")
def test_blocks_that_do_not_fit_are_named() -> None:
    block = MeanOfThePast()
    with pytest.raises(
        ConfigError, match=r"the same one twice; build one for each layer, e\.g\. \[make_block\(\) for _ in range"
    ):
        GPTLanguageModel(VOCAB, block_size=BLOCK, n_embd=N_EMBD, blocks=[block, block])
    with pytest.raises(InputTypeError, match=r"blocks\[0\] must be a module that maps B T C to B T C, got 3"):
        GPTLanguageModel(VOCAB, block_size=BLOCK, n_embd=N_EMBD, blocks=[3])  # type: ignore[list-item]
    with pytest.raises(InputTypeError, match=r"blocks must be a list of modules, got MeanOfThePast; use \[block\]"):
        GPTLanguageModel(VOCAB, block_size=BLOCK, n_embd=N_EMBD, blocks=block)  # type: ignore[arg-type]
    wide = FeedForward(2 * N_EMBD)
    with pytest.raises(
        ConfigError, match=rf"blocks\[1\] must be as wide as .*n_embd={2 * N_EMBD} in it and n_embd={N_EMBD}"
    ):
        GPTLanguageModel(VOCAB, block_size=BLOCK, n_embd=N_EMBD, blocks=[block, wide])


# --- parts that are not what they should be ---------------------------------------------------------------------------


class Returning(nn.Module):
    """A part that returns something else than a tensor."""

    def __init__(self, output: Any) -> None:
        super().__init__()
        self.output = output

    def forward(self, x: Tensor) -> Any:
        return self.output(x)


@pytest.mark.parametrize(("output", "kind"), [(lambda x: (x, None), "tuple"), (lambda x: None, "NoneType")])
@pytest.mark.parametrize("where", ["attention", "feed_forward", "block"])
@pytest.mark.usefixtures("unchecked_types")
def test_a_part_that_returns_no_tensor_is_named(output: Any, kind: str, where: str) -> None:
    parts: dict[str, Any] = {"attention": MultiHeadAttention(8, n_head=2), "feed_forward": FeedForward(8)}
    parts[where] = Returning(output)
    block = parts.pop("block", None) or DecoderBlock(8, **{k: v for k, v in parts.items() if k != "block"})
    model = GPTLanguageModel(5, block_size=4, n_embd=8, blocks=[block])
    with pytest.raises(InputTypeError, match=f"a part must return a tensor, got {kind} from Returning; wrap it"):
        model(torch.zeros(1, 3, dtype=torch.long))


@pytest.mark.parametrize(
    ("logits", "kind"), [(lambda idx: None, "NoneType"), (lambda idx: idx[..., None].repeat(1, 1, 5), "torch.int64")]
)
@pytest.mark.usefixtures("unchecked_types")
def test_logits_that_are_none_are_named(logits: Any, kind: str) -> None:
    class Wrong(LanguageModel):
        def compute_logits(self, idx: Tensor, cache: Any = None) -> Any:
            return logits(idx)

    message = f"compute_logits must return a tensor of floating point, got {kind}"
    with pytest.raises(InputTypeError, match=message):
        Wrong(5)(torch.zeros(1, 3, dtype=torch.long))


def test_a_model_with_an_uninitialised_lazy_layer_is_refused() -> None:
    model = GPTLanguageModel(5, block_size=4, n_embd=8, blocks=[nn.LazyLinear(8)])
    with pytest.raises(InputTypeError, match="model must have all its parameters, got some without a shape; call it"):
        Sampler(model, CharTokenizer("abcde"))
