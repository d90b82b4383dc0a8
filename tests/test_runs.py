"""Runs: interrupted anywhere and resumed, a run is the one that was never interrupted, bit for bit."""

import gc
import json
import math
import os
import random
import shutil
import signal
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import faults
import pytest
import torch
from builders import DATA, TEXT
from faults import broken_by
from killable import exit_code, in_child, make_trainer, momentum, outcome, schedule_free
from torch import Tensor, nn

import tinygpt
from tinygpt import BigramLanguageModel, CharTokenizer, GPTLanguageModel, TokenDataset, Trainer, TrainerConfig
from tinygpt.checkpoint import read
from tinygpt.errors import (
    CheckpointCorruptError,
    CheckpointMismatchError,
    CheckpointNotFoundError,
    CheckpointSaveError,
    ConfigError,
    InputTypeError,
    NonFiniteError,
    RunLockedError,
)


def finish(directory: Path, **changes: Any) -> None:
    """Go on with a run to its end, or start it if it was killed before it had begun."""
    has_begun = any(directory.glob("step-*.safetensors"))
    make_trainer(directory, **changes).fit(resume=has_begun, progress=False)


@pytest.fixture(scope="module")
def uninterrupted(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """Return what the run comes to that nobody interrupted."""
    torch.set_default_dtype(torch.float64)
    directory = tmp_path_factory.mktemp("run") / "whole"
    make_trainer(directory).fit(progress=False)
    return outcome(directory)


# --- exact resume -----------------------------------------------------------------------------------------------------


@broken_by(
    faults.optimizer_forgotten,
    faults.steps_counted_from_the_resumption,
    faults.best_forgotten,
    faults.dropout_from_everybodys_stream,
    only="7",
)
@pytest.mark.parametrize("steps", range(13))
def test_a_run_resumed_after_any_step_is_the_uninterrupted_one(
    steps: int, tmp_path: Path, uninterrupted: dict[str, str]
) -> None:
    """In a new process."""

    def begin() -> None:
        trainer = make_trainer(tmp_path)
        for step in trainer if steps else ():
            if step.number == steps:
                break
        trainer.save()

    if steps:
        assert exit_code(in_child(begin)) == 0
    assert exit_code(in_child(lambda: finish(tmp_path))) == 0
    assert outcome(tmp_path) == uninterrupted


def test_resuming_again_and_again_is_the_same_run(tmp_path: Path, uninterrupted: dict[str, str]) -> None:
    for number in range(1, 13):
        trainer = make_trainer(tmp_path)
        if number > 1:
            trainer.resume()
        assert next(iter(trainer)).number == number
        trainer.save()
    finish(tmp_path)
    assert outcome(tmp_path) == uninterrupted


def test_resuming_a_finished_run_changes_nothing(tmp_path: Path) -> None:
    make_trainer(tmp_path).fit(progress=False)
    before = {path.name: path.read_bytes() for path in tmp_path.glob("*.*")}
    trainer = make_trainer(tmp_path)
    history = trainer.fit(resume=True, progress=False)
    assert {path.name: path.read_bytes() for path in tmp_path.glob("*.*")} == before
    assert [e.step for e in history.evaluations] == [0, 5, 10, 12]
    best = tinygpt.load(tmp_path / "best.safetensors")[0].double()
    assert all(torch.equal(a, b) for a, b in zip(best.parameters(), trainer.model.parameters(), strict=True))


@pytest.mark.parametrize("changes", [{"save_interval": 1}, {"save_interval": None}, {"keep_checkpoints": 1}], ids=str)
def test_how_often_it_is_saved_changes_nothing(
    changes: dict[str, Any], tmp_path: Path, uninterrupted: dict[str, str]
) -> None:
    make_trainer(tmp_path, **changes).fit(progress=False)
    assert outcome(tmp_path) == uninterrupted


def test_saving_is_pure(tmp_path: Path) -> None:
    trainer = make_trainer(tmp_path)
    next(iter(trainer))
    parameters = list(trainer.model.parameters())
    before = [parameter.detach().clone() for parameter in parameters]
    state = torch.get_rng_state()
    trainer.model.train()
    path = trainer.save()
    assert path is not None
    first = path.read_bytes()
    trainer.save()
    assert path.read_bytes() == first
    assert trainer.model.training
    assert torch.equal(torch.get_rng_state(), state)
    assert all(a is b for a, b in zip(trainer.model.parameters(), parameters, strict=True))
    assert all(torch.equal(a, b) for a, b in zip(parameters, before, strict=True))


def test_a_checkpoint_is_also_a_model_file(tmp_path: Path) -> None:
    trainer = make_trainer(tmp_path)
    next(iter(trainer))
    path = trainer.save()
    assert path is not None
    model, tokenizer = tinygpt.load(path)
    assert tokenizer == DATA.tokenizer
    assert all(torch.equal(a, b) for a, b in zip(model.parameters(), trainer.model.parameters(), strict=True))


class Momentum(torch.optim.SGD):
    """An optimizer with a plain number among what it keeps, and None before the first step."""

    def step(self, closure: Any = None) -> Any:
        for group in self.param_groups:
            for parameter in group["params"]:
                self.state[parameter]["seen"] = self.state[parameter].get("seen", 0) + 1
        return super().step(closure)


def test_an_optimizer_of_your_own_comes_back(tmp_path: Path) -> None:
    def make(directory: Path) -> Trainer:
        torch.manual_seed(0)
        model = BigramLanguageModel(DATA.vocab_size)
        config = TrainerConfig(max_iters=6, batch_size=2, preview_tokens=0)
        return Trainer(
            model, DATA, config, run_dir=directory, make_optimizer=lambda m: Momentum(m.parameters(), 0.1, 0.9)
        )

    make(tmp_path / "whole").fit(progress=False)
    trainer = make(tmp_path / "cut")
    for step in trainer:
        if step.number == 3:
            break
    trainer.save()
    again = make(tmp_path / "cut")
    again.fit(resume=True, progress=False)
    assert outcome(tmp_path / "cut") == outcome(tmp_path / "whole")
    assert [state["seen"] for state in again.optimizer.state.values()] == [6]


def test_an_optimizer_that_keeps_what_no_file_can_hold_is_named(tmp_path: Path) -> None:
    trainer = make_trainer(tmp_path)
    next(iter(trainer))
    trainer.optimizer.state[next(trainer.model.parameters())]["cache"] = object()
    with pytest.raises(InputTypeError, match="an optimizer must keep tensors and plain numbers to be saved, got <obj"):
        trainer.save()


# --- killed, asked to end ---------------------------------------------------------------------------------------------


def kill_and_resume(directory: Path, delay: float, **changes: Any) -> None:
    """Train in a process that is killed after some seconds, without a chance to tidy up; then go on to the end."""
    child = in_child(lambda: finish(directory, **changes))
    time.sleep(delay)
    os.kill(child, signal.SIGKILL)
    exit_code(child)


LONG: dict[str, Any] = {"max_iters": 30, "save_interval": 2, "eval_interval": 10}


OPTIMIZERS: list[dict[str, Any]] = [
    {"optimizer": "muon"},
    {"optimizer": "adamw"},
    {"make": momentum},
    {"make": schedule_free},
    {},
]
# Each layout, each precision and each optimizer: their counts have no common divisor, so all combinations come up.
KINDS: list[dict[str, Any]] = [
    {
        "layout": ("notebook", "modern", "gpt2")[number % 3],
        "precision": ("fp32", "bf16", "auto", "bf16")[number % 4],
        **OPTIMIZERS[number % 5],
    }
    for number in range(60)
]


def time_of_a_run(directory: Path, **changes: Any) -> float:
    started = time.perf_counter()
    assert exit_code(in_child(lambda: finish(directory, **LONG, **changes))) == 0
    return time.perf_counter() - started


@pytest.mark.parametrize("kills", [pytest.param(3), pytest.param(200, marks=pytest.mark.slow)])
def test_killed_at_any_instant_it_is_the_same_run(kills: int, tmp_path: Path) -> None:
    random.seed(kills)
    kinds = KINDS[: min(kills, len(KINDS))]
    for kind, changes in enumerate(kinds):
        whole = tmp_path / f"whole {kind}"
        seconds = time_of_a_run(whole, **changes)
        expected = outcome(whole)
        for number in range(kind, kills, len(kinds)):
            directory = tmp_path / str(number)
            kill_and_resume(directory, random.uniform(0, seconds), **LONG, **changes)
            resumed = in_child(lambda where=directory, how=changes: finish(where, **LONG, **how))  # type: ignore[misc]
            assert exit_code(resumed) == 0
            assert outcome(directory) == expected, (number, changes)
            assert not list(directory.glob(".tinygpt-*"))
            shutil.rmtree(directory)


@pytest.mark.slow
def test_killed_again_and_again_it_is_the_same_run(tmp_path: Path) -> None:
    seconds = time_of_a_run(tmp_path / "whole")
    random.seed(0)
    for _ in range(10):
        kill_and_resume(tmp_path / "cut", random.uniform(0.1, 0.5) * seconds, **LONG)
    finish(tmp_path / "cut", **LONG)
    assert outcome(tmp_path / "cut") == outcome(tmp_path / "whole")


def wait_for_steps(directory: Path, steps: int) -> None:
    """Wait until a run in another process has taken some steps."""
    log = directory / "metrics.jsonl"
    while not log.exists() or log.read_text().count('"loss"') < steps:
        time.sleep(0.005)


@pytest.mark.parametrize(("number", "code"), [(signal.SIGTERM, 143), (signal.SIGINT, 0)])
def test_a_run_that_is_asked_to_end_saves_its_step(
    number: signal.Signals, code: int, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    """It says how to resume."""
    long: dict[str, Any] = {"max_iters": 80, "save_interval": 80, "eval_interval": 80}
    make_trainer(tmp_path / "whole", **long).fit(progress=False)
    child = in_child(lambda: make_trainer(tmp_path / "cut", **long).fit())
    wait_for_steps(tmp_path / "cut", 5)
    os.kill(child, number)
    assert exit_code(child) == code
    saved = max((tmp_path / "cut").glob("step-*"))
    assert 5 <= int(saved.stem.removeprefix("step-")) < 80
    written = capfd.readouterr()
    assert f"saved {saved}, from which the run resumes" in written.out + written.err
    finish(tmp_path / "cut", **long)
    assert outcome(tmp_path / "cut") == outcome(tmp_path / "whole")


class Slow(BigramLanguageModel):
    """Takes seconds for each training step but the first."""

    def compute_logits(self, idx: Tensor, cache: Any = None) -> Tensor:
        if self.training:
            self.steps = getattr(self, "steps", 0) + 1
            time.sleep(5 * (self.steps > 1))
        return super().compute_logits(idx, cache)


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, -signal.SIGTERM)])
def test_a_second_signal_acts_at_once_and_leaves_the_files(number: signal.Signals, code: int, tmp_path: Path) -> None:
    config = TrainerConfig(max_iters=100, batch_size=2, save_interval=1, preview_tokens=0)
    child = in_child(lambda: Trainer(Slow(DATA.vocab_size), DATA, config, run_dir=tmp_path).fit())
    wait_for_steps(tmp_path, 1)
    time.sleep(0.1)
    before = {path: path.read_bytes() for path in tmp_path.glob("step-*")}
    os.kill(child, number)
    time.sleep(0.05)
    os.kill(child, number)
    assert exit_code(child) == code
    assert (tmp_path / "metrics.jsonl").read_text().count('"loss"') == 1  # the second step did not end
    assert {path: path.read_bytes() for path in tmp_path.glob("step-*")} == before
    assert read(max(before))


