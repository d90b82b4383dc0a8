"""Plans of trainings, beside formulas, counters, files and what a run needs."""

import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from builders import make_gpt

import tinygpt
from tinygpt import (
    BigramLanguageModel,
    GPTConfig,
    MixtureLanguageModel,
    NGramLanguageModel,
    TokenDataset,
    Trainer,
    TrainerConfig,
)
from tinygpt.errors import ConfigError, InputTypeError
from tinygpt.training import planning
from tinygpt.training.planning import Plan, plan

SIZES = dict[str, Any](vocab_size=65, block_size=32, n_layer=3, n_head=2, n_embd=64)
H100 = dict[str, Any](memory=80e9, flops=989e12)


@pytest.fixture(autouse=True)
def _float32() -> None:
    torch.set_default_dtype(torch.float32)  # as users have it; the fixture around it restores


def products_per_token(config: GPTConfig) -> float:
    """Two operations for each weight of a product, and four for each pair of positions, layer and channel."""
    matrices = 12 * config.n_layer * config.n_embd**2 + config.vocab_size * config.n_embd
    return 2 * matrices + 4 * config.n_layer * config.block_size * config.n_embd


@pytest.mark.parametrize("layout", ["notebook", "gpt2", "nanogpt", "modern"])
def test_operations_follow_the_formula(layout: Any) -> None:
    config = GPTConfig(**SIZES, layout=layout)
    assert plan(config, **H100).flops_per_token == products_per_token(config)


def test_operations_of_gpt2_are_the_published_ones() -> None:
    costs = plan(GPTConfig.gpt2(), TrainerConfig(batch_size=8), **H100)
    assert (costs.parameters, costs.flops_per_token) == (124_439_808, products_per_token(GPTConfig.gpt2()))
    assert costs.flops == 3 * costs.flops_per_token * 8 * 1024 * 5000
    assert costs.optimal_tokens == 20 * costs.parameters


@pytest.mark.parametrize("optimizer", ["adamw", "muon"])
@pytest.mark.parametrize("layout", ["gpt2", "modern"])
def test_a_checkpoint_has_the_planned_size(layout: Any, optimizer: Any, tmp_path: Path) -> None:
    """Of a model of a million parameters, whose best weights are not the last ones."""
    data = TokenDataset("the quick brown fox jumps over the lazy dog. " * 20)
    model = GPTConfig(vocab_size=data.vocab_size, block_size=8, n_layer=5, n_head=2, n_embd=128, layout=layout).build()
    config = TrainerConfig(max_iters=3, eval_interval=2, batch_size=2, optimizer=optimizer, preview_tokens=0)
    planned = plan(model, config, **H100).checkpoint
    trainer = Trainer(model, data, config, run_dir=tmp_path)
    for step in trainer:
        if step.number == 2:
            trainer.history.evaluations[-1] = replace(trainer.history.evaluations[-1], val_loss=0.0)
    newest = max(tmp_path.glob("step-*.safetensors"))
    assert newest.stat().st_size == pytest.approx(planned, rel=0.01)


def test_a_plan_of_a_model_leaves_it_as_it_was() -> None:
    model = make_gpt("gpt2")
    weights = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    before = torch.get_rng_state()
    costs = plan(model, TrainerConfig(batch_size=4, max_iters=2))
    assert torch.equal(torch.get_rng_state(), before)
    assert model.training
    assert all(torch.equal(tensor, weights[name]) for name, tensor in model.state_dict().items())
    assert costs.computing > 0
    assert costs.verdicts[0].startswith("fits: ")


def test_a_model_of_parts_is_planned_too() -> None:
    costs = plan(BigramLanguageModel(vocab_size=9), TrainerConfig(batch_size=4), **H100)
    assert (costs.parameters, costs.flops_per_token) == (81, 0)


