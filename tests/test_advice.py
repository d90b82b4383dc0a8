"""Settings for a text and a number of minutes, and a run in one call."""

import json
from pathlib import Path
from typing import Any

import faults
import numpy as np
import pytest
import torch
from builders import TEXT, make_gpt
from faults import broken_by
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import tinygpt
from tinygpt import GPTConfig, LanguageModel, TokenDataset, Trainer, TrainerConfig, advise, train
from tinygpt.errors import (
    CheckpointMismatchError,
    CheckpointNotFoundError,
    ConfigError,
    DataError,
    InputTypeError,
    RunExistsError,
)
from tinygpt.training import Advice, timing
from tinygpt.training import advice as advice_module
from tinygpt.training.run_settings import read_settings

DATA = TokenDataset(TEXT)
LINES = TEXT.replace(". ", ".\n")
TINY: dict[str, Any] = {"n_layer": 1, "n_head": 2, "n_embd": 8, "block_size": 8, "layout": "modern", "device": "cpu"}
SIZES: dict[str, Any] = {"n_layer": 1, "n_head": 1, "n_embd": 4, "block_size": 4}
TINY |= {"max_iters": 6, "batch_size": 2, "eval_interval": 3, "eval_iters": None, "preview_tokens": 0}
OVERHEAD = 0.004  # seconds of a step, beside those of its operations


@pytest.fixture
def steady(monkeypatch: pytest.MonkeyPatch) -> dict[int, float]:
    """Let each step take the time of 3e10 operations a second, and return the measured times by width."""
    times: dict[int, float] = {}

    def seconds(model: GPTConfig, config: TrainerConfig, data: TokenDataset) -> float:
        per_token = 6 * (12 * model.n_layer * model.n_embd**2 + (model.vocab_size + model.block_size) * model.n_embd)
        times[model.n_embd] = OVERHEAD + per_token * config.batch_size * model.block_size / 3e10
        return times[model.n_embd]

    monkeypatch.setattr(advice_module, "seconds_per_step", seconds)
    return times


def of_length(count: int, **options: Any) -> TokenDataset:
    """Return data of as many tokens, 65 of them distinct."""
    return TokenDataset((np.arange(count) % 65).astype(np.uint8), **options)


def weights(advice: Advice) -> int:
    return advice.model.n_layer * advice.model.n_embd**2


def epochs(advice: Advice, data: TokenDataset) -> float:
    return advice.config.max_iters * advice.config.batch_size * advice.model.block_size / len(data.train)


LENGTHS = st.floats(2, 7.3).map(lambda power: int(10**power))
MINUTES = st.floats(-1, 2.8).map(lambda power: 10**power)
QUICKLY = settings(max_examples=25, suppress_health_check=[HealthCheck.function_scoped_fixture])


# --- the rule ---------------------------------------------------------------------------------------------------------


@QUICKLY
@given(length=LENGTHS, minutes=MINUTES)
def test_any_text_and_time_have_settings_that_fit(length: int, minutes: float, steady: dict[int, float]) -> None:
    data = of_length(max(81, length))
    steady.clear()
    advice = advise(data, minutes=minutes)
    for split in ("train", "val"):
        data.split(split, block_size=advice.model.block_size)  # long enough for a window
    seconds = steady[advice.model.n_embd]
    assert advice.config.max_iters * seconds <= max(60 * minutes, 10 * seconds)
    assert epochs(advice, data) < 16.01
    assert len(steady) <= 3
    assert advice.config.schedule(advice.config.max_iters - 1) >= 0
    assert min(advice.config.batch_size, advice.config.preview_tokens + 1) >= 1


@QUICKLY
@given(length=LENGTHS, minutes=MINUTES)
def test_twice_the_text_or_time_is_no_jump(length: int, minutes: float, steady: dict[int, float]) -> None:
    data = of_length(length)
    first = advise(data, minutes=minutes)
    for more in (advise(of_length(2 * length), minutes=minutes), advise(data, minutes=2 * minutes)):
        assert weights(first) <= weights(more) <= 5 * weights(first)
        assert abs(more.model.dropout - first.model.dropout) <= 0.21
        assert more.config.max_iters * more.config.batch_size >= first.config.max_iters * first.config.batch_size / 5


