"""Several processes share the weights of one model, and train it as one process does, up to rounding."""

import errno
import json
import re
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
from builders import DATA, TEXT, make_gpt
from faults import broken_by
from ranked import on_ranks, results
from test_ranks import at_step, first_process_speaks, send
from test_sharded_tensors import cut
from torch import nn

import tinygpt
from tinygpt import GPTLanguageModel, LanguageModel, Trainer, TrainerConfig
from tinygpt.data import TokenDataset
from tinygpt.errors import CheckpointSaveError, ConfigError
from tinygpt.ids import IGNORED
from tinygpt.layers import DecoderBlock, FeedForward, MultiHeadAttention
from tinygpt.ranks import Ranks
from tinygpt.sharded_tensors import is_sharded, local, whole
from tinygpt.training import shard_files
from tinygpt.training.sharding import separate_blocks

SETTINGS: dict[str, Any] = {
    "max_iters": 3,
    "batch_size": 20,
    "accumulation": 12,
    "learning_rate": 0.01,
    "warmup_iters": 0,
    "eval_interval": 2,
    "preview_tokens": 3,
    "precision": "fp32",
}


def own_parts() -> LanguageModel:
    """Return a model of parts by hand: tied blocks, a stack of matrices, and a parameter without a gradient."""
    torch.manual_seed(3)
    blocks: list[nn.Module] = [
        DecoderBlock(6, attention=MultiHeadAttention(6, n_head=2), feed_forward=FeedForward(6)) for _ in range(3)
    ]
    blocks[2].feed_forward = blocks[0].feed_forward
    model = GPTLanguageModel(DATA.vocab_size, block_size=8, n_embd=6, blocks=blocks)
    model.unused = nn.Parameter(torch.ones(3))
    return model


MODELS: dict[str, Callable[[], LanguageModel]] = {
    "gpt2": lambda: make_gpt("gpt2", dropout=0.1),
    "modern": lambda: make_gpt("modern"),
    "own": own_parts,
}


def make_trainer(directory: Path | None = None, *, model: str = "gpt2", **changes: Any) -> Trainer:
    return Trainer(MODELS[model]().double(), DATA, TrainerConfig(**SETTINGS | changes), run_dir=directory)


def fit(directory: Path | None = None, *, last: int | None = None, **changes: Any) -> Callable[[int], list[Any]]:
    """Return work that starts a run, or resumes it, and ends it after a step or at its end."""

    def work(here: int) -> list[Any]:
        with warnings.catch_warnings(record=True) as seen:
            warnings.simplefilter("always")
            trainer = make_trainer(directory, **changes)
            if last is None:
                trainer.fit(resume="auto" if directory else False, progress=False)
            else:
                if trainer._run.has_checkpoints:
                    trainer.resume()
                next(step for step in trainer if step.number == last)
                trainer.save()
        history = trainer.history
        weights = [whole(tensor).flatten().tolist() for tensor in trainer.model.parameters()]
        losses = [history.losses, [(each.train_loss, each.val_loss) for each in history.evaluations]]
        return [weights, losses, history.last.sample, [str(each.message) for each in seen]]

    return work


@pytest.fixture(autouse=True, scope="module")
def _warm() -> None:
    """Import and compute once what every rank needs, before the ranks are forked."""
    import torch._dynamo
    import torch.distributed.fsdp

    torch.set_default_dtype(torch.float64)
    make_trainer(max_iters=1).fit(progress=False)


def assert_alike(found: list[list[Any]], expected: list[Any]) -> None:
    for weights, losses, sample, _ in found:
        assert sample == expected[2]
        for mine, theirs in ((weights, expected[0]), (losses, expected[1])):
            flat = [torch.tensor(each).flatten() for each in mine], [torch.tensor(each).flatten() for each in theirs]
            torch.testing.assert_close(torch.cat(flat[0]), torch.cat(flat[1]), rtol=0, atol=1e-12)


# --- training ---------------------------------------------------------------------------------------------------------


def several_train_as_one(world: int, **changes: Any) -> None:
    alone = results(on_ranks(1, fit(**changes)))[0]
    assert_alike(results(on_ranks(world, fit(shard=True, **changes))), alone)


