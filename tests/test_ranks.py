"""Several processes train as one does: the same bits, however many there are."""

import errno
import hashlib
import io
import math
import os
import re
import signal
import subprocess
import sys
import time
import warnings
from collections.abc import Callable
from contextlib import redirect_stderr
from pathlib import Path
from typing import Any

import faults
import pytest
import torch
from builders import DATA, TEXT, TOKENIZER, make_gpt
from faults import broken_by
from killable import outcome
from ranked import on_ranks, results
from torch import Tensor, nn

import tinygpt
from tinygpt import TokenDataset, Trainer, TrainerConfig
from tinygpt.cli import main
from tinygpt.errors import CheckpointSaveError, ConfigError, NonFiniteError
from tinygpt.models.config import Layout
from tinygpt.ranks import Ranks, join
from tinygpt.training import gradients, run_directory
from tinygpt.training.step import Objective, Stepper

SETTINGS: dict[str, Any] = {
    "max_iters": 4,
    "batch_size": 16,
    "accumulation": 8,
    "optimizer": "adamw",
    "learning_rate": 0.01,
    "eval_interval": 2,
    "preview_tokens": 3,
    "precision": "fp32",
}


def make_trainer(
    directory: Path | None, *, layout: Layout = "modern", dtype: torch.dtype = torch.float64, **changes: Any
) -> Trainer:
    """Return a trainer of a model with dropout, and with a parameter that gets no gradient."""
    model = make_gpt(layout, dropout=0.1)
    model.register_parameter("unused", nn.Parameter(torch.ones(3)))
    return Trainer(model.to(dtype), DATA, TrainerConfig(**SETTINGS | changes), run_dir=directory)


@pytest.fixture(autouse=True, scope="module")
def _warm() -> None:
    """Import and compute once what every rank needs, before the ranks are forked."""
    torch.set_default_dtype(torch.float64)
    make_trainer(None, max_iters=1, accumulation=1).fit(progress=False)
    torch.distributed.is_initialized()


def digest(tensors: list[Tensor]) -> str:
    raw = [tensor.detach().contiguous().reshape(-1).view(torch.uint8).numpy().tobytes() for tensor in tensors]
    return hashlib.sha256(b"".join(raw)).hexdigest()


# --- sums -------------------------------------------------------------------------------------------------------------


@broken_by(faults.summed_by_all_reduce, only=("4", "1000"))
@pytest.mark.parametrize("size", [1, 2, 3, 5, 1000])
@pytest.mark.parametrize("world", [2, 4, 8])
def test_a_sum_over_ranks_is_that_of_the_tree(world: int, size: int) -> None:
    numbers = torch.randn(world, size, dtype=torch.float32) * 10.0 ** torch.arange(world, dtype=torch.float32)[:, None]
    expected = numbers.clone()
    while len(expected) > 1:
        expected = expected[0::2] + expected[1::2]

    def add(here: int) -> str:
        join().sum_([mine := numbers[here].clone()])
        return digest([mine])

    assert results(on_ranks(world, add)) == [digest([expected[0]])] * world