def test_handlers_are_put_back_and_a_handler_of_yours_is_called(tmp_path: Path) -> None:
    called = []
    mine = lambda number, frame: called.append(number)  # noqa: E731 - two handlers that compare as one
    before = signal.signal(signal.SIGTERM, mine), signal.getsignal(signal.SIGINT)
    try:
        trainer = make_trainer(tmp_path, max_iters=3)
        real = trainer._stepper.take

        def take(index: int) -> Any:
            os.kill(os.getpid(), signal.SIGTERM)
            return real(index)

        trainer._stepper.take = take  # type: ignore[method-assign]
        history = trainer.fit(progress=False)
        assert called == [signal.SIGTERM]
        assert history.stopped == "interrupted"
        assert signal.getsignal(signal.SIGTERM) is mine
    finally:
        signal.signal(signal.SIGTERM, before[0])
    assert signal.getsignal(signal.SIGINT) is before[1]


def test_a_signal_after_the_last_step_is_passed_on(tmp_path: Path) -> None:
    def work() -> None:
        trainer = make_trainer(tmp_path)
        restore = trainer.restore_best

        def restore_best() -> None:
            os.kill(os.getpid(), signal.SIGTERM)
            restore()

        trainer.restore_best = restore_best  # type: ignore[method-assign]
        trainer.fit(progress=False)

    assert exit_code(in_child(work)) == 143
    assert steps_in(tmp_path)[-1] == 12


