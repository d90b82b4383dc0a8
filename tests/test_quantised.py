"""Models with int8 weights: their definition, their fast products, and their files."""

import subprocess
import sys
from collections.abc import Callable
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from unittest.mock import patch

import faults
import pytest
import torch
from builders import BLOCK, DATA, TOKENIZER, make_gpt
from faults import broken_by
from hypothesis import example, given
from hypothesis import strategies as st
from strategies import TOLERANCE, randomised
from test_ngram import write_model
from torch import Tensor, nn
from torch.nn import functional as F

import tinygpt
from tinygpt import (
    BigramLanguageModel,
    GPTConfig,
    LanguageModel,
    MixtureLanguageModel,
    NGramLanguageModel,
    Sampler,
    Trainer,
    TrainerConfig,
    compare,
    evaluate,
    plan,
    quantised,
)
from tinygpt.cli.inspection import model_facts
from tinygpt.errors import CheckpointCorruptError, CheckpointMismatchError, InputTypeError, NonFiniteError
from tinygpt.interop import save_huggingface
from tinygpt.layers import Embedding, Linear, QuantisedEmbedding, QuantisedLinear, kernels
from tinygpt.layers.quantised import quantise_rows
from tinygpt.models import resized
from tinygpt.models.config import LAYOUTS
from tinygpt.models.inspection import config_of
from tinygpt.views import read

every_kind = pytest.mark.parametrize("kind", [*LAYOUTS, "bigram", "mixture"])


def make(kind: str) -> LanguageModel:
    if kind == "mixture":
        table = NGramLanguageModel.count(DATA.train, vocab_size=DATA.vocab_size, order=3)
        return MixtureLanguageModel([make("modern"), table, make("gpt2")], weights=[0.3, 0.5, 0.2]).eval()
    model = BigramLanguageModel(DATA.vocab_size) if kind == "bigram" else make_gpt(kind)  # type: ignore[arg-type]
    randomised(model)
    return model.eval()


IDX = torch.tensor([TOKENIZER.encode("the quick"[:BLOCK]), TOKENIZER.encode("lazy dog. the"[:BLOCK])])


# --- rows and layers --------------------------------------------------------------------------------------------------


@broken_by(faults.one_scale_for_a_matrix, faults.rounded_down)
@given(
    dtype=st.sampled_from([torch.float64, torch.float32, torch.bfloat16, torch.float16]),
    sizes=st.tuples(st.integers(1, 5), st.integers(1, 9)),
    std=st.sampled_from([1e-3, 0.02, 50.0]),
    seed=st.integers(0, 99),
)
def test_a_row_is_rounded_to_the_nearest_of_its_steps(
    dtype: torch.dtype, sizes: tuple[int, int], std: float, seed: int
) -> None:
    """Its largest number is 127 steps away from zero, or almost."""
    weight = (torch.randn(sizes, generator=torch.Generator().manual_seed(seed)) * std).to(dtype)
    rows, scale = quantise_rows(weight)
    assert (rows.dtype, scale.dtype) == (torch.int8, torch.bfloat16)
    largest = weight.double().abs().max(dim=1).values
    torch.testing.assert_close(127 * scale.double(), largest, rtol=2**-8, atol=0)
    error = (rows.double() * scale.double()[:, None] - weight.double()).abs()
    assert (error <= scale.double()[:, None] * 0.500001).all()


@pytest.mark.parametrize("value", [0.0, 1e-45, 1e-41, 3e38])
def test_a_row_of_extreme_numbers_is_finite(value: float) -> None:
    rows, scale = quantise_rows(torch.tensor([[value, -value, 0.0]], dtype=torch.float32))
    assert rows[0, 0] == -rows[0, 1]
    assert rows[0, 2] == 0
    assert scale.isfinite().all()
    assert float(rows[0, 0] * scale[0].double()) == pytest.approx(value, rel=0.01, abs=1e-40)


