"""The settings of a training run."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple, get_args

from tinygpt.errors import (
    ConfigError,
    InputTypeError,
    check_choice,
    check_integer,
    check_number,
    check_seed,
    check_truth,
    checked_names,
    short,
)
from tinygpt.schedules import warmup_cosine, warmup_linear


class Habits(NamedTuple):
    """Defaults of an optimizer."""

    learning_rate: float
    betas: tuple[float, float]
    most_warmup: int
    floor: float
    curve: Callable[..., float]


Optimizer = Literal["adamw", "muon"]
HABITS: dict[str, Habits] = {
    "adamw": Habits(3e-4, (0.9, 0.99), most_warmup=100, floor=0.1, curve=warmup_cosine),
    "muon": Habits(8e-3, (0.8, 0.95), most_warmup=20, floor=0.0, curve=warmup_linear),
}
Precision = Literal["auto", "fp32", "bf16", "fp16"]
PRECISIONS = get_args(Precision)
MAY_CHANGE = (  # when a run is resumed, with a warning; any other change makes it another run
    "max_iters",
    "learning_rate",
    "final_learning_rate",
    "warmup_iters",
    "eval_interval",
    "eval_iters",
    "patience",
    "save_interval",
    "keep_checkpoints",
    "preview_tokens",
    "max_seconds",
    "lr_schedule",
    "device",
    "precision",
    "compile",
    "world",
    "shard",
    "tinygpt",
    "torch",
    "hardware",
    "threads",
)
OF_GROUPS = "groups"  # prefix of the settings of a user's optimizer, which may change as well


@checked_names
@dataclass(frozen=True, kw_only=True)
class TrainerConfig:
    """How to train: plain numbers and words, checked when the config is made.

    The defaults are the ones to recommend. :meth:`notebook` has those of the notebook.

    Attributes:
        max_iters: Number of optimizer steps in all.
        max_seconds: Time for the run in seconds, evaluations included. The measured speed of the first steps decides
            how many steps fit, ``max_iters`` at most, and the learning rate comes down within them. A checkpoint stores
            the number, so a resumed run takes as many steps.
        batch_size: Windows in each step, over all micro-batches.
        block_size: Length of the windows; by default the model's ``block_size``.
        optimizer: ``"muon"`` moves the matrices inside the model at four times the learning rate, and the other
            parameters by AdamW. The learning rate falls linearly; see :func:`tinygpt.optim.muon`.
            ``"adamw"`` moves all parameters by AdamW. The learning rate falls along a cosine.
        learning_rate: Peak of the schedule; by default 8e-3, or 3e-4 for AdamW.
        final_learning_rate: End of the schedule; by default zero, or a tenth of the peak for AdamW.
        warmup_iters: Steps until the peak; by default a tenth of ``max_iters``, at most 20, or 100 for AdamW.
        weight_decay: Weight decay of the matrices; for AdamW of the parameters that
            :func:`tinygpt.optim.parameter_groups` names.
        betas: AdamW's two decay rates; by default 0.8 and 0.95, or 0.9 and 0.99 without Muon.
        grad_clip: Largest norm of the gradient; None does not clip.
        accumulation: Micro-batches that a batch is cut into, to save memory or to share them among processes. The
            result is the same up to rounding, except for dropout, which is drawn for each. By default each process has
            one; a resumed run keeps the number that it began with.
        shard: Whether several processes share the weights, gradients and the state of the optimizer out among them,
            so that a model larger than one device fits. The result is that of one process up to rounding.
        eval_interval: Steps between evaluations; there is one before the first step and one after the last.
        eval_iters: None measures the whole validation split, and as many windows of the training split. Of a split with
            more than 2**20 tokens it measures as many, always the same, spread evenly. A number is the notebook's
            estimate instead: the mean over this many random batches of each split.
        patience: Stop after this many evaluations without a better validation loss; None never stops early.
        save_interval: Steps between checkpoints in the run directory; None writes one after each evaluation.
        keep_checkpoints: Number of checkpoints to keep, the newest.
        preview_tokens: Tokens to generate as a preview at each evaluation; 0 for none.
        seed: Seed of batches, dropout and previews. The initial weights have their own: ``config.build(seed=...)``.
        device: ``"auto"`` takes CUDA, else MPS, else the CPU; or any name that :class:`torch.device` knows.
        precision: Dtype of matrix products: ``"fp32"``, ``"bf16"`` or ``"fp16"``. The weights keep theirs. ``"auto"``
            takes bf16 where the hardware has it, else fp16 on CUDA, else fp32.
        compile: Whether to run the model through :func:`torch.compile`. A machine that cannot compile gets a warning,
            and the run goes on without.

    Raises:
        ConfigError: If a value is out of range.
        InputTypeError: If the device is not a str.

    Example:
        >>> TrainerConfig(max_iters=2000, eval_interval=0)
        Traceback (most recent call last):
            ...
        tinygpt.errors.ConfigError: eval_interval must be an integer of at least 1, got eval_interval=0
    """

    max_iters: int = 5000
    max_seconds: float | None = None
    batch_size: int = 64
    block_size: int | None = None
    optimizer: Optimizer = "muon"
    learning_rate: float | None = None
    final_learning_rate: float | None = None
    warmup_iters: int | None = None
    weight_decay: float = 0.1
    betas: tuple[float, float] | None = None
    grad_clip: float | None = 1.0
    accumulation: int | None = None
    shard: bool = False
    eval_interval: int = 500
    eval_iters: int | None = None
    patience: int | None = None
    save_interval: int | None = None
    keep_checkpoints: int = 2
    preview_tokens: int = 100
    seed: int = 0
    device: str = "auto"
    precision: Precision = "auto"
    compile: bool = False

    def __post_init__(self) -> None:
        for name in ("max_iters", "batch_size", "eval_interval", "keep_checkpoints"):
            check_integer(name, getattr(self, name), minimum=1)
        for name in ("block_size", "accumulation", "eval_iters", "patience", "save_interval"):
            if getattr(self, name) is not None:
                check_integer(name, getattr(self, name), minimum=1)
        check_integer("preview_tokens", self.preview_tokens, minimum=0)
        check_choice("optimizer", self.optimizer, tuple(HABITS))
        check_number("learning_rate", self.peak, "above 0", lambda rate: rate > 0)
        check_number("weight_decay", self.weight_decay, "of at least 0", lambda decay: decay >= 0)
        if self.final_learning_rate is not None:
            rule, peak = f"from 0 to learning_rate={self.peak}", self.peak
            check_number("final_learning_rate", self.final_learning_rate, rule, lambda rate: 0 <= rate <= peak)
        if self.max_seconds is not None:
            check_number("max_seconds", self.max_seconds, "above 0, or None", lambda seconds: seconds > 0)
        if self.grad_clip is not None:
            check_number("grad_clip", self.grad_clip, "above 0, or None", lambda norm: norm > 0)
        if not isinstance(self.decay_rates, tuple) or len(self.decay_rates) != 2:
            raise ConfigError(f"betas must be a tuple of two numbers, got betas={short(self.betas)}")
        for beta in self.decay_rates:
            check_number("betas", beta, "in [0, 1) each", lambda number: 0 <= number < 1)
        if self.warmup_iters is not None:
            check_integer("warmup_iters", self.warmup_iters, minimum=0, maximum=self.max_iters)
        if self.accumulation is not None and self.accumulation > self.batch_size:
            raise ConfigError(
                f"accumulation must be at most batch_size, got accumulation={self.accumulation} and "
                f"batch_size={self.batch_size}"
            )
        check_seed(self.seed)
        check_choice("precision", self.precision, PRECISIONS)
        if not isinstance(self.device, str):
            raise InputTypeError(f"device must be a str, got device={short(self.device)}; use 'auto' or 'cpu'")
        check_truth("compile", self.compile)
        check_truth("shard", self.shard)
        if self.shard and (self.compile or self.precision == "fp16"):
            got = "compile=True" if self.compile else "precision='fp16'"
            raise ConfigError(f"shard=True needs compile=False and precision='bf16' or 'fp32', got {got}; leave it out")
        for name, value in vars(self).items():
            if hasattr(value, "item"):  # of NumPy
                object.__setattr__(self, name, value.item())  # a plain number, so that JSON takes it

    @classmethod
    def notebook(cls, **changes: Any) -> "TrainerConfig":
        """Return the settings of the notebook, with the changes that you name.

        AdamW at a constant learning rate of 3e-4, without warmup or clipping; every 500 steps the mean loss of 200
        random batches, and 100 characters. The notebook also decays biases, gains and tables; for that pass
        ``make_optimizer=lambda model: torch.optim.AdamW(model.parameters(), lr=3e-4)`` to :class:`Trainer`.

        Example:
            >>> TrainerConfig.notebook(max_iters=1000).schedule(999)
            1.0
        """
        settings: dict[str, Any] = {
            "max_iters": 8000,
            "optimizer": "adamw",
            "learning_rate": 3e-4,
            "final_learning_rate": 3e-4,
            "warmup_iters": 0,
            "weight_decay": 0.01,
            "betas": (0.9, 0.999),
            "grad_clip": None,
            "eval_iters": 200,
        }
        return cls(**settings | changes)

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

    def schedule(self, step: int, *, steps: int | None = None) -> float:
        """Return the learning rate of a step as a share of the peak.

        Args:
            step: Steps taken before it.
            steps: Steps of the run; by default ``max_iters``. A run with ``max_seconds`` may have fewer.
        """
        check_integer("step", step, minimum=0)
        curve = HABITS[self.optimizer].curve
        end = self.max_iters if steps is None else steps
        return curve(step, max_iters=end, warmup_iters=min(self.warmup, end), floor=self.floor)


def check_config(config: Any) -> TrainerConfig:
    """Return the config, for None the defaults.

    Raises:
        InputTypeError: If it is neither.
    """
    if config is None:
        return TrainerConfig()
    if not isinstance(config, TrainerConfig):
        is_pair = isinstance(getattr(config, "config", None), TrainerConfig)  # an Advice, or a trainer
        way = "pass its .config" if is_pair else "use TrainerConfig(...)"
        raise InputTypeError(f"config must be a TrainerConfig, got {short(config)}; {way}")
    return config