def press_ctrl_c(*, in_step: int, of: Trainer) -> None:
    """Let a trainer be interrupted in the middle of a step, counted from 0."""
    real = of._stepper.take

    def take(index: int) -> Any:
        if index == in_step:
            os.kill(os.getpid(), signal.SIGINT)
        return real(index)

    of._stepper.take = take  # type: ignore[method-assign]


def test_an_interrupted_run_saves_the_last_step(tmp_path: Path, uninterrupted: dict[str, str]) -> None:
    """Not the best weights."""
    trainer = make_trainer(tmp_path)
    press_ctrl_c(in_step=6, of=trainer)
    assert trainer.fit(progress=False).stopped == "interrupted"
    trainer.save()
    make_trainer(tmp_path).fit(resume=True, progress=False)
    found = outcome(tmp_path)
    differing = {name for name in found if found[name] != uninterrupted[name]}
    assert differing == {"log", "evaluations", "training/previews"}  # which have one more: that of the interruption


def test_fit_after_an_interruption_is_an_uninterrupted_run() -> None:
    whole, cut = make_trainer(None), make_trainer(None)
    whole.fit(progress=False)
    press_ctrl_c(in_step=6, of=cut)
    cut.fit(progress=False)
    assert cut.steps_taken == 7
    history = cut.fit(progress=False)
    assert history.losses == whole.history.losses
    assert history.stopped == ""
    assert history.verdict == whole.history.verdict


