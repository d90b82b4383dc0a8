"""The settings of a training run."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np

from tinygpt.errors import (
    ConfigError,
    InputTypeError,
    check_choice,
    check_integer,
    check_number,
    check_truth,
    checked_settings,
    short,
)
from tinygpt.optim import warmup_cosine, warmup_linear
from tinygpt.randomness import check_seed


class Habits(NamedTuple):
    """What suits an optimizer where the config leaves it open."""

    learning_rate: float
    betas: tuple[float, float]
    most_warmup: int
    floor: float
    curve: Callable[..., float]


HABITS = {
    "adamw": Habits(3e-4, (0.9, 0.99), most_warmup=100, floor=0.1, curve=warmup_cosine),
    "muon": Habits(8e-3, (0.8, 0.95), most_warmup=20, floor=0.0, curve=warmup_linear),
}
PRECISIONS = ("auto", "fp32", "bf16", "fp16")
MAY_CHANGE = (  # when a run is resumed, with a warning; all else would make it another run
    "max_iters",
    "learning_rate",
    "final_learning_rate",
    "warmup_iters",
    "eval_interval",
    "eval_iters",
    "patience",
    "save_interval",
    "keep_checkpoints",
    "sample_length",
    "device",
    "precision",
    "compile",
    "tinygpt",
    "torch",
    "hardware",
    "threads",
)
OF_GROUPS = "groups"  # with it begin the settings of an optimizer of the user's own, which may change as well


@checked_settings
@dataclass(frozen=True, kw_only=True)
class TrainerConfig:
    """How to train: plain numbers and words, checked when they are made.

    Attributes:
        max_iters: Number of optimizer steps in all.
        batch_size: Windows in each step, over all micro-batches.
        block_size: Length of the windows; by default the model's ``block_size``.
        optimizer: ``"muon"`` moves the matrices inside the model at four times the learning rate, and the other
            parameters by AdamW, with a rate that falls in a straight line: see :func:`tinygpt.optim.muon`.
            ``"adamw"`` moves all parameters by AdamW, with a rate that falls along a cosine.
        learning_rate: Peak of the schedule; by default 8e-3, with AdamW alone 3e-4.
        final_learning_rate: End of the schedule; by default zero, with AdamW alone a tenth of the peak.
        warmup_iters: Steps until the peak; by default a tenth of ``max_iters``, at most 20, with AdamW alone 100.
        weight_decay: Decay of the weights: of the matrices, or with AdamW alone of those that
            :func:`tinygpt.optim.parameter_groups` says.
        betas: AdamW's two decay rates; by default 0.8 and 0.95, with AdamW alone 0.9 and 0.99.
        grad_clip: Largest norm of the gradient; None leaves it as it is.
        accumulation: Micro-batches that a batch is cut into, to save memory; the result is the same, but for dropout,
            which is drawn for each.
        eval_interval: Steps between evaluations; there is one before the first step and one after the last.
        eval_iters: None measures the whole validation split, and as many windows of the training split. A number is
            the notebook's estimate instead: the mean of so many random batches of each.
        patience: Stop after so many evaluations without a better validation loss; None never stops early.
        save_interval: Steps between the checkpoints in the run directory, from which the run can go on; None writes
            one after each evaluation.
        keep_checkpoints: How many of them to keep, the newest.
        sample_length: Characters to write as a preview at each evaluation; 0 for none.
        seed: Decides batches, dropout and previews. The model's first weights are drawn before the trainer comes in:
            for them call ``torch.manual_seed``.
        device: ``"auto"`` takes CUDA, else MPS, else the CPU; or a name that :class:`torch.device` knows.
        precision: What products are computed in; the weights stay as they are. ``"auto"`` takes bf16 where the hardware
            has it, as do GPUs and server processors of today, else fp16 on CUDA, else fp32; or one of these.
        compile: Whether to run the model through :func:`torch.compile`. Where that cannot work, there is a warning
            and the run goes on without.

    Raises:
        ConfigError: If a value is out of range.
        InputTypeError: If the device is no string.

    Example:
        >>> TrainerConfig(max_iters=2000, eval_interval=0)
        Traceback (most recent call last):
            ...
        tinygpt.errors.ConfigError: eval_interval must be an integer of at least 1, got eval_interval=0
    """

    max_iters: int = 5000
    batch_size: int = 64
    block_size: int | None = None
    optimizer: str = "muon"
    learning_rate: float | None = None
    final_learning_rate: float | None = None
    warmup_iters: int | None = None
    weight_decay: float = 0.1
    betas: tuple[float, float] | None = None
    grad_clip: float | None = 1.0
    accumulation: int = 1
    eval_interval: int = 500
    eval_iters: int | None = None
    patience: int | None = None
    save_interval: int | None = None
    keep_checkpoints: int = 2
    sample_length: int = 100
    seed: int = 0
    device: str = "auto"
    precision: str = "auto"
    compile: bool = False

    def __post_init__(self) -> None:
        for name in ("max_iters", "batch_size", "accumulation", "eval_interval", "keep_checkpoints"):
            check_integer(name, getattr(self, name), minimum=1)
        for name in ("block_size", "eval_iters", "patience", "save_interval"):
            if getattr(self, name) is not None:
                check_integer(name, getattr(self, name), minimum=1)
        check_integer("sample_length", self.sample_length, minimum=0)
        check_choice("optimizer", self.optimizer, tuple(HABITS))
        check_number("learning_rate", self.peak, "above 0", lambda rate: rate > 0)
        check_number("weight_decay", self.weight_decay, "of at least 0", lambda decay: decay >= 0)
        if self.final_learning_rate is not None:
            rule, peak = f"from 0 to learning_rate={self.peak}", self.peak
            check_number("final_learning_rate", self.final_learning_rate, rule, lambda rate: 0 <= rate <= peak)
        if self.grad_clip is not None:
            check_number("grad_clip", self.grad_clip, "above 0, or None", lambda norm: norm > 0)
        if not isinstance(self.decay_rates, tuple) or len(self.decay_rates) != 2:
            raise ConfigError(f"betas must be a tuple of two numbers, got betas={short(self.betas)}")
        for beta in self.decay_rates:
            check_number("betas", beta, "in [0, 1) each", lambda number: 0 <= number < 1)
        if self.warmup_iters is not None:
            check_integer("warmup_iters", self.warmup_iters, minimum=0, maximum=self.max_iters)
        if self.accumulation > self.batch_size:
            raise ConfigError(
                f"accumulation must be at most batch_size, got accumulation={self.accumulation} and "
                f"batch_size={self.batch_size}"
            )
        check_seed(self.seed)
        check_choice("precision", self.precision, PRECISIONS)
        if not isinstance(self.device, str):
            raise InputTypeError(f"device must be a str, got device={short(self.device)}; use 'auto' or 'cpu'")
        check_truth("compile", self.compile)
        for name, value in vars(self).items():
            if isinstance(value, np.generic):
                object.__setattr__(self, name, value.item())  # a plain number, so that JSON takes it

    @property
    def warmup(self) -> int:
        """The steps of the rise, with the default worked out."""
        if self.warmup_iters is None:
            return min(HABITS[self.optimizer].most_warmup, self.max_iters // 10)
        return self.warmup_iters

    @property
    def peak(self) -> float:
        """The highest learning rate, with the default worked out."""
        return HABITS[self.optimizer].learning_rate if self.learning_rate is None else self.learning_rate

    @property
    def floor(self) -> float:
        """The end of the schedule as a share of its peak, with the default worked out."""
        if self.final_learning_rate is None:
            return HABITS[self.optimizer].floor
        return self.final_learning_rate / self.peak

    @property
    def decay_rates(self) -> tuple[float, float]:
        """AdamW's betas, with the default worked out."""
        return HABITS[self.optimizer].betas if self.betas is None else self.betas

    @property
    def end(self) -> float:
        """The learning rate at the end of the schedule, with the default worked out."""
        return self.floor * self.peak if self.final_learning_rate is None else self.final_learning_rate

    def schedule(self, step: int) -> float:
        """Return the learning rate of a step, counted from 0, as a share of the peak."""
        check_integer("step", step, minimum=0)
        curve = HABITS[self.optimizer].curve
        return curve(step, max_iters=self.max_iters, warmup_iters=self.warmup, floor=self.floor)


def check_config(config: Any) -> TrainerConfig:
    """Return the config, for None the defaults.

    Raises:
        InputTypeError: If it is neither.
    """
    if config is None:
        return TrainerConfig()
    if not isinstance(config, TrainerConfig):
        raise InputTypeError(f"config must be a TrainerConfig, got {short(config)}; use TrainerConfig(...)")
    return config
