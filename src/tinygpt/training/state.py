"""What decides how a run goes on, beside the weights: as tensors and plain numbers for a file, and back.

Batches, dropout and previews are functions of the seed and the step, so that no generator needs to be kept.
"""

import math
import warnings
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from tinygpt.checkpoint import TRAINING, config_of, unpack_tokenizer
from tinygpt.data import TokenDataset
from tinygpt.errors import CheckpointCorruptError, CheckpointMismatchError, ConfigError, InputTypeError, short, show
from tinygpt.files import parse_json, to_json
from tinygpt.models import LanguageModel
from tinygpt.tokenizer import CharTokenizer
from tinygpt.training.config import MAY_CHANGE, OF_GROUPS, TrainerConfig
from tinygpt.training.device import DTYPES
from tinygpt.training.history import Evaluation, History
from tinygpt.training.run import savable


def pack_optimizer(optimizer: torch.optim.Optimizer) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Return the state of an optimizer: its tensors by name, and its numbers by parameter.

    Raises:
        InputTypeError: If it keeps anything else.
    """
    tensors: dict[str, Tensor] = {}
    numbers: dict[str, dict[str, Any]] = {}
    for index, state in optimizer.state_dict()["state"].items():
        for name, value in state.items():
            if isinstance(value, Tensor):
                tensors[f"{TRAINING}optimizer/{index}/{name}"] = value.detach().cpu().clone().contiguous()
            elif value is None or isinstance(value, int | float | str):
                numbers.setdefault(str(index), {})[name] = value
            else:
                raise InputTypeError(
                    f"an optimizer must keep tensors and plain numbers to be saved, got {short(value)} as {name} in "
                    f"{type(optimizer).__name__}"
                )
    return tensors, numbers


def unpack_optimizer(
    optimizer: torch.optim.Optimizer, tensors: Mapping[str, Tensor], numbers: Mapping[str, Mapping[str, Any]]
) -> None:
    """Put back what :func:`pack_optimizer` returned; learning rates and the like are those of the optimizer."""
    state: dict[int, dict[str, Any]] = {int(index): dict(values) for index, values in numbers.items()}
    prefix = f"{TRAINING}optimizer/"
    for key, tensor in tensors.items():
        if key.startswith(prefix):
            index, name = key.removeprefix(prefix).split("/", 1)
            state.setdefault(int(index), {})[name] = tensor
    optimizer.load_state_dict({"state": state, "param_groups": optimizer.state_dict()["param_groups"]})


def pack_history(history: History) -> tuple[dict[str, Tensor], list[dict[str, Any]]]:
    """Return the losses as a tensor, of which there are many, and the evaluations as plain numbers."""
    losses = torch.tensor(history.losses, dtype=torch.float64)
    return {f"{TRAINING}losses": losses}, [asdict(evaluation) for evaluation in history.evaluations]


def unpack_history(tensors: Mapping[str, Tensor], evaluations: list[dict[str, Any]]) -> History:
    """Return what :func:`pack_history` was given."""
    return History([Evaluation(**record) for record in evaluations], tensors[f"{TRAINING}losses"].tolist())


def pack_best(best: Mapping[str, Tensor], weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return the best weights, but for those that are the present ones anyway."""
    copies = {name: tensor.cpu().clone().contiguous() for name, tensor in best.items()}
    return {f"{TRAINING}best/{name}": copy for name, copy in copies.items() if not torch.equal(copy, weights[name])}


