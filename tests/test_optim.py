"""Optimizers: Muon moves matrices as it should, AdamW the rest, and both come back from a file."""

import copy
import itertools
import json
import math
import pickle
import re
from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from builders import DATA
from hypothesis import given
from hypothesis import strategies as st
from killable import make_trainer, outcome
from torch import Tensor, nn
from torch.nn import functional as F

from tinygpt import BigramLanguageModel, GPTConfig, GPTLanguageModel, LanguageModel, Trainer, TrainerConfig
from tinygpt.errors import ConfigError, InputTypeError
from tinygpt.layers import Chain, DecoderBlock, FeedForward, Linear, MultiHeadAttention, RMSNorm, ShortConvolution
from tinygpt.layers.roles import matrices_in
from tinygpt.models.config import Layout
from tinygpt.optim import Muon, muon, orthogonalise, parameter_groups
from tinygpt.schedules import warmup_linear
from tinygpt.training.config import Optimizer
from tinygpt.training.preparation import checked_optimizer

SHAPES = [(8, 8), (32, 8), (8, 32), (8, 8), (1, 5)]
STACKS = [(3, 4, 6), (6, 4), (2, 3, 4, 6), (5,), (4, 6), (4, 6)]
OPTIONS: list[dict[str, Any]] = [
    {"is_muon": True, "lr": 0.1, "momentum": 0.9, "weight_decay": 0.3},
    {"is_muon": True, "lr": 0.2, "momentum": 0.0, "weight_decay": 0.0},
    {"lr": 0.3, "betas": (0.5, 0.7), "eps": 0.01, "weight_decay": 0.2},
    {"lr": 0.4, "betas": (0.8, 0.95), "eps": 1e-8, "weight_decay": 0.0},
]


def matrices() -> list[nn.Parameter]:
    generator = torch.Generator().manual_seed(0)
    return [nn.Parameter(torch.randn(shape, generator=generator)) for shape in SHAPES]


def grouped() -> list[dict[str, Any]]:
    """Return groups in which no two options are the same, in float64, with stacks where Muon moves them."""
    generator = torch.Generator().manual_seed(0)
    return [
        {"params": [nn.Parameter(torch.randn(s, generator=generator).double()) for s in STACKS if len(s) > 1 or not i]}
        | options
        for i, options in enumerate(({"is_muon": False}, *OPTIONS))
    ]


def parameters_of(groups: list[dict[str, Any]]) -> list[nn.Parameter]:
    return [parameter for group in groups for parameter in group["params"]]


def give_gradients(parameters: Sequence[Tensor], step: int) -> None:
    """Let each parameter have a gradient that depends on its index and the step; every fourth has none at first."""
    for index, parameter in enumerate(parameters):
        generator = torch.Generator().manual_seed(100 * step + index)
        gradient = torch.randn(parameter.shape, generator=generator).to(parameter.dtype)
        parameter.grad = None if step == 0 and index % 4 == 3 else gradient


def assert_same(ours: Sequence[Tensor], theirs: Sequence[Tensor], atol: float = 0.0) -> None:
    for a, b in zip(ours, theirs, strict=True):
        torch.testing.assert_close(a, b, rtol=0, atol=atol)


class PlainMuon:
    """The definition: a matrix at a time."""

    def __init__(self, groups: list[dict[str, Any]]) -> None:
        defaults: dict[str, Any] = {"is_muon": False, "lr": 1e-3, "momentum": 0.95, "betas": (0.9, 0.999)}
        self.groups = [defaults | {"eps": 1e-8, "weight_decay": 0.01} | group for group in groups]
        self.means: dict[Any, Tensor] = defaultdict(lambda: torch.zeros((), dtype=torch.float64))
        self.steps: dict[Tensor, int] = defaultdict(int)

    @torch.no_grad()
    def step(self) -> None:
        for group in self.groups:
            for parameter in group["params"]:
                if parameter.grad is None:
                    continue
                self.steps[parameter] += 1
                parameter *= 1 - group["lr"] * group["weight_decay"]
                if not group["is_muon"]:
                    parameter -= group["lr"] * self.adam_direction(parameter, parameter.grad, group)
                    continue
                for index in itertools.product(*map(range, parameter.shape[:-2])):
                    gradient, share = parameter.grad[index], group["momentum"]
                    mean = share * self.means[parameter, index] + (1 - share) * gradient
                    self.means[parameter, index] = mean
                    rows, columns = gradient.shape
                    move = orthogonalise((share * mean + (1 - share) * gradient)[None])[0]
                    parameter[index] -= group["lr"] * max(1, rows / columns) ** 0.5 * move

    def adam_direction(self, parameter: Tensor, gradient: Tensor, group: dict[str, Any]) -> Tensor:
        corrected = []
        for power, beta in enumerate(group["betas"], start=1):
            mean = beta * self.means[parameter, power] + (1 - beta) * gradient**power
            self.means[parameter, power] = mean
            corrected.append(mean / (1 - beta ** self.steps[parameter]))
        return corrected[0] / (corrected[1].sqrt() + group["eps"])


