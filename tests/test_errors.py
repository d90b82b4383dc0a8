"""Messages that know what was meant: the words of other libraries, and what is taken for a model."""

import re
from collections import UserDict
from collections.abc import Callable
from inspect import signature
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from tinygpt import (
    BigramLanguageModel,
    CharTokenizer,
    GPTConfig,
    GPTLanguageModel,
    NGramLanguageModel,
    Sampler,
    TokenDataset,
    Trainer,
    TrainerConfig,
    compare,
    plan,
)
from tinygpt.errors import ConfigError, InputTypeError
from tinygpt.layers import FeedForward, Head, MultiHeadAttention
from tinygpt.suggestions import did_you_mean

pytestmark = pytest.mark.usefixtures("unchecked_types")

DATA = TokenDataset("ab" * 50, CharTokenizer("ab"))
MODEL = BigramLanguageModel(2)
EPOCHS = "max_iters = epochs * len(data.train) // (batch_size * block_size)"

TRAINING = {
    "learning_rate": "lr LR base_lr",
    "max_iters": "steps num_steps max_steps n_iters iterations",
    "batch_size": "bs batch train_batch_size",
    "weight_decay": "wd",
    "grad_clip": "clip grad_clip_norm clip_grad_norm max_grad_norm gradient_clip_val",
    "warmup_iters": "warmup warmup_steps num_warmup_steps",
    "accumulation": "gradient_accumulation_steps grad_accum accumulate_grad_batches",
    "block_size": "context_length seq_len max_seq_len",
    "eval_interval": "eval_every eval_steps",
    "patience": "early_stopping_patience",
    "precision": "dtype amp fp16",
    "device": "cuda accelerator",
    "betas": "beta1 adam_beta2",
    "seed": "random_state",
}
SIZES = {
    "n_embd": "d_model hidden_size embed_dim dim n_embed width",
    "n_layer": "num_layers depth n_layers num_hidden_layers",
    "n_head": "heads num_heads n_heads nhead num_attention_heads",
    "block_size": "n_positions n_ctx max_seq_len context_length max_position_embeddings",
    "vocab_size": "vocab num_tokens n_vocab",
    "dropout": "drop dropout_rate resid_pdrop",
}


def pairs(table: dict[str, str]) -> list[tuple[str, str]]:
    return [(theirs, ours) for ours, words in table.items() for theirs in words.split()]


@pytest.mark.parametrize(("theirs", "ours"), pairs(TRAINING))
def test_a_setting_of_training_by_another_name_is_translated(theirs: str, ours: str) -> None:
    with pytest.raises(ConfigError, match=f"TrainerConfig has no argument '{theirs}'; did you mean '{ours}'") as caught:
        TrainerConfig(**{theirs: 1})  # type: ignore[arg-type]
    assert len(str(caught.value)) <= 300


@pytest.mark.parametrize(("theirs", "ours"), pairs(SIZES))
def test_a_size_by_another_name_is_translated(theirs: str, ours: str) -> None:
    with pytest.raises(ConfigError, match=rf"GPTConfig has no argument '{theirs}'; did you mean '{ours}'\?"):
        GPTConfig(**{"vocab_size": 9, theirs: 1})  # type: ignore[arg-type]


def test_what_counts_in_another_unit_comes_with_the_formula() -> None:
    with pytest.raises(ConfigError, match=re.escape(f"no argument 'epochs'; did you mean 'max_iters'? {EPOCHS}")):
        TrainerConfig(epochs=3)  # type: ignore[call-arg]
    with pytest.raises(ConfigError, match=r"'gradient_accumulation_steps'; .* batch_size counts all micro-batches"):
        TrainerConfig(gradient_accumulation_steps=3)  # type: ignore[call-arg]
    with pytest.raises(ConfigError, match=r"'head_dim'; did you mean 'n_embd'\? n_embd = n_head \* head_size"):
        GPTConfig(vocab_size=9, head_dim=3)  # type: ignore[call-arg]
    with pytest.raises(ConfigError, match=r"'max_length'; did you mean 'block_size'\?$"):
        GPTConfig(vocab_size=9, max_length=3)  # type: ignore[call-arg]