@contextmanager
def counted() -> Any:
    """Collect the inputs of the products that PyTorch's loops over int8 weights compute."""
    calls: list[Tensor] = []
    real = kernels._multiply_int8

    def multiply(x: Tensor, *others: Tensor) -> Tensor:
        calls.append(x)
        return real(x, *others)

    with patch.object(kernels, "_multiply_int8", multiply):
        yield calls


@broken_by(faults.scales_left_out)
@pytest.mark.parametrize("way", ["learning", "evaluating"])
@given(
    dtype=st.sampled_from([torch.float64, torch.float32, torch.bfloat16]),
    width=st.sampled_from([1, 7, 16, 24, 48]),
    height=st.integers(1, 9),
    leading=st.sampled_from([(), (1, 1), (3, 1), (2, 4), (0,), (4, 5)]),
    has_bias=st.booleans(),
    is_aligned=st.booleans(),
    seed=st.integers(0, 99),
)
@example(dtype=torch.float32, width=16, height=5, leading=(2, 4), has_bias=True, is_aligned=True, seed=0)
@example(dtype=torch.float32, width=48, height=4, leading=(1, 1), has_bias=False, is_aligned=True, seed=0)
@example(dtype=torch.float64, width=16, height=4, leading=(1, 1), has_bias=False, is_aligned=True, seed=0)
def test_a_quantised_layer_is_that_of_its_rounded_weights(
    way: str,
    dtype: torch.dtype,
    width: int,
    height: int,
    leading: tuple[int, ...],
    has_bias: bool,
    is_aligned: bool,
    seed: int,
) -> None:
    """With gradients to its input, and for rows that are not contiguous; fast ones to within bfloat16."""
    torch.manual_seed(seed)
    bias = torch.randn(height).to(dtype) if has_bias else None
    layer = QuantisedLinear(*quantise_rows(torch.randn(height, width)), bias)
    if not is_aligned:  # as a part of a larger tensor may be
        longer = torch.cat([torch.zeros(1, dtype=torch.int8), layer.weight.flatten()])
        layer.weight.data = longer[1:].view(height, width)
    rows = torch.randn(*leading, 2 * width)[..., ::2].to(dtype)
    exact = layer.weight.double() * layer.scale.double()[:, None]
    expected = F.linear(rows.double(), exact, None if bias is None else bias.double())
    is_fast = way == "evaluating" and dtype == torch.float32 and not width % 16 and is_aligned
    is_fast = is_fast and rows.numel() in range(1, 17 * width) and kernels._HAS_INT8
    with torch.set_grad_enabled(way == "learning"), counted() as calls:
        output = layer(rows.requires_grad_(way == "learning"))
    assert len(calls) == is_fast
    assert output.dtype == dtype
    eps = 2.0**-7 if is_fast else 8 * torch.finfo(dtype).eps
    torch.testing.assert_close(output.double(), expected, rtol=0.0, atol=eps * width**0.5 * 9)
    if way == "learning" and dtype == torch.float64:
        gradient = torch.autograd.grad(output.sum(), rows)[0]
        torch.testing.assert_close(gradient, exact.sum(dim=0).expand_as(gradient), **TOLERANCE)


def test_a_quantised_table_is_that_of_its_rounded_weights() -> None:
    rows, scale = quantise_rows(torch.randn(5, 3))
    idx = torch.tensor([[0, 4], [2, 2]])
    expected = F.embedding(idx, rows * scale.double()[:, None])
    assert torch.equal(QuantisedEmbedding(rows, scale.double())(idx), expected)


# --- models -----------------------------------------------------------------------------------------------------------


def with_rounded_weights(model: LanguageModel) -> LanguageModel:
    """Round the weights of linear layers and embeddings in place."""
    for part in model.modules():
        if isinstance(part, Linear | Embedding):
            rows, scale = quantise_rows(part.weight)
            part.weight.data = rows * scale.double()[:, None]
    return model