def test_muon_is_the_loop_that_defines_it() -> None:
    """Each group by its own options, each matrix of a stack separately, and what has no gradient stays."""
    ours, theirs = grouped(), grouped()
    mine, plain = Muon(ours), PlainMuon(theirs)
    for step in range(4):
        give_gradients(parameters_of(ours), step)
        give_gradients(parameters_of(theirs), step)
        mine.step()
        plain.step()
        assert_same(parameters_of(ours), parameters_of(theirs), atol=1e-12)


@pytest.mark.parametrize("again", [copy.deepcopy, lambda optimizer: pickle.loads(pickle.dumps(optimizer))])
def test_a_copy_of_muon_goes_on_as_muon_does(again: Callable[[Muon], Muon]) -> None:
    optimizer = Muon(grouped(), momentum=0.5, dtype=torch.bfloat16)
    give_gradients(parameters_of(optimizer.param_groups), 1)
    optimizer.step()
    other = again(optimizer)
    for one in (optimizer, other):
        give_gradients(parameters_of(one.param_groups), 2)
        one.step()
    assert_same(parameters_of(optimizer.param_groups), parameters_of(other.param_groups))
    assert other.dtype == torch.bfloat16
    assert [group["momentum"] for group in other.param_groups] == [0.5, 0.9, 0.0, 0.5, 0.5]


def test_the_state_of_muon_goes_through_a_file(tmp_path: Path) -> None:
    optimizer, other = Muon(grouped()), Muon(grouped(), momentum=0.1, lr=0.9)
    for step in range(3):
        give_gradients(parameters_of(optimizer.param_groups), step)
        optimizer.step()
    torch.save(optimizer.state_dict(), tmp_path / "state.pt")
    other.load_state_dict(torch.load(tmp_path / "state.pt", weights_only=True))
    for a, b in zip(*(parameters_of(one.param_groups) for one in (optimizer, other)), strict=True):
        b.data.copy_(a.data)
    for one in (optimizer, other):
        give_gradients(parameters_of(one.param_groups), 4)
        one.step()
    assert_same(parameters_of(optimizer.param_groups), parameters_of(other.param_groups))


def test_a_group_added_later_is_for_adamw_unless_it_says_muon() -> None:
    first, *others = matrices()
    optimizer = Muon([{"params": [first], "is_muon": True}], lr=0.1)
    optimizer.add_param_group({"params": others[0]})
    optimizer.add_param_group({"params": others[1:], "is_muon": True, "momentum": 0.5})
    assert [group["is_muon"] for group in optimizer.param_groups] == [True, False, True]
    give_gradients([first, *others], 1)
    optimizer.step()
    assert {*optimizer.state[others[0]]} == {"exp_avg", "exp_avg_sq", "step"}
    assert {*optimizer.state[others[1]]} == {"momentum_buffer"}
    with pytest.raises(ConfigError, match=r"momentum must be a number in \[0, 1\), got momentum=1"):
        optimizer.add_param_group({"params": [nn.Parameter(torch.zeros(2, 2))], "is_muon": True, "momentum": 1})
    assert len(optimizer.param_groups) == 3


def test_a_closure_is_called_before_anything_moves() -> None:
    groups = grouped()
    optimizer = Muon(groups)
    parameters = parameters_of(groups)
    start = [parameter.detach().clone() for parameter in parameters]

    def closure() -> Tensor:
        assert_same(parameters, start)
        optimizer.zero_grad()
        loss = torch.stack([parameter.square().sum() for parameter in parameters]).sum()
        loss.backward()
        return loss

    expected = Muon(grouped())
    for parameter, value in zip(parameters_of(expected.param_groups), start, strict=True):
        parameter.grad = 2 * value
    for parameter in parameters:
        parameter.grad = torch.full_like(parameter, torch.nan)  # stale
    assert optimizer.step(closure).item() == pytest.approx(sum(float(value.square().sum()) for value in start))
    expected.step()
    assert_same(parameters, parameters_of(expected.param_groups))


