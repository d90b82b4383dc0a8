"""One training step, and the plain loop that defines it.

:func:`plain_loop` is the definition to read: batch, loss, gradient, step. :class:`Stepper` does the same for
:class:`~tinygpt.training.Trainer`, with mixed precision, micro-batches, and a check before the weights move.
"""

import math
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import partial
from itertools import islice
from typing import Any

import torch
from jaxtyping import Float, Int64
from torch import Tensor, nn

from tinygpt.data import TokenDataset
from tinygpt.errors import ConfigError, DataError, NonFiniteError, listed, warn
from tinygpt.ids import IGNORED
from tinygpt.models import LanguageModel
from tinygpt.models.base import check_values, count_targets, skip_value_checks
from tinygpt.models.modes import evaluating, training
from tinygpt.randomness import derive_seed
from tinygpt.ranks import Ranks
from tinygpt.runtime import compile_or_warn, compile_whole, drawing_from, flushing_denormals
from tinygpt.sharded_tensors import is_sharded, whole
from tinygpt.training.config import TrainerConfig
from tinygpt.training.gradients import add_in_tree, add_over_ranks
from tinygpt.training.history import Evaluation
from tinygpt.windows import Batch


def plain_loop(
    model: LanguageModel,
    data: TokenDataset,
    config: TrainerConfig,
    optimizer: torch.optim.Optimizer,
    *,
    block_size: int,
) -> list[float]:
    """Train a model by the loop that defines :class:`Trainer`, and return the losses.

    In float64 and without micro-batches, the steps of the trainer give the same weights. The trainer adds evaluations,
    checkpoints, mixed precision and speed.

    Args:
        model: The model, on the CPU.
        data: The corpus.
        config: Steps, batch size, shape of the schedule, clipping and seed. Its other settings have no effect here.
        optimizer: The optimizer; the learning rates of its groups are the peaks of the schedule.
        block_size: Length of the windows.

    Example:
        >>> data = TokenDataset("the quick brown fox jumps over the lazy dog. " * 20)
        >>> model = BigramLanguageModel(data.vocab_size)
        >>> sgd = torch.optim.SGD(model.parameters(), lr=10.0)
        >>> losses = plain_loop(model, data, TrainerConfig(max_iters=50, batch_size=8), sgd, block_size=16)
        >>> losses[-1] < losses[0]
        True
    """
    losses = []
    peaks = [group["lr"] for group in optimizer.param_groups]
    parameters = [parameter for group in optimizer.param_groups for parameter in group["params"]]
    model.train()
    for step in range(config.max_iters):
        x, y = data.batch("train", step=step, seed=config.seed, batch_size=config.batch_size, block_size=block_size)
        for group, peak in zip(optimizer.param_groups, peaks, strict=True):
            group["lr"] = peak * config.schedule(step)
        with drawing_from(derive_seed(config.seed, "dropout", step, 0), model.device):
            loss = model(x, y).loss
        optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(parameters, math.inf if config.grad_clip is None else config.grad_clip)
        optimizer.step()
        losses.append(loss.item())
    return losses


@dataclass
class Step:
    """One optimizer step, as ``for step in trainer`` yields it.

    Attributes:
        number: Steps taken so far, including this one.
        loss: Loss of its batch in nats, before the step.
        learning_rate: Learning rate of the config at this step; with ``make_optimizer``, that of the first group.
        grad_norm: Norm of the gradient before clipping.
        seconds: Duration of the step, without the evaluation or the checkpoint after it.
        tokens_per_second: Speed of this step.
        evaluation: The losses after the step, at the steps at which they are measured.
    """

    number: int
    loss: float
    learning_rate: float
    grad_norm: float
    seconds: float
    tokens_per_second: float
    evaluation: Evaluation | None = None

    def __repr__(self) -> str:
        facts = f"loss={self.loss:.4f}, learning_rate={self.learning_rate:.3g}, grad_norm={self.grad_norm:.3g}"
        speed = f"seconds={self.seconds:.3g}, tokens_per_second={self.tokens_per_second:.0f}"
        measured = "" if self.evaluation is None else f", evaluation.val_loss={self.evaluation.val_loss:.4f}"
        return f"Step(number={self.number}, {facts}, {speed}{measured})"