@broken_by(faults.scales_left_out, only="gpt2")
@every_kind
def test_a_quantised_model_is_that_of_its_rounded_weights(kind: str) -> None:
    model = make(kind)
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    small = quantised(model)
    assert small.num_parameters() == model.num_parameters()
    assert small.num_parameters(trainable_only=True) == 0
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())
    assert not any(part.training for part in small.modules())
    assert torch.allclose(small(IDX).logits, with_rounded_weights(make(kind))(IDX).logits, **TOLERANCE)


def test_tied_weights_and_shared_layers_stay_so() -> None:
    """In another dtype as well."""
    small = quantised(make("gpt2").to(torch.float16)).to(torch.float64)
    assert small.get_parameter("head.weight") is small.get_parameter("token_embedding.weight")

    class Twice(BigramLanguageModel):
        def __init__(self) -> None:
            super().__init__(3)
            self.first = self.second = nn.Linear(3, 3)

        def compute_logits(self, idx: Tensor, cache: Any = None) -> Tensor:
            return self.second(self.first(self.table(idx)))

    twice = quantised(Twice())
    assert isinstance(twice.first, QuantisedLinear)
    assert twice.first is twice.second
    assert twice(torch.tensor([[0, 1]])).logits.shape == (1, 2, 3)


def test_layers_whose_weights_are_read_directly_stay() -> None:
    """Those of PyTorch's transformer, which has a fast path of its own."""

    class Theirs(BigramLanguageModel):
        def __init__(self) -> None:
            super().__init__(4)
            self.layer = nn.TransformerEncoderLayer(4, 2, 8, batch_first=True)

        def compute_logits(self, idx: Tensor, cache: Any = None) -> Tensor:
            return self.layer(self.table(idx))

    small = quantised(Theirs())
    assert type(small.layer.linear1) is nn.Linear
    with torch.no_grad():
        assert small(torch.tensor([[0, 1]])).logits.isfinite().all()


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_a_model_in_sixteen_bits_computes_in_float32(dtype: torch.dtype) -> None:
    model = make("gpt2").to(dtype)
    small = quantised(model)
    assert small(IDX).logits.dtype == torch.float32
    torch.testing.assert_close(small(IDX).logits, quantised(model.float())(IDX).logits)


def test_the_loss_stays(tmp_path: Path) -> None:
    """Within 0.001 nats of float32, also one token at a time by the fast products, in less than 0.3 of the bytes."""
    torch.set_default_dtype(torch.float32)
    sizes = {"block_size": 32, "n_layer": 2, "n_head": 2, "n_embd": 64}
    model = GPTConfig.modern(vocab_size=DATA.vocab_size, **sizes).build(seed=1)
    settings = TrainerConfig(max_iters=60, batch_size=8, preview_tokens=0, eval_iters=1, precision="fp32")
    Trainer(model, DATA, settings).fit(progress=False)
    small = quantised(model)
    loss = evaluate(model, DATA).nats
    assert 0.01 < loss < 2.0
    assert abs(evaluate(small, DATA).nats - loss) < 0.001
    with counted() as calls:
        choices = list(Sampler(small, TOKENIZER).choices("t", 31, seed=1))
    assert len(calls) > 31 * 8 or not kernels._HAS_INT8
    ids = [*TOKENIZER.encode("t"), *(choice.id for choice in choices)]
    stepwise = torch.tensor([choice.log_probability for choice in choices]).mean()
    assert abs(float(stepwise) - float(Sampler(small, TOKENIZER).score(ids)[1:].mean())) < 0.01
    for name, each in {"large": model, "small": small}.items():
        tinygpt.save(tmp_path / name, each, TOKENIZER)
    assert (tmp_path / "small").stat().st_size <= 0.3 * (tmp_path / "large").stat().st_size


