"""Resuming: state is matched by name and compared before it is loaded; what does not fit is named, never guessed."""

import copy
import random
import warnings
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from builders import DATA
from killable import ScheduleFree, exit_code, in_child, make_trainer, momentum, outcome, schedule_free
from torch import Tensor, nn

import tinygpt
from tinygpt import GPTConfig, GPTLanguageModel, Trainer
from tinygpt.checkpoint import TRAINING, read, write
from tinygpt.errors import (
    CheckpointCorruptError,
    CheckpointMismatchError,
    CheckpointSaveError,
    ConfigError,
    TinyGPTError,
)
from tinygpt.layers import DecoderBlock, FeedForward, Head, MultiHeadAttention

STEPS = 12
Make = Callable[[nn.Module], torch.optim.Optimizer]


def adamw(model: nn.Module) -> torch.optim.Optimizer:
    return torch.optim.AdamW(model.parameters(), lr=0.01)


OPTIMIZERS: dict[str, Any] = {
    "the config's AdamW": None,
    "AdamW": adamw,
    "momentum": momentum,
    "Adafactor": lambda model: torch.optim.Adafactor(model.parameters(), lr=0.01),
    "schedule-free": schedule_free,
    "two groups": lambda model: torch.optim.AdamW(two_groups(model), lr=0.01),
}


def two_groups(model: nn.Module) -> list[dict[str, Any]]:
    matrices = [parameter for parameter in model.parameters() if parameter.ndim > 1]
    rest = [parameter for parameter in model.parameters() if parameter.ndim < 2]
    return [{"params": matrices, "lr": 0.02}, {"params": rest, "betas": (0.8, 0.9)}]


def trainer_of(
    directory: Path | None, make: Make | None = None, change: Callable[[GPTLanguageModel], object] = id, **changes: Any
) -> Trainer:
    """Return a trainer of a small GPT, which is changed before its optimizer is made."""
    torch.manual_seed(1)
    layout = changes.pop("layout", "notebook")
    config = GPTConfig(
        vocab_size=DATA.vocab_size, block_size=8, n_layer=2, n_head=2, n_embd=8, dropout=0.2, layout=layout
    )
    model = config.build()
    change(model)
    settings = make_trainer(None, **({"max_iters": STEPS, "preview_tokens": 0} | changes)).config
    return Trainer(model, DATA, settings, run_dir=directory, make_optimizer=make)


def cut_after(steps: int, trainer: Trainer) -> None:
    for step in trainer:
        if step.number == steps:
            break
    trainer.save()


def rewrite(path: Path, change: Callable[[dict[str, Any], dict[str, Tensor]], object]) -> None:
    """Change a checkpoint and give it a digest that holds, as somebody who knows the format can."""
    payload, tensors = read(path)
    change(payload, tensors)
    write(path, tensors, payload)


# --- by name ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("make", OPTIMIZERS.values(), ids=OPTIMIZERS.keys())
def test_any_optimizer_resumes_bit_for_bit(make: Make | None, tmp_path: Path) -> None:
    trainer_of(tmp_path / "whole", make).fit(progress=False)
    cut_after(5, trainer_of(tmp_path / "cut", make))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        trainer_of(tmp_path / "cut", make).fit(resume=True, progress=False)
    assert outcome(tmp_path / "cut") == outcome(tmp_path / "whole")


@pytest.mark.parametrize("layout", ["notebook", "gpt2", "modern"])
@pytest.mark.parametrize("make", [None, adamw, momentum], ids=["the config's", "AdamW", "momentum"])
def test_a_parameter_frozen_since_is_named(make: Make | None, layout: str, tmp_path: Path) -> None:
    cut_after(3, trainer_of(tmp_path, make, layout=layout))
    again = trainer_of(tmp_path, make, lambda model: model.blocks[0].requires_grad_(False), layout=layout)
    before = [parameter.clone() for parameter in again.model.parameters()]
    with pytest.raises(CheckpointMismatchError, match=r"trainable in the run but frozen now: blocks\.0\.attention\."):
        again.resume()
    assert all(map(torch.equal, again.model.parameters(), before))
    assert not again.optimizer.state


