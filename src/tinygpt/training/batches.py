"""The batches of a run: windows of its corpus, or those that a function of the user's makes."""

import hashlib
from collections.abc import Callable
from inspect import signature
from typing import Any

import torch
from torch import Tensor

from tinygpt.data import TokenDataset
from tinygpt.errors import ConfigError, InputTypeError, ShapeError, short
from tinygpt.ids import IGNORED
from tinygpt.models import LanguageModel
from tinygpt.models.base import check_values, count_targets
from tinygpt.training.config import TrainerConfig
from tinygpt.windows import Batch

_EXAMPLE = "e.g. lambda step: make_batch(seed=step)"


def windows_of(data: TokenDataset, config: TrainerConfig, block_size: int) -> Callable[[int], Batch]:
    """Return the function that draws the windows of a step from the training split."""
    size = {"batch_size": config.batch_size, "block_size": block_size}
    return lambda step: data.batch("train", step=step, seed=config.seed, **size)


def check_batches(batches: Any, model: LanguageModel) -> tuple[Callable[[int], Batch], Batch]:
    """Return a function that makes and checks the batch of a step, and the batch of step 0.

    That batch is made twice: a run can be resumed or shared among processes if a step always has the same batch.

    Raises:
        ConfigError: If step 0 has two different batches.
        InputTypeError: If ``batches`` is anything but a function of the step that returns two tensors of integers.
        ShapeError: If the tensors have other shapes than ``B T``, or ids outside the vocabulary.
    """
    try:
        is_function = callable(batches) and not isinstance(batches, type) and bool(signature(batches).bind(0))
    except (TypeError, ValueError):  # another number of arguments, or a function without a signature
        is_function = False
    if not is_function:
        raise InputTypeError(
            f"batches must be a function of the step that returns (x, y), {_EXAMPLE}, got {short(batches)} of type "
            f"{type(batches).__name__}"
        )

    def make(step: int) -> Batch:
        return _checked(batches(step), f"batches({step})", model)

    first, again = make(0), make(0)
    if not all(torch.equal(one, other) for one, other in zip(first, again, strict=True)):
        raise ConfigError(
            "batches must return the same batch whenever it gets the same step, got two different ones for step 0; "
            f"draw from a generator that the step seeds, {_EXAMPLE}"
        )
    return make, first


def digest_of(batch: Batch) -> str:
    """Return the beginning of the SHA-256 of a batch, by which a resumed run recognises its batches."""
    digest = hashlib.sha256(repr(tuple(batch.x.shape)).encode())
    for ids in batch:
        digest.update(ids.numpy().data)
    return digest.hexdigest()[:16]


def _checked(made: Any, name: str, model: LanguageModel) -> Batch:
    """Return a copy of what a user's function made, as int64 on the CPU."""
    if not isinstance(made, tuple | list) or len(made) != 2 or not all(isinstance(each, Tensor) for each in made):
        raise InputTypeError(
            f"{name} must return two tensors (x, y), got {short(made)}; convert arrays, e.g. torch.from_numpy(x)"
        )
    x, y = made
    for ids in (x, y):
        if ids.is_floating_point() or ids.is_complex() or ids.dtype == torch.bool:
            raise InputTypeError(f"{name} must return tensors of integers, got {ids.dtype}; use x.long(), y.long()")
    if x.ndim != 2 or x.shape != y.shape or not x.numel():
        raise ShapeError(f"{name} must return x and y of one shape (B, T), got {tuple(x.shape)} and {tuple(y.shape)}")
    if model.block_size is not None and x.shape[1] > model.block_size:
        raise ShapeError(
            f"{name} must return at most block_size={model.block_size} tokens in a row, got {x.shape[1]}; use shorter "
            "rows, or a model with a larger block_size"
        )
    # A copy, since tensors of inference mode cannot be trained on. Every rank checks all rows, so that all fail alike.
    batch = Batch(*(ids.to("cpu", torch.int64, copy=True) for ids in (x, y)))
    check_values(f"x of {name}", batch.x, model.vocab_size)
    if count_targets(batch.y):
        check_values(f"y of {name}", batch.y, model.vocab_size, also=IGNORED)
    return batch