class Objective:
    """The training loss: the loss of a model on a batch, computed under autocast on a device.

    If the model is sharded, all ranks must call it equally often, since each pass gathers its weights.

    Args:
        model: The model, on the device.
        device: Device to compute on; batches are moved there.
        dtype: Dtype of products under autocast; float32 turns autocast off.
        compile: Whether to run the model compiled.
        ranks: The processes that share the batches of a mean; by default this one alone.
    """

    def __init__(
        self,
        model: LanguageModel,
        device: torch.device,
        dtype: torch.dtype,
        *,
        compile: bool = False,
        ranks: Ranks | None = None,
    ) -> None:
        self.ranks = ranks or Ranks()
        self.model = model
        self.device = device
        self.dtype = dtype
        self.is_sharded = any(map(is_sharded, model.parameters()))
        self._compile = compile
        self.prepare(accumulates=False)

    def prepare(self, *, accumulates: bool) -> None:
        """Compile the model at the next call, for gradients that several passes add up, or for those of one.

        CUDA graphs are recorded for one pass only: the next would overwrite its gradients.
        """
        compiled = partial(compile_whole, record=self.device.type == "cuda" and not accumulates)
        self._call: Callable[..., Any] = compile_or_warn(self.model, compiled) if self._compile else self.model

    def __call__(self, x: Int64[Tensor, "B T"], y: Int64[Tensor, "B T"]) -> Float[Tensor, ""]:
        """Return the mean loss of a batch, in nats."""
        # Checked on the CPU, where reading the values does not wait for the device.
        check_values("idx", x, self.model.vocab_size)
        check_values("targets", y, self.model.vocab_size, also=IGNORED)
        dtype = None if self.dtype == torch.float32 else self.dtype
        # Without its cache: an autocast around the whole run would reuse weights that an evaluation has cast without
        # a graph.
        autocast = torch.autocast(self.device.type, dtype, enabled=dtype is not None, cache_enabled=False)
        with skip_value_checks(), autocast:
            loss: Tensor = self._call(x.to(self.device), y.to(self.device)).loss
        return loss

    def mean(self, batches: Iterable[tuple[Tensor, Tensor]]) -> float:
        """Return the mean loss over all targets that are not ignored, in nats, in evaluation mode.

        The ranks measure the batches in turn, and each of them returns the mean over all.

        Raises:
            DataError: If all targets are ignored.
        """
        measured: list[tuple[int, float, int]] = []  # number of the batch, loss, targets
        with evaluating(self.model):
            numbered, here = enumerate(batches), self.ranks.here
            while some := list(islice(numbered, self.ranks.world)):
                number, (x, y) = some[min(here, len(some) - 1)]
                if here < len(some) and (predicted := count_targets(y)):
                    measured.append((number, float(self(x, y)), predicted))
                elif self.is_sharded:
                    self(x, x)  # measured by nobody, but the other ranks wait for it
        measured = sorted(tuple(each) for part in self.ranks.gather(measured) for each in part)
        total = sum(loss * predicted for _, loss, predicted in measured)  # in float64, in the order of the batches
        count = sum(predicted for _, _, predicted in measured)
        if not count:
            raise DataError(f"a split must have a target, got {IGNORED} for all; use a mask with more targets")
        return total / count