def test_a_parameter_thawed_since_is_named(tmp_path: Path) -> None:
    cut_after(3, trainer_of(tmp_path, change=lambda model: model.head.requires_grad_(False)))
    with pytest.raises(CheckpointMismatchError, match=r"frozen in the run but trainable now: head\.bias, head\.weight"):
        trainer_of(tmp_path).resume()


def test_parameters_that_the_optimizer_no_longer_holds_are_named(tmp_path: Path) -> None:
    cut_after(3, trainer_of(tmp_path, momentum))
    with pytest.raises(
        CheckpointMismatchError, match="moved by the optimizer in the run but in no group of it now: blo"
    ):
        trainer_of(tmp_path, lambda model: torch.optim.SGD(model.head.parameters(), 0.05, 0.9)).resume()  # type: ignore


@pytest.mark.parametrize("order", [lambda names: names[::-1], sorted, lambda names: names[3:] + names[:3]])
def test_parameters_in_another_order_resume_the_same_run(order: Callable[[Any], Any], tmp_path: Path) -> None:
    def in_order(model: nn.Module) -> torch.optim.Optimizer:
        named = dict(model.named_parameters())
        return torch.optim.SGD([named[name] for name in order(list(named))], lr=0.05, momentum=0.9)

    def regrouped(model: nn.Module) -> torch.optim.Optimizer:
        named = dict(model.named_parameters())
        groups = [{"params": [named[name]]} for name in order(list(named))]
        return torch.optim.SGD(groups, lr=0.05, momentum=0.9)

    trainer_of(tmp_path / "whole", momentum, grad_clip=None).fit(progress=False)
    cut_after(5, trainer_of(tmp_path / "cut", momentum, grad_clip=None))
    trainer_of(tmp_path / "cut", in_order, grad_clip=None).fit(resume=True, progress=False)
    cut_after(5, trainer_of(tmp_path / "regrouped", momentum, grad_clip=None))
    with pytest.warns(UserWarning, match="resuming with changed settings"):
        trainer_of(tmp_path / "regrouped", regrouped, grad_clip=None).fit(resume=True, progress=False)
    wanted = outcome(tmp_path / "whole")
    for name in ("cut", "regrouped"):
        found = outcome(tmp_path / name)  # the log shows the norm, which is summed in another order
        assert found | {"log": ""} == wanted | {"log": ""}


def test_a_group_with_a_count_of_its_own_must_be_a_group_again(tmp_path: Path) -> None:
    cut_after(3, trainer_of(tmp_path, schedule_free))

    def regrouped(model: nn.Module) -> torch.optim.Optimizer:
        return ScheduleFree([{"params": [parameter]} for parameter in model.parameters()], lr=0.1)

    with pytest.raises(CheckpointMismatchError, match="where it keeps k, peak, weight_sum for them: blocks"):
        trainer_of(tmp_path, regrouped).resume()


def test_a_group_value_set_otherwise_on_purpose_stays(tmp_path: Path) -> None:
    cut_after(3, trainer_of(tmp_path, momentum))
    again = trainer_of(tmp_path, lambda model: torch.optim.SGD(model.parameters(), lr=0.05, momentum=0.5))
    with pytest.warns(UserWarning, match=r"groups\[0\]\.momentum=0\.5 \(checkpoint has 0\.9\)"):
        again.resume()
    assert again.optimizer.param_groups[0]["momentum"] == 0.5


def test_a_group_value_changed_in_the_loop_comes_back(tmp_path: Path) -> None:
    trainer = trainer_of(tmp_path, momentum)
    trainer.optimizer.param_groups[0]["momentum"] = 0.7
    cut_after(3, trainer)
    again = trainer_of(tmp_path, momentum)
    again.resume()
    assert again.optimizer.param_groups[0]["momentum"] == 0.7


