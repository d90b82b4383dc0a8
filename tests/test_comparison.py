"""Several models side by side: each is measured on the same tokens, and no finished one is lost."""

import math
import os
import re
import signal
from collections.abc import Callable
from pathlib import Path
from statistics import fmean, stdev
from typing import Any

import builders
import numpy as np
import pytest
from builders import BLOCK, DATA, TEXT
from test_progress import FakeNotebook

import tinygpt
from tinygpt import (
    BigramLanguageModel,
    CharTokenizer,
    LanguageModel,
    MixtureLanguageModel,
    NGramLanguageModel,
    Sampler,
    TokenDataset,
    Trainer,
    TrainerConfig,
    compare,
    evaluate,
)
from tinygpt.errors import ConfigError, InputTypeError
from tinygpt.training import Comparison, Contender, History, Loss

QUICK: dict[str, Any] = {"batch_size": 4, "max_iters": 6, "eval_interval": 3, "preview_tokens": 0}
QUICK |= {"optimizer": "adamw", "learning_rate": 0.01}


def make_gpt(seed: int = 1) -> LanguageModel:
    return builders.make_gpt(seed=seed, n_layer=1)


def make_trainer(model: LanguageModel | None = None, run_dir: Path | None = None, **changes: Any) -> Trainer:
    model = BigramLanguageModel(DATA.vocab_size) if model is None else model
    return Trainer(model, DATA, TrainerConfig(**(QUICK | changes)), run_dir=run_dir)


def make_seeds(count: int = 3) -> list[Trainer]:
    return [make_trainer(make_gpt(seed), seed=seed) for seed in range(count)]


# --- what is measured -------------------------------------------------------------------------------------------------


def test_compare_trains_measures_and_samples_each_model() -> None:
    changes: dict[str, Any] = {"max_iters": 60, "learning_rate": 0.05}
    trainers = {"bigram": make_trainer(block_size=BLOCK, **changes), "gpt": make_trainer(make_gpt(), **changes)}
    found = compare(trainers, prompt="the ", max_new_tokens=20, progress=False)
    assert [contender.name for contender in found.contenders] == ["gpt", "bigram"]
    assert found.even_guess.nats == math.log(DATA.vocab_size)
    for contender in found.contenders:
        trainer = trainers[contender.name]
        assert contender.parameters == trainer.model.num_parameters()
        again = Trainer(trainer.model, DATA, TrainerConfig(block_size=BLOCK, batch_size=4)).evaluate("val")
        assert contender.loss.nats == pytest.approx(again.nats, abs=1e-12)
        assert contender.loss.nats < found.even_guess.nats
        assert len(contender.sample) == 24
        assert contender.histories == {contender.name: trainer.history}
    table = str(found)
    for word in ("even guess", f"{found.even_guess.nats:.4f}", "bits/char", "gpt writes:", f"{make_gpt_size():,}"):
        assert word in table
    assert "±" not in table
    assert "windows" not in table


def make_gpt_size() -> int:
    return make_gpt().num_parameters()


def test_a_sweep_is_a_dictionary_comprehension() -> None:
    rates = (0.001, 0.1, 0.01)
    found = compare({f"rate {rate}": make_trainer(learning_rate=rate) for rate in rates}, progress=False)
    assert {contender.name for contender in found.contenders} == {"rate 0.001", "rate 0.1", "rate 0.01"}
    found_losses = [contender.loss.nats for contender in found.contenders]
    assert found_losses == sorted(found_losses)


def test_trainers_that_differ_in_their_seed_are_one_row() -> None:
    trainers = make_seeds()
    found = compare({"gpt": trainers, "bigram": make_trainer()}, max_new_tokens=9, progress=False)
    gpt = next(contender for contender in found.contenders if contender.name == "gpt")
    losses = [trainer.evaluate("val").nats for trainer in trainers]
    assert gpt.losses == losses
    assert gpt.loss.nats == fmean(losses)
    assert gpt.loss.perplexity == pytest.approx(math.exp(fmean(losses)))
    assert gpt.spread == stdev(losses) > 0
    assert gpt.seconds == fmean(trainer.history.last.seconds for trainer in trainers)
    assert gpt.histories == {f"gpt/{i}": trainer.history for i, trainer in enumerate(trainers)}
    head, _, guess, *rows = str(found).splitlines()
    assert re.split(" {2,}", head.strip())[:2] == ["nats", "n"]
    assert re.search(rf"^gpt +{fmean(losses):.4f} ± {stdev(losses):.4f} +3 ", "\n".join(rows), re.MULTILINE)
    assert re.search(r"^bigram +\d\.\d{4} +1 ", "\n".join(rows), re.MULTILINE)
    assert len({len(line) for line in (head, guess, *rows[:2])}) == 1