def test_a_process_that_ignores_ctrl_c_goes_on_ignoring_it(tmp_path: Path) -> None:
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        trainer = make_trainer(tmp_path)
        for step in trainer:
            if step.number == 2:
                break
        os.kill(os.getpid(), signal.SIGINT)
        assert trainer.fit(progress=False).stopped == ""
    finally:
        signal.signal(signal.SIGINT, before)


def test_a_stopped_process_goes_on_as_if_nothing_had_been(tmp_path: Path) -> None:
    make_trainer(tmp_path / "whole", **LONG).fit(progress=False)
    child = in_child(lambda: finish(tmp_path / "cut", **LONG))
    wait_for_steps(tmp_path / "cut", 3)
    os.kill(child, signal.SIGSTOP)
    time.sleep(0.3)
    os.kill(child, signal.SIGCONT)
    assert exit_code(child) == 0
    assert outcome(tmp_path / "cut") == outcome(tmp_path / "whole")


# --- which file it goes on from ---------------------------------------------------------------------------------------


def steps_in(directory: Path) -> list[int]:
    return sorted(int(path.stem.removeprefix("step-")) for path in directory.glob("step-*"))


def spoil(path: Path) -> None:
    raw = bytearray(path.read_bytes())
    raw[len(raw) // 2] ^= 1
    path.write_bytes(raw)


def test_the_newest_checkpoints_are_kept(tmp_path: Path) -> None:
    make_trainer(tmp_path, save_interval=1, keep_checkpoints=3).fit(progress=False)
    assert steps_in(tmp_path) == [10, 11, 12]


def test_an_old_checkpoint_that_cannot_be_removed_is_a_warning(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, uninterrupted: dict[str, str]
) -> None:
    def unlink(path: Path, missing_ok: bool = False) -> None:
        raise PermissionError("it is in use")

    trainer = make_trainer(tmp_path)
    monkeypatch.setattr(Path, "unlink", unlink)
    with pytest.warns(UserWarning, match=r"cannot remove the old checkpoint .*step-0.*: it is in use"):
        trainer.fit(progress=False)
    assert steps_in(tmp_path) == [0, 3, 6, 9, 12]
    assert outcome(tmp_path) == uninterrupted


def test_a_spoilt_checkpoint_is_named_and_an_older_one_is_taken(tmp_path: Path, uninterrupted: dict[str, str]) -> None:
    make_trainer(tmp_path).fit(progress=False)
    spoil(max(tmp_path.glob("step-*")))
    trainer = make_trainer(tmp_path)
    with pytest.warns(UserWarning, match=r"step-00000012.*was changed after it was written.*; going back to an older"):
        trainer.resume()
    assert trainer.steps_taken == 9
    trainer.fit(progress=False)
    assert outcome(tmp_path) == uninterrupted


def test_the_newest_checkpoint_has_the_most_steps(tmp_path: Path) -> None:
    """It need not be written last."""
    trainer = make_trainer(tmp_path, max_iters=200, keep_checkpoints=99, eval_interval=1000)
    for step in trainer:
        if step.number in (9, 10, 100):
            trainer.save()
        if step.number == 100:
            break
    for age, number in enumerate((100, 9, 10)):
        os.utime(tmp_path / f"step-{number:08d}.safetensors", (age, age))
    again = make_trainer(tmp_path, max_iters=200, keep_checkpoints=99, eval_interval=1000)
    again.resume()
    assert again.steps_taken == 100


def test_if_no_checkpoint_verifies_it_does_not_start_afresh(tmp_path: Path) -> None:
    make_trainer(tmp_path).fit(progress=False)
    for path in tmp_path.glob("step-*"):
        spoil(path)
    before = {path: path.read_bytes() for path in tmp_path.glob("*.*")}
    with pytest.raises(CheckpointCorruptError, match=r"no checkpoint in .* verifies.*step-0*12.*; .*step-0*9"):
        make_trainer(tmp_path).fit(resume=True, progress=False)
    assert {path: path.read_bytes() for path in tmp_path.glob("*.*")} == before


def test_resuming_nothing_names_the_missing_files(tmp_path: Path) -> None:
    with pytest.raises(CheckpointNotFoundError, match=r"nothing to resume in .*no checkpoint step-\*;"):
        make_trainer(tmp_path).fit(resume=True, progress=False)
    with pytest.raises(ConfigError, match="needs its run_dir, got run_dir=None"):
        make_trainer(None).fit(resume=True, progress=False)


def test_a_checkpoint_named_as_another_step_is_not_used(tmp_path: Path) -> None:
    make_trainer(tmp_path).fit(progress=False)
    (tmp_path / "step-00000012.safetensors").rename(tmp_path / "step-00000099.safetensors")
    trainer = make_trainer(tmp_path)
    with pytest.warns(UserWarning, match="does not contain a run at the step of its name"):
        trainer.resume()
    assert trainer.steps_taken == 9


# --- another run is not this run --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"batch_size": 5}, r"batch_size=5 \(checkpoint has 4\)"),
        ({"seed": 1}, r"seed=1 \(checkpoint has 0\)"),
        (
            {"accumulation": 1, "weight_decay": 0.2},
            r"accumulation=1 \(checkpoint has 2\); weight_decay=0.2 \(checkpoint",
        ),
        ({"block_size": 4}, r"block_size=4 \(checkpoint has 8\)"),
        ({"betas": (0.9, 0.98)}, r"betas=\[0.9, 0.98\] \(checkpoint has \[0.9, 0.99\]\)"),
    ],
    ids=str,
)
def test_settings_that_would_make_it_another_run_are_refused(
    changes: dict[str, Any], message: str, tmp_path: Path
) -> None:
    make_trainer(tmp_path).fit(progress=False)
    before = {path: path.read_bytes() for path in tmp_path.glob("*.*")}
    trainer = make_trainer(tmp_path, **changes)
    weights = [parameter.detach().clone() for parameter in trainer.model.parameters()]
    with pytest.raises(ConfigError, match=f"settings must be the same, got {message}"):
        trainer.fit(resume=True, progress=False)
    assert {path: path.read_bytes() for path in tmp_path.glob("*.*")} == before
    assert all(torch.equal(a, b) for a, b in zip(trainer.model.parameters(), weights, strict=True))


