"""The training loss, computed under autocast on the chosen device."""

from collections.abc import Callable, Iterable
from typing import Any

import torch
from jaxtyping import Float, Int64
from torch import Tensor

from tinygpt.errors import ShapeError
from tinygpt.models import LanguageModel
from tinygpt.models.base import IGNORED, check_values, count_targets, values_checked
from tinygpt.models.modes import evaluating
from tinygpt.runtime import compile_or_warn


class Objective:
    """The loss of a model on a batch, a function of the model's weights.

    Args:
        model: The model, on the device.
        device: Where to compute; batches are brought there.
        dtype: What autocast computes products in; with float32 it is off, and the model computes in its own.
        compile: Whether to run the model compiled.
    """

    def __init__(self, model: LanguageModel, device: torch.device, dtype: torch.dtype, *, compile: bool) -> None:
        self.model = model
        self.device = device
        self.dtype = dtype
        self._call: Callable[..., Any] = compile_or_warn(model) if compile else model

    def __call__(self, x: Int64[Tensor, "B T"], y: Int64[Tensor, "B T"]) -> Float[Tensor, ""]:
        """Return the loss of one batch, in nats, in whatever mode the model is in."""
        check_values("idx", x, self.model.vocab_size)  # here, where they lie on the CPU and reading them stalls nothing
        check_values("targets", y, self.model.vocab_size, also=IGNORED)
        dtype = None if self.dtype == torch.float32 else self.dtype
        # Without the cache: an autocast around the whole run would keep what an evaluation has cast without a graph.
        autocast = torch.autocast(self.device.type, dtype, enabled=dtype is not None, cache_enabled=False)
        with values_checked(), autocast:
            loss: Tensor = self._call(x.to(self.device), y.to(self.device)).loss
        return loss

    def mean(self, batches: Iterable[tuple[Int64[Tensor, "B T"], Int64[Tensor, "B T"]]]) -> float:
        """Return the mean over all targets that are not ignored, in evaluation mode; the modes are restored.

        Raises:
            ShapeError: If all targets are ignored.
        """
        total, count = torch.zeros((), dtype=torch.float64), 0
        with evaluating(self.model):
            for x, y in batches:
                if predicted := count_targets(y):
                    total += self(x, y).cpu().double() * predicted
                    count += predicted
        if not count:
            raise ShapeError(f"targets must hold at least one id to predict, got {IGNORED} everywhere in the split")
        return float(total) / count
