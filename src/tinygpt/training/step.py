"""One step: a batch in, the weights moved. What it draws depends on the seed and its number alone."""

import math
import time
from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from tinygpt.data import TokenDataset
from tinygpt.errors import ConfigError, NonFiniteError, listed, warn
from tinygpt.models.base import count_targets
from tinygpt.models.modes import training
from tinygpt.randomness import derive_seed
from tinygpt.runtime import drawing_from, flushing_denormals
from tinygpt.training.config import TrainerConfig
from tinygpt.training.history import Evaluation
from tinygpt.training.objective import Objective


@dataclass(frozen=True)
class Step:
    """One optimizer step, as ``for step in trainer`` yields it.

    Attributes:
        number: How many steps have been taken, this one included.
        loss: Loss of its batch in nats, before the step; NaN for a batch whose targets are all ignored.
        learning_rate: Learning rate of the config that it was taken with; with an optimizer passed to ``Trainer``, that
            of its first group.
        grad_norm: Norm of the gradient before clipping.
        seconds: How long it took, without what is measured or written after it.
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


class Stepper:
    """Moves the weights of a model, a step at a time.

    Args:
        objective: What to make smaller.
        optimizer: Moves the weights; the learning rates of its groups are the peaks of the schedule.
        data: The corpus, of which the training split is read.
        size: ``batch_size`` and ``block_size`` of a batch.
        config: The rest: micro-batches, schedule, clipping and seed.
        peak: Peak of the learning rate that a step shows, since Muon's groups have several.
    """

    def __init__(
        self,
        objective: Objective,
        optimizer: torch.optim.Optimizer,
        data: TokenDataset,
        size: Mapping[str, int],
        config: TrainerConfig,
        peak: float,
    ) -> None:
        self._optimizer = optimizer
        self.scaler = torch.amp.GradScaler(objective.device.type, enabled=objective.dtype == torch.float16)
        self._objective = objective
        self._data = data
        self._size = size
        self._config = config
        self._peak = peak
        self._left: list[str] = []  # trainable parameters that the optimizer does not hold

    def take(self, number: int) -> Step:
        """Take step ``number``, counted from 0.

        Raises:
            NonFiniteError: If the loss or the gradient is not finite; the weights are those before the step.
        """
        started = time.perf_counter()
        device = self._objective.device.type
        # As if nothing were switched around it: a run within autocast or without gradients is the same run.
        with (
            flushing_denormals(),
            torch.inference_mode(False),
            torch.enable_grad(),
            torch.autocast(device, enabled=False),
            training(self._objective.model),
        ):
            rate = self._set_rates(number)
            x, y = self._data.batch("train", step=number, seed=self._config.seed, **self._size)
            loss, norm = math.nan, 0.0  # those of a batch whose targets are all ignored: nothing is moved
            if count := count_targets(y):
                loss, norm = self._gradients(number, x, y, count)
                self._check_finite(number, loss, norm, rate)
                with drawing_from(derive_seed(self._config.seed, "optimizer", number), self._objective.device):
                    self.scaler.step(self._optimizer)
                self.scaler.update()
        seconds = time.perf_counter() - started
        tokens = self._size["batch_size"] * self._size["block_size"]
        return Step(number + 1, loss, rate, norm, seconds, tokens / seconds)

    def _set_rates(self, number: int) -> float:
        """Set the learning rates of a step, and return the one to show."""
        share = self._config.schedule(number)
        for group in self._optimizer.param_groups:
            group["lr"] = group.setdefault("initial_lr", group["lr"]) * share
        return self._peak * share

    def _gradients(self, number: int, x: Tensor, y: Tensor, count: int) -> tuple[float, float]:
        """Leave clipped gradients of the mean loss over ``count`` targets in the parameters.

        Returns:
            The loss, and the norm of the gradients before clipping.
        """
        config, device = self._config, self._objective.device
        moved = self._clear_gradients()
        losses = []
        pieces = zip(x.tensor_split(config.accumulation), y.tensor_split(config.accumulation), strict=True)
        for micro, (some_x, some_y) in enumerate(pieces):
            if predicted := count_targets(some_y):
                with drawing_from(derive_seed(config.seed, "dropout", number, micro), device):
                    part = self._objective(some_x, some_y) * (predicted / count)
                    self.scaler.scale(part).backward()  # within the block, since checkpointing computes again
                losses.append(part.detach())
        self.scaler.unscale_(self._optimizer)
        norm = nn.utils.clip_grad_norm_(moved, math.inf if config.grad_clip is None else config.grad_clip)
        loss = torch.stack(losses).sum()
        values: list[float] = torch.stack([loss, norm.to(loss.dtype)]).tolist()  # one wait for the device, not two
        return values[0], values[1]

    def _clear_gradients(self) -> list[nn.Parameter]:
        """Remove all gradients of the model, and return the parameters that the optimizer moves.

        The gradient of a parameter that no group holds would otherwise grow from step to step.

        Raises:
            ConfigError: If none of them can be trained.
        """
        moved = [parameter for group in self._optimizer.param_groups for parameter in group["params"]]
        held, left = set(map(id, moved)), []
        for name, parameter in self._objective.model.named_parameters():
            parameter.grad = None
            if parameter.requires_grad and id(parameter) not in held:
                left.append(name)
        if left and left != self._left:
            warn(
                f"trainable parameters are in no group of the optimizer and will not move: {listed(left)}; add them "
                "with trainer.optimizer.add_param_group, or freeze them with requires_grad_(False)"
            )
        self._left = left
        if not any(parameter.requires_grad for parameter in moved):
            raise ConfigError("the optimizer must move a trainable parameter, got none; use model.requires_grad_(True)")
        return moved

    def _check_finite(self, number: int, loss: float, norm: float, rate: float) -> None:
        """Raise before the weights are touched. In fp16 an infinite gradient only tells the scaler to scale less."""
        if math.isfinite(loss) and (math.isfinite(norm) or self.scaler.is_enabled()):
            return
        is_half = any(parameter.dtype == torch.float16 for parameter in self._objective.model.parameters())
        way = "train model.float() and convert afterwards" if is_half else "use a lower learning rate"
        raise NonFiniteError(
            f"loss and gradient must be finite, got loss={loss:.4g} and grad_norm={norm:.4g} in step {number + 1} at "
            f"learning_rate={rate:.3g}; the weights are those before it; {way}"
        )
