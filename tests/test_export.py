"""Recording a model: exported, traced, compiled and transformed, it is the model that runs eagerly."""

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from strategies import randomised
from torch import Tensor
from torch.func import functional_call, grad, vmap

from tinygpt import BigramLanguageModel, GPTConfig, LanguageModel
from tinygpt.models.config import LAYOUTS

BLOCK = 9
every_model = pytest.mark.parametrize("name", [*LAYOUTS, "bigram"])


def make(name: Any) -> LanguageModel:
    model: LanguageModel = (
        BigramLanguageModel(7)
        if name == "bigram"
        else GPTConfig(vocab_size=7, block_size=BLOCK, n_layer=2, n_head=2, n_embd=8, layout=name).build()
    )
    randomised(model)
    return model.eval()


# In a process of its own: the runtime type checks of these tests are what PyTorch's exporters cannot read.
PROGRAM = """
import sys, warnings
import torch
from torch import nn
from tinygpt import BigramLanguageModel, GPTConfig

BLOCK = 9
SHAPES = [(1, 1), (1, 2), (1, 5), (1, BLOCK), (2, 1), (3, 4), (5, BLOCK)]


class Logits(nn.Module):
    def __init__(self, model):
        super().__init__()
        self.model = model

    def forward(self, idx):
        return self.model(idx).logits


def ids(*shape):
    return torch.randint(7, shape)


def models():
    for name in sys.argv[2].split():
        torch.manual_seed(0)
        model = BigramLanguageModel(7) if name == "bigram" else GPTConfig(
            vocab_size=7, block_size=BLOCK, n_layer=2, n_head=2, n_embd=8, layout=name).build()
        for parameter in model.parameters():
            nn.init.normal_(parameter, std=0.5)
        yield name, Logits(model.eval().to(getattr(torch, sys.argv[1])))


def check(recorded, model, tolerance=0.0):
    with torch.no_grad():
        for shape in SHAPES:
            idx = ids(*shape)
            difference = (recorded(idx) - model(idx)).abs().max().item()
            assert difference <= tolerance, (shape, difference)
"""
EXPORT = """
free = {0: torch.export.Dim("batch", min=1, max=64), 1: torch.export.Dim("length", min=1, max=BLOCK)}
for name, model in models():
    for is_strict, is_learning in [(False, True), (False, False), (True, False)]:
        with torch.set_grad_enabled(is_learning):
            program = torch.export.export(model, (ids(2, 5),), dynamic_shapes=(free,), strict=is_strict)
        check(program.module(), model)
    check(program.run_decompositions().module(), model, tolerance=1e-5)  # as an exporter to ONNX does
    program = torch.export.export(model.model, (ids(2, 5), ids(2, 5)), dynamic_shapes=(free, free))
    idx, targets = ids(3, 4), ids(3, 4)
    with torch.no_grad():
        assert torch.equal(program.module()(idx, targets).loss, model.model(idx, targets).loss)
"""
TRACE = """
warnings.simplefilter("error", torch.jit.TracerWarning)
for name, model in models():
    for is_learning in (False, True):
        with torch.set_grad_enabled(is_learning):
            check(torch.jit.trace(model, (ids(2, 5),)), model)
"""
AOT = """
free = {0: torch.export.Dim("batch", min=1, max=64), 1: torch.export.Dim("length", min=1, max=BLOCK)}
for name, model in models():
    with torch.no_grad():
        program = torch.export.export(model, (ids(2, 5),), dynamic_shapes=(free,))
        path = torch._inductor.aoti_compile_and_package(program, package_path=f"{sys.argv[3]}/{name}.pt2")
        check(torch._inductor.aoti_load_package(path), model, tolerance=1e-5)
"""
# One static graph for the steps, whatever is measured between them, and no break in any.
COUNTED = """
from torch._dynamo.utils import counters
from functools import partial
from tinygpt import CharTokenizer, TokenDataset, Trainer, TrainerConfig

graphs = []
def backend(graph, inputs):
    graphs.append((torch.is_grad_enabled(), [node.meta["example_value"].shape for node in graph.graph.nodes
                                            if node.op == "placeholder" and "example_value" in node.meta
                                            and isinstance(node.meta["example_value"], torch.Tensor)]))
    return graph.forward

warnings.filterwarnings("error", message="torch.compile does not work")
torch.compile = partial(torch.compile, backend=backend)
text = "the quick brown fox jumps over the lazy dog. " * 20
data = TokenDataset(text, CharTokenizer.from_text(text))
for layout in sys.argv[1].split():
    graphs.clear()
    counters.clear()
    model = BigramLanguageModel(data.vocab_size) if layout == "bigram" else GPTConfig(
        vocab_size=data.vocab_size, block_size=8, n_layer=1, n_head=2, n_embd=16, layout=layout).build()
    for run in range(2):
        how = TrainerConfig(max_iters=6, batch_size=5, block_size=8, eval_interval=2, compile=True)
        trainer = Trainer(model, data, how)
        for step in trainer:
            trainer.evaluate("val"), trainer.estimate_loss("train", iters=1)
        learning = [shapes for is_learning, shapes in graphs if is_learning]
        assert len(learning) == 1, (layout, learning)
        assert all(isinstance(size, int) for shape in learning[0] for size in shape), learning
        assert 1 <= len(graphs) - len(learning) <= 3, graphs
        assert not counters["graph_break"], counters["graph_break"]
        graphs.clear()
"""