def test_a_run_can_be_made_longer_with_a_warning(tmp_path: Path) -> None:
    make_trainer(tmp_path, precision="fp32").fit(progress=False)
    trainer = make_trainer(tmp_path, max_iters=15, learning_rate=0.005, precision="bf16")
    changes = r"learning_rate=0.005 .*; max_iters=15 \(checkpoint .*; precision='bf16' \(checkpoint has 'fp32'\)"
    with pytest.warns(UserWarning, match=f"resuming with changed settings, so results will differ .*{changes}"):
        history = trainer.fit(resume=True, progress=False)
    assert history.last.step == 15
    assert len(history.losses) == 15


def test_an_optimizer_of_yours_with_other_settings_is_a_warning(tmp_path: Path) -> None:
    def sgd(rate: float) -> Trainer:
        trainer = make_trainer(None)
        make = lambda model: torch.optim.SGD(model.parameters(), lr=rate)  # noqa: E731 - handed on
        return Trainer(trainer.model, DATA, trainer.config, run_dir=tmp_path, make_optimizer=make)

    sgd(0.5).fit(progress=False)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        sgd(0.5).resume()
    with pytest.warns(UserWarning, match=r"results will differ .* run: groups\[0\].lr=0.01 \(checkpoint has 0.5\)$"):
        sgd(0.01).resume()