ARGUMENTS: list[tuple[Callable[..., object], str, str]] = [
    (lambda **n: Trainer(MODEL, DATA, **n), "lr", "Trainer has no argument 'lr'; use TrainerConfig(learning_rate=...)"),
    (
        lambda **n: Trainer(MODEL, DATA, **n),
        "epochs",
        f"Trainer has no argument 'epochs'; use TrainerConfig(max_iters=...): {EPOCHS}",
    ),
    (lambda **n: Trainer(MODEL, DATA, **n), "batch_size", "'batch_size'; use TrainerConfig(batch_size=...)"),
    (lambda **n: Trainer(MODEL, DATA, **n), "n_layers", "'n_layers'; use GPTConfig(n_layer=...)"),
    (lambda **n: Trainer(MODEL, **n), "dataset", "'dataset'; did you mean 'data'?"),
    (lambda **n: Trainer(MODEL, DATA, **n), "output_dir", "'output_dir'; did you mean 'run_dir'?"),
    (lambda **n: Trainer(MODEL, DATA).fit(**n), "epochs", "use TrainerConfig(max_iters=...): max_iters = epochs"),
    (lambda **n: Trainer(MODEL, DATA).fit(**n), "verbose", "did you mean 'progress'? progress=True or progress=False"),
    (lambda **n: Sampler(MODEL, DATA.tokenizer, **n), "temperature", "use Sampler.generate(temperature=...)"),  # type: ignore[arg-type]
    (lambda **n: sampler().generate("a", **n), "max_tokens", "did you mean 'max_new_tokens'?"),
    (lambda **n: sampler().generate("a", **n), "max_length", "'max_new_tokens'? It does not count the prompt"),
    (
        lambda **n: sampler().generate("a", max_new_tokens=3, **n),
        "n",
        "did you mean 'prompt'? [text] * 3 for three texts of",
    ),
    (lambda **n: sampler().generate("a", max_new_tokens=3, **n), "temp", "did you mean 'temperature'?"),
    (lambda **n: sampler().stream("a", **n), "max_tokens", "Sampler.stream has no argument 'max_tokens'; did you mean"),
    (lambda **n: MODEL.generate(torch.zeros(1, 1).long(), **n), "max_tokens", "did you mean 'max_new_tokens'?"),
    (
        lambda **n: MultiHeadAttention(8, **n),
        "num_heads",
        "MultiHeadAttention has no argument 'num_heads'; did you mean",
    ),
    (lambda **n: Head(8, **n), "head_dim", "Head has no argument 'head_dim'; did you mean 'head_size'?"),
    (lambda **n: FeedForward(8, **n), "d_ff", "did you mean 'hidden_size'?"),
    (lambda **n: TokenDataset(range(9), **n), "val_split", "did you mean 'val_fraction'?"),
    (lambda **n: BigramLanguageModel(9, **n), "context_length", "use GPTConfig(block_size=...)"),
    (
        lambda **n: GPTLanguageModel(**n),
        "num_layers",
        "GPTLanguageModel has no argument 'num_layers'; use GPTConfig(",
    ),
    (
        lambda **n: compare({"a": Trainer(MODEL, DATA)}, **n),
        "lr",
        "compare has no argument 'lr'; use TrainerConfig(",
    ),
    (lambda **n: TrainerConfig(**n), "n_embd", "TrainerConfig has no argument 'n_embd'; use GPTConfig(n_embd=...)"),
    (lambda **n: TrainerConfig(**n), "run_dir", "TrainerConfig has no argument 'run_dir'; use Trainer(run_dir=...)"),
    (lambda **n: GPTConfig(vocab_size=9, **n), "lr", "use TrainerConfig(learning_rate=...)"),
    (lambda **n: TrainerConfig(**n), "qwertz", "TrainerConfig has no argument 'qwertz'; see help(TrainerConfig)"),
    (
        lambda **n: Trainer(MODEL, DATA).fit(**n),
        "qwertz",
        "has no argument 'qwertz'; see help(Trainer.fit)",
    ),
]


def sampler() -> Sampler:
    assert DATA.tokenizer is not None
    return Sampler(MODEL, DATA.tokenizer)


@pytest.mark.parametrize(("call", "name", "message"), ARGUMENTS, ids=[name for _, name, _ in ARGUMENTS])
def test_an_argument_by_another_name_is_translated(call: Callable[..., object], name: str, message: str) -> None:
    with pytest.raises((ConfigError, InputTypeError), match=re.escape(message)) as caught:
        call(**{name: 3})
    assert len(str(caught.value)) <= 300


CALLS: list[tuple[Any, tuple[Any, ...], str]] = [
    (GPTConfig, (), r"GPTConfig: missing .*'vocab_size'; use GPTConfig\(vocab_size=\.\.\.\)$"),
    (Sampler, (MODEL,), r"Sampler: missing .*'tokenizer'; use Sampler\(model, tokenizer, stride=\.\.\.\)$"),
    (Trainer, (MODEL,), r"Trainer: missing .*'data'; use Trainer\(model, data, \w+=\.\.\.\)$"),
    (plan, (), r"plan: missing .*'model'; use plan\(model, devices=\.\.\.\)$"),
    (
        NGramLanguageModel.count,
        ([0],),
        r"'vocab_size'; use NGramLanguageModel\.count\(ids, vocab_size=\.\.\.\)$",
    ),
    (
        Sampler.generate,
        (None, "a", 3),
        r"too many positional arguments; use Sampler\.generate\(prompt, max_new_tokens=\.\.\.\)$",
    ),
    (compare, (MODEL, MODEL), r"compare: too many positional arguments; use compare\(trainers, data=\.\.\.\)$"),
]