@every_kind
def test_everything_reads_a_quantised_model(kind: str) -> None:
    """Greedily the sampler writes what the definition does, past the window too."""
    small = quantised(make(kind))
    prompt = torch.tensor([TOKENIZER.encode("the quick")])
    wanted = small.generate(prompt, 2 * BLOCK, temperature=0)[0].tolist()
    sampler = Sampler(small, TOKENIZER, stride=1)
    assert sampler("the quick", max_new_tokens=2 * BLOCK, temperature=0) == TOKENIZER.decode(wanted)
    assert sampler.score("the fox").isfinite().all()
    assert list(read(small, TOKENIZER, "the fox").pieces) == list("the fox")
    comparison = compare({"one": small}, data=DATA, max_new_tokens=4, progress=False)
    assert comparison.contenders[0].parameters == small.num_parameters()


def test_a_part_of_a_mixture_may_be_quantised(tmp_path: Path) -> None:
    mixture = MixtureLanguageModel([quantised(make("modern")), BigramLanguageModel(DATA.vocab_size)])
    tinygpt.save(tmp_path / "m", mixture)
    assert torch.equal(tinygpt.load(tmp_path / "m")[0](IDX).logits, mixture(IDX).logits)


COMPILED = """
import warnings
import torch
import tinygpt
from tinygpt import CharTokenizer, GPTConfig, Sampler

warnings.filterwarnings("error", message="torch.compile does not work")
torch.manual_seed(0)
model = GPTConfig(vocab_size=7, block_size=12, n_layer=1, n_head=2, n_embd=32, layout="modern").build().eval()
for parameter in model.parameters():
    torch.nn.init.normal_(parameter, std=0.3)
model = tinygpt.quantised(model)
compiled = Sampler(model, CharTokenizer("abcdefg"), compile=True)
with torch.no_grad():
    for rows in (1, 3, 40):  # the last are too many for fast products
        cache, twin = model.new_cache(rows), model.new_cache(rows)
        for position in range(8):
            idx = (torch.arange(rows)[:, None] + position) % 7
            exact = model.compute_logits(idx, cache=twin)[:, -1]
            if position < 2:
                model.compute_logits(idx, cache=cache)
                continue
            fast = compiled._read_one(model, idx, cache)
            assert (fast - exact).abs().max() <= 0.02 * exact.abs().max(), (rows, position)
"""


@pytest.mark.slow
def test_the_compiled_sampler_is_the_plain_one() -> None:
    # In a process of its own: the runtime type checks of these tests are what the compiler cannot read.
    run = subprocess.run([sys.executable, "-c", COMPILED], capture_output=True, text=True)
    assert run.returncode == 0, run.stderr


# --- files ------------------------------------------------------------------------------------------------------------


@every_kind
def test_a_file_rebuilds_a_quantised_model(kind: str, tmp_path: Path) -> None:
    """To the same bits and the same file, and it knows its settings."""
    model = make(kind)
    small = quantised(model)
    tinygpt.save(tmp_path / "m", small, TOKENIZER)
    loaded, tokenizer = tinygpt.load(tmp_path / "m")
    assert tokenizer == TOKENIZER
    assert type(loaded) is type(small)
    assert torch.equal(loaded(IDX).logits, small(IDX).logits)
    assert loaded.num_parameters(trainable_only=True) == 0
    assert config_of(loaded) == config_of(small) == config_of(model) is not None
    assert model_facts(tmp_path / "m")["parameters"] == model.num_parameters()
    tinygpt.save(tmp_path / "again", loaded, TOKENIZER)
    assert (tmp_path / "m").read_bytes() == (tmp_path / "again").read_bytes()


def test_a_changed_quantised_model_is_loaded_into_one(tmp_path: Path) -> None:
    small, into = quantised(make("notebook")), quantised(make("notebook"))
    small.norm = into.norm = nn.Identity()
    tinygpt.save(tmp_path / "m", small)
    with pytest.raises(CheckpointMismatchError, match="composed or changed by hand"):
        tinygpt.load(tmp_path / "m")
    into.get_parameter("head.weight").zero_()
    assert torch.equal(tinygpt.load(tmp_path / "m", into=into)[0](IDX).logits, small(IDX).logits)
    with pytest.raises(CheckpointMismatchError, match="does not fit the model"):
        tinygpt.load(tmp_path / "m", into=make("notebook"))