def test_hooks_see_a_step_once_with_all_groups() -> None:
    torch.optim.AdamW(matrices())  # so that PyTorch has prepared AdamW's step for hooks as well
    optimizer = Muon(grouped())
    seen: list[int] = []
    for register in (optimizer.register_step_pre_hook, optimizer.register_step_post_hook):
        register(lambda one, *_: seen.append(len(one.param_groups)))
    optimizer.step()
    assert seen == [5, 5]


def test_a_scheduler_of_pytorch_scales_the_rates_of_all_groups() -> None:
    optimizer = Muon(grouped(), lr=0.5)
    scheduler = torch.optim.lr_scheduler.StepLR(optimizer, step_size=1, gamma=0.1)
    optimizer.step()
    scheduler.step()
    assert [group["lr"] for group in optimizer.param_groups] == pytest.approx([0.05, 0.01, 0.02, 0.03, 0.04])


def test_matrices_of_several_dtypes_and_empty_ones_move_together() -> None:
    dtypes = [torch.float64, torch.float32, torch.bfloat16, torch.float16]
    shape = {"full": (4, 3), "none": (0, 3)}
    together = [nn.Parameter(torch.ones(size, dtype=dtype)) for dtype in dtypes for size in shape.values()]
    alone = [nn.Parameter(parameter.detach().clone()) for parameter in together]
    optimizers = [Muon([{"params": some, "is_muon": True}], lr=0.1) for some in (together, *([x] for x in alone))]
    for step in range(2):
        for parameter in (*together, *alone):
            parameter.grad = torch.arange(parameter.numel()).view(parameter.shape).to(parameter.dtype) - step
        for optimizer in optimizers:
            optimizer.step()
    assert_same(together, alone)
    assert not torch.equal(together[0], torch.ones_like(together[0]))


@pytest.mark.parametrize(
    ("group", "error"),
    [
        ({"is_muon": 1}, "is_muon must be True or False, got is_muon=1"),
        ({"lr": -1.0}, "lr must be a number of at least 0, got lr=-1.0"),
        ({"eps": math.nan}, "eps must be a number of at least 0, got eps=nan"),
        ({"weight_decay": "0.1"}, "weight_decay must be a number of at least 0, got weight_decay='0.1'"),
        ({"momentum": -0.1, "is_muon": True}, "momentum must be a number in [0, 1), got momentum=-0.1"),
        ({"betas": 0.9}, "betas must be a tuple of two numbers, got betas=0.9"),
        ({"betas": (0.9, 1.0)}, "betas must be a number in [0, 1) each, got betas=1.0"),
        (
            {"params": [nn.Parameter(torch.zeros(3))], "is_muon": True},
            "Muon moves matrices, got a parameter of the shape (3,) and torch.float32; it takes real ones of the shape "
            "(..., R, C); leave others to AdamW, in a group with is_muon=False",
        ),
        (
            {"params": [nn.Parameter(torch.zeros(3, 2, dtype=torch.complex64))], "is_muon": True},
            "a parameter of the shape (3, 2) and torch.complex64",
        ),
    ],
    ids=["truth", "rate", "eps", "decay", "momentum", "betas", "beta", "vector", "complex"],
)
def test_a_group_that_muon_cannot_take_is_named(group: dict[str, Any], error: str) -> None:
    with pytest.raises(ConfigError, match=re.escape(error)):
        Muon([{"params": [nn.Parameter(torch.zeros(2, 2))]} | group])


def turned(shape: tuple[int, int]) -> tuple[Tensor, Tensor]:
    """Return two matrices with orthonormal columns, for the singular vectors of a matrix of this shape."""
    left, right = (torch.linalg.qr(torch.randn(size, min(shape), dtype=torch.float64))[0] for size in shape)
    return left, right