def test_a_run_goes_on_in_float16_whose_gradients_are_scaled(tmp_path: Path) -> None:
    make_trainer(tmp_path).fit(progress=False)
    trainer = make_trainer(tmp_path)
    trainer._stepper.scaler = torch.amp.GradScaler("cpu", enabled=True)  # as on a GPU without bfloat16
    trainer.resume()
    assert trainer.steps_taken == 12
    assert trainer._stepper.scaler.get_scale() == 2.0**16


OTHER = "The five boxing wizards jump quickly! " * 15


def with_parts(directory: Path, model: Any = None, data: TokenDataset = DATA) -> Trainer:
    model = model or BigramLanguageModel(data.vocab_size)
    return Trainer(model, data, TrainerConfig(max_iters=2, batch_size=2, preview_tokens=0), run_dir=directory)


def renamed(text: str) -> CharTokenizer:
    """Return a tokenizer of as many symbols of which the last is another."""
    symbols = sorted(set(text))
    return CharTokenizer([*symbols[:-1], "☃"], on_unknown="skip")


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (
            lambda: {"data": TokenDataset(OTHER[: len(TEXT)], CharTokenizer(sorted(set(TEXT)), on_unknown="skip"))},
            "the corpus must be that of the run in .*got other ids or another split",
        ),
        (
            lambda: {"data": TokenDataset(TEXT + "a", CharTokenizer.from_text(TEXT), val_fraction=0.2)},
            "the corpus must be that of the run",
        ),
        (
            lambda: {"data": TokenDataset(TEXT, CharTokenizer.from_text(TEXT), val_fraction=0.3)},
            "got other ids or another split",
        ),
        (
            lambda: {
                "data": TokenDataset(DATA.tokenizer.encode_array(TEXT), renamed(TEXT), val_fraction=0.2)  # type: ignore
            },
            r"got 28 symbols where it has 28; the first difference is id 27: '☃' where it has 'z'",
        ),
        (
            lambda: {"model": GPTLanguageModel(DATA.vocab_size, block_size=4, n_embd=4, blocks=[nn.Linear(4, 4)])},
            "contains the run of a 'BigramLanguageModel', got a GPTLanguageModel",
        ),
    ],
    ids=["other text", "longer text", "other split", "other tokenizer", "other class"],
)
def test_another_corpus_tokenizer_or_model_is_refused(
    make: Callable[[], dict[str, Any]], message: str, tmp_path: Path
) -> None:
    with_parts(tmp_path).fit(progress=False)
    before = {path: path.read_bytes() for path in tmp_path.glob("*.*")}
    with pytest.raises(CheckpointMismatchError, match=message):
        with_parts(tmp_path, **make()).fit(resume=True, progress=False)
    assert {path: path.read_bytes() for path in tmp_path.glob("*.*")} == before


# --- one trainer at a time --------------------------------------------------------------------------------------------


