"""Everything that a trainer checks and makes before it touches the model."""

from collections.abc import Callable
from functools import partial
from inspect import signature
from typing import Any

import torch
from torch import nn

from tinygpt.data import TokenDataset
from tinygpt.envelope import MOST_BYTES
from tinygpt.errors import ConfigError, InputTypeError, check_number, cut, short
from tinygpt.models import LanguageModel
from tinygpt.models.base import WINDOW
from tinygpt.models.inspection import check_floating, check_model
from tinygpt.optim import adamw, muon
from tinygpt.ranks import Ranks
from tinygpt.sharded_tensors import is_sharded
from tinygpt.tokenizer import check_trained_with
from tinygpt.training.config import TrainerConfig


def window_length(model: LanguageModel, data: TokenDataset, config: TrainerConfig) -> int:
    """Return the length of the windows, after all checks of model and data."""
    check_model("model", model)
    if not isinstance(data, TokenDataset):
        raise InputTypeError(f"data must be a TokenDataset, got {type(data).__name__}; use TokenDataset(text)")
    fits = max(1, min(WINDOW, len(data.train) - 1, len(data.val) - 1))
    block_size = config.block_size or model.block_size or fits
    if model.block_size is not None and block_size > model.block_size:
        raise ConfigError(
            f"block_size must be at most the model's, got {block_size} and {model.block_size} in the model"
        )
    if data.vocab_size > model.vocab_size:
        raise ConfigError(
            f"the data must have at most the ids of the model, got vocab_size={data.vocab_size} in the data and "
            f"{model.vocab_size} in the model; use vocab_size=data.vocab_size for the model"
        )
    if data.tokenizer is not None:
        check_trained_with(model, data.tokenizer)
    for split in ("train", "val"):
        data.split(split, block_size=block_size)
    check_floating("model", model, "trained")
    if not any(parameter.requires_grad for parameter in model.parameters()):
        raise ConfigError("the model must have a parameter that can move, got none; use model.requires_grad_(True)")
    if any(map(is_sharded, model.parameters())):
        raise ConfigError(
            "the model must be whole, got one that several processes share already; build it again, and load the "
            "best.safetensors of its run with tinygpt.load(path, into=model)"
        )
    if any(parameter.is_inference() for parameter in model.parameters()):
        raise ConfigError(
            "the model must be made outside of torch.inference_mode(), within which tensors cannot be trained; use "
            "copy.deepcopy(model) outside of it"
        )
    return block_size


def check_checkpoint_size(model: LanguageModel, processes: int) -> None:
    """Raise before a run whose files would be too large to be read back.

    Args:
        model: The model.
        processes: Number of processes that share the weights, each with a file of a checkpoint.

    Raises:
        ConfigError: If the best weights exceed a file, or a process' share of the weights, the best ones, and one
            tensor of the optimizer for each.
    """
    weights = sum(parameter.nbytes for parameter in model.parameters() if parameter.requires_grad)
    least = max(weights, 3 * weights / processes)
    if least > MOST_BYTES:
        raise ConfigError(
            f"a file of a run must have at most {MOST_BYTES / 1e9:.1f} GB, got at least {least / 1e9:.1f} GB for "
            f"{model.num_parameters():,} parameters; use run_dir=None, shard=True in more processes, or a smaller model"
        )