class Foreign(torch.optim.Optimizer):
    """An optimizer with habits that PyTorch's own do not have, each by name."""

    def __init__(self, parameters: Any, habit: str) -> None:
        super().__init__(parameters, {"lr": 0.05} | ({"k": torch.zeros(())} if habit == "tensor in place" else {}))
        self.habit = habit

    @torch.no_grad()
    def step(self, closure: Any = None) -> Any:
        for group in self.param_groups:
            if self.habit == "made at the first step":
                group["k"] = group.get("k", 0) + 1
            if self.habit == "tensor in place":
                group["k"] += 1
            for parameter in group["params"]:
                if parameter.grad is None:
                    continue
                state, move = self.state[parameter], parameter.grad * (1 + float(group.get("k", 0)) / 10)
                if self.habit == "bfloat16":
                    mean = state.setdefault("mean", torch.zeros_like(parameter, dtype=torch.bfloat16))
                    move = mean.lerp_(parameter.grad.bfloat16(), 0.1).to(parameter.dtype)
                if self.habit == "bool":
                    state["sign"] = state.get("sign", torch.zeros_like(parameter, dtype=torch.bool)) | (move > 0)
                    move = torch.where(state["sign"], move, 2 * move)
                if self.habit == "infinity":
                    state["least"] = torch.minimum(state.get("least", torch.full((), torch.inf)), move.min())
                if self.habit == "noise":
                    move = move + 0.01 * torch.randn_like(move)
                parameter.sub_(move, alpha=group["lr"])


@pytest.mark.parametrize("cut", [0, 5])
@pytest.mark.parametrize(
    "habit", ["made at the first step", "tensor in place", "bfloat16", "bool", "infinity", "noise"]
)
def test_whatever_an_optimizer_keeps_comes_back_as_it_was(habit: str, cut: int, tmp_path: Path) -> None:
    def make(model: nn.Module) -> torch.optim.Optimizer:
        return Foreign(model.parameters(), habit)

    trainer_of(tmp_path / "whole", make).fit(progress=False)
    trainer = trainer_of(tmp_path / "cut", make)
    cut_after(cut, trainer) if cut else trainer.save()
    torch.rand(7)
    trainer_of(tmp_path / "cut", make).fit(resume=True, progress=False)
    assert outcome(tmp_path / "cut") == outcome(tmp_path / "whole")


def test_a_run_is_resumed_from_its_very_beginning(tmp_path: Path) -> None:
    trainer_of(tmp_path / "whole", adamw).fit(progress=False)
    trainer_of(tmp_path / "cut", adamw).save()
    trainer_of(tmp_path / "cut", adamw).fit(resume=True, progress=False)
    assert outcome(tmp_path / "cut") == outcome(tmp_path / "whole")


def test_a_layer_frozen_in_the_middle_of_a_run_resumes_frozen(tmp_path: Path) -> None:
    def freeze(model: GPTLanguageModel) -> None:
        model.blocks[0].requires_grad_(False)

    def run(directory: Path, stop: int) -> None:
        trainer = trainer_of(directory, adamw)
        for step in trainer:
            if step.number == 4:
                freeze(trainer.model)  # type: ignore[arg-type]
            if step.number == stop:
                trainer.save()
                return

    run(tmp_path / "whole", 12)
    run(tmp_path / "cut", 7)
    trainer_of(tmp_path / "cut", adamw, freeze).fit(resume=True, progress=False)
    run(tmp_path / "again", 7)
    with pytest.raises(CheckpointMismatchError, match=r"frozen in the run but trainable now: blocks\.0\."):
        trainer_of(tmp_path / "again", adamw).resume()  # and does not go back to a step before it was frozen
    newest = [read(directory / "step-00000012.safetensors")[1] for directory in (tmp_path / "cut", tmp_path / "whole")]
    assert all(torch.equal(newest[0][name], newest[1][name]) for name in newest[0] if "training/" not in name)