def test_windows_of_different_lengths_are_named() -> None:
    """They predict the same tokens."""
    trainers = {"short": make_trainer(block_size=3), "long": make_trainer(block_size=50)}
    found = compare(trainers, max_new_tokens=0, progress=False)
    assert "in windows of different lengths: " in str(found)
    assert "short 3" in str(found)
    for contender in found.contenders:
        trainer = trainers[contender.name]
        windows = DATA.windows("val", batch_size=4, block_size=trainer.block_size)
        predicted = np.concatenate([y.flatten().numpy() for _, y in windows])
        assert np.array_equal(predicted, DATA.val[1:])
        one = Trainer(trainer.model, DATA, TrainerConfig(block_size=len(DATA.val) - 1)).evaluate("val")
        assert contender.loss.nats == pytest.approx(one.nats, abs=1e-12)  # a bigram needs no context


# --- what is kept -----------------------------------------------------------------------------------------------------


class Stage:
    """Lets something happen to the second of three models at a stage of its comparison."""

    def __init__(self, stage: str, happen: Callable[[], object], monkeypatch: pytest.MonkeyPatch) -> None:
        self.trainers: dict[str, Any] = {name: make_trainer() for name in "abc"}
        self.model = self.trainers["b"].model
        kind, method = {"training": (Trainer, "_advance"), "measuring": (Trainer, "evaluate")}.get(
            stage, (Sampler, "generate")
        )
        real = getattr(kind, method)

        def call(self_: Any, *arguments: Any, **options: Any) -> Any:
            is_trial = options.get("max_new_tokens") == 1
            if self_.model is self.model and not is_trial:
                happen()
            return real(self_, *arguments, **options)

        monkeypatch.setattr(kind, method, call)

    def compare(self) -> Comparison:
        return compare(self.trainers, max_new_tokens=9, progress=False)


def fail() -> None:
    raise RuntimeError("out of memory")


@pytest.mark.parametrize("stage", ["training", "measuring", "sampling"])
def test_a_model_that_fails_does_not_lose_the_others(stage: str, monkeypatch: pytest.MonkeyPatch) -> None:
    staged = Stage(stage, fail, monkeypatch)
    said = "'b' writes no sample: " if stage == "sampling" else "'b' is left out of the comparison: "
    with pytest.warns(UserWarning, match=said + "RuntimeError: out of memory"):
        found = staged.compare()
    names = {contender.name: len(contender.sample) for contender in found.contenders}
    assert names == ({"a": 9, "b": 0, "c": 9} if stage == "sampling" else {"a": 9, "c": 9})
    assert ("b is left out: RuntimeError: out of memory" in str(found)) == (stage != "sampling")


def test_a_seed_that_fails_does_not_lose_the_others(monkeypatch: pytest.MonkeyPatch) -> None:
    staged = Stage("training", fail, monkeypatch)
    staged.trainers = {"all": list(staged.trainers.values())}
    with pytest.warns(UserWarning, match="'all/1' is left out of the comparison: RuntimeError: out of memory"):
        found = staged.compare()
    assert len(found.contenders[0].losses) == 2
    assert "all/1 is left out: " in str(found)


@pytest.mark.parametrize("stage", ["training", "measuring", "sampling"])
def test_ctrl_c_does_not_lose_what_was_compared(stage: str, monkeypatch: pytest.MonkeyPatch) -> None:
    staged = Stage(stage, lambda: os.kill(os.getpid(), signal.SIGINT), monkeypatch)
    found = staged.compare()
    names = {contender.name for contender in found.contenders}
    assert names == {"training": {"a", "b"}, "measuring": {"a"}, "sampling": {"a", "b", "c"}}[stage]
    assert ("c is left out: interrupted before its training" in str(found)) == (stage != "sampling")
    assert ("b was interrupted after step 1" in str(found)) == (stage == "training")


def test_if_all_models_fail_the_first_error_is_raised(monkeypatch: pytest.MonkeyPatch) -> None:
    staged = Stage("training", fail, monkeypatch)
    del staged.trainers["a"], staged.trainers["c"]
    with pytest.warns(UserWarning, match="left out"), pytest.raises(RuntimeError, match="out of memory"):
        staged.compare()


# --- the directory ----------------------------------------------------------------------------------------------------


def losses(found: Comparison) -> dict[str, list[float]]:
    return {contender.name: contender.losses for contender in found.contenders}


def make_both(own: Path) -> dict[str, Any]:
    return {"bigram": make_trainer(make_gpt(9), run_dir=own), "gpt": make_seeds(2)}