def micro_batches(accumulation: int | None, batch_size: int, world: int) -> int:
    """Return the number of micro-batches in a step, over all processes.

    Raises:
        ConfigError: If the processes cannot share them evenly, or a batch has fewer rows.
    """
    if accumulation is None:
        if batch_size < world:
            raise ConfigError(
                f"batch_size must be at least the number of processes, got batch_size={batch_size} and {world}; use a "
                "larger batch_size or fewer processes"
            )
        return world
    if accumulation % world:
        better = -(-accumulation // world) * world
        if not world & (world - 1):  # the next power of two, which divides evenly among fewer processes too
            better = max(world, 1 << (accumulation - 1).bit_length())
        raise ConfigError(
            f"accumulation must be a multiple of the {world} processes, got accumulation={accumulation}; use {better}"
        )
    return accumulation


def is_exact(accumulation: int, world: int) -> bool:
    """Return whether a run on so few processes has the bits of a run on one, rather than those up to rounding."""
    return accumulation & (accumulation - 1) == 0 and accumulation % world == 0


def share_weights(ranks: Ranks, model: LanguageModel) -> None:
    """Give every process the parameters and buffers of rank 0.

    Raises:
        ConfigError: If the processes have other models, or other versions of PyTorch.
    """
    tensors = dict(model.named_parameters()) | dict(model.named_buffers())
    kinds = {name: f"{tensor.dtype} of shape {tuple(tensor.shape)}" for name, tensor in tensors.items()}
    ranks.compare(lambda: kinds | {"torch": torch.__version__})  # broadcasting other shapes would never end
    ranks.broadcast_(tensors.values())


def optimizer_for(
    model: LanguageModel,
    config: TrainerConfig,
    dtype: torch.dtype,
    make: Callable[[nn.Module], torch.optim.Optimizer] | None,
) -> torch.optim.Optimizer:
    """Return the optimizer that ``make`` makes, or the one that the config names."""
    if make is not None:
        return checked_optimizer(make, model)
    fast = torch.bfloat16 if dtype == torch.bfloat16 else None
    known = partial(muon, dtype=fast) if config.optimizer == "muon" else adamw
    return known(model, learning_rate=config.peak, betas=config.decay_rates, weight_decay=config.weight_decay)


def checked_optimizer(make: Any, model: nn.Module) -> torch.optim.Optimizer:
    """Return the optimizer that a user's function makes from a model, after checks.

    Raises:
        InputTypeError: If the function is invalid, fails, or returns something else, or the optimizer's ``step`` needs
            an argument.
        ConfigError: If a learning rate is not finite, an option is out of range, or a parameter is not the model's.
    """
    example = "e.g. lambda model: torch.optim.SGD(model.parameters(), lr=0.1)"
    if isinstance(make, type | torch.optim.Optimizer) or not callable(make):
        named = "; name it in the config: TrainerConfig(optimizer=...)" if isinstance(make, str) else ""
        raise InputTypeError(f"make_optimizer must be a function of the model, {example}, got {short(make)}{named}")
    try:
        optimizer = make(model)
    except (AttributeError, TypeError, ValueError) as error:
        kind = ConfigError if isinstance(error, ValueError) else InputTypeError
        raise kind(f"make_optimizer must return an optimizer, {example}, got the error: {cut(str(error))}") from error
    if not isinstance(optimizer, torch.optim.Optimizer):
        raise InputTypeError(f"make_optimizer must return a torch.optim.Optimizer, {example}, got {short(optimizer)}")
    try:
        signature(type(optimizer).step).bind(optimizer)  # a scheduler wraps the method of the instance
    except TypeError as error:
        raise InputTypeError(
            f"make_optimizer must return an optimizer that steps without a closure, {example}, got "
            f"{type(optimizer).__name__}: {error}"
        ) from error
    for group in optimizer.param_groups:
        check_number("lr", group.get("lr"), "of at least 0 in each group of the optimizer", lambda rate: rate >= 0)
    own = set(map(id, model.parameters()))
    if not all(id(parameter) in own for group in optimizer.param_groups for parameter in group["params"]):
        raise ConfigError(
            f"make_optimizer must return an optimizer of the model's own parameters, {example}, got others"
        )
    return optimizer


def check_schedule(lr_schedule: Any, config: TrainerConfig) -> Callable[[int], float] | None:
    """Return a user's schedule if it is a function and the config asks for no other."""
    if lr_schedule is None:
        return None
    if isinstance(lr_schedule, type) or not callable(lr_schedule):
        raise InputTypeError(f"lr_schedule must be a function of the step, got {short(lr_schedule)}")
    given = [name for name in ("warmup_iters", "final_learning_rate") if getattr(config, name) is not None]
    if given:
        raise ConfigError(
            f"lr_schedule replaces the schedule of the config, got {given[0]} there as well; leave it out"
        )
    return lr_schedule