@pytest.mark.parametrize("around", [torch.inference_mode, torch.no_grad])
def test_resuming_within_another_mode_is_the_same_run(around: Callable[[], Any], tmp_path: Path) -> None:
    trainer_of(tmp_path / "whole").fit(progress=False)
    cut_after(5, trainer_of(tmp_path / "cut"))
    again = trainer_of(tmp_path / "cut")
    with around():
        again.resume()
    again.fit(progress=False)
    assert outcome(tmp_path / "cut") == outcome(tmp_path / "whole")


def test_a_setting_changed_in_the_loop_keeps_the_model(tmp_path: Path) -> None:
    trainer = trainer_of(tmp_path)
    for step in trainer:
        trainer.model.get_submodule("blocks.0.attention.dropout").p = 0.1  # type: ignore[assignment]
        if step.number == 3:
            break
    trainer.save()
    again = trainer_of(tmp_path)
    again.resume()
    assert again.steps_taken == 3


def test_a_parameter_put_in_place_of_another_is_named(tmp_path: Path) -> None:
    trainer = trainer_of(tmp_path)
    next(iter(trainer))
    trainer.model.head.weight = nn.Parameter(torch.zeros(28, 8))  # type: ignore[union-attr]
    with pytest.raises(ConfigError, match=r"got one of the shape \(28, 8\) that the model no longer has, as number"):
        trainer.save()


def test_previews_and_names_that_fill_a_header_are_refused(tmp_path: Path) -> None:
    """Before anything is written."""
    trainer = trainer_of(tmp_path)
    next(iter(trainer))
    evaluation = trainer.history.evaluations[0]
    trainer.history.evaluations[0] = replace(evaluation, sample="и" * 8_000_000)
    trainer.save()  # previews are not in the header
    trainer_of(tmp_path).resume()
    before = sorted(tmp_path.iterdir())
    trainer._record._description = {"config": None, "parts": {"x": "y" * (32 << 20)}}
    trainer._state.step = 2
    with pytest.raises(CheckpointSaveError, match=r"need [\d,]+ bytes, more than the 33,554,432 that can be read back"):
        trainer.save()
    assert sorted(tmp_path.iterdir()) == before


def test_an_optimizer_that_no_file_can_hold_is_a_warning(tmp_path: Path) -> None:
    """The training continues."""

    def make(model: nn.Module) -> torch.optim.Optimizer:
        optimizer = momentum(model)
        optimizer.register_step_post_hook(lambda own, *_: own.state[next(model.parameters())].update(past=[own]))
        return optimizer

    trainer = trainer_of(tmp_path, make, max_iters=4)
    with pytest.warns(UserWarning, match=r"(?s)to be saved, got .* as past in SGD; the training goes on"):
        steps = [step.number for step in trainer]
    assert steps == [1, 2, 3, 4]


# --- parts ------------------------------------------------------------------------------------------------------------


class Averaging(nn.Module):
    """A part with a setting that is neither a weight nor in its representation."""

    def __init__(self, causal: bool) -> None:
        super().__init__()
        self.causal = causal
        self.mix = nn.Linear(8, 8)

    def forward(self, x: Tensor) -> Tensor:
        seen = torch.ones(x.shape[1], x.shape[1])
        seen = seen.tril() if self.causal else seen
        mixed: Tensor = self.mix((seen / seen.sum(1, keepdim=True)) @ x)
        return mixed


def composed(attention: Any = None, activation: Any = torch.relu, dropout: float = 0.3) -> GPTLanguageModel:
    torch.manual_seed(0)
    attention = attention or MultiHeadAttention(8, n_head=2)
    block = DecoderBlock(8, attention=attention, feed_forward=FeedForward(8, activation=activation, dropout=dropout))
    return GPTLanguageModel(DATA.vocab_size, block_size=8, n_embd=8, blocks=[block])