def test_a_short_text_gets_a_small_model_with_dropout(steady: dict[int, float]) -> None:
    short, long = advise(of_length(2_000)), advise(of_length(10_000_000))
    assert weights(short) < weights(long)
    assert 0.3 < short.model.dropout < 0.4
    assert long.model.dropout == 0
    assert short.model.block_size < long.model.block_size
    assert any("more passes tend to overfit" in reason for reason in short.reasons)
    assert any("a step takes" in reason for reason in long.reasons)


def test_more_time_gets_a_larger_model(steady: dict[int, float]) -> None:
    data = of_length(10_000_000)
    sizes = [weights(advise(data, minutes=minutes)) for minutes in (0.1, 1, 10, 100)]
    assert sizes == sorted(set(sizes))


@broken_by(faults.the_first_candidate_is_kept)
def test_the_steps_fit_the_speed_of_the_chosen_model(steady: dict[int, float]) -> None:
    advice = advise(of_length(10_000_000), minutes=30)
    assert 32 in steady
    assert advice.model.n_embd > 32
    assert advice.config.max_iters == int(0.75 * 1800 / steady[advice.model.n_embd])


@pytest.mark.parametrize("minutes", [0.1, 1, 10, 100])
def test_a_machine_of_slow_steps_gets_a_wide_model(minutes: float, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where a step takes a constant time, a wider model costs nothing."""
    data = of_length(10_000_000)
    widths = []
    for constant in (0.001, 0.1):

        def seconds(model: GPTConfig, *_: Any, constant: float = constant) -> float:
            return constant + 1e-10 * 12 * model.n_layer * model.n_embd**2

        monkeypatch.setattr(advice_module, "seconds_per_step", seconds)
        advice = advise(data, minutes=minutes, device="cpu")
        tokens = advice.config.max_iters * advice.config.batch_size * advice.model.block_size
        assert tokens >= 8 * 12 * weights(advice) or advice.model.n_embd == 32
        widths.append(advice.model.n_embd)
    assert widths == sorted(widths, reverse=True)


@pytest.mark.parametrize("minutes", [0.1, 1, 600])
def test_a_text_of_eighty_one_tokens_can_be_trained_on(minutes: float, steady: dict[int, float]) -> None:
    advice = advise(of_length(81), minutes=minutes)
    assert advice.model.block_size == 8
    with pytest.raises(
        DataError, match="a text must have at least 81 tokens for both splits, got 80; use a longer text"
    ):
        advise(of_length(80), minutes=minutes)
    with pytest.raises(DataError, match="at least 18 tokens for both splits, got 17"):
        advise(of_length(17, val_fraction=0.5))
    with pytest.raises(DataError, match="must have a validation split, got val_fraction=0"):
        advise(of_length(1000, val_fraction=0))


# --- settings that are given ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "given",
    [
        {"n_layer": 7},
        {"n_head": 5},
        {"n_head": 3, "n_layer": 1},
        {"n_embd": 100},
        {"n_embd": 34, "layout": "gpt2"},
        {"block_size": 256},
        {"block_size": 9, "dropout": 0.3},
        {"max_iters": 30, "warmup_iters": 20},
        {"batch_size": 3, "seed": 5},
        {"eval_interval": 7, "eval_iters": 2, "preview_tokens": 0},
        {"optimizer": "adamw", "betas": (0.5, 0.6), "grad_clip": None},
    ],
    ids=str,
)
def test_settings_that_are_given_stay(given: dict[str, Any], steady: dict[int, float]) -> None:
    advice = advise(of_length(100_000), **given)
    known = vars(advice.config) | advice.model.to_dict()
    assert {name: known[name] for name in given} == given
    assert f"as given: {next(iter(given))}=" in advice.reasons[-1]


def test_a_larger_model_takes_fewer_steps_in_the_time(steady: dict[int, float]) -> None:
    data = of_length(1_000_000)
    assert advise(data, n_layer=20).config.max_iters < advise(data).config.max_iters


def test_an_unknown_or_invalid_setting_is_named() -> None:
    with pytest.raises(InputTypeError, match="advise has no argument 'n_heads'; did you mean 'n_head'"):
        advise(DATA, n_heads=4)
    with pytest.raises(InputTypeError, match="train has no argument 'minute'; did you mean 'minutes'"):
        train(DATA, minute=1)
    with pytest.raises(InputTypeError, match=r"train has no argument 'epochs'; did you mean 'max_iters'\? max_iters ="):
        train(DATA, epochs=3)
    with pytest.raises(InputTypeError, match=r"advise has no argument 'vocab_size'"):
        advise(DATA, vocab_size=3)
    with pytest.raises(ConfigError, match="n_head must be an integer of at least 1, got n_head='4'"):
        advise(DATA, n_head="4")
    with pytest.raises(ConfigError, match="minutes must be a number above 0, got minutes=0"):
        advise(DATA, minutes=0)


def test_a_text_is_advised_and_trained_on_as_its_dataset(steady: dict[int, float]) -> None:
    """A str of several lines can only be a text."""
    assert advise(LINES) == advise(TokenDataset(LINES))
    trainer = train(LINES, max_iters=1, progress=False)
    assert trainer.data.digest() == TokenDataset(LINES).digest()


@pytest.mark.parametrize("resume", [True, "auto"])
def test_a_run_without_its_config_json_is_named(resume: Any, tmp_path: Path) -> None:
    train(LINES, run_dir=tmp_path, progress=False, **TINY)
    (tmp_path / "config.json").unlink()
    with pytest.raises(CheckpointNotFoundError, match=r"has checkpoints but no config\.json, which names"):
        train(LINES, run_dir=tmp_path, resume=resume, progress=False)


def test_arguments_that_would_be_ignored_are_refused(tmp_path: Path, unchecked_types: None) -> None:
    train(LINES, run_dir=tmp_path, progress=False, **TINY)
    advice = Advice(GPTConfig(vocab_size=3), TrainerConfig())
    with pytest.raises(ConfigError, match="a run that is resumed has its settings, got an advice"):
        train(LINES, run_dir=tmp_path, resume=True, advice=advice)
    with pytest.raises(ConfigError, match="minutes must be a number above 0, got minutes=-5"):
        train(LINES, run_dir=tmp_path, resume=True, minutes=-5)
    with pytest.raises(ConfigError, match="resume must be True, False or 'auto', got resume=7"):
        train(LINES, resume=7)  # type: ignore[arg-type]


def test_train_passes_its_records_to_log() -> None:
    records: list[dict[str, Any]] = []
    train(LINES, max_iters=2, progress=False, log=records.append)
    assert [record["step"] for record in records] == [0, 1, 1, 2, 2]


def test_a_source_of_another_type_is_named(unchecked_types: None) -> None:
    with pytest.raises(InputTypeError, match=r"must be the path of a text file or a TokenDataset, got \[1, 2\]"):
        train([1, 2])  # type: ignore[arg-type]
    with pytest.raises(InputTypeError, match=r"advice must be an Advice, got 'fast'"):
        train(DATA, advice="fast")  # type: ignore[arg-type]


# --- what it prints, and the flags ------------------------------------------------------------------------------------


def test_printed_advice_is_code_and_reasons(steady: dict[int, float]) -> None:
    advice = advise(DATA, seed=3)
    model, config, *reasons = str(advice).splitlines()
    assert eval(model, {"GPTConfig": GPTConfig}) == advice.model
    assert eval(config, {"TrainerConfig": TrainerConfig}) == advice.config
    assert reasons == [f"- {reason}" for reason in advice.reasons]


def parsed(flags: list[str]) -> dict[str, Any]:
    """Return the settings that flags stand for."""
    values: dict[str, list[str]] = {}
    for word in flags:
        if word.startswith("--"):
            name = word.removeprefix("--").replace("-", "_")
            values[name] = []
        else:
            values[name].append(word)

    def value(words: list[str]) -> Any:
        plain = [eval(word) if word[0].isdigit() or word == "None" else word for word in words]
        return True if not plain else plain[0] if len(plain) == 1 else tuple(plain)

    return {name: value(words) for name, words in values.items()}


@QUICKLY
@given(length=LENGTHS, minutes=MINUTES)
def test_flags_repeat_the_advice_without_a_measurement(length: int, minutes: float, steady: dict[int, float]) -> None:
    data = of_length(length)
    advice = advise(data, minutes=minutes, compile=True, betas=(0.5, 0.6))
    steady.clear()
    again = advise(data, **parsed(advice.flags))
    assert (again.model, again.config) == (advice.model, advice.config)
    assert steady == {}


def test_measuring_takes_real_steps_and_leaves_no_trace() -> None:
    before = torch.get_rng_state()
    model = GPTConfig.modern(vocab_size=DATA.vocab_size, block_size=8, n_layer=1, n_head=1, n_embd=8)
    seconds = timing.seconds_per_step(model, TrainerConfig(batch_size=2, device="cpu"), DATA)
    assert 0 < seconds < 1
    assert torch.equal(torch.get_rng_state(), before)


@pytest.mark.parametrize(
    ("once", "per_row", "settings", "rows"),
    [
        (0.025, 1e-3, {}, [1, 64]),
        (0.025, 0.4, {}, [1, 4]),
        (0.025, 0.05, {}, [1, 26]),
        (0.025, 0.05, {"accumulation": 4}, [1, 16]),
        (0.025, 0.4, {"accumulation": 64}, [1]),
        (0.025, 5.0, {}, [1, 2]),
        (0.1, 1e-4, {}, [1, 19, 64]),
        (0.025, 0.4, {"compile": True}, [64]),
    ],
    ids=["short", "long", "longer", "micro-batches", "of one row", "very long", "seems long", "compiled"],
)
def test_a_long_step_is_estimated_from_shorter_ones(
    once: float, per_row: float, settings: dict[str, Any], rows: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    """No micro-batch is larger than the run's. A compiled step is timed whole: each number of rows is compiled."""
    timed: list[int] = []

    def steady(model: LanguageModel, config: TrainerConfig, *others: Any, **options: Any) -> float:
        timed.append(config.batch_size)
        parts = config.accumulation or 1
        return parts * (once + per_row * config.batch_size / parts)

    monkeypatch.setattr(timing, "_measured", steady)
    config = TrainerConfig(batch_size=64, device="cpu", **settings)
    seconds = timing.measured_step(make_gpt("modern"), config, DATA, 8)
    parts = config.accumulation or 1
    assert seconds == pytest.approx(parts * (once + 64 / parts * per_row))
    assert timed == rows


# --- a run in one call ------------------------------------------------------------------------------------------------


@pytest.fixture
def verse(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return the path of a text, in a directory that is not the current one."""
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    (tmp_path / "verse.txt").write_text(TEXT)
    return tmp_path / "verse.txt"


def state(trainer: Trainer) -> list[torch.Tensor]:
    return [parameter.detach() for parameter in trainer.model.parameters()]


def same(one: Trainer, other: Trainer) -> bool:
    return all(torch.equal(a, b) for a, b in zip(state(one), state(other), strict=True))


def interrupted(verse: Path, steps: int, **changes: Any) -> Path:
    """Begin a run on a text, take some steps, and return its directory."""
    advice = advise(verse, **TINY | changes)
    data = TokenDataset.from_file(verse)
    run_dir = verse.parent / "run"
    for step in Trainer(advice.model.build(seed=advice.config.seed), data, advice.config, run_dir=run_dir):
        if step.number == steps:
            break
    return run_dir


def test_train_is_a_trainer_that_has_finished(verse: Path) -> None:
    trainer = train(str(verse), progress=False, **TINY)
    assert trainer.history.last.step == 6
    assert trainer.run_dir is None
    assert len(trainer.sampler()("the", max_new_tokens=5)) == 8
    assert list(verse.parent.glob("elsewhere/*")) == []


def test_train_takes_an_advice_and_changes_to_it(verse: Path) -> None:
    advice = advise(verse, **TINY)
    trainer = train(TokenDataset.from_file(verse), advice=advice, seed=7, progress=False)
    assert trainer.config.seed == 7
    assert same(trainer, train(verse, progress=False, **TINY, seed=7))
    assert not same(trainer, train(verse, advice=advice, progress=False))


@pytest.mark.parametrize("resume", [True, "auto"])
def test_a_resumed_run_needs_its_directory_alone(resume: Any, verse: Path) -> None:
    run_dir = interrupted(verse, 4)
    resumed = train(verse if resume == "auto" else None, run_dir=run_dir, resume=resume, progress=False)
    assert resumed.history.last.step == 6
    assert same(resumed, train(verse, progress=False, **TINY))


def test_auto_starts_where_there_is_no_run(verse: Path) -> None:
    run_dir = verse.parent / "run"
    assert train(verse, run_dir=run_dir, resume="auto", progress=False, **TINY).history.last.step == 6
    with pytest.raises(RunExistsError, match="contains a run"):
        train(verse, run_dir=run_dir)


def test_a_run_can_be_resumed_with_other_settings(verse: Path) -> None:
    run_dir = interrupted(verse, 4)
    with pytest.warns(UserWarning, match=r"resuming with changed settings.*max_iters=9 \(checkpoint has 6\)"):
        trainer = train(run_dir=run_dir, resume=True, progress=False, max_iters=9)
    assert trainer.history.last.step == 9
    assert read_settings(run_dir).trainer.max_iters == 9  # so that another resume needs no setting


def test_a_moved_text_is_named_again(verse: Path) -> None:
    run_dir = interrupted(verse, 4)
    moved = verse.rename(verse.parent / "moved.txt")
    with pytest.raises(DataError, match=r"there is no file .*verse.txt', the text of .*run'; pass its new path: train"):
        train(run_dir=run_dir, resume=True, progress=False)
    assert train(moved, run_dir=run_dir, resume=True, progress=False).history.last.step == 6
    assert train(run_dir=run_dir, resume=True, progress=False).history.last.step == 6  # the new path is noted


def test_a_changed_text_is_refused_with_both_digests(verse: Path) -> None:
    run_dir = interrupted(verse, 4)
    before = read_settings(run_dir).text
    verse.write_text(TEXT + ".")
    after = TokenDataset.from_file(verse).file
    assert before
    assert after
    with pytest.raises(DataError, match=f"with sha256 {after.sha256[:12]}, where .* began with {before.sha256[:12]}"):
        train(run_dir=run_dir, resume=True, progress=False)


def test_a_run_without_a_text_asks_for_it(tmp_path: Path, verse: Path) -> None:
    model = GPTConfig(vocab_size=DATA.vocab_size, **SIZES).build()
    config = TrainerConfig(max_iters=2, batch_size=2, preview_tokens=0)
    Trainer(model, DATA, config, run_dir=tmp_path / "run").save()
    with pytest.raises(ConfigError, match=r"run' does not name its text; pass it: train\('novel.txt', run_dir="):
        train(run_dir=tmp_path / "run", resume=True, progress=False)
    assert train(verse, run_dir=tmp_path / "run", resume=True, progress=False).history.last.step == 2


def test_a_run_of_a_composed_model_asks_for_a_trainer(tmp_path: Path) -> None:
    model = tinygpt.BigramLanguageModel(DATA.vocab_size)
    Trainer(model, DATA, TrainerConfig(max_iters=2, preview_tokens=0), run_dir=tmp_path).save()
    with pytest.raises(ConfigError, match=r"composed or changed by hand; build it as before, and use Trainer\("):
        train(DATA, run_dir=tmp_path, resume=True)


def test_nothing_to_resume_or_to_train_on_is_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="resume=True needs the run_dir of a run, got run_dir=None"):
        train(resume=True)
    with pytest.raises(CheckpointNotFoundError, match=r"there is no run in .*: no file config.json"):
        train(run_dir=tmp_path, resume=True)
    with pytest.raises(ConfigError, match="train needs a text or a run to resume, got neither"):
        train(run_dir=tmp_path)


@pytest.mark.parametrize(
    "forged",
    [
        {"n_embd": 80_000, "n_head": 1},
        {"n_layer": 10**6},
        {"block_size": 10**9, "layout": "notebook"},
        {"vocab_size": 10**9},
    ],
    ids=str,
)
def test_a_forged_size_is_refused_before_it_is_built(
    forged: dict[str, Any], verse: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run_dir = interrupted(verse, 1)
    path = run_dir / "config.json"
    content = json.loads(path.read_text())
    content["model"] |= forged
    path.write_text(json.dumps(content))

    def refuse(*_: Any, **__: Any) -> Any:
        raise AssertionError("the model must not be built")

    monkeypatch.setattr(GPTConfig, "build", refuse)
    with pytest.raises(CheckpointMismatchError, match=r"must have checkpoints of the model in its config.json"):
        train(run_dir=run_dir, resume=True, progress=False)