@pytest.mark.parametrize(("function", "values", "message"), CALLS)
def test_too_few_or_too_many_arguments_are_answered_by_a_call(function: Any, values: Any, message: str) -> None:
    with pytest.raises(InputTypeError, match=message) as caught:
        function(*values)
    assert len(str(caught.value)) <= 300


def test_a_checked_function_keeps_its_signature() -> None:
    assert list(signature(Trainer).parameters) == [
        "model",
        "data",
        "config",
        "run_dir",
        "make_optimizer",
        "lr_schedule",
        "batches",
    ]
    assert "max_new_tokens" in signature(Sampler.generate).parameters
    assert Sampler.generate.__doc__


def test_every_word_of_the_table_in_the_documentation_is_known() -> None:
    page = (Path(__file__).parent.parent / "docs" / "words.md").read_text(encoding="utf-8")
    rows = re.findall(r"^\| `(\w+)` \|[^|]*\|[^|]*\|([^|]*)\|$", page, re.MULTILINE)
    words = [(ours, theirs) for ours, cell in rows for theirs in re.findall(r"`(\w+)`", cell.split("(")[0])]
    assert len(words) > 15
    for ours, theirs in words:
        if ours != "targets":  # which is no setting, but a tensor
            assert f"did you mean '{ours}'" in did_you_mean(theirs, [ours]), theirs


# --- what is taken for a model ----------------------------------------------------------------------------------------


class Plain(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x


foreign = type("GPT2LMHeadModel", (Plain,), {"__module__": "transformers.models.gpt2"})


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (
            lambda: torch.compile(MODEL),
            r"got a compiled model \(OptimizedModule\); pass the model .* compile=True",
        ),
        (
            lambda: nn.DataParallel(MODEL),
            r"got a wrapper \(DataParallel\); pass the model itself, .* its .module",
        ),
        (lambda: Plain(), "got Plain; inherit from LanguageModel instead of nn.Module"),
        (lambda: foreign(), r"got a model of transformers \(GPT2LMHeadModel\); wrap it in a subclass of LanguageModel"),
        (lambda: GPTLanguageModel, r"got the class GPTLanguageModel; .* or config.build\(\)"),
        (lambda: BigramLanguageModel, r"got the class BigramLanguageModel; make a model of it, .*Model\(...\)"),
        (lambda: GPTConfig(vocab_size=2), r"got a GPTConfig; build the model, config.build\(\)"),
        (lambda: MODEL.state_dict(), r"got a state_dict; build the model, then model.load_state_dict\(state_dict\)"),
        (lambda: "best.safetensors", r"got 'best.safetensors'; load the file first, model, tokenizer = tinygpt.load"),
        (lambda: Path("best.safetensors"), r"got 'best.safetensors'; load the file first"),
        (
            lambda: (MODEL, DATA.tokenizer),
            r"got a tuple; pass one model, as in model, tokenizer = ",
        ),
        (lambda: [MODEL, MODEL], r"got a list; pass one model, .* compare\({...}\)"),
        (lambda: {"a": MODEL}, r"got a dict; pass one model, .* compare\({...}\)"),
        (lambda: Trainer(MODEL, DATA), "got a Trainer; pass its .model"),
        (lambda: sampler(), "got a Sampler; pass its .model"),
        (lambda: DATA, "got TokenDataset; use GPTConfig.*; the model comes first"),
        (
            lambda: GPTConfig(vocab_size=2).build,
            "got the function build; call it and pass the model ",
        ),
        (lambda: None, r"got NoneType; use GPTConfig\(vocab_size=...\).build\(\)"),
        (lambda: [1, 2], "got list; use GPTConfig"),
        (lambda: UserDict(), "got UserDict; use GPTConfig"),
    ],
)
@pytest.mark.parametrize("take", ["trainer", "sampler"])
@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_what_is_not_a_model_is_told_what_to_do(make: Callable[[], Any], message: str, take: str) -> None:
    thing = make()
    with pytest.raises(InputTypeError, match=f"^model must be a LanguageModel, {message}") as caught:
        Trainer(thing, DATA) if take == "trainer" else Sampler(thing, DATA.tokenizer)  # type: ignore[arg-type]
    assert len(str(caught.value)) <= 300


@pytest.mark.parametrize(
    ("idx", "message"),
    [
        ([[0, 1]], r"got list; use torch.tensor\(idx\)"),
        (np.zeros((1, 2), np.int64), r"got ndarray; use torch.tensor\(idx\)"),
        ("ab", "got str; use Sampler, which encodes a text"),
        (torch.zeros(1, 2, dtype=torch.float32), r"got torch.float32; use idx.long\(\)"),
    ],
    ids=["list", "array", "text", "floats"],
)
def test_what_are_not_ids_are_told_what_to_do(idx: Any, message: str) -> None:
    with pytest.raises(InputTypeError, match=f"^idx must be an int32 or int64 tensor, {message}$"):
        MODEL(idx)
