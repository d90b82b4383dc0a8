"""Threads: what one of them does with a model changes nothing for another, and nothing for the caller."""

import random
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from builders import DATA, TEXT, TOKENIZER, make_gpt
from torch import Tensor

from tinygpt import GPTLanguageModel, Sampler, Trainer, TrainerConfig
from tinygpt.models.modes import evaluating

SETTINGS: dict[str, Any] = {"max_iters": 12, "batch_size": 4, "preview_tokens": 0, "eval_interval": 100}


def make_model(seed: int = 1) -> GPTLanguageModel:
    return make_gpt(seed=seed, dropout=0.5)


def together(*works: Callable[[], object]) -> list[Any]:
    """Do things at once in threads of their own, and return their results or raise their errors."""
    results: list[Any] = [None] * len(works)
    errors: list[BaseException] = []
    barrier = threading.Barrier(len(works))

    def run(number: int) -> None:
        barrier.wait()
        try:
            results[number] = works[number]()
        except BaseException as error:
            errors.append(error)

    threads = [threading.Thread(target=run, args=(number,)) for number in range(len(works))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(120)
        assert not thread.is_alive(), "a thread waits for another one"
    if errors:
        raise errors[0]
    return results


def test_several_threads_sample_as_one_does() -> None:
    """Texts of unequal lengths, so that one thread is done before another, from a model in training mode."""
    model = make_model().train()
    sampler = Sampler(model, TOKENIZER)
    lengths = [5, 40, 120, 80]
    expected = [sampler.generate("the", max_new_tokens=length, seed=length) for length in lengths]
    for _ in range(3):
        works = [
            lambda length=length: sampler.generate("the", max_new_tokens=length, seed=length) for length in lengths
        ]
        assert together(*works) == expected
    assert all(module.training for module in model.modules())


def test_reading_a_model_in_training_has_no_dropout() -> None:
    """The weights stay, since the rate is zero: whatever differs comes from the mode of the model."""
    model = make_model()
    trainer = Trainer(
        model, DATA, TrainerConfig(**SETTINGS), make_optimizer=lambda m: torch.optim.SGD(m.parameters(), lr=0.0)
    )
    sampler = Sampler(model, TOKENIZER)
    expected = (
        sampler.generate("the", max_new_tokens=100, seed=0),
        sampler.score(TEXT[:60]).tolist(),
        trainer.evaluate().nats,
    )

    def train() -> Tensor:
        return torch.tensor([step.loss for step in trainer])

    def read() -> list[Any]:
        return [
            (
                sampler.generate("the", max_new_tokens=100, seed=0),
                sampler.score(TEXT[:60]).tolist(),
                trainer.evaluate().nats,
            )
        ]

    losses, *found = together(train, read, read)
    assert found == [[expected], [expected]]
    alone = Trainer(
        make_model(), DATA, TrainerConfig(**SETTINGS), make_optimizer=lambda m: torch.optim.SGD(m.parameters(), 0.0)
    )
    assert torch.equal(losses, torch.tensor([step.loss for step in alone]))


def test_trainers_in_threads_train_as_each_does_alone() -> None:
    """They do not touch the global generator."""

    def losses(seed: int) -> list[float]:
        return [step.loss for step in Trainer(models[seed], DATA, TrainerConfig(**SETTINGS, seed=seed))]

    models = {seed: make_model(seed) for seed in range(3)}
    expected = [losses(seed) for seed in range(3)]
    models = {seed: make_model(seed) for seed in range(3)}
    torch.manual_seed(7)
    before = torch.get_rng_state()
    assert together(*(lambda seed=seed: losses(seed) for seed in range(3))) == expected
    assert torch.equal(torch.get_rng_state(), before)


def test_one_trainer_in_two_threads_takes_each_step_once() -> None:
    trainer = Trainer(make_model(), DATA, TrainerConfig(**SETTINGS))
    alone = [step.loss for step in Trainer(make_model(), DATA, TrainerConfig(**SETTINGS))]
    numbers = together(*[lambda: [step.number for step in trainer]] * 2)
    assert sorted(numbers[0] + numbers[1]) == list(range(1, 13))
    assert trainer.history.losses == alone


def test_threads_that_start_one_trainer_begin_its_run_once(tmp_path: Path) -> None:
    trainer = Trainer(make_model(), DATA, TrainerConfig(**SETTINGS | {"eval_interval": 4}), run_dir=tmp_path)
    together(*[lambda: list(trainer)] * 3, *[trainer.save] * 2)
    assert [evaluation.step for evaluation in trainer.history.evaluations] == [0, 4, 8, 12]
    Trainer(make_model(), DATA, trainer.config, run_dir=tmp_path).resume()


def test_readers_make_way_for_a_training_step() -> None:
    """Two threads read in turns without a gap, each time a new one before the other has left."""
    model, done = make_model(), threading.Event()

    def read() -> None:
        while not done.is_set():
            with evaluating(model):
                time.sleep(0.02)

    def train() -> None:
        time.sleep(0.05)
        try:
            list(Trainer(model, DATA, TrainerConfig(**SETTINGS | {"max_iters": 3})))
        finally:
            done.set()

    started = time.perf_counter()
    together(read, read, read, train)
    assert time.perf_counter() - started < 20


def test_the_last_reader_to_leave_restores_the_modes() -> None:
    model = make_model().train()
    model.blocks[1].eval()
    before = [module.training for module in model.modules()]
    chance = random.Random(0)
    open_ones: list[Any] = []
    for _ in range(200):
        if open_ones and chance.random() < 0.5:
            open_ones.pop(chance.randrange(len(open_ones))).__exit__(None, None, None)
        else:
            open_ones.append(evaluating(model))
            open_ones[-1].__enter__()
        assert any(module.training for module in model.modules()) == (not open_ones)
    while open_ones:
        open_ones.pop(0).__exit__(None, None, None)
    assert [module.training for module in model.modules()] == before
    torch.set_grad_enabled(True)  # which blocks of one thread that are left in another order do not restore


def test_a_reader_that_restores_the_mode_early_is_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tinygpt.models.modes.Counter", lambda: _Nobody())
    with pytest.raises(AssertionError):
        test_the_last_reader_to_leave_restores_the_modes()


class _Nobody(dict[int, int]):
    """A count of readers that is always empty."""

    def __missing__(self, thread: int) -> int:
        return 0

    def __setitem__(self, thread: int, count: int) -> None:
        pass

    def __iadd__(self, other: object) -> "_Nobody":
        return self