def test_the_lookups_of_a_mixture_cost_nothing() -> None:
    gpt, table = make_gpt("gpt2"), NGramLanguageModel.count([0, 1, 2] * 9, vocab_size=28, order=3)
    mixture = plan(MixtureLanguageModel([gpt, table]), TrainerConfig(batch_size=4), **H100)
    assert mixture.flops_per_token == plan(gpt, TrainerConfig(batch_size=4), **H100).flops_per_token > 0


def test_a_system_that_does_not_tell_its_memory_is_timed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(planning, "memory_bytes", lambda: 0)
    monkeypatch.setattr(planning, "measured_step", lambda *given: 0.5)
    costs = plan(GPTConfig(**SIZES), TrainerConfig(batch_size=4))
    assert costs.computing == 0.5
    assert costs.verdicts[0].startswith("needs ")


def test_a_limit_of_time_shortens_the_plan() -> None:
    step = plan(GPTConfig(**SIZES), TrainerConfig(), **H100).computing
    short = plan(GPTConfig(**SIZES), TrainerConfig(max_seconds=10.5 * step), **H100)
    assert (short.steps, short.tokens_per_step * short.steps) == (10, 10 * 64 * 32)
    assert plan(GPTConfig(**SIZES), TrainerConfig(max_iters=7, max_seconds=10.5 * step), **H100).steps == 7
    assert plan(BigramLanguageModel(vocab_size=9), TrainerConfig(max_seconds=1), **H100).steps == 5000


def test_devices_share_the_micro_batches() -> None:
    config = TrainerConfig(batch_size=64, accumulation=16, precision="fp32")
    one, four = (plan(GPTConfig(**SIZES), config, devices=devices, **H100) for devices in (1, 4))
    assert four.computing == one.computing / 4
    assert four.memory["activations of 4 x 32"] == one.memory["activations of 4 x 32"]
    weights = one.memory["weights"]
    assert one.memory["sums of gradients"] == 4 * weights  # log2(16)
    assert four.memory["sums of gradients"] == (2 + 1) * weights  # log2(16 / 4), and one to send from
    assert (one.sent, four.sent) == (0, 2 * 3 / 4 * weights)


def test_sending_is_compared_with_computing() -> None:
    """A step of 6 N t operations sends 8 N bytes, so 10 % takes t >= 13.3 F / b tokens per device."""
    config = GPTConfig(vocab_size=16, block_size=8, n_layer=2, n_head=2, n_embd=512)
    costs = plan(
        config, TrainerConfig(batch_size=1024, accumulation=512), devices=512, flops=1e12, bandwidth=1e9, memory=1e9
    )
    ratio = costs.sending / costs.computing
    assert ratio == pytest.approx(8 / 6 * 0.4e12 / (1e9 * 16), rel=0.02)
    assert costs.verdicts[1].startswith(f"sending takes {ratio:.0%} of the time of computing: ")
    assert costs.seconds == 5000 * (costs.computing + costs.sending)


@pytest.mark.parametrize(
    ("memory", "verdict"),
    [
        (80e9, "fits: 4.3 GB of state, 27.9 GB of activations in 80.0 GB"),
        (24e9, "does not fit one device by 8.2 GB: use accumulation=128"),
        (3e9, "does not fit one device by 29.2 GB: use a smaller model or shorter windows"),
        (None, "needs 32.2 GB on each device: 4.3 GB of state, 27.9 GB of activations"),
    ],
)
def test_the_verdict_says_what_fits(memory: float | None, verdict: str) -> None:
    config = TrainerConfig(batch_size=512, accumulation=64)
    costs = plan(GPTConfig.gpt2(), config, devices=8, memory=memory, flops=989e12, bandwidth=350e9)
    assert costs.verdicts == (verdict,)
    assert str(costs).endswith(verdict)


def test_a_checkpoint_larger_than_a_file_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(planning, "MOST_BYTES", 1000)
    verdict = plan(GPTConfig(**SIZES), **H100).verdicts[-1]
    assert (
        verdict
        == "a checkpoint of 2.0 MB is more than one file holds: use run_dir=None, or shard=True on several devices"
    )


