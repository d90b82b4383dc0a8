"""Batches of a user's own train a model as the windows of its data do."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import faults
import pytest
import torch
from builders import BLOCK, DATA, make_gpt
from faults import broken_by
from ranked import on_ranks, results
from torch import Tensor
from torch.utils.data import DataLoader, TensorDataset

from tinygpt import Trainer, TrainerConfig
from tinygpt.errors import ConfigError, DataError, InputTypeError, ShapeError

SETTINGS: dict[str, Any] = {"max_iters": 6, "batch_size": 4, "eval_interval": 3, "preview_tokens": 0}
V = DATA.vocab_size


def sums(step: int) -> tuple[Tensor, Tensor]:
    """Make a batch of other sizes than those of the config, which differ from step to step."""
    rows = 5 + step % 2
    generator = torch.Generator().manual_seed(step)
    ids = torch.randint(V, (rows, BLOCK), generator=generator)
    ids[:, -1] = ids[:, :-1].sum(dim=1) % V
    return ids[:, :-1], ids[:, 1:]


def make_trainer(
    batches: Callable[[int], tuple[Tensor, Tensor]] | None = sums, run_dir: Path | None = None, **changes: Any
) -> Trainer:
    config = TrainerConfig(**SETTINGS | changes)
    return Trainer(make_gpt(dropout=0.1), DATA, config, run_dir=run_dir, batches=batches)


def weights(trainer: Trainer) -> list[float]:
    trainer._swap_weights(best=False)
    return torch.cat([each.detach().flatten() for each in trainer.model.parameters()]).tolist()


@pytest.mark.parametrize("accumulation", [1, 3])
def test_windows_of_the_data_are_batches_like_others(accumulation: int) -> None:
    def windows(step: int) -> tuple[Tensor, Tensor]:
        x, y = DATA.batch("train", step=step, batch_size=4, block_size=BLOCK)
        return x.to(torch.uint8), y.to(torch.int32)

    ours, theirs = (make_trainer(batches, accumulation=accumulation) for batches in (windows, None))
    assert ours.fit(progress=False).losses == theirs.fit(progress=False).losses
    assert weights(ours) == weights(theirs)
    assert ours.history.last.val_loss == theirs.history.last.val_loss


def test_a_step_has_the_batch_of_its_number() -> None:
    asked = []

    def counted(step: int) -> tuple[Tensor, Tensor]:
        asked.append(step)
        return sums(step)

    trainer = make_trainer(counted)
    steps = list(trainer)
    assert asked == [0, 0, 0, 1, 2, 3, 4, 5]  # the first ones are a check
    tokens = [step.tokens_per_second * step.seconds for step in steps]
    assert tokens == pytest.approx([(5 + number % 2) * (BLOCK - 1) for number in range(6)])


@broken_by(faults.steps_counted_from_the_resumption)
def test_a_resumed_run_has_the_batches_of_an_uninterrupted_one(tmp_path: Path) -> None:
    whole = make_trainer()
    whole.fit(progress=False)
    for _, _ in zip(range(3), make_trainer(run_dir=tmp_path), strict=False):
        pass
    again = make_trainer(run_dir=tmp_path)
    again.fit(resume=True, progress=False)
    assert weights(again) == weights(whole)


def test_a_run_is_not_resumed_with_other_batches(tmp_path: Path) -> None:
    make_trainer(run_dir=tmp_path).save()
    for others in (None, lambda step: sums(step + 1)):
        with pytest.raises(ConfigError, match=r"its settings must be the same, got batches=.* \(checkpoint has '"):
            make_trainer(others, run_dir=tmp_path).fit(resume=True, progress=False)


def test_several_processes_share_each_batch() -> None:
    def train(here: int) -> list[float]:
        trainer = make_trainer(accumulation=2, max_iters=3)
        trainer.fit(progress=False)
        return weights(trainer)

    assert results(on_ranks(2, train)) == [train(0)] * 2


def test_processes_with_different_batches_are_named() -> None:
    outcomes = on_ranks(2, lambda here: make_trainer(lambda step: sums(step + here)).steps_taken)
    assert "all processes must train alike, got batches='" in outcomes[0].error


def constant(x: Any, y: Any = None) -> Callable[[int], Any]:
    return lambda step: (x, x if y is None else y)


IDS = torch.zeros(3, BLOCK, dtype=torch.int64)
WRONG = [
    pytest.param(iter([(IDS, IDS)]), InputTypeError, "must be a function of the step that returns", id="iterator"),
    pytest.param([(IDS, IDS)], InputTypeError, r"e\.g\. lambda step: make_batch\(seed=step\), got \[", id="list"),
    pytest.param(DataLoader(TensorDataset(IDS)), InputTypeError, "of type DataLoader", id="loader"),
    pytest.param(lambda: (IDS, IDS), InputTypeError, "must be a function of the step", id="no argument"),
    pytest.param(lambda step: IDS, InputTypeError, r"batches\(0\) must return two tensors \(x, y\), got tens", id="x"),
    pytest.param(constant(IDS.numpy()), InputTypeError, r"e\.g\. torch.from_numpy\(x\)", id="arrays"),
    pytest.param(constant(IDS.double()), InputTypeError, r"integers, got torch.float64; use x.long\(\)", id="floats"),
    pytest.param(constant(IDS, IDS == 0), InputTypeError, "integers, got torch.bool", id="bools"),
    pytest.param(constant(IDS[0]), ShapeError, r"of one shape \(B, T\), got \(8,\) and \(8,\)", id="a row"),
    pytest.param(constant(IDS, IDS[:2]), ShapeError, r"got \(3, 8\) and \(2, 8\)", id="other rows"),
    pytest.param(constant(IDS[:0]), ShapeError, r"got \(0, 8\) and \(0, 8\)", id="no row"),
    pytest.param(constant(IDS.repeat(1, 2)), ShapeError, "at most block_size=8 tokens in a row, got 16", id="long"),
    pytest.param(constant(IDS + V), ShapeError, rf"x of batches\(0\) must hold ids from 0 .*, {V} at", id="ids"),
    pytest.param(constant(IDS, IDS - 1), ShapeError, r"y of batches\(0\) .*to ignore a target use -100", id="-1"),
    pytest.param(lambda step: (torch.randint(V, (3, 8)),) * 2, ConfigError, "different ones for step 0", id="random"),
]


@pytest.mark.usefixtures("unchecked_types")
@pytest.mark.parametrize(("batches", "kind", "message"), WRONG)
def test_invalid_batches_are_refused_before_anything_is_written(
    batches: Any, kind: type[Exception], message: str, tmp_path: Path
) -> None:
    with pytest.raises(kind, match=message) as caught:
        make_trainer(batches, tmp_path / "run")
    assert len(str(caught.value)) <= 300
    assert list(tmp_path.iterdir()) == []


def test_a_later_batch_is_checked_too() -> None:
    def worse(step: int) -> tuple[Tensor, Tensor]:
        return (IDS, IDS + V) if step == 2 else sums(step)

    trainer = make_trainer(worse)
    with pytest.raises(ShapeError, match=r"y of batches\(2\) must hold ids"):
        trainer.fit(progress=False)
    assert trainer.steps_taken == 2


def test_rows_may_be_without_targets_but_no_batch() -> None:
    def sparse(step: int) -> tuple[Tensor, Tensor]:
        x, y = sums(step)
        y = y.masked_fill(torch.arange(len(y))[:, None] > 0, -100)
        return x, y if step < 2 else torch.full_like(y, -100)

    trainer = make_trainer(sparse, accumulation=3)
    with pytest.raises(DataError, match="a batch must have a target, got -100 for all 35 in step 3"):
        trainer.fit(progress=False)
    assert trainer.steps_taken == 2


def test_batches_may_be_made_in_inference_mode() -> None:
    made = torch.inference_mode()(lambda step: (torch.full((3, BLOCK), step % V),) * 2)
    assert len(list(make_trainer(made))) == 6