def test_two_trainers_cannot_share_a_directory(tmp_path: Path) -> None:
    """A killed one releases it."""
    config = TrainerConfig(max_iters=1000, batch_size=2, save_interval=1, preview_tokens=0)
    child = in_child(lambda: Trainer(Slow(DATA.vocab_size), DATA, config, run_dir=tmp_path).fit())
    try:
        wait_for_steps(tmp_path, 2)  # so that the checkpoint of the first is written
        second = Trainer(Slow(DATA.vocab_size), DATA, config, run_dir=tmp_path)
        for resume in (True, False):
            with pytest.raises(RunLockedError, match=rf"one trainer at a time, got .*, where process {child} on"):
                second.fit(resume=resume, progress=False)
    finally:
        os.kill(child, signal.SIGKILL)
        exit_code(child)
    second.resume()
    assert second.steps_taken >= 1


def test_what_a_killed_process_left_half_written_is_swept_away(tmp_path: Path) -> None:
    (tmp_path / ".tinygpt-0123456789abcdef.tmp").write_bytes(b"half")
    make_trainer(tmp_path).fit(progress=False)
    assert not list(tmp_path.glob(".tinygpt-*"))


# --- numbers that are none, disks that are full -----------------------------------------------------------------------


class Exploding(BigramLanguageModel):
    """Has a loss, or only a gradient, that is not finite at one training step."""

    def __init__(self, at: int, spoil_gradient: bool) -> None:
        super().__init__(DATA.vocab_size)
        self.at, self.step, self.spoil_gradient = at, 0, spoil_gradient

    def compute_logits(self, idx: Tensor, cache: Any = None) -> Tensor:
        logits = super().compute_logits(idx, cache)
        self.step += self.training
        if self.training and self.step == self.at:
            if self.spoil_gradient:
                logits.register_hook(lambda gradient: gradient * math.inf)
            else:
                logits = logits * math.nan
        return logits


@pytest.mark.parametrize("spoil_gradient", [False, True])
def test_a_non_finite_loss_or_gradient_changes_nothing(spoil_gradient: bool, tmp_path: Path) -> None:
    """No weight and no file."""
    config = TrainerConfig(max_iters=9, batch_size=2, save_interval=1, preview_tokens=0)

    def make(at: int) -> Trainer:
        torch.manual_seed(0)
        return Trainer(Exploding(at, spoil_gradient), DATA, config, run_dir=tmp_path / str(at))

    healthy = make(99)
    for step in healthy:
        if step.number == 3:
            break
    trainer = make(4)
    with pytest.raises(
        NonFiniteError, match=r"in step 4 at learning_rate=0.00533; .*; the last checkpoint is .*-00000003.safe"
    ):
        trainer.fit(progress=False)
    pairs = zip(trainer.model.parameters(), healthy.model.parameters(), strict=True)
    assert all(torch.equal(a, b) for a, b in pairs)
    assert steps_in(tmp_path / "4") == [2, 3]
    again = make(4)
    vars(again.model)["at"] = 99
    again._run.path = tmp_path / "4"
    again.resume()
    assert again.steps_taken == 3
    assert exit_code(in_child(lambda: make(5).fit(progress=False))) == 1


def failing_writes(monkeypatch: pytest.MonkeyPatch, times: int) -> list[int]:
    """Let the next so many files fail to be written, as on a full disk."""
    left = [times]
    real = os.fsync

    def fsync(handle: int) -> None:
        if left[0]:
            left[0] -= 1
            raise OSError(28, "No space left on device")
        real(handle)

    monkeypatch.setattr("tinygpt.files.os.fsync", fsync)
    return left


def test_a_checkpoint_that_cannot_be_written_is_a_warning(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, uninterrupted: dict[str, str]
) -> None:
    """The next one works."""
    trainer = make_trainer(tmp_path)
    for step in trainer:
        if step.number == 2:
            break
    failing_writes(monkeypatch, 1)
    with pytest.warns(UserWarning, match=r"cannot write .*No space left on device; it needs .* the training goes on"):
        trainer.fit(progress=False)
    assert steps_in(tmp_path) == [9, 12]
    assert outcome(tmp_path) == uninterrupted