def test_tensors_of_all_kinds_are_summed(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of several shapes, dtypes and memory orders, in several buckets."""
    monkeypatch.setattr("tinygpt.ranks.BUCKET", 100)
    shapes = [(3, 5), (2,), (0,), (), (4, 4, 2), (30,)]
    kinds = [torch.float32, torch.float64, torch.bfloat16]

    def add(here: int) -> list[list[float]]:
        tensors = [torch.full(shape, here + 1.0, dtype=kinds[i % 3]) for i, shape in enumerate(shapes)]
        tensors[4] = torch.full((2, 4, 4), here + 1.0).transpose(0, 2)
        join().sum_(tensors)
        return [sorted(set(tensor.flatten().tolist())) for tensor in tensors]

    for world in (2, 3):
        total = world * (world + 1) / 2
        assert results(on_ranks(world, add)) == [[[total], [total], [], [total], [total], [total]]] * world


@pytest.mark.parametrize("count", range(1, 18))
def test_micro_batches_are_added_as_a_tree(count: int) -> None:
    """Each process adds its branch, for every number of processes that divides a power of two."""
    values = torch.randn(count, dtype=torch.float32) * 10.0 ** torch.arange(count, dtype=torch.float32)

    def add(numbers: range) -> Tensor:
        parameter = nn.Parameter(torch.zeros(1, dtype=torch.float32))

        def backward(number: int) -> float:
            (parameter * values[number]).sum().backward()
            return 0.0

        gradients.add_in_tree(numbers, backward, [parameter])
        assert parameter.grad is not None
        return parameter.grad[0]

    def tree(numbers: range) -> Tensor:
        if len(numbers) == 1:
            return values[numbers[0]]
        half = 1 << (len(numbers) - 1).bit_length() - 1
        return tree(numbers[:half]) + tree(numbers[half:])

    assert add(range(count)) == tree(range(count))
    for world in (2, 4, 8, 16):
        if count & (count - 1) == 0 and count % world == 0:
            sums = [add(Ranks(here, world).share(count)) for here in range(world)]
            while len(sums) > 1:
                sums = [a + b for a, b in zip(sums[0::2], sums[1::2], strict=True)]
            assert sums[0] == add(range(count))


# --- training ---------------------------------------------------------------------------------------------------------


def outcomes_agree(directory: Path, world: int, **changes: Any) -> None:
    """Assert that a run on several processes comes to the same bits as on one, on each of them."""

    def train(here: int) -> list[Any]:
        trainer = make_trainer(directory / "several", **changes)
        history = trainer.fit(progress=False)
        return [digest([*trainer.model.state_dict().values()]), history.losses, history.best.val_loss]

    several = results(on_ranks(world, train))
    alone = results(on_ranks(1, lambda here: [make_trainer(directory / "one", **changes).fit(progress=False).losses]))
    assert several == [several[0]] * world
    assert several[0][1] == alone[0][0]
    assert outcome(directory / "several") == outcome(directory / "one")


@broken_by(faults.micro_batches_added_in_sequence, faults.dropout_of_the_rank, faults.rows_taken_in_turn, only="2")
@pytest.mark.parametrize("world", [2, 4])
def test_several_processes_train_as_one(world: int, tmp_path: Path) -> None:
    outcomes_agree(tmp_path, world, dtype=torch.float32)


@pytest.mark.slow
@pytest.mark.parametrize("rows", [16, 20])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
@pytest.mark.parametrize("optimizer", ["adamw", "muon"])
@pytest.mark.parametrize("world", [2, 4, 8])
def test_any_number_of_processes_trains_as_one(
    world: int, optimizer: str, dtype: torch.dtype, rows: int, tmp_path: Path
) -> None:
    outcomes_agree(tmp_path, world, optimizer=optimizer, dtype=dtype, batch_size=rows)


def test_one_call_trains_a_text_in_several_processes(tmp_path: Path) -> None:
    """With the settings that rank 0 has measured, and again from its checkpoint."""
    (tmp_path / "verse.txt").write_text(TEXT)

    def train(here: int) -> Any:
        told: Any = {"n_embd": 8, "minutes": 0.02, "resume": "auto", "progress": False}
        trainers = [tinygpt.train(tmp_path / "verse.txt", run_dir=tmp_path / "run", **told) for _ in range(2)]
        return [[trainer.steps_taken, digest([*trainer.model.state_dict().values()])] for trainer in trainers]

    first, second = results(on_ranks(2, train))
    assert first == second
    assert first[0] == first[1]


def first_process_speaks(directory: Path, *flags: str) -> None:
    """Assert that of two processes of a command line the first alone writes notes."""
    (directory / "verse.txt").write_text(TEXT)
    settings = {"n-layer": 1, "n-head": 2, "n-embd": 8, "block-size": 8, "max-iters": 3, "preview-tokens": 0}
    run, sizes = str(directory / "run"), [f"--{name}={value}" for name, value in settings.items()]

    def train(here: int) -> list[Any]:
        with redirect_stderr(io.StringIO()) as said:
            begun = main(["train", str(directory / "verse.txt"), "-o", run, *sizes, *flags])
            again = main(["train", "--resume", run])
        return [begun, again, said.getvalue()]

    first, other = results(on_ranks(2, train))
    assert (first[:2], other) == ([0, 0], [0, 0, ""])
    for told in ("the settings as flags: ", "a table of counted 7-grams has ", "now try:", "no step left to take"):
        assert first[2].count(told) == 1
    assert "error" not in first[2]


def test_only_the_first_process_speaks_on_the_command_line(tmp_path: Path) -> None:
    first_process_speaks(tmp_path)


@pytest.mark.slow
def test_the_first_program_runs_in_two_processes(tmp_path: Path) -> None:
    """That of README.md, started by torchrun, with fewer steps."""
    page = (Path(__file__).parent.parent / "README.md").read_text(encoding="utf-8")
    program = re.search("```python\n(.*?)```", page, re.DOTALL)
    assert program is not None
    (tmp_path / "first.py").write_text(program[1].replace("max_iters=1000", "max_iters=20"), encoding="utf-8")
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2", "first.py"]
    done = subprocess.run(torchrun, cwd=tmp_path, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("The ") >= 2
    assert done.stderr.count("best validation loss") == 1  # the first process alone shows the training


def test_muon_and_uneven_rows_train_as_one(tmp_path: Path) -> None:
    outcomes_agree(tmp_path, 2, optimizer="muon", batch_size=20, eval_iters=3)


@broken_by(faults.mean_of_means_over_ranks)
def test_three_processes_equal_one_up_to_rounding() -> None:
    def train(here: int) -> list[float]:
        with warnings.catch_warnings(record=True) as seen:
            warnings.simplefilter("always")
            trainer = make_trainer(None, accumulation=3)
        assert ["up to rounding" in str(each.message) for each in seen] == [True] * (here == 0 and several)
        trainer.fit(progress=False)
        return torch.cat([parameter.detach().flatten() for parameter in trainer.model.parameters()]).tolist()

    several = True
    found = results(on_ranks(3, train))
    several = False
    alone = train(0)
    for weights in found:
        torch.testing.assert_close(torch.tensor(weights), torch.tensor(alone), rtol=0, atol=1e-12)


# --- resumed, killed, asked to end ------------------------------------------------------------------------------------


def train_until(directory: Path, last: int, **changes: Any) -> Callable[[int], None]:
    """Return work that starts a run, or resumes it, and leaves it after a step."""

    def work(here: int) -> None:
        trainer = make_trainer(directory, **changes)
        if trainer._run.has_checkpoints:
            trainer.resume()
        for step in trainer:
            if step.number == last:
                trainer.save()
                return

    return work


def finish(directory: Path, **changes: Any) -> Callable[[int], list[Any]]:
    """Return work that starts a run, or resumes it, and goes on to its end."""

    def work(here: int) -> list[Any]:
        trainer = make_trainer(directory, **changes)
        history = trainer.fit(resume="auto", progress=False)
        return [trainer.steps_taken, history.stopped]

    return work


@pytest.fixture(scope="module")
def alone(tmp_path_factory: pytest.TempPathFactory, _warm: None) -> dict[str, str]:
    """Return what the run comes to on one process."""
    torch.set_default_dtype(torch.float64)
    directory = tmp_path_factory.mktemp("run") / "alone"
    assert results(on_ranks(1, finish(directory))) == [[4, ""]]
    return outcome(directory)


@broken_by(faults.optimizer_forgotten)
def test_a_run_goes_on_with_fewer_processes(tmp_path: Path, alone: dict[str, str]) -> None:
    """Four, then one, then two."""
    results(on_ranks(4, train_until(tmp_path, 1)))
    results(on_ranks(1, train_until(tmp_path, 3)))
    results(on_ranks(2, finish(tmp_path)))
    assert outcome(tmp_path) == alone


def test_a_resumed_run_keeps_its_micro_batches(tmp_path: Path) -> None:
    """The number that it began with, where the config leaves it open."""
    results(on_ranks(2, train_until(tmp_path / "cut", 2, accumulation=None)))
    results(on_ranks(1, finish(tmp_path / "cut", accumulation=None)))
    results(on_ranks(1, finish(tmp_path / "whole", accumulation=2)))
    assert outcome(tmp_path / "cut") == outcome(tmp_path / "whole")
    for report in on_ranks(4, finish(tmp_path / "cut", accumulation=None)):
        assert "must be a multiple of the 4 processes, got accumulation=2 in the run in" in report.error


def at_step(number: int, act: Callable[[], None], *, method: str = "take", owner: Any = Stepper) -> None:
    """Do something in this process at the start of a step, counted from 1, or of another call."""
    real, calls = getattr(owner, method), iter(range(1, 1000))

    def acting(*arguments: Any, **options: Any) -> Any:
        if next(calls) == number:
            act()
        return real(*arguments, **options)

    setattr(owner, method, acting)


def send(number: int, times: int = 1) -> Callable[[], None]:
    def act() -> None:
        for _ in range(times):
            os.kill(os.getpid(), number)

    return act


def killed_then_resumed(directory: Path, world: int, again: int, **moment: Any) -> None:
    """Kill the last rank, see the others end, and finish the run on another number of processes."""

    def work(here: int) -> Any:
        if here == world - 1:
            at_step(act=send(signal.SIGKILL), **moment)
        return finish(directory)(here)

    started = time.monotonic()
    *others, lost = on_ranks(world, work)
    assert lost.code == -signal.SIGKILL
    for here, report in enumerate(others):
        assert report.code == 1
        assert report.error.startswith(f"RankLostError: rank {here} waited for "), report
        assert moment.get("method", "take") != "take" or ", after step " in report.error
    assert time.monotonic() - started < 30
    results(on_ranks(again, finish(directory)))


@pytest.mark.parametrize(
    ("world", "again", "moment"),
    [
        (2, 1, {"number": 3}),
        (4, 2, {"number": 1, "method": "take"}),
        (2, 4, {"number": 2, "owner": Objective, "method": "mean"}),
        (2, 2, {"number": 3, "owner": Ranks, "method": "_exchange"}),
        (2, 1, {"number": 5, "owner": Ranks, "method": "from_first"}),
    ],
    ids=["step", "first-step", "evaluation", "exchange", "message"],
)
def test_the_others_end_when_a_rank_is_killed(
    world: int, again: int, moment: dict[str, Any], tmp_path: Path, alone: dict[str, str]
) -> None:
    killed_then_resumed(tmp_path, world, again, **moment)
    assert outcome(tmp_path) == alone
    assert not list(tmp_path.glob("*.tmp"))


def test_the_others_end_when_the_writer_is_killed(tmp_path: Path, alone: dict[str, str]) -> None:
    def work(here: int) -> Any:
        if here == 0:
            at_step(4, send(signal.SIGKILL), owner=os, method="replace")
        return finish(tmp_path)(here)

    lost, other = on_ranks(2, work)
    assert (lost.code, other.code) == (-signal.SIGKILL, 1)
    assert re.fullmatch(
        r"RankLostError: rank 1 waited for rank 0: .*, after step \d; the last checkpoint is .*step-\d{8}.*",
        other.error,
    )
    results(on_ranks(4, finish(tmp_path)))
    assert outcome(tmp_path) == alone
    assert not list(tmp_path.glob(".*.tmp"))


SAMPLED = ("SIGTERM-one-step", "SIGTERM-all-evaluation", "SIGTERM-twice-end", "SIGINT-first-end", "SIGINT-twice-step")
SIGNALS = [
    pytest.param(sent, who, where, id=name, marks=[] if name in SAMPLED else pytest.mark.slow)
    for sent in (signal.SIGINT, signal.SIGTERM)
    for who in ("first", "one", "all", "twice")
    for where in ("step", "evaluation", "end")
    if (name := f"{sent.name}-{who}-{where}")
]


@broken_by(faults.signals_of_this_rank_only, only=("SIGTERM", "one", "step"))
@pytest.mark.parametrize(("sent", "who", "where"), SIGNALS)
def test_all_ranks_stop_after_the_same_step(sent: signal.Signals, who: str, where: str, tmp_path: Path) -> None:
    hearing = {"first": [0], "one": [1], "all": [0, 1], "twice": [0, 1]}[who]
    moments: dict[str, dict[str, Any]] = {
        "step": {"number": 3},
        "evaluation": {"number": 3, "owner": Objective, "method": "mean"},  # two before the first step
        "end": {"number": 1, "owner": Trainer, "method": "restore_best"},
    }

    def work(here: int) -> Any:
        if here in hearing:
            at_step(act=send(sent, 2 if who == "twice" else 1), **moments[where])
        return finish(tmp_path, max_iters=6)(here)

    reports = on_ranks(2, work)
    step = {"step": 3, "evaluation": 2, "end": 6}[where]
    if sent is signal.SIGTERM:
        assert [report.code for report in reports] == [143, 143], reports
    else:
        assert results(reports) == [[step, "" if where == "end" else "interrupted"]] * 2
    newest = max(tmp_path.glob("step-*.safetensors"))
    assert newest.name == f"step-{step:08d}.safetensors"


# --- errors -----------------------------------------------------------------------------------------------------------


def errors_of(world: int, work: Callable[[int], Any], *, connected: bool = True) -> list[str]:
    """Return the errors of ranks, each of which must end soon and with an error of its own."""
    started = time.monotonic()
    reports = on_ranks(world, work, connected=connected)
    assert time.monotonic() - started < 30
    assert [report.code for report in reports] == [1] * world, reports
    return [report.error for report in reports]


def test_a_full_disk_once_is_a_warning_and_the_run_ends_well(tmp_path: Path, alone: dict[str, str]) -> None:
    def work(here: int) -> Any:
        def fail() -> None:
            raise OSError(errno.ENOSPC, "No space left on device")

        at_step(4, fail, owner=os, method="fsync") if here == 0 else None
        with warnings.catch_warnings(record=True) as seen:
            warnings.simplefilter("always")
            finish(tmp_path)(here)
        return [str(each.message) for each in seen]

    first, other = results(on_ranks(2, work))
    assert [re.search("No space left on device.*the training goes on", text) is not None for text in first] == [True]
    assert other == []
    assert outcome(tmp_path) == alone


def test_a_full_disk_at_the_end_is_an_error_on_all(tmp_path: Path) -> None:
    def work(here: int) -> Any:
        def fail(path: Path, *others: Any) -> None:
            raise CheckpointSaveError(errno.ENOSPC, f"cannot write {path}: No space left on device")

        warnings.simplefilter("ignore")
        trainer = make_trainer(tmp_path)
        next(iter(trainer))
        vars(run_directory)["write"] = fail
        return trainer.fit(progress=False).last.step

    for error in errors_of(2, work):
        assert re.fullmatch("CheckpointSaveError: cannot write .*: No space left on device", error)


def test_a_loss_that_is_not_finite_ends_all_in_one_step(tmp_path: Path) -> None:
    def work(here: int) -> Any:
        def spoil(model: nn.Module, arguments: Any, output: Any) -> Any:
            return output._replace(loss=output.loss * math.nan) if trainer.steps_taken == 1 and model.training else None

        trainer = make_trainer(tmp_path)
        before: list[str] = []
        if here == 1:
            trainer.model.register_forward_hook(spoil)
        try:
            for _ in trainer:
                before.append(digest([*trainer.model.parameters()]))
        except NonFiniteError as error:
            assert digest([*trainer.model.parameters()]) == before[-1]
            raise error
        return None

    first, second = errors_of(2, work)
    assert first == second
    assert re.match(r"NonFiniteError: loss and gradient must be finite, got loss=nan .* in step 2 ", first)


def with_other(name: str) -> Callable[[int], Any]:
    """Return work in which rank 1 trains with something else than rank 0."""

    def work(here: int) -> Any:
        model = make_gpt("modern", n_embd=16 if name == "shape" and here else 8)
        data = TokenDataset(TEXT, TOKENIZER, val_fraction=0.2 + (name == "corpus" and 0.1 * here))
        rate = 0.01 if name != "learning_rate" or here else 0.001
        config = TrainerConfig(**SETTINGS | {"learning_rate": rate, "batch_size": 8, "max_iters": 5 - (name == "bad")})
        make = None
        if name == "make_optimizer":
            make = lambda model: torch.optim.SGD(model.parameters(), lr=rate + here)  # noqa: E731
        if name == "bad" and here:
            data = TokenDataset("ab" * 8, val_fraction=0.5)
        return Trainer(model, data, config, make_optimizer=make)

    return work


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("learning_rate", r"all processes must train alike, got .*, learning_rate=0.01 on rank 1 and .* on rank 0"),
        ("corpus", r"all processes must train alike, got corpus='[0-9a-f.]+' on rank 1 and corpus=.* on rank 0"),
        ("shape", r"all processes must train alike, got .* of shape .* on rank 1 and .* on rank 0"),
        ("make_optimizer", r"all processes must train alike, got groups\[0\].lr=1.01 on rank 1 and .*=0.01 on rank 0"),
        ("bad", r".* \(on rank 1\)"),
    ],
)
def test_a_rank_that_differs_is_named_on_all(name: str, message: str) -> None:
    for error in errors_of(2, with_other(name)):
        assert re.fullmatch(f"(ConfigError|TokenizerError|DataError): {message}", error), error


@pytest.mark.parametrize(
    ("world", "changes", "message"),
    [
        (4, {"accumulation": 6}, "must be a multiple of the 4 processes, got accumulation=6; use 8"),
        (3, {"accumulation": 4}, "must be a multiple of the 3 processes, got accumulation=4; use 6"),
        (4, {"accumulation": None, "batch_size": 3}, "at least the number of processes, got batch_size=3 and 4"),
    ],
)
def test_micro_batches_that_no_rank_can_share_are_named(world: int, changes: dict[str, Any], message: str) -> None:
    for error in errors_of(world, lambda here: make_trainer(None, **changes)):
        assert error.startswith("ConfigError: ")
        assert message in error


WHOLE = {"RANK": "0", "WORLD_SIZE": "2", "LOCAL_RANK": "0", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "1"}


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"WORLD_SIZE": None}, "no WORLD_SIZE"),
        ({"MASTER_PORT": None}, "no MASTER_PORT"),
        ({"RANK": None, "LOCAL_RANK": None}, "no RANK"),
        ({"RANK": "one"}, "RANK='one'"),
        ({"RANK": "2"}, "RANK=2 of WORLD_SIZE=2"),
    ],
)
def test_an_incomplete_environment_is_named(
    changes: dict[str, str | None], message: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in (WHOLE | changes).items():
        monkeypatch.delenv(name, raising=False)
        if value is not None:
            monkeypatch.setenv(name, value)
    names = "RANK, WORLD_SIZE, LOCAL_RANK, MASTER_ADDR, MASTER_PORT"
    with pytest.raises(ConfigError, match=f"need {names} in the environment, got {message}; start with torchrun"):
        make_trainer(None)


@pytest.mark.parametrize("world", [None, "1"])
def test_one_process_needs_no_other(world: str | None, monkeypatch: pytest.MonkeyPatch) -> None:
    """Alone, or started by torchrun as one."""
    if world is not None:
        monkeypatch.setenv("WORLD_SIZE", world)
        monkeypatch.setenv("RANK", "0")
    assert join().world == 1
    assert not torch.distributed.is_initialized()


def test_an_error_of_a_process_alone_keeps_its_name() -> None:
    """Of batches that wait for a server, for example."""
    with pytest.raises(RuntimeError, match="request timed out") as caught, Ranks().naming_lost():
        raise RuntimeError("request timed out")
    assert type(caught.value) is RuntimeError
