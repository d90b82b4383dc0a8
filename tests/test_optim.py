"""Optimizers: Muon moves matrices as it should, AdamW the rest, and both come back from a file."""

import itertools
from pathlib import Path
from typing import Any

import pytest
import torch
from killable import DATA, make_trainer, outcome
from torch import nn

from tinygpt import BigramLanguageModel, GPTConfig, GPTLanguageModel, Trainer, TrainerConfig
from tinygpt.errors import ConfigError
from tinygpt.optim import Muon, muon, orthogonalise, warmup_linear

SHAPES = [(8, 8), (32, 8), (8, 32), (8, 8), (1, 5)]


def matrices() -> list[nn.Parameter]:
    generator = torch.Generator().manual_seed(0)
    return [nn.Parameter(torch.randn(shape, generator=generator)) for shape in SHAPES]


@pytest.mark.parametrize("shape", [(3, 4, 4), (1, 4, 9), (2, 30, 7)])
def test_orthogonalising_keeps_directions_and_makes_all_about_equally_long(shape: tuple[int, ...]) -> None:
    x = torch.randn(shape, generator=torch.Generator().manual_seed(1))
    left, _, right = torch.linalg.svd(x, full_matrices=False)
    found = left.mT @ orthogonalise(x) @ right.mT
    lengths = found.diagonal(dim1=1, dim2=2)
    assert 0.3 < float(lengths.min()) <= float(lengths.max()) < 1.3
    torch.testing.assert_close(found, torch.diag_embed(lengths), rtol=0, atol=1e-10)


def test_a_matrix_without_a_gradient_direction_stays_at_zero() -> None:
    assert torch.equal(orthogonalise(torch.zeros(1, 3, 3)), torch.zeros(1, 3, 3))


@pytest.mark.skipif(not hasattr(torch.optim, "Muon"), reason="this PyTorch has no Muon")
@pytest.mark.parametrize("dtype", [None, torch.bfloat16])
def test_muon_is_that_of_pytorch_up_to_the_sixteen_bits_that_it_computes_in(dtype: torch.dtype | None) -> None:
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
def test_muon_gets_the_matrices_inside_and_adamw_tables_read_out_biases_and_gains(layout: str) -> None:
    config = GPTConfig(vocab_size=11, block_size=4, n_layer=2, n_head=2, n_embd=8, layout=layout)
    model = GPTLanguageModel.from_config(config)
    optimizer = muon(model, learning_rate=0.01, betas=(0.8, 0.95), weight_decay=0.1)
    names = {id(parameter): name for name, parameter in model.named_parameters()}
    inside, rest = ([names[id(parameter)] for parameter in group["params"]] for group in optimizer.param_groups)
    assert len(inside) == 2 * 4
    assert all(name.startswith("blocks.") and name.endswith(".weight") for name in inside)
    assert sorted(inside + rest) == sorted(names.values())
    assert [group["lr"] for group in optimizer.param_groups] == [0.04, 0.01]


def test_a_model_without_matrices_inside_trains_with_adamw_alone() -> None:
    optimizer = muon(BigramLanguageModel(5), learning_rate=0.01, betas=(0.8, 0.95), weight_decay=0.1)
    assert [group["is_muon"] for group in optimizer.param_groups] == [False]


def test_what_is_no_matrix_is_named() -> None:
    with pytest.raises(ConfigError, match=r"Muon moves matrices, got a parameter of the shape \(3,\)"):
        Muon([{"params": [nn.Parameter(torch.zeros(3))], "is_muon": True}])


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
    for name, rate in (("adamw", 4e-3), ("muon", None)):
        torch.manual_seed(0)
        config = GPTConfig.modern(vocab_size=DATA.vocab_size, block_size=8, n_layer=2, n_head=2, n_embd=32)
        settings = TrainerConfig(optimizer=name, learning_rate=rate, max_iters=60, batch_size=8, sample_length=0)
        trainer = Trainer(GPTLanguageModel.from_config(config), DATA, settings)
        trainer.fit(progress=False)
        losses[name] = trainer.evaluate("val").nats
    assert losses["muon"] < losses["adamw"]


def test_the_defaults_go_with_the_optimizer() -> None:
    config = TrainerConfig(max_iters=1000, optimizer="muon")
    assert (config.peak, config.decay_rates, config.warmup) == (8e-3, (0.8, 0.95), 20)
    assert config.schedule(510) == pytest.approx(0.5, abs=1e-3)
    assert config.schedule(1000) == 0
    config = TrainerConfig(max_iters=1000)
    assert (config.peak, config.decay_rates, config.warmup) == (3e-4, (0.9, 0.99), 100)
    assert config.schedule(1000) == pytest.approx(0.1)
    ending = TrainerConfig(max_iters=10, optimizer="muon", final_learning_rate=2e-3)
    assert ending.schedule(10) == pytest.approx(0.25)
    with pytest.raises(ConfigError, match="optimizer must be one of 'adamw', 'muon', got 'muom'; did you mean 'muon'"):
        TrainerConfig(optimizer="muom")


def test_the_straight_line_falls_from_one_to_its_floor() -> None:
    shares = [warmup_linear(step, max_iters=10, warmup_iters=3, floor=0.3) for step in range(12)]
    assert shares[:4] == pytest.approx([1 / 3, 2 / 3, 1, 1])
    assert shares[10:] == pytest.approx([0.3, 0.3])
    assert [a - b for a, b in itertools.pairwise(shares[3:11])] == pytest.approx([0.1] * 7)