OTHER_PARTS: dict[str, tuple[Callable[[], GPTLanguageModel], Callable[[], GPTLanguageModel], str]] = {
    "activation": (
        composed,
        lambda: composed(activation=torch.tanh),
        r"feed_forward\.activation=.*tanh.* \(checkpoint has .*relu.*\)",
    ),
    "activation module": (
        lambda: composed(activation=nn.ReLU()),
        lambda: composed(activation=nn.Tanh()),
        r"feed_forward\.activation='Tanh' \(checkpoint has 'ReLU'\)",
    ),
    "lambda": (
        lambda: composed(activation=lambda x: x.relu()),
        lambda: composed(activation=lambda x: x.sigmoid()),
        "sigmoid",
    ),
    "dropout": (composed, lambda: composed(dropout=0.0), r"feed_forward\.dropout\.p='0\.0' \(checkpoint has '0\.3'\)"),
    "heads": (
        composed,
        lambda: composed(MultiHeadAttention(8, n_head=4)),
        r"attention\.n_head='4' \(checkpoint has '2'\)",
    ),
    "mask": (composed, lambda: composed(MultiHeadAttention(8, n_head=2, causal=False)), r"attention\.causal='False'"),
    "a setting of your own": (
        lambda: composed(Averaging(causal=True)),
        lambda: composed(Averaging(causal=False)),
        r"attention\.causal='False' \(checkpoint has 'True'\)",
    ),
}


@pytest.mark.parametrize(("then", "now", "message"), OTHER_PARTS.values(), ids=OTHER_PARTS.keys())
def test_other_parts_of_the_same_shapes_are_refused(
    then: Callable[[], GPTLanguageModel], now: Callable[[], GPTLanguageModel], message: str, tmp_path: Path
) -> None:
    config = make_trainer(None, max_iters=2, preview_tokens=0).config
    Trainer(then(), DATA, config, run_dir=tmp_path).fit(progress=False)
    Trainer(then(), DATA, config, run_dir=tmp_path).resume()
    with pytest.raises(CheckpointMismatchError, match=f"the model must be that of the run .*{message}"):
        Trainer(now(), DATA, config, run_dir=tmp_path).resume()
    with pytest.warns(UserWarning, match="was saved with other parts of the same shapes"):
        tinygpt.load(tmp_path / "best.safetensors", into=now())
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        tinygpt.load(tmp_path / "best.safetensors", into=then())


def test_a_head_in_place_of_another_is_seen(tmp_path: Path) -> None:
    def make(causal: bool) -> GPTLanguageModel:
        return composed(Head(8, head_size=8, causal=causal))

    tinygpt.save(tmp_path / "model", make(causal=True))
    with pytest.warns(UserWarning, match=r"attention\.causal='False'"):
        tinygpt.load(tmp_path / "model", into=make(causal=False))


@pytest.mark.parametrize(("name", "value"), [("tinygpt", "0.0.1"), ("hardware", "AVX3"), ("torch", "1.0")])
def test_another_version_or_processor_is_a_warning(name: str, value: str, tmp_path: Path) -> None:
    cut_after(2, trainer_of(tmp_path))
    for path in tmp_path.glob("step-*"):
        rewrite(path, lambda payload, _: payload["training"]["settings"].update({name: value}))
    with pytest.warns(UserWarning, match=rf"results will differ .*: {name}='.*' \(checkpoint has '{value}'\)"):
        trainer_of(tmp_path).resume()


# --- a state that is not one ------------------------------------------------------------------------------------------

MOMENT = f"{TRAINING}optimizer/exp_avg/head.weight"
COUNT = f"{TRAINING}optimizer/step/head.weight"
BEST = f"{TRAINING}best/head.weight"
Change = Callable[[dict[str, Any], dict[str, Tensor]], object]


def to(name: str, change: Callable[[Tensor], Tensor]) -> Change:
    return lambda payload, tensors: tensors.update({name: change(tensors[name])})