def unpack_best(tensors: Mapping[str, Tensor], weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return what :func:`pack_best` was given."""
    return {name: tensors.get(f"{TRAINING}best/{name}", tensor).clone() for name, tensor in weights.items()}


def changed_settings(then: Mapping[str, Any], now: Mapping[str, Any]) -> tuple[str, str]:
    """Return the settings that are no longer the same, in words: those that may change, and those that may not."""
    changes = {
        name: f"{name}={short(now.get(name))} where the run has {short(then.get(name))}"
        for name in sorted(now.keys() | then.keys())
        if now.get(name) != then.get(name)
    }
    allowed = {name: text for name, text in changes.items() if name in MAY_CHANGE or name.startswith(OF_GROUPS)}
    return "; ".join(allowed.values()), "; ".join(text for name, text in changes.items() if name not in allowed)


def check_same_tokenizer(path: Path, then: CharTokenizer | None, now: CharTokenizer | None) -> None:
    """Raise unless the run goes on with the tokenizer that it began with.

    Raises:
        CheckpointMismatchError: With both sizes and the first id that stands for another symbol.
    """
    if then == now:
        return
    symbols = [() if tokenizer is None else tokenizer.symbols for tokenizer in (then, now)]
    differing = (id for id, (a, b) in enumerate(zip(*symbols, strict=False)) if a != b)
    first = next(differing, min(map(len, symbols)))
    shown = [repr(s[first]) if first < len(s) else "nothing" for s in symbols]
    raise CheckpointMismatchError(
        f"the tokenizer must be that of the run in {show(path)}, got {len(symbols[1])} symbols where it has "
        f"{len(symbols[0])}; the first difference is id {first}: {shown[1]} where it has {shown[0]}"
    )


def group_settings(optimizer: torch.optim.Optimizer) -> dict[str, Any]:
    """Return the plain settings of an optimizer's groups, each by a name of its own; to be asked before any step."""
    return {
        f"{OF_GROUPS}[{index}].{name}": value
        for index, group in enumerate(optimizer.param_groups)
        for name, value in group.items()
        if all(map(_is_plain, value if isinstance(value, tuple) else (value,)))
    }


def _is_plain(value: object) -> bool:
    """Say whether JSON holds a value as it is."""
    return math.isfinite(value) if isinstance(value, float) else isinstance(value, int | str | None)


def run_settings(
    config: TrainerConfig,
    block_size: int,
    device: torch.device,
    dtype: torch.dtype,
    optimizer: torch.optim.Optimizer,
    groups: Mapping[str, Any],
) -> dict[str, Any]:
    """Return all that decides what comes out of a run, as a file keeps it."""
    settings = asdict(config) | {
        "block_size": block_size,
        "learning_rate": config.peak,  # worked out, so that another default of another version shows
        "final_learning_rate": config.end,
        "warmup_iters": config.warmup,
        "betas": config.decay_rates,
        "device": str(device),
        "precision": next(name for name, known in DTYPES.items() if known == dtype),
        "optimizer": type(optimizer).__name__,
        "torch": torch.__version__,
        "threads": torch.get_num_threads(),
        **groups,
    }
    read_back: dict[str, Any] = parse_json(to_json(settings))
    return read_back


def check_same_run(
    path: Path, payload: Mapping[str, Any], model: LanguageModel, data: TokenDataset, corpus: str, settings: Any
) -> None:
    """Raise unless the run of a checkpoint is the one that a trainer with these parts is set up for.

    Raises:
        CheckpointMismatchError: If the model, the corpus or the tokenizer is another.
        ConfigError: If a setting is another that must not be. One that may be is a warning.
    """
    name, config, training = type(model).__name__, config_of(model), payload["training"]
    if payload["model"] != name:
        raise CheckpointMismatchError(f"{show(path)} holds the run of a {short(payload['model'])}, got a {name}")
    changes = "; ".join(filter(None, changed_settings(payload["config"] or {}, config or {})))
    if changes:
        raise CheckpointMismatchError(f"the model must be that of the run in {show(path)}, got {changes}")
    if training["corpus"] != corpus:
        raise CheckpointMismatchError(
            f"the corpus must be that of the run in {show(path)}, got other ids or another split; use the same text "
            "and val_fraction"
        )
    check_same_tokenizer(path, unpack_tokenizer(path, payload, model), savable(data.tokenizer))
    allowed, refused = changed_settings(training["settings"], settings)
    if refused:
        raise ConfigError(f"to resume the run in {show(path)} its settings must be the same, got {refused}")
    if allowed:
        warnings.warn(f"the run goes on, but not as it would have, with {allowed}", stacklevel=4)


def check_training(path: Path, training: Any) -> None:
    """Raise unless the payload of a checkpoint has the names and kinds that a trainer writes.

    Raises:
        CheckpointCorruptError: If it has not.
    """
    kinds = {
        "step": int,
        "settings": dict,
        "corpus": str,
        "evaluations": list,
        "numbers": dict,
        "scaler": dict,
        "seconds": float,
    }
    if training.keys() != kinds.keys() or not all(isinstance(training[name], kind) for name, kind in kinds.items()):
        raise CheckpointCorruptError(f"{show(path)} does not hold the state of a run as this tinygpt writes it")