@given(
    rows=st.integers(1, 9),
    columns=st.integers(1, 9),
    exponents=st.lists(st.floats(-8, 0), min_size=9, max_size=9),
    rank=st.integers(0, 9),
    scale=st.sampled_from([1e-5, 1.0, 1e9]),
)
def test_orthogonalising_makes_directions_equally_long(
    rows: int, columns: int, exponents: list[float], rank: int, scale: float
) -> None:
    """A direction that a matrix has comes to between 0.68 and 1.21; one that it does not have stays near zero."""
    values = torch.tensor([10.0**exponent for exponent in exponents], dtype=torch.float64)[: min(rows, columns)]
    values[rank:] = 0
    shares = values / values.norm().clamp(min=1e-12)
    left, right = turned((rows, columns))
    result = orthogonalise((scale * left @ shares.diag() @ right.mT)[None])[0]
    lengths = left.mT @ result @ right
    torch.testing.assert_close(left @ lengths.diagonal().diag() @ right.mT, result, rtol=0, atol=1e-9)
    for share, length in zip(shares.tolist(), lengths.diagonal().tolist(), strict=True):
        assert -1e-9 < length < min(1.21, 500 * share + 1e-9)
        assert share < 0.002 or length > 0.68


@pytest.mark.skipif(not hasattr(torch.optim, "Muon"), reason="this PyTorch has no Muon")
@pytest.mark.parametrize("dtype", [None, torch.bfloat16])
def test_muon_is_that_of_pytorch(dtype: torch.dtype | None) -> None:
    """Up to the sixteen bits in which PyTorch computes."""
    ours, theirs = matrices(), matrices()
    start = [parameter.detach().clone() for parameter in ours]
    rate: dict[str, Any] = {"lr": 0.02, "weight_decay": 0.1}
    mine = Muon([{"params": ours, "is_muon": True} | rate], dtype=dtype)
    optimizers = [mine, torch.optim.Muon(theirs, momentum=0.95, **rate)]
    for step in range(10):
        for parameters in (ours, theirs):
            generator = torch.Generator().manual_seed(step)
            for parameter in parameters:
                parameter.grad = torch.randn(parameter.shape, generator=generator)
        for optimizer in optimizers:
            optimizer.step()
    for a, b, before in zip(ours, theirs, start, strict=True):
        assert float((a - b).detach().norm() / (b - before).detach().norm()) < 2**-6


def test_all_else_is_moved_by_adamw() -> None:
    ours, theirs = matrices(), matrices()
    options: dict[str, Any] = {"lr": 0.02, "betas": (0.8, 0.95), "weight_decay": 0.1}
    optimizers = [Muon([{"params": ours}], **options), torch.optim.AdamW(theirs, **options)]
    for step in range(3):
        for parameter in (*ours, *theirs):
            parameter.grad = torch.full_like(parameter, 1.0 + step)
        for optimizer in optimizers:
            optimizer.step()
    assert all(torch.equal(a, b) for a, b in zip(ours, theirs, strict=True))


@pytest.mark.parametrize("layout", ["notebook", "gpt2", "modern"])
def test_muon_gets_the_inner_matrices_and_adamw_the_rest(layout: Layout) -> None:
    """AdamW moves tables, the head, biases and gains."""
    config = GPTConfig(vocab_size=11, block_size=4, n_layer=2, n_head=2, n_embd=8, layout=layout)
    model = config.build()
    optimizer = muon(model, learning_rate=0.01, betas=(0.8, 0.95), weight_decay=0.1)
    names = {id(parameter): name for name, parameter in model.named_parameters()}
    inside, rest = ([names[id(parameter)] for parameter in group["params"]] for group in optimizer.param_groups)
    assert len(inside) == 2 * 4
    assert all(name.startswith("blocks.") and name.endswith(".weight") for name in inside)
    assert sorted(inside + rest) == sorted(names.values())
    assert [group["lr"] for group in optimizer.param_groups] == [0.04, 0.01]


RATES: dict[str, Any] = {"learning_rate": 0.01, "betas": (0.8, 0.95), "weight_decay": 0.1}


def names_where(model: nn.Module, groups: list[dict[str, Any]], option: str) -> set[str]:
    """Return the names of the parameters in the groups that have an option on."""
    chosen = {id(parameter) for group in groups if group[option] for parameter in group["params"]}
    return {name for name, parameter in model.named_parameters() if id(parameter) in chosen}


def moved_by_muon(model: nn.Module) -> set[str]:
    return names_where(model, muon(model, **RATES).param_groups, "is_muon")


def decaying(model: nn.Module) -> set[str]:
    return names_where(model, parameter_groups(model, 0.1), "weight_decay")