def test_a_sharded_training_shares_its_state() -> None:
    config, training = GPTConfig.gpt2(), TrainerConfig(batch_size=8, precision="fp32")
    whole = plan(config, training, devices=4, **H100)
    shared = plan(config, replace(training, shard=True), devices=4, **H100)
    assert all(shared.memory[name] == whole.memory[name] / 4 for name in ("weights", "gradients", "state of muon"))
    assert sum(shared.memory.values()) < sum(whole.memory.values())
    assert shared.sent > whole.sent


@pytest.mark.parametrize("precision", ["auto", "fp16"])
def test_the_advice_to_shard_is_one_that_fits(precision: Any) -> None:
    training = TrainerConfig(batch_size=64, accumulation=64, precision=precision)
    given = dict[str, Any](memory=6e9, flops=989e12)
    advice = plan(GPTConfig.gpt2(), training, **given).verdicts[0]
    match = re.search(r"or shard=True on (\d+) devices$", advice)
    assert match
    assert int(match[1]) > 1
    fits = plan(GPTConfig.gpt2(), replace(training, shard=True, precision="bf16"), devices=int(match[1]), **given)
    assert fits.verdicts[0].startswith("fits: ")


@pytest.mark.parametrize("changes", [{"batch_size": 1}, {"batch_size": 9, "accumulation": 9}])
def test_no_number_of_devices_is_advised_that_is_refused(changes: dict[str, Any]) -> None:
    """A power of two divides neither nine micro-batches nor a batch of one."""
    verdict = plan(GPTConfig.gpt2(), TrainerConfig(**changes), memory=5e9, flops=989e12).verdicts[0]
    assert verdict.startswith("does not fit")
    assert "shard=True" not in verdict


def test_the_table_shows_each_cost() -> None:
    costs = Plan(
        parameters=1000,
        devices=2,
        steps=100,
        tokens_per_step=64,
        flops_per_token=2000.0,
        memory={"weights": 4e9, "activations of 2 x 32": 5e6},
        checkpoint=16e3,
        sent=4e3,
        computing=3.0,
        sending=0.5,
        optimal_tokens=20_000,
        verdicts=("fits",),
    )
    assert str(costs).splitlines() == [
        "parameters               1,000",
        "devices                  2",
        "tokens                   6,400: 100 steps of 64",
        "compute-optimal          20,000 tokens",
        "arithmetic               2e+03 FLOP per token forward, 3.84e+07 in all",
        "memory per device        4.0 GB",
        "  weights                4.0 GB",
        "  activations of 2 x 32  5.0 MB",
        "checkpoint               0.0 MB",
        "sent per step            0.0 MB",
        "a step                   3.0 s of computing, 500.0 ms of sending",
        "the training             5.8 min",
        "fits",
    ]


@pytest.mark.parametrize(
    ("given", "kind", "message"),
    [
        ({"devices": 0}, ConfigError, "devices must be an integer of at least 1, got devices=0"),
        (
            {"devices": 3, "config": TrainerConfig(accumulation=4)},
            ConfigError,
            "multiple of the 3 processes, .*; use 6",
        ),
        ({"memory": -1}, ConfigError, "memory must be a number above 0, got memory=-1"),
        ({"flops": "fast"}, ConfigError, "flops must be a number above 0"),
        ({"utilisation": 2}, ConfigError, "utilisation must be a number above 0, at most 1"),
        ({"model": "gpt2"}, InputTypeError, "model must be a LanguageModel, got 'gpt2'"),
        ({"memory": 1000}, ConfigError, "cannot be timed here, got .* name flops= of the device"),
        ({"device": 2}, InputTypeError, r"plan has no argument 'device'; use TrainerConfig\(device=...\)"),
        ({"device_count": 2}, InputTypeError, "plan has no argument 'device_count'"),
    ],
)
@pytest.mark.usefixtures("unchecked_types")
def test_impossible_plans_are_refused(given: dict[str, Any], kind: type[Exception], message: str) -> None:
    with pytest.raises(kind, match=message):
        tinygpt.plan(**{"model": GPTConfig(**SIZES)} | given)