def test_a_comparison_goes_on_in_another_process(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = losses(compare(make_both(tmp_path / "whole"), progress=False))
    real, steps = vars(Trainer)["_advance"], []

    def advance(self: Trainer) -> Any:
        steps.append(self.run_dir)
        if len(steps) == 9:  # in the third step of the second of three trainers
            os.kill(os.getpid(), signal.SIGINT)
        return real(self)

    monkeypatch.setattr(Trainer, "_advance", advance)
    directory = tmp_path / "comparison"
    first = compare(make_both(tmp_path / "own"), run_dir=directory, progress=False)
    assert first.left_out == {"gpt/1": "interrupted before its training"}
    assert len(steps) == 9
    again = compare(make_both(tmp_path / "own"), run_dir=directory, progress=False)
    assert losses(again) == whole
    assert len(steps) == 18
    assert set(steps) == {tmp_path / "own", directory / "gpt" / "0", directory / "gpt" / "1"}
    assert sorted(path.name for path in directory.iterdir()) == ["gpt"]


def test_the_same_trainers_go_on_without_a_directory(monkeypatch: pytest.MonkeyPatch) -> None:
    whole = losses(compare({"gpt": make_seeds(2)}, progress=False))
    trainers = {"gpt": make_seeds(2)}
    real, steps = vars(Trainer)["_advance"], []

    def advance(self: Trainer) -> Any:
        steps.append(self)
        if len(steps) == 2:
            os.kill(os.getpid(), signal.SIGINT)
        return real(self)

    monkeypatch.setattr(Trainer, "_advance", advance)
    assert "gpt/0 was interrupted after step 2" in str(compare(trainers, progress=False))
    assert losses(compare(trainers, progress=False)) == whole
    assert len(steps) == 12


@pytest.mark.parametrize("name", ["../up", "a/b", "..", ""])
def test_a_name_that_cannot_be_a_directory_is_refused(name: str, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="names must be names of directories in run_dir, got "):
        compare({name: make_trainer()}, run_dir=tmp_path / "run")
    assert not (tmp_path / "run").exists()
    assert compare({name: make_trainer()}, progress=False).contenders[0].name == name


def test_a_run_keeps_the_directory_that_it_began_in(tmp_path: Path) -> None:
    trainer = make_trainer()
    compare({"a": trainer}, progress=False)
    compare({"a": trainer}, run_dir=tmp_path, progress=False)  # one that had none so far
    assert trainer.run_dir == tmp_path / "a"
    assert (tmp_path / "a" / "step-00000006.safetensors").exists()
    with pytest.raises(ConfigError, match=r"run_dir must be set before the run begins, got run_dir='other' for a run"):
        trainer.run_dir = "other"


# --- bad input --------------------------------------------------------------------------------------------------------


@pytest.mark.usefixtures("unchecked_types")
@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"prompt": "☃"}, "☃"),
        ({"temperature": -1.0}, "got temperature=-1"),
        ({"max_new_tokens": -1}, "max_new_tokens=-1"),
        ({"run_dir": 3}, "run_dir must be a str or a path, got 3"),
        ({"progress": "no"}, "progress must be True or False"),
    ],
)
def test_invalid_settings_show_before_any_training(
    options: dict[str, Any], message: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Trainer, "fit", lambda *_, **__: pytest.fail("it has trained"))
    with pytest.raises(tinygpt.errors.TinyGPTError, match=message):
        compare({"a": make_trainer()}, **options)


@pytest.mark.usefixtures("unchecked_types")
@pytest.mark.parametrize(
    ("make", "message"),
    [
        (dict, r'trainers must be trainers by name, e\.g\. {"gpt": Trainer\(model, data\)}, got {}'),
        (make_trainer, "trainers by name, .* got Trainer$"),
        (
            lambda: {"a": make_gpt},
            "must have a Trainer, a list of them or a model under each name, .* got function under 'a'",
        ),
        (lambda: {"a": []}, r"got \[\] under 'a'"),
        (lambda: {"a": [make_trainer(), 3]}, r"got \['Trainer', 'int'\] under 'a'"),
        (lambda: {3: make_trainer()}, "under 3"),
    ],
)
def test_other_things_than_trainers_are_named(make: Callable[[], Any], message: str) -> None:
    with pytest.raises(InputTypeError, match=message) as caught:
        compare(make())
    assert len(str(caught.value)) <= 300