def leaf(path: str, value: Any) -> Change:
    def change(payload: dict[str, Any], tensors: dict[str, Tensor]) -> None:
        *way, last = path.split("/")
        where: Any = payload["training"]
        for key in way:
            where = where[int(key) if isinstance(where, list) else key]
        where[int(last) if isinstance(where, list) else last] = value

    return change


def without_moments(payload: dict[str, Any], tensors: dict[str, Tensor]) -> None:
    for name in [name for name in tensors if name.startswith(f"{TRAINING}optimizer/")]:
        del tensors[name]
    payload["training"]["optimizer"]["states"] = {}


def without_some_moments(payload: dict[str, Any], tensors: dict[str, Tensor]) -> None:
    del tensors[MOMENT]


def swapped(payload: dict[str, Any], tensors: dict[str, Tensor]) -> None:
    other = f"{TRAINING}optimizer/exp_avg/head.bias"
    tensors[MOMENT], tensors[other] = tensors[other], tensors[MOMENT]


INVALID: dict[str, tuple[Change, str]] = {
    "a longer moment": (to(MOMENT, lambda t: torch.cat([t, t])), r"exp_avg of head.weight of the shape \(28, 8\), got"),
    "a shorter moment": (to(MOMENT, lambda t: t[:1].clone()), "exp_avg of head.weight of the shape"),
    "a transposed moment": (to(MOMENT, lambda t: t.t().contiguous()), "exp_avg of head.weight of the shape"),
    "an empty moment": (to(MOMENT, lambda t: t[:0].clone()), "exp_avg of head.weight of the shape"),
    "moments of another parameter": (swapped, "exp_avg of head.(weight|bias) of the shape"),
    "an integer moment": (to(MOMENT, lambda t: t.long()), "exp_avg of head.weight in torch.float64, got torch.int64"),
    "a moment in 16 bits": (to(MOMENT, lambda t: t.half()), "exp_avg of head.weight in torch.float64"),
    "no moments": (without_moments, "expected a state of the optimizer"),
    "a missing moment": (without_some_moments, "exp_avg of head.weight"),
    "a step of 1e38": (to(COUNT, lambda t: t * 0 + 1e38), r"step of head.weight from 0 to 3, got 1e\+38"),
    "a step of -1": (to(COUNT, lambda t: t * 0 - 1), "step of head.weight from 0 to 3, got -1"),
    "a step of a half": (to(COUNT, lambda t: t * 0 + 0.5), "step of head.weight from 0 to 3, got 0.5"),
    "a later step": (to(COUNT, lambda t: t * 0 + 9), "step of head.weight from 0 to 3, got 9"),
    "best weights of another shape": (
        lambda payload, tensors: tensors.update({BEST: torch.zeros(3, 3)}),
        "best weights like the present ones, got 'head.weight'",
    ),
    "best weights of no parameter": (
        lambda payload, tensors: tensors.update({f"{TRAINING}best/x": torch.zeros(3)}),
        "best weights like the present ones, got 'x'",
    ),
    "an unknown tensor": (
        lambda payload, tensors: tensors.update({f"{TRAINING}optimizer/exp_avg/x": torch.zeros(3)}),
        "a parameter for .*exp_avg/x",
    ),
    "an unknown key of a parameter": (
        lambda payload, tensors: tensors.update({f"{TRAINING}optimizer/max/head.weight": torch.zeros(3)}),
        "nothing like max of head.weight",
    ),
    "previews of another number": (
        to(f"{TRAINING}previews", lambda t: torch.tensor(list(b"[]"), dtype=torch.uint8)),
        "a preview for each evaluation",
    ),
    "previews that are no JSON": (to(f"{TRAINING}previews", lambda t: t[1:].clone()), "invalid state of this run"),
    "losses of another length": (to(f"{TRAINING}losses", lambda t: t[1:].clone()), "3 losses after 3 steps"),
    "negative seconds": (leaf("seconds", -1.0), "seconds is -1.0"),
    "a count of seconds as text": (leaf("seconds", "1"), "seconds is '1'"),
    "a step that is true": (leaf("step", True), "does not contain a run at the step of its name|step is True"),
    "an evaluation of another kind": (leaf("evaluations/0/val_loss", "4"), "evaluations only"),
    "an evaluation without a loss": (leaf("evaluations/0", {"step": 0}), "evaluations only"),
    "an evaluation of the future": (leaf("evaluations/0/step", 99), "evaluations in order"),
    "an optimizer that is a list": (leaf("optimizer", []), "optimizer is"),
    "states that are numbers": (leaf("optimizer/states/head.weight", 7), "numbers of 'head.weight'"),
    "groups that are a text": (leaf("optimizer/groups", "x"), "the optimizer's state"),
    "a group without parameters": (leaf("optimizer/groups/0", {"values": {}}), "a group of the optimizer"),
    "a group value of another kind": (leaf("optimizer/groups/0/values", {"eps": "x"}), "eps of a group such as 1e-08"),
    "a group value that breaks the step": (leaf("optimizer/groups/0/values", {"amsgrad": True}), "max_exp_avg_sq|step"),
    "a scaler of another kind": (leaf("scaler", {"scale": "x"}), "of a gradient scaler"),
    "a corpus that is null": (leaf("corpus", None), "corpus is None"),
    "settings that are a list": (leaf("settings", [1]), "settings is"),
}