@pytest.mark.parametrize(
    "change",
    [
        lambda weights: weights.pop("table.scale"),
        lambda weights: weights.update({"table.scale": weights["table.scale"][1:].clone()}),
        lambda weights: weights.update({"table.scale": weights["table.scale"].to(torch.int8)}),
        lambda weights: weights.update({"table.scale": weights["table.scale"] * torch.nan}),
        lambda weights: weights.update({"table.weight": weights["table.weight"].to(torch.uint8)}),
        lambda weights: weights.update({"table.weight": weights["table.weight"][:, 1:].clone()}),
        lambda weights: weights.update({"table.weight": weights["table.weight"].flatten()}),
        lambda weights: weights.update({"table.weight": weights["table.weight"].double()}),
        lambda weights: weights.update({"table": weights.pop("table.weight")}),
        lambda weights: weights.update({"weight": weights["table.weight"].clone()}),
        lambda weights: weights.update({"table.more.weight": weights["table.weight"].clone()}),
    ],
)
def test_a_hostile_file_is_refused(change: Callable[[dict[str, Tensor]], Any], tmp_path: Path) -> None:
    weights = {name: tensor.detach().clone() for name, tensor in quantised(make("bigram")).state_dict().items()}
    config = {"vocab_size": DATA.vocab_size}
    write_model(tmp_path / "m", "BigramLanguageModel", config, weights)
    tinygpt.load(tmp_path / "m")
    change(weights)
    write_model(tmp_path / "m", "BigramLanguageModel", config, weights)
    with pytest.raises((CheckpointCorruptError, CheckpointMismatchError)):
        tinygpt.load(tmp_path / "m")


# --- refusals ---------------------------------------------------------------------------------------------------------


def infinite() -> LanguageModel:
    model = make("bigram")
    model.get_parameter("table.weight").data[1, 1] = -torch.inf
    return model


@pytest.mark.usefixtures("unchecked_types")
@pytest.mark.parametrize(
    ("call", "kind", "message"),
    [
        (lambda small: Trainer(small, DATA), InputTypeError, "in floating point to be trained, got a quantised one"),
        (
            lambda small: Trainer(MixtureLanguageModel([small, make("bigram")]), DATA),
            InputTypeError,
            "to be trained, got a quantised one with int8 weights; use the model that it was made from",
        ),
        (plan, InputTypeError, "in floating point to be trained, got a quantised one"),
        (resized, InputTypeError, "to be resized, got a quantised one"),
        (quantised, InputTypeError, "to be quantised, got a quantised one"),
        (lambda small: save_huggingface("x", small, TOKENIZER), InputTypeError, "to be written for .* got a quantised"),
        (
            lambda small: quantised(NGramLanguageModel.count([0, 1] * 9, vocab_size=2, order=2)),
            InputTypeError,
            "must have linear layers or embeddings to be quantised, got NGramLanguageModel with neither",
        ),
        (lambda small: quantised(infinite()), NonFiniteError, r"got NaN or infinity in table\.weight"),
        (lambda small: quantised("gpt"), InputTypeError, "model must be a LanguageModel, got 'gpt'; load the file"),  # type: ignore[type-var]
    ],
)
def test_a_use_that_needs_other_weights_is_refused(call: Any, kind: type[Exception], message: str) -> None:
    with pytest.raises(kind, match=message) as caught:
        call(quantised(make("gpt2")))
    assert len(str(caught.value)) <= 300


def test_rows_of_a_transposed_input_are_multiplied_too() -> None:
    """PyTorch's loops over int8 weights need rows that lie one after the other."""
    torch.set_default_dtype(torch.float32)
    layer = QuantisedLinear(*quantise_rows(torch.randn(16, 32)), None)
    x = torch.randn(1, 32, 5).transpose(1, 2)
    with torch.no_grad():
        torch.testing.assert_close(layer(x), layer(x.contiguous()), rtol=0, atol=0)