def run(program: str, *arguments: str) -> None:
    done = subprocess.run([sys.executable, "-c", PROGRAM + program, *arguments], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


MODELS = ["modern", pytest.param("bigram notebook gpt2 nanogpt", marks=pytest.mark.slow)]  # the rarer operations first
DTYPES = ["float64", pytest.param("float32", marks=pytest.mark.slow)]


@pytest.mark.parametrize("names", MODELS)
@pytest.mark.parametrize("dtype", DTYPES)
def test_an_exported_model_with_free_sizes_is_the_model(dtype: str, names: str) -> None:
    run(EXPORT, dtype, names)


@pytest.mark.parametrize("names", MODELS)
@pytest.mark.parametrize("dtype", DTYPES)
def test_a_traced_model_is_the_model_at_every_size(dtype: str, names: str) -> None:
    run(TRACE, dtype, names)


@pytest.mark.slow
def test_a_model_compiled_ahead_of_time_is_the_model(tmp_path: Path) -> None:
    """At every size."""
    run(AOT, "float32", " ".join([*LAYOUTS, "bigram"]), str(tmp_path))


@pytest.mark.parametrize("names", MODELS)
def test_compiled_steps_stay_one_static_graph(names: str) -> None:
    """Evaluations between them change nothing."""
    run(COUNTED, names)


@every_model
@pytest.mark.filterwarnings("ignore:There is a performance drop")  # PyTorch's attention under vmap
def test_gradients_of_single_samples_are_those_of_batches_of_one(name: str) -> None:
    model = make(name)
    idx, targets = torch.randint(7, (2, 3, 5))
    parameters: dict[str, Tensor] = dict(model.named_parameters())

    def loss(parameters: dict[str, Tensor], some_idx: Tensor, some_targets: Tensor) -> Tensor:
        output: Tensor = functional_call(model, parameters, (some_idx[None], some_targets[None])).loss
        return output

    gradients = vmap(grad(loss), in_dims=(None, 0, 0))(parameters, idx, targets)
    for sample in range(3):
        alone = torch.autograd.grad(
            model(idx[sample : sample + 1], targets[sample : sample + 1]).loss, list(parameters.values())
        )
        for key, expected in zip(parameters, alone, strict=True):
            torch.testing.assert_close(gradients[key][sample], expected, rtol=0, atol=1e-10)


@every_model
def test_without_memory_a_model_gives_shapes(name: str) -> None:
    idx = torch.zeros(2, 5, dtype=torch.long)
    model = make(name).to("meta")
    logits, loss = model(idx.to("meta"), idx.to("meta"))
    assert logits.shape == (2, 5, 7)
    assert loss is not None
    assert loss.shape == ()
    assert logits.is_meta
    from torch._subclasses.fake_tensor import FakeTensorMode

    with FakeTensorMode():
        model = make(name)
        logits, loss = model(torch.zeros(2, 5, dtype=torch.long), torch.zeros(2, 5, dtype=torch.long))
        assert logits.shape == (2, 5, 7)
        assert loss is not None