@broken_by(faults.gradients_averaged_over_ranks, only="gpt2")
@pytest.mark.parametrize(
    ("world", "model", "optimizer"),
    [pytest.param(2, "gpt2", "adamw", id="gpt2"), pytest.param(3, "own", "muon", id="own")],
)
def test_processes_that_share_weights_train_as_one(world: int, model: str, optimizer: str) -> None:
    several_train_as_one(world, model=model, optimizer=optimizer)


@pytest.mark.slow
@pytest.mark.parametrize("world", [2, 3, 4])
@pytest.mark.parametrize("optimizer", ["adamw", "muon"])
@pytest.mark.parametrize("model", MODELS)
def test_any_number_of_processes_shares_any_model(world: int, optimizer: str, model: str) -> None:
    several_train_as_one(world, model=model, optimizer=optimizer, batch_size=65, eval_iters=5)


def test_a_micro_batch_without_targets_is_no_deadlock(monkeypatch: pytest.MonkeyPatch) -> None:
    """On one process alone, in a step and in an evaluation."""
    real = TokenDataset.batch

    def batch(self: TokenDataset, *arguments: Any, **options: Any) -> Any:
        x, y = real(self, *arguments, **options)
        return x, y.index_fill(0, torch.arange(len(y) // 2), IGNORED)

    monkeypatch.setattr(TokenDataset, "batch", batch)
    several_train_as_one(2, accumulation=2, max_iters=1, optimizer="adamw")


def test_one_process_holds_the_weights_whole(tmp_path: Path) -> None:
    with pytest.warns(UserWarning, match="needs several processes to share the weights, got 1, which holds them whole"):
        trainer = make_trainer(tmp_path, shard=True, max_iters=1)
    trainer.fit(progress=False)
    assert not any(map(is_sharded, trainer.model.parameters()))
    assert sorted(path.name for path in tmp_path.glob("step-*")) == [f"step-0000000{n}.safetensors" for n in (0, 1)]


def test_one_process_holds_what_several_cannot_share() -> None:
    """A scalar parameter, for example."""
    model = make_gpt("modern")
    model.register_parameter("scalar", nn.Parameter(torch.ones(())))
    with pytest.warns(UserWarning, match="needs several processes"):
        Trainer(model, DATA, TrainerConfig(shard=True, max_iters=1, device="cpu"))


def test_each_process_holds_its_share() -> None:
    """Of weights, gradients and optimizer, also after an evaluation; and no weight outside the blocks stays whole."""

    def work(here: int) -> list[float]:
        trainer = make_trainer(shard=True, max_iters=1, model="gpt2")
        for _ in trainer:
            held = [*trainer.model.parameters()]
            assert all(map(is_sharded, held))
            assert all(is_sharded(parameter.grad) for parameter in held)
        states = [each["exp_avg"] for each in trainer.optimizer.state.values() if "exp_avg" in each]
        return [sum(local(x).numel() for x in some) / sum(x.numel() for x in some) for some in (held, states)]

    for shares in results(on_ranks(2, work)):
        assert all(0.49 < share < 0.51 for share in shares)


def test_blocks_that_share_parameters_stay_with_the_model() -> None:
    model = own_parts()
    assert isinstance(model, GPTLanguageModel)
    assert separate_blocks(model) == [model.blocks[1]]
    model.head.bias = model.blocks[1].attention.output.bias  # type: ignore[union-attr]
    assert separate_blocks(model) == []
    assert len(separate_blocks(make_gpt("gpt2"))) == 2
    assert separate_blocks(tinygpt.BigramLanguageModel(3)) == []


# --- checkpoints ------------------------------------------------------------------------------------------------------


@broken_by(faults.optimizer_forgotten)
def test_a_run_goes_on_with_another_number_of_processes(tmp_path: Path) -> None:
    """Three that share the weights, then one that has them whole, then two."""
    alone = results(on_ranks(1, fit()))[0]
    results(on_ranks(3, fit(tmp_path, shard=True, last=1)))
    results(on_ranks(1, fit(tmp_path, last=2)))
    found = results(on_ranks(2, fit(tmp_path, shard=True)))
    assert_alike(found, alone)
    assert sorted(path.name for path in tmp_path.glob("step-*")) == ["step-00000002.safetensors", "step-00000003"]
    assert "world=2 (checkpoint has 1), equal up to rounding" in found[0][3][0]
    assert found[1][3] == []  # only the first process warns
    best, tokenizer = tinygpt.load(tmp_path / "best.safetensors")
    assert isinstance(best, GPTLanguageModel)
    assert tokenizer == DATA.tokenizer
    for mine, theirs in zip(best.parameters(), found[0][0], strict=True):
        torch.testing.assert_close(mine.flatten(), torch.tensor(theirs), rtol=0, atol=0)


def test_the_command_line_trains_a_shared_model(tmp_path: Path) -> None:
    """And saves the mixture of the whole model with a table."""
    first_process_speaks(tmp_path, "--shard", "--mixture")
    assert isinstance(tinygpt.load(tmp_path / "run" / "mixture.safetensors")[0], tinygpt.MixtureLanguageModel)


def test_one_call_resumes_a_sharded_run(tmp_path: Path) -> None:
    (tmp_path / "verse.txt").write_text(TEXT)
    settings: dict[str, Any] = {"n_layer": 1, "n_head": 2, "n_embd": 8, "block_size": 8, "preview_tokens": 0}

    def train(here: int) -> list[int]:
        told: Any = {"run_dir": tmp_path / "run", "resume": "auto", "progress": False}
        begun = tinygpt.train(tmp_path / "verse.txt", shard=True, max_iters=2, **settings, **told)
        return [begun.steps_taken, tinygpt.train(max_iters=4, **told).steps_taken]

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # max_iters was changed
        assert results(on_ranks(2, train)) == [[2, 4]] * 2


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory, _warm: None) -> Path:
    """Return a run of two processes with the checkpoints of steps 1 and 2."""
    torch.set_default_dtype(torch.float64)
    directory = tmp_path_factory.mktemp("sharded") / "run"
    results(on_ranks(2, fit(directory, shard=True, last=1)))
    results(on_ranks(2, fit(directory, shard=True, last=2)))
    return directory


def flip(path: Path, position: int) -> None:
    raw = bytearray(path.read_bytes())
    raw[position % len(raw)] ^= 1
    path.write_bytes(raw)


def of_another_save(newest: Path) -> None:
    """Put the file of another save in the position of one."""
    (other,) = newest.with_name("step-00000001").glob("rank-00001.*")
    (mine,) = newest.glob("rank-00001.*")
    payload, tensors = tinygpt.checkpoint.read(other)
    payload["training"]["step"] = 2
    tinygpt.checkpoint.write(mine, tensors, payload)


def file_of(rank: int, newest: Path) -> Path:
    (path,) = newest.glob(f"rank-{rank:05d}.*")
    return path


DAMAGES: dict[str, tuple[Callable[[Path], object], str]] = {
    "missing": (lambda newest: file_of(1, newest).unlink(), "rank-00001.* is missing"),
    "bit": (lambda newest: flip(file_of(1, newest), -5), "rank-00001.* was changed after it was written"),
    "header": (lambda newest: flip(file_of(0, newest), 20), "rank-00000.* is not a model file of tinygpt"),
    "swapped": (of_another_save, "rank-00001.* is of another save than its manifest"),
    "manifest": (lambda newest: flip(newest / "manifest.json", 30), "rank-00000.* is of another save"),
    "half": (lambda newest: (newest / "manifest.json").write_text("{"), "manifest.json' is not the manifest"),
    "link": (lambda newest: file_of(0, newest).rename(newest / "x") and 0, "rank-00000.* is missing"),
}


@broken_by(faults.digest_of_the_manifest_ignored, only="swapped")
@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_checkpoint_goes_back_one(damage: str, saved: Path, tmp_path: Path) -> None:
    directory = Path(shutil.copytree(saved, tmp_path / "run"))
    act, message = DAMAGES[damage]
    act(directory / "step-00000002")
    trainer = make_trainer(directory)
    with warnings.catch_warnings(record=True) as seen:
        warnings.simplefilter("always")
        trainer.resume()
    assert trainer.steps_taken == 1
    assert re.search(f"{message}.*; going back to an older checkpoint", str(seen[0].message)), seen[0].message


def test_a_newer_manifest_asks_for_an_upgrade(saved: Path, tmp_path: Path) -> None:
    newest = Path(shutil.copytree(saved / "step-00000002", tmp_path / "step-00000002"))
    manifest = json.loads((newest / "manifest.json").read_text())
    (newest / "manifest.json").write_text(json.dumps(manifest | {"format": 2, "more": True}))
    with pytest.raises(tinygpt.errors.CheckpointVersionError, match=r"has format 2, .*; upgrade tinygpt"):
        shard_files.read_shards(newest)


def test_every_flipped_bit_is_found(saved: Path, tmp_path: Path) -> None:
    """In the file of any process, at sampled positions."""
    newest = saved / "step-00000002"
    expected = shard_files.read_shards(newest)
    for path in newest.iterdir():
        for position in torch.randint(path.stat().st_size, (40,)).tolist():
            copy = Path(shutil.copytree(newest, tmp_path / f"{path.name}-{position}", dirs_exist_ok=True))
            flip(copy / path.name, position)
            try:
                found = shard_files.read_shards(copy)
            except tinygpt.errors.TinyGPTError:
                continue
            assert found[0] == expected[0]  # only blanks and the like


def test_all_processes_go_back_together(saved: Path, tmp_path: Path) -> None:
    """Although one of them alone reads the damaged file."""
    directory = Path(shutil.copytree(saved, tmp_path / "run"))
    flip(file_of(1, directory / "step-00000002"), -5)

    def work(here: int) -> list[Any]:
        trainer = make_trainer(directory, shard=True)
        with warnings.catch_warnings(record=True) as seen:
            warnings.simplefilter("always")
            trainer.resume()
        return [trainer.steps_taken, ["(on rank 1); going back" in str(each.message) for each in seen]]

    assert results(on_ranks(2, work)) == [[1, [True]], [1, []]]


def test_a_run_killed_before_its_manifest_goes_back_one(tmp_path: Path) -> None:
    alone = results(on_ranks(1, fit(optimizer="adamw")))[0]

    def work(here: int) -> Any:
        if here == 0:
            at_step(2, send(signal.SIGKILL), owner=shard_files, method="write_whole")
        return fit(tmp_path, shard=True, optimizer="adamw")(here)

    lost, other = on_ranks(2, work)
    assert (lost.code, other.code) == (-signal.SIGKILL, 1)
    assert other.error.startswith("RankLostError: rank 1 waited for rank 0: ")
    assert not (tmp_path / "step-00000002" / "manifest.json").exists()
    assert_alike(results(on_ranks(2, fit(tmp_path, shard=True, optimizer="adamw"))), alone)
    assert all((path / "manifest.json").exists() for path in tmp_path.glob("step-*"))
    assert {path.name for path in tmp_path.glob("step-*/*")} == {
        "manifest.json",
        "rank-00000.0.safetensors",
        "rank-00001.0.safetensors",
        "rank-00000.1.safetensors",
        "rank-00001.1.safetensors",
    }


def test_a_lost_process_is_named_in_a_step() -> None:
    """While PyTorch gathers the weights."""

    def work(here: int) -> Any:
        if here == 1:
            at_step(2, send(signal.SIGKILL), method="_clear_gradients")
        return fit(shard=True)(here)

    started = time.monotonic()
    other, lost = on_ranks(2, work)
    assert (other.code, lost.code) == (1, -signal.SIGKILL)
    assert other.error.startswith("RankLostError: rank 0 waited for the other ranks: ")
    assert time.monotonic() - started < 30


def test_a_full_disk_of_one_process_is_a_warning(tmp_path: Path) -> None:
    """The checkpoint is left out on all, and nothing of it stays."""

    def work(here: int) -> list[Any]:
        def fail(path: Path, *others: Any) -> None:
            raise CheckpointSaveError(errno.ENOSPC, f"cannot write {path.name}: No space left on device")

        trainer = make_trainer(tmp_path, shard=True)
        with warnings.catch_warnings(record=True) as seen:
            warnings.simplefilter("always")
            for step in trainer:
                if step.number == 1 and here == 1:
                    at_step(1, lambda: fail(Path("rank")), owner=shard_files, method="write")
                if step.number == 2:
                    left = sorted(path.name for path in tmp_path.glob("step-*"))
        return [left, [str(each.message) for each in seen]]

    first, other = results(on_ranks(2, work))
    assert first == [
        ["step-00000000"],
        ["cannot write rank: No space left on device (on rank 1); the training goes on"],
    ]
    assert other == [["step-00000000"], []]
    assert sorted(path.name for path in tmp_path.glob("step-*")) == ["step-00000000", "step-00000003"]


def test_a_save_of_the_same_step_never_breaks_the_earlier_one(tmp_path: Path) -> None:
    """Its files have other names, and the manifest decides which count."""

    def work(here: int) -> list[Any]:
        trainer = make_trainer(tmp_path, shard=True, keep_checkpoints=1)
        next(iter(trainer))
        trainer.save()
        first = json.loads((tmp_path / "step-00000001" / "manifest.json").read_text())["save"]
        trainer.save()
        second = json.loads((tmp_path / "step-00000001" / "manifest.json").read_text())["save"]
        return [first, second, sorted(path.name for path in (tmp_path / "step-00000001").iterdir())]

    names = ["manifest.json", "rank-00000.1.safetensors", "rank-00001.1.safetensors"]
    assert results(on_ranks(2, work)) == [[0, 1, names]] * 2


# --- errors -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("changes", "got"), [({"compile": True}, "compile=True"), ({"precision": "fp16"}, "precision='fp16'")]
)
def test_settings_that_cannot_be_sharded_are_named(changes: dict[str, Any], got: str) -> None:
    with pytest.raises(ConfigError, match=rf"shard=True needs compile=False and .*, got {got}; leave it out"):
        TrainerConfig(shard=True, **changes)


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda model: setattr(model, "scale", nn.Parameter(torch.ones(()))), "at least one dimension .* scalar scale"),
        (lambda model: setattr(model, "norm", model.norm.float()), "one dtype .* torch.float32 and torch.float64"),
    ],
    ids=["scalar", "dtypes"],
)
def test_models_that_cannot_be_sharded_are_named(spoil: Callable[[Any], object], message: str) -> None:
    model = make_gpt("gpt2").double()
    spoil(model)
    for outcome in on_ranks(2, lambda here: Trainer(model, DATA, TrainerConfig(**SETTINGS | {"shard": True}))):
        assert re.search(f"^ConfigError: .*{message}", outcome.error), outcome