class Stepper:
    """Takes training steps, one at a time.

    Args:
        objective: The loss to minimise.
        optimizer: The optimizer; the learning rates of its groups are the peaks of the schedule.
        batches: Makes the batch of a step, counted from 0.
        config: Clipping and seed.
        schedule: Maps a step, counted from 0, to its learning rate as a share of the peak.
        peak: Peak of the learning rate that a step shows, since Muon's groups have several.
        accumulation: Number of micro-batches over all ranks, each a gradient of its own.
    """

    def __init__(
        self,
        objective: Objective,
        optimizer: torch.optim.Optimizer,
        batches: Callable[[int], Batch],
        config: TrainerConfig,
        *,
        schedule: Callable[[int], float],
        peak: float,
        accumulation: int,
    ) -> None:
        self.scaler = torch.amp.GradScaler(objective.device.type, enabled=objective.dtype == torch.float16)
        self._objective = objective
        self.accumulation = accumulation
        self._optimizer = optimizer
        self._batches = batches
        self._config = config
        self._schedule = schedule
        self._peak = peak
        self._rates: list[float] = []  # of the groups, as the last step set them
        self._has_warned = False
        self._unmoved: list[str] = []  # trainable parameters that no group of the optimizer holds

    @property
    def accumulation(self) -> int:
        """Number of micro-batches over all ranks."""
        return self._accumulation

    @accumulation.setter
    def accumulation(self, count: int) -> None:
        self._accumulation = count
        self._objective.prepare(accumulates=len(self._objective.ranks.share(count)) > 1)

    def take(self, index: int) -> Step:
        """Take the step with this index, counted from 0.

        Raises:
            DataError: If no target of the batch has a loss.
            NonFiniteError: If the loss or the gradient is not finite; the weights are those before the step.
        """
        started = time.perf_counter()
        config, device = self._config, self._objective.device
        # A surrounding autocast, no_grad or inference_mode does not change the run.
        with (
            flushing_denormals(),
            torch.inference_mode(False),
            torch.enable_grad(),
            torch.autocast(device.type, enabled=False),
            training(self._objective.model),
        ):
            share = self._schedule(index)
            self._set_rates(share)
            rate = self._peak * share
            x, y = self._batches(index)
            if not (count := count_targets(y)):
                raise DataError(
                    f"a batch must have a target, got {IGNORED} for all {y.numel():,} in step {index + 1}; use a "
                    "larger batch_size, or a mask with more targets"
                )
            loss, norm = self._gradients(index, x, y, count)
            self._check_finite(index, loss, norm, rate)
            with drawing_from(derive_seed(config.seed, "optimizer", index), device):
                self.scaler.step(self._optimizer)
            self.scaler.update()
        seconds = time.perf_counter() - started
        return Step(index + 1, loss, rate, norm, seconds, y.numel() / seconds)

    def _set_rates(self, share: float) -> None:
        """Set the learning rate of each group, and report once if something else has set one."""
        groups = self._optimizer.param_groups
        changed = [group["lr"] for group, rate in zip(groups, self._rates, strict=False) if group["lr"] != rate]
        if changed and not self._has_warned:
            self._has_warned = True
            warn(
                "the schedule of the trainer replaces a learning rate that was set from outside, "
                f"lr={changed[0]:.3g}; use Trainer(..., lr_schedule=...) for another schedule"
            )
        for group in groups:
            group["lr"] = group.setdefault("initial_lr", group["lr"]) * share
        self._rates = [group["lr"] for group in groups]

    def _gradients(self, index: int, x: Tensor, y: Tensor, count: int) -> tuple[float, float]:
        """Compute the clipped gradients of the mean loss over ``count`` targets; return the loss and their norm."""
        config, device, ranks = self._config, self._objective.device, self._objective.ranks
        moved = self._clear_gradients()
        pieces = list(zip(x.tensor_split(self.accumulation), y.tensor_split(self.accumulation), strict=True))

        def backward(micro: int) -> Tensor | float:
            some_x, some_y = pieces[micro]
            if not (predicted := count_targets(some_y)):
                if not self._objective.is_sharded:
                    return 0.0
                some_y = some_x  # a loss that counts for nothing, since the other ranks wait for its gradient
            with drawing_from(derive_seed(config.seed, "dropout", index, micro), device):
                part = self._objective(some_x, some_y) * (predicted / count)
                self.scaler.scale(part).backward()  # inside: activation checkpointing draws the dropout again
            return part.detach().to(torch.promote_types(part.dtype, torch.float32))

        loss = add_in_tree(ranks.share(self.accumulation), backward, moved)
        loss = torch.as_tensor(add_over_ranks(ranks, loss, moved))
        self.scaler.unscale_(self._optimizer)
        norm = whole(nn.utils.clip_grad_norm_(moved, math.inf if config.grad_clip is None else config.grad_clip))
        both = torch.stack([loss.to(norm.device), norm.to(loss.dtype)])  # one wait for the device, not two
        values: list[float] = both.tolist()
        return values[0], values[1]

    def _clear_gradients(self) -> list[nn.Parameter]:
        """Remove all gradients of the model, and return the parameters that the optimizer moves.

        All of them: the gradient of a parameter outside the optimizer would grow from step to step.
        """
        moved = [parameter for group in self._optimizer.param_groups for parameter in group["params"]]
        held, unmoved = set(map(id, moved)), []
        for name, parameter in self._objective.model.named_parameters():
            parameter.grad = None
            if parameter.requires_grad and id(parameter) not in held:
                unmoved.append(name)
        if unmoved and unmoved != self._unmoved:
            warn(
                f"trainable parameters are in no group of the optimizer and will not move: {listed(unmoved)}; add them "
                "with trainer.optimizer.add_param_group, or freeze them with requires_grad_(False)"
            )
        self._unmoved = unmoved
        if not any(parameter.requires_grad for parameter in moved):
            raise ConfigError("the optimizer must move a trainable parameter, got none; use model.requires_grad_(True)")
        return moved

    def _check_finite(self, index: int, loss: float, norm: float, rate: float) -> None:
        """Raise before the weights move. In fp16 the scaler skips the step and scales less, down to a scale of 1."""
        is_scaled_too_much = self.scaler.is_enabled() and not math.isfinite(norm) and self.scaler.get_scale() > 1
        if math.isfinite(loss) and (math.isfinite(norm) or is_scaled_too_much):
            return
        is_half = any(parameter.dtype == torch.float16 for parameter in self._objective.model.parameters())
        way = "train model.float() and convert afterwards" if is_half else "use a lower learning rate"
        raise NonFiniteError(
            f"loss and gradient must be finite, got loss={loss:.4g} and grad_norm={norm:.4g} in step {index + 1} at "
            f"learning_rate={rate:.3g}; the weights are those before it; {way}"
        )