def test_if_the_last_checkpoint_cannot_be_written_fit_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    trainer = make_trainer(tmp_path)
    for step in trainer:
        if step.number == 8:
            break
    failing_writes(monkeypatch, 1000)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        with pytest.raises(CheckpointSaveError, match="No space left on device") as caught:
            trainer.fit(progress=False)
    assert caught.value.errno == 28
    assert steps_in(tmp_path) == [3, 6]
    assert not list(tmp_path.glob(".tinygpt-*"))


def test_a_log_that_cannot_be_written_does_not_end_the_training(tmp_path: Path, uninterrupted: dict[str, str]) -> None:
    (tmp_path / "run").mkdir()
    trainer = make_trainer(tmp_path / "run")
    next(iter(trainer))
    (tmp_path / "run" / "metrics.jsonl").unlink()
    (tmp_path / "run" / "metrics.jsonl").symlink_to("/dev/full")
    with pytest.warns(
        UserWarning, match=r"metrics.jsonl': it is a symbolic link; .*; the training goes on, and the next"
    ):
        trainer.fit(progress=False)
    assert steps_in(tmp_path / "run") == [9, 12]


def test_a_torn_last_line_of_the_log_is_dropped(tmp_path: Path, uninterrupted: dict[str, str]) -> None:
    trainer = make_trainer(tmp_path)
    for step in trainer:
        if step.number == 7:
            break
    trainer.save()
    with (tmp_path / "metrics.jsonl").open("a") as file:
        file.write(json.dumps({"step": 8, "loss": 1.0}) + '\n{"step": 9, "lo')
    finish(tmp_path)
    assert outcome(tmp_path) == uninterrupted


@pytest.mark.parametrize("kind", ["file", "under a file"])
def test_a_directory_that_takes_no_files_is_named_at_once(kind: str, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(CheckpointSaveError, match=r"cannot write to '.*file.*': .*; use another run_dir"):
        make_trainer(tmp_path / "file" / ("run" if kind == "under a file" else ""))
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


def test_a_directory_that_vanishes_is_named_at_the_next_save(tmp_path: Path) -> None:
    trainer = make_trainer(tmp_path / "run")
    next(iter(trainer))
    shutil.rmtree(tmp_path / "run")
    with pytest.raises(CheckpointSaveError, match="No such file or directory"):
        trainer.save()
    assert list(tmp_path.iterdir()) == []


def test_steps_leave_no_tensors_behind(tmp_path: Path) -> None:
    counts = {}
    for step in make_trainer(tmp_path, max_iters=21, save_interval=5):
        if step.number in (7, 21):
            gc.collect()
            counts[step.number] = sum(issubclass(type(found), Tensor) for found in gc.get_objects())
    assert counts[21] == counts[7]


# --- a loop of your own -----------------------------------------------------------------------------------------------


def test_ctrl_c_in_a_loop_never_takes_a_step_twice(tmp_path: Path, uninterrupted: dict[str, str]) -> None:
    """Ctrl-C comes inside each step in turn, right after the weights have moved, and the loop is entered again."""
    trainer = make_trainer(tmp_path)
    move = trainer.optimizer.step

    def interrupted(*arguments: Any) -> Any:
        result = move(*arguments)
        os.kill(os.getpid(), signal.SIGINT)
        return result

    trainer.optimizer.step = interrupted  # type: ignore[method-assign, assignment]
    taken = 0
    while trainer.steps_taken < 12:
        with pytest.raises(KeyboardInterrupt):
            for _ in trainer:
                pass
        taken += 1
    assert taken == 12
    trainer.fit(progress=False)
    assert outcome(tmp_path) == uninterrupted


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_second_signal_in_a_loop_acts_at_once(number: signal.Signals, tmp_path: Path) -> None:
    def work() -> None:
        trainer = make_trainer(tmp_path)
        move = trainer.optimizer.step

        def interrupted(*arguments: Any) -> Any:
            os.kill(os.getpid(), number)
            os.kill(os.getpid(), number)
            time.sleep(60)
            return move(*arguments)

        trainer.optimizer.step = interrupted  # type: ignore[method-assign, assignment]
        for _ in trainer:
            pass

    assert exit_code(in_child(work)) == (130 if number == signal.SIGINT else -signal.SIGTERM)