@pytest.mark.parametrize(("change", "message"), INVALID.values(), ids=INVALID.keys())
def test_an_invalid_state_is_named_before_anything_is_loaded(
    change: Change, message: str, tmp_path: Path, unchecked_types: None
) -> None:
    """The refusal happens in a process of its own, since an optimizer that takes such a state may crash it."""
    cut_after(3, trainer_of(tmp_path, keep_checkpoints=1))
    for path in tmp_path.glob("step-*"):
        rewrite(path, change)

    def refused() -> None:
        again = trainer_of(tmp_path)
        before = [parameter.clone() for parameter in again.model.parameters()]
        with pytest.raises(CheckpointCorruptError, match=message):
            again.resume()
        assert all(map(torch.equal, again.model.parameters(), before))
        assert not again.optimizer.state
        assert again.steps_taken == 0

    assert exit_code(in_child(refused)) == 0


@pytest.mark.parametrize("change", [to(MOMENT, lambda t: t[:1].clone()), leaf("seconds", "x")], ids=["tensor", "leaf"])
def test_a_bad_newest_checkpoint_gives_way_to_an_older_one(change: Change, tmp_path: Path) -> None:
    trainer_of(tmp_path / "whole").fit(progress=False)
    cut_after(7, trainer_of(tmp_path / "cut"))
    rewrite(max((tmp_path / "cut").glob("step-*")), change)
    again = trainer_of(tmp_path / "cut")
    with pytest.warns(UserWarning, match="step-00000007.* contains an invalid state .*going back to an older"):
        again.fit(resume=True, progress=False)
    assert outcome(tmp_path / "cut") == outcome(tmp_path / "whole")


# --- fuzz -------------------------------------------------------------------------------------------------------------