def inner_weights(model: nn.Module) -> set[str]:
    """Return the names of the weights in the blocks of a GPT from a config."""
    return {name for name in dict(model.named_parameters()) if name.startswith("blocks.") and name.endswith(".weight")}


def make_blocks(n_embd: int, feed_forward: Callable[[], nn.Module] | None = None) -> list[DecoderBlock]:
    make = feed_forward or (lambda: FeedForward(n_embd))
    attention = MultiHeadAttention(n_embd, n_head=2)
    return [DecoderBlock(n_embd, attention=attention, feed_forward=make(), norm=RMSNorm)]


@pytest.mark.parametrize("layout", ["notebook", "gpt2", "modern"])
@pytest.mark.parametrize("vocab_size", [8, 24, 32, 4])
def test_roles_do_not_depend_on_sizes_that_happen_to_be_equal(layout: Layout, vocab_size: int) -> None:
    """Ids as many as the width, as queries, keys and values, as the feed-forward's, and as positions."""
    config = GPTConfig(vocab_size=vocab_size, block_size=4, n_layer=2, n_head=2, n_embd=8, layout=layout)
    model = config.build()
    found = moved_by_muon(model)
    assert len(found) == 2 * 4
    assert found == {name for name in inner_weights(model) if "norm" not in name}


class LoRA(nn.Module):
    """A frozen layer with a change of low rank."""

    def __init__(self, layer: nn.Linear, rank: int) -> None:
        super().__init__()
        self.layer = layer.requires_grad_(False)
        self.down = nn.Parameter(torch.zeros(rank, layer.in_features))
        self.up = nn.Parameter(torch.zeros(layer.out_features, rank))

    def forward(self, x: Tensor) -> Tensor:
        return self.layer(x) + x @ self.down.mT @ self.up.mT


@pytest.mark.parametrize(
    "head",
    [
        lambda: nn.Linear(8, 8, bias=False),
        lambda: nn.Sequential(nn.Linear(8, 8), nn.Tanh(), nn.Linear(8, 8)),
        lambda: LoRA(nn.Linear(8, 8), rank=4),
        lambda: torch.nn.utils.parametrizations.orthogonal(nn.Linear(8, 8)),
    ],
    ids=["bare", "sequential", "lora", "parametrized"],
)
def test_whatever_the_head_is_made_of_adamw_moves_it(head: Callable[[], nn.Module]) -> None:
    model = GPTLanguageModel(8, block_size=4, n_embd=8, blocks=make_blocks(8), head=head())
    assert moved_by_muon(model) == inner_weights(model)
    assert len(inner_weights(model)) == 4


class Looked(nn.Module):
    """A table, or any other part of a model, whose parameter is a bare one."""

    def __init__(self, *shape: int) -> None:
        super().__init__()
        self.values = nn.Parameter(torch.randn(shape))

    def forward(self, x: Tensor, offset: int = 0) -> Tensor:
        return F.embedding(x, self.values) if x.dtype == torch.int64 else x + self.values[offset : offset + x.shape[1]]


def test_a_bare_table_of_a_gpt_is_a_table() -> None:
    embedding = Chain(Looked(8, 8), Linear(8, 8))
    positions = lambda block_size, n_embd: Looked(block_size, n_embd)  # noqa: E731
    model = GPTLanguageModel(
        8, block_size=8, n_embd=8, blocks=make_blocks(8), token_embedding=embedding, positions=positions
    )
    assert moved_by_muon(model) == inner_weights(model)
    assert decaying(model) == inner_weights(model) | {"head.weight"}


class Experts(nn.Module):
    """The mean of several small feed-forwards, whose matrices are stacks."""

    def __init__(self) -> None:
        super().__init__()
        self.up = nn.Parameter(torch.randn(3, 8, 16))
        self.down = nn.Parameter(torch.randn(3, 16, 8))
        self.gain = nn.Parameter(torch.ones(1, 1, 8))
        self.near = nn.Conv1d(8, 8, 3, padding=1)
        self.short = ShortConvolution(8, width=4)
        self.norm = nn.LayerNorm((4, 8))
        self.kind = nn.Embedding(4, 8)
        self.gate = nn.Linear(8, 1)

    def forward(self, x: Tensor) -> Tensor:
        return torch.einsum("btc,ech,ehd->btd", x, self.up, self.down) * self.gain * self.gate(x)