def test_models_are_measured_after_all_trainings() -> None:
    """So a mixture may contain the model of a trainer, which trains first although it comes later."""
    table = NGramLanguageModel.count(DATA.train, vocab_size=DATA.vocab_size, order=3)
    trainer = make_trainer()
    mixture = MixtureLanguageModel([trainer.model, table])
    comparison = compare({"table": table, "mixture": mixture, "gpt": trainer}, progress=False, max_new_tokens=5)
    found = {each.name: each for each in comparison.contenders}
    assert found.keys() == {"mixture", "gpt", "table"}
    assert found["table"].block_size == found["gpt"].block_size
    assert found["mixture"].loss.nats == evaluate(mixture, DATA, block_size=found["gpt"].block_size).nats
    assert (found["table"].seconds, found["table"].histories, len(found["table"].sample)) == (0.0, {}, 5)


def test_models_alone_need_data() -> None:
    with pytest.raises(ConfigError, match=r"need data to be measured on; use compare\({...}, data=data\)"):
        compare({"a": make_gpt()})
    assert compare({"a": make_gpt()}, data=DATA, max_new_tokens=0).contenders[0].name == "a"


def test_trainers_that_share_parameters_are_refused() -> None:
    model = make_gpt()
    with pytest.raises(ConfigError, match="must not share parameters, got some in 'a' and in 'b/0'; build each model"):
        compare({"a": make_trainer(model), "b": [make_trainer(model)]})


def test_trainers_on_other_data_are_refused() -> None:
    other = TokenDataset(TEXT, CharTokenizer.from_text(TEXT), val_fraction=0.1)
    trainers = {"a": make_trainer(), "b": Trainer(make_gpt(), other, TrainerConfig(**QUICK))}
    with pytest.raises(ConfigError, match="must have the same data, got other data in 'b' than in 'a'"):
        compare(trainers)
    equal = TokenDataset(TEXT, CharTokenizer.from_text(TEXT), val_fraction=0.2)
    with pytest.raises(ConfigError, match="got other data in 'b' than in data="):
        compare({"b": trainers["b"]}, data=DATA)
    compare({"a": make_trainer(), "b": Trainer(make_gpt(), equal, TrainerConfig(**QUICK))}, progress=False)


# --- what is shown ----------------------------------------------------------------------------------------------------


def made_up() -> Comparison:
    loss = Loss.from_nats(2.0)
    histories = {"<b>": History()}
    contenders = [
        Contender("gpt", 1234, loss, [1.9, 2.1], 3.0, 8, "<script>", {}),
        Contender("<b>", 10, loss, [2.0], 0.5, 8, "", histories),
    ]
    return Comparison(contenders, loss, {"c": "RuntimeError: <i>"})


def test_a_notebook_shows_an_escaped_table() -> None:
    shown = made_up()._repr_html_()
    assert shown.startswith("<table><tr><th></th><th>nats</th><th>n</th>")
    assert "<tr><th>gpt</th><td>2.0000 ± 0.1414</td><td>2</td>" in shown
    assert shown.count("<tr>") == 4
    for raw in ("<b>", "<script>", "<i>"):
        assert raw not in shown
        assert raw.replace("<", "&lt;").replace(">", "&gt;") in shown


def test_the_repr_of_a_comparison_is_short() -> None:
    assert repr(made_up()) == "Comparison(gpt 2.0000, <b> 2.0000)"


@pytest.mark.parametrize("x", ["parameters", "seconds"])
def test_a_plot_has_a_point_for_each_model(x: str) -> None:
    figure = made_up().plot(x)
    axes = figure.axes[0]
    assert [text.get_text() for text in axes.texts] == ["gpt", "<b>"]
    points = [np.asarray(container[0].get_xydata()).tolist() for container in axes.containers]
    assert points == ([[[1234, 2]], [[10, 2]]] if x == "parameters" else [[[3, 2]], [[0.5, 2]]])
    assert axes.get_xlabel() == x
    figure.draw_without_rendering()
    with pytest.raises(ConfigError, match="x must be one of 'parameters', 'seconds', got 'time'"):
        made_up().plot("time")


def test_each_bar_has_the_name_of_its_trainer(monkeypatch: pytest.MonkeyPatch) -> None:
    stream = FakeNotebook()
    monkeypatch.setattr("sys.stdout", stream)
    monkeypatch.setattr("sys.stderr", stream)
    compare({"bigram": make_trainer(), "gpt": make_seeds(2)}, max_new_tokens=0)
    shown = stream.getvalue()
    for name in ("bigram", "gpt/0", "gpt/1"):
        assert f"--- {name}\n" in shown
        assert re.search(rf"\r{name}:.*6/6", shown)
    make_trainer().fit()
    assert stream.getvalue().removeprefix(shown).count("---") == 0