def test_a_shared_model_is_not_saved_or_trained_again(tmp_path: Path) -> None:
    def work(here: int) -> list[str]:
        trainer, found = make_trainer(shard=True), []
        acts: list[Callable[[], object]] = [
            lambda: tinygpt.save(tmp_path / "model.safetensors", trainer.model),
            lambda: Trainer(trainer.model, DATA, trainer.config),
        ]
        for act in acts:
            try:
                act()
            except ConfigError as error:
                found.append(str(error))
        return found

    for saved, trained in results(on_ranks(2, work)):
        assert re.match(
            "weights must be in the memory of this process to be saved, got '.*' without memory; if several processes",
            saved,
        )
        assert "the model must be whole, got one that several processes share already" in trained


def test_a_state_of_another_placement_is_named(tmp_path: Path) -> None:
    def work(here: int) -> None:
        from torch.distributed.tensor import Replicate

        tensor: Any = cut(torch.ones(4, 2), here, 2)
        payload: dict[str, Any] = {"training": {}}
        shard_files.write_rank(tmp_path, here, 0, {"state": tensor.redistribute(placements=[Replicate()])}, payload)

    for report in on_ranks(2, work):
        assert report.error.startswith("InputTypeError: tensors must be sharded by rows to be saved, got another")


def test_a_message_within_rank_0_waits_for_nobody() -> None:
    def work(here: int) -> int:
        ranks = tinygpt.ranks.join()

        def make() -> int:
            with ranks.together():
                return 7

        return ranks.from_first(make)

    assert results(on_ranks(2, work)) == [7, 7]
    assert Ranks().from_first(lambda: 7) == 7