def test_stacks_of_matrices_are_matrices_and_kernels_are_not() -> None:
    """Neither are gains."""
    model = GPTLanguageModel(8, block_size=4, n_embd=8, blocks=make_blocks(8, Experts))
    inside = {f"blocks.0.attention.{name}.weight" for name in ("qkv", "output")}
    part = "blocks.0.feed_forward."
    stacks = {part + "up", part + "down"}
    assert moved_by_muon(model) == inside | stacks
    others = {part + name for name in ("near.weight", "short.weight", "gate.weight", "gain")}
    assert decaying(model) == inside | stacks | others | {"head.weight"}


class Own(LanguageModel):
    """A language model as a stranger writes it: a bare table, a bare matrix and two linear layers."""

    def __init__(self) -> None:
        super().__init__(vocab_size=5, block_size=4)
        self.symbols = nn.Parameter(torch.randn(5, 6))
        self.mix = nn.Parameter(torch.randn(6, 6))
        self.inner = nn.ModuleList(nn.Linear(6, 6) for _ in range(3))
        self.readout = nn.Linear(6, 5)

    def compute_logits(self, idx: Tensor, cache: Any = None) -> Tensor:
        x = self.symbols[idx] @ self.mix
        for layer in self.inner:
            x = x + layer(x).tanh()
        return self.readout(x)


INNER = {f"inner.{layer}.weight" for layer in range(3)}


def test_a_model_that_does_not_state_its_roles_is_named() -> None:
    text = (
        "Muon guesses roles in Own: it orthogonalises inner.*.weight, readout.weight, one of which may be the LM head "
        "(return that from a method head_parameters); it leaves mix, symbols to AdamW (return matrices from "
        "matrix_parameters, tables from table_parameters)"
    )
    with pytest.warns(UserWarning, match=f"^{re.escape(text)}$") as caught:
        found = moved_by_muon(Own())
    assert len(caught) == 1
    assert found == INNER | {"readout.weight"}


def test_a_model_that_says_its_roles_is_believed_in_silence() -> None:
    class Said(Own):
        def head_parameters(self) -> list[nn.Parameter]:
            return list(self.readout.parameters())

        def table_parameters(self) -> list[nn.Parameter]:
            return [self.symbols]

        def matrix_parameters(self) -> list[nn.Parameter]:
            return [*super().matrix_parameters(), self.mix]

    assert moved_by_muon(Said()) == INNER | {"mix"}
    assert decaying(Said()) == INNER | {"mix", "readout.weight"}


def test_a_bare_parameter_beside_a_known_head_is_warned_of() -> None:
    class WithHead(Own):
        @property
        def head(self) -> nn.Module:
            return self.readout

    with pytest.warns(UserWarning, match="^Muon guesses roles in WithHead: it leaves mix, symbols to AdamW "):
        assert moved_by_muon(WithHead()) == INNER

    class Grown(GPTLanguageModel):
        def __init__(self) -> None:
            super().__init__(8, block_size=4, n_embd=8, blocks=make_blocks(8))
            self.places = nn.Parameter(torch.zeros(1, 4, 8))

    model = Grown()
    with pytest.warns(UserWarning, match="^Muon guesses roles in Grown: it leaves places to AdamW "):
        assert moved_by_muon(model) == inner_weights(model)


def test_a_module_that_is_not_a_language_model_is_warned_of() -> None:
    module = nn.Sequential(nn.Embedding(5, 6), nn.Linear(6, 6), nn.Linear(6, 5))
    with pytest.warns(UserWarning, match=r"roles in Sequential: it orthogonalises 1\.weight, 2\.weight, one of"):
        assert moved_by_muon(module) == {"1.weight", "2.weight"}


def test_a_compiled_model_says_what_the_model_says() -> None:
    model = GPTLanguageModel(8, block_size=4, n_embd=8, blocks=make_blocks(8))
    compiled: Any = torch.compile(model, backend="eager")
    assert moved_by_muon(compiled) == {f"_orig_mod.{name}" for name in inner_weights(model)}


def test_a_model_without_matrices_inside_trains_with_adamw_alone() -> None:
    optimizer = muon(BigramLanguageModel(5), **RATES)
    assert [group["is_muon"] for group in optimizer.param_groups] == [False]


def test_a_frozen_model_has_an_optimizer_that_moves_nothing() -> None:
    model = BigramLanguageModel(5).requires_grad_(False)
    assert moved_by_muon(model) == decaying(model) == set()