def mutated(payload: dict[str, Any], tensors: dict[str, Tensor], chance: random.Random) -> None:
    """Change something in a checkpoint that keeps it a well-formed file."""
    name = chance.choice(sorted(tensors))
    tensor, other = tensors[name], tensors[chance.choice(sorted(tensors))]

    def somewhere(value: Any) -> tuple[Any, Any]:
        """Return a container of the payload and a key in it."""
        while True:
            key = chance.choice(sorted(value) if isinstance(value, dict) else range(len(value)))
            inner = value[key]
            if not isinstance(inner, dict | list) or not inner or chance.random() < 0.2:
                return value, key
            value = inner

    where, key = somewhere(payload)
    strange = [None, True, -1, 0, 7, 10**30, 1e300, -0.5, "x", "", [], {}, [1], {"a": 1}]
    kinds: list[Callable[[], Any]] = [
        lambda: tensors.pop(name),
        lambda: tensors.update({name: other}),
        lambda: tensors.update({name: tensor[:0].clone() if tensor.ndim else tensor.reshape(1)}),
        lambda: tensors.update({name: torch.cat([tensor.reshape(-1)] * 3)}),
        lambda: tensors.update({name: tensor.reshape(-1)}),
        lambda: tensors.update({name: tensor.to(chance.choice([torch.int64, torch.float32, torch.half, torch.bool]))}),
        lambda: tensors.update(
            {name: torch.full(tensor.shape, chance.choice([0.0, -1.0, 1e30, torch.inf])).to(tensor)}
        ),
        lambda: tensors.update({chance.choice([f"{name}x", f"{TRAINING}{name}", "x/y"]): tensor}),
        lambda: where.__setitem__(key, chance.choice(strange)),
        lambda: where.pop(key),
        lambda: where.__setitem__(key, copy.deepcopy(somewhere(payload)[0])) if chance.random() < 0.3 else None,
    ]
    chance.choice(kinds)()


def fuzz(directory: Path, seeds: range) -> None:
    """Resume mutated checkpoints: a typed error comes out, or a run that goes on to its end."""
    kinds: list[tuple[str, Any, dict[str, Any]]] = [
        ("adamw", None, {}),
        ("muon", None, {"optimizer": "muon"}),
        ("own", schedule_free, {}),
    ]
    for name, make, settings in kinds:
        cut_after(2, trainer_of(directory / name, make, max_iters=3, keep_checkpoints=1, **settings))
        path = directory / name / "step-00000002.safetensors"
        sound = path.read_bytes()
        for seed in seeds:
            path.write_bytes(sound)
            payload, tensors = read(path)
            chance = random.Random(f"{name} {seed}")
            for _ in range(chance.randint(1, 2)):
                mutated(payload, tensors, chance)
            try:
                write(path, {key: value.clone().contiguous() for key, value in tensors.items()}, payload)
                trainer = trainer_of(directory / name, make, max_iters=3, **settings)
                trainer.resume()
                for _ in trainer:
                    pass
            except TinyGPTError:
                pass


def fuzz_in_children(directory: Path, count: int) -> None:
    """Fuzz in processes of their own, so that a crash is seen and does not end the tests."""
    each = 100

    def work(first: int) -> None:
        warnings.simplefilter("ignore")
        fuzz(directory / str(first), range(first, min(first + each, count)))

    codes = {first: exit_code(in_child(lambda first=first: work(first))) for first in range(0, count, each)}  # type: ignore
    assert set(codes.values()) == {0}, codes


def test_random_checkpoints_raise_only_typed_errors(tmp_path: Path, unchecked_types: None) -> None:
    fuzz_in_children(tmp_path, 60)


@pytest.mark.slow
def test_whatever_ten_thousand_checkpoints_contain(tmp_path: Path, unchecked_types: None) -> None:
    fuzz_in_children(tmp_path, 3_400)  # of each of three optimizers


# --- start or resume --------------------------------------------------------------------------------------------------


def test_a_cell_that_starts_or_resumes_can_be_run_again(tmp_path: Path, unchecked_types: None) -> None:
    def cell() -> Trainer:
        trainer = trainer_of(tmp_path / "run", max_iters=4)
        trainer.fit(resume="auto", progress=False)
        return trainer

    first = cell()
    assert first.steps_taken == 4
    before = outcome(tmp_path / "run")
    first.fit(resume="auto", progress=False)
    assert cell().history.evaluations == first.history.evaluations
    assert outcome(tmp_path / "run") == before
    with pytest.raises(ConfigError, match="resume must be True, False or 'auto', got resume='yes'"):
        first.fit(resume="yes", progress=False)  # type: ignore[arg-type]


def test_starting_without_a_directory_needs_no_checkpoint() -> None:
    assert trainer_of(None, max_iters=2).fit(resume="auto", progress=False).last.step == 2