@pytest.mark.parametrize("optimizer", ["adamw", "muon"])
def test_the_rate_of_a_step_is_that_of_the_schedule(tmp_path: Path, optimizer: str) -> None:
    trainer = make_trainer(tmp_path, optimizer=optimizer, learning_rate=0.02)
    rates = [step.learning_rate for step in trainer]
    assert rates == [trainer.config.schedule(step) * 0.02 for step in range(12)]
    records = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    assert [record["learning_rate"] for record in records if "learning_rate" in record] == rates


def test_the_rate_of_a_step_is_that_of_the_first_group() -> None:
    """Of an optimizer that the user brings."""
    model = make_model("notebook")
    groups = [{"params": [parameter], "lr": 0.3 + i} for i, parameter in enumerate(model.parameters())]
    trainer = Trainer(model, DATA, TrainerConfig(max_iters=10), make_optimizer=lambda _: torch.optim.SGD(groups))
    step = next(iter(trainer))
    assert step.learning_rate == 0.3 * trainer.config.schedule(0)


def test_a_run_with_muon_goes_on_exactly(tmp_path: Path) -> None:
    make_trainer(tmp_path / "whole", optimizer="muon").fit(progress=False)
    trainer = make_trainer(tmp_path / "cut", optimizer="muon")
    for step in trainer:
        if step.number == 7:
            break
    trainer.save()
    make_trainer(tmp_path / "cut", optimizer="muon").fit(resume=True, progress=False)
    assert outcome(tmp_path / "cut") == outcome(tmp_path / "whole")


def test_a_run_with_muon_learns_more_than_one_with_adamw() -> None:
    """At a width at which matrices have directions to tell apart; each with a rate that suits it."""
    losses = {}
    rates: dict[Optimizer, float | None] = {"adamw": 4e-3, "muon": None}
    for name, rate in rates.items():
        torch.manual_seed(0)
        config = GPTConfig.modern(vocab_size=DATA.vocab_size, block_size=8, n_layer=2, n_head=2, n_embd=32)
        settings = TrainerConfig(optimizer=name, learning_rate=rate, max_iters=60, batch_size=8, preview_tokens=0)
        trainer = Trainer(config.build(), DATA, settings)
        trainer.fit(progress=False)
        losses[name] = trainer.evaluate("val").nats
    assert losses["muon"] < losses["adamw"]


@pytest.mark.parametrize("kind", ["bigram", "notebook", "gpt2", "modern"])
def test_the_default_optimizer_learns_more_than_adamw_by_default(kind: str) -> None:
    losses = []
    for config in (TrainerConfig(max_iters=20), TrainerConfig(max_iters=20, optimizer="adamw")):
        torch.manual_seed(0)
        trainer = Trainer(make_model(kind), DATA, replace(config, batch_size=8, preview_tokens=0))
        trainer.fit(progress=False)
        losses.append(trainer.evaluate("val").nats)
    assert losses[0] < losses[1] - 0.1


def make_model(kind: Any) -> LanguageModel:
    if kind == "bigram":
        return BigramLanguageModel(DATA.vocab_size)
    config = GPTConfig(vocab_size=DATA.vocab_size, block_size=8, n_layer=1, n_head=2, n_embd=16, layout=kind, dropout=0)
    return config.build()


@pytest.mark.parametrize("layout", ["notebook", "gpt2", "modern"])
def test_the_optimizer_of_the_notebook_is_its_loop(layout: str) -> None:
    """With PyTorch's own AdamW, which decays all parameters, at a constant rate; the settings are those of the docs."""
    torch.manual_seed(0)
    models = [make_model(layout).double() for _ in range(2)]
    models[1].load_state_dict(models[0].state_dict())
    config = TrainerConfig(
        max_iters=20,
        batch_size=4,
        optimizer="adamw",
        learning_rate=3e-4,
        final_learning_rate=3e-4,
        warmup_iters=0,
        grad_clip=None,
        preview_tokens=0,
    )
    make = lambda model: torch.optim.AdamW(model.parameters(), lr=3e-4)  # noqa: E731
    trainer = Trainer(models[0], DATA, config, make_optimizer=make)
    optimizer = torch.optim.AdamW(models[1].parameters(), lr=3e-4)
    for number, step in enumerate(trainer):
        _, loss = models[1](*DATA.batch("train", step=number, batch_size=4, block_size=8, seed=0))
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        optimizer.step()
        assert step.loss == pytest.approx(loss.item(), abs=1e-6)
        assert step.learning_rate == 3e-4
    assert_same(list(models[0].parameters()), list(models[1].parameters()), atol=1e-12)


def test_the_defaults_go_with_the_optimizer() -> None:
    config = TrainerConfig(max_iters=1000)
    assert config.optimizer == "muon"
    assert (config.peak, config.decay_rates, config.warmup) == (8e-3, (0.8, 0.95), 20)
    assert config.schedule(510) == pytest.approx(0.5, abs=1e-3)
    assert config.schedule(1000) == 0
    config = TrainerConfig(max_iters=1000, optimizer="adamw")
    assert (config.peak, config.decay_rates, config.warmup) == (3e-4, (0.9, 0.99), 100)
    assert config.schedule(1000) == pytest.approx(0.1)
    ending = TrainerConfig(max_iters=10, optimizer="muon", final_learning_rate=2e-3)
    assert ending.schedule(10) == pytest.approx(0.25)
    with pytest.raises(ConfigError, match="optimizer must be one of 'adamw', 'muon', got 'muom'; did you mean 'muon'"):
        TrainerConfig(optimizer="muom")  # type: ignore[arg-type]


def test_the_straight_line_falls_from_one_to_its_floor() -> None:
    shares = [warmup_linear(step, max_iters=10, warmup_iters=3, floor=0.3) for step in range(12)]
    assert shares[:4] == pytest.approx([1 / 3, 2 / 3, 1, 1])
    assert shares[10:] == pytest.approx([0.3, 0.3])
    assert [a - b for a, b in itertools.pairwise(shares[3:11])] == pytest.approx([0.1] * 7)


class Lookahead(torch.optim.SGD):
    """An optimizer that cannot step alone."""

    def step(self, forward: Callable[[], Tensor], closure: Any = None) -> Any:  # type: ignore[override]
        return super().step(closure)


@pytest.mark.parametrize(
    ("make", "kind", "message"),
    [
        ("adamw", InputTypeError, "got 'adamw'; name it in the config: TrainerConfig(optimizer=...)"),
        (partial(torch.optim.AdamW, lr=0.1), InputTypeError, "got the error: "),
        (lambda: None, InputTypeError, "got the error: "),
        (
            lambda model: torch.optim.SGD(model.parameters(), lr=-1),
            ConfigError,
            "got the error: Invalid learning rate: -1",
        ),
        (lambda model: torch.optim.SGD([]), ConfigError, "got the error: optimizer got an empty parameter list"),
        (
            lambda model: (torch.optim.SGD(model.parameters()), 1),
            InputTypeError,
            "must return a torch.optim.Optimizer, e.g.",
        ),
        (
            lambda model: Lookahead(model.parameters()),
            InputTypeError,
            "got Lookahead: missing a required argument: 'forw",
        ),
    ],
    ids=["name", "partial", "no_argument", "rate", "empty", "pair", "step"],
)
def test_an_unusable_optimizer_is_named(make: Any, kind: type, message: str) -> None:
    with pytest.raises(kind, match=re.escape(message)) as caught:
        checked_optimizer(make, BigramLanguageModel(5))
    assert "e.g. lambda model: torch.optim.SGD(model.parameters(), lr=0.1)" in str(caught.value)
    assert len(str(caught.value)) <= 300


def test_rates_of_several_groups_follow_the_schedule() -> None:
    """Also rates that are tensors."""

    def make(model: nn.Module) -> torch.optim.Optimizer:
        return torch.optim.SGD([{"params": [parameter], "lr": torch.tensor(0.5)} for parameter in model.parameters()])

    config = TrainerConfig(max_iters=2, warmup_iters=0, preview_tokens=0)
    trainer = Trainer(make_model("notebook"), DATA, config, make_optimizer=make)
    assert [step.learning_rate for step in trainer] == [0.5, 0.25]
    assert {float(group["lr"]) for group in trainer.optimizer.param_groups} == {0.25}


def test_roles_name_each_parameter_once() -> None:
    """The output projection of PyTorch's attention is a linear layer inside another layer with a role."""
    attention = nn.MultiheadAttention(8, 2)
    assert len(matrices_in(attention)) == len(list(attention.parameters()))
