"""What a checkpoint stores of a run beside weights and optimizer, compared with the trainer before it is loaded.

Batches, dropout and previews are functions of the seed and the step, so no generator needs to be stored.
"""

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any, get_type_hints

import torch
from torch import Tensor

import tinygpt
from tinygpt.checkpoint import TRAINING, check_fit, differences, distinct, unpack_symbols, unpack_tokenizer
from tinygpt.data import TokenDataset
from tinygpt.errors import CheckpointCorruptError, CheckpointMismatchError, ConfigError, cut, listed, short, show
from tinygpt.files import parse_json, to_json
from tinygpt.models import LanguageModel
from tinygpt.runtime import DTYPES, name_hardware
from tinygpt.tokenizer import first_difference, symbols_of
from tinygpt.training.config import MAY_CHANGE, OF_GROUPS, TrainerConfig
from tinygpt.training.history import Evaluation, History, steps_per_loss
from tinygpt.training.values import are_names, fits, is_alike, is_plain, require

_PREVIEWS = f"{TRAINING}previews"  # bytes of JSON


def pack_history(history: History) -> tuple[dict[str, Tensor], list[dict[str, Any]]]:
    """Return losses and previews as tensors, of which there may be many, and the evaluations as plain numbers."""
    losses = torch.tensor(history.losses + history.pending, dtype=torch.float64)
    evaluations = [asdict(evaluation) for evaluation in history.evaluations]
    previews = bytearray(to_json([evaluation.pop("sample") for evaluation in evaluations]).encode())
    return {f"{TRAINING}losses": losses, _PREVIEWS: torch.frombuffer(previews, dtype=torch.uint8)}, evaluations


def unpack_history(tensors: Mapping[str, Tensor], evaluations: Any, steps: int) -> History:
    """Return what :func:`pack_history` was given after ``steps`` steps.

    Raises:
        ValueError: If these are not the losses and evaluations of a run of that length.
    """
    kinds = get_type_hints(Evaluation)
    del kinds["sample"]
    require(isinstance(evaluations, list), "a list of evaluations")
    for record in evaluations:
        is_known = isinstance(record, dict) and record.keys() == kinds.keys()
        is_valid = is_known and all(fits(record[name], kind) for name, kind in kinds.items())
        require(is_valid, f"evaluations only, got {short(record)}")
    numbers = [record["step"] for record in evaluations]
    require(numbers == sorted(set(numbers)) and max(numbers, default=0) <= steps, "evaluations in order")
    each = steps_per_loss(steps)
    whole, pending = divmod(steps, each)
    stored = tensors.get(f"{TRAINING}losses")
    if stored is None or stored.dtype != torch.float64 or stored.shape != (whole + pending,):
        raise ValueError(f"expected {whole + pending} losses after {steps} steps")
    previews = tensors.get(_PREVIEWS)
    require(previews is not None and previews.dtype == torch.uint8 and previews.ndim == 1, "the previews")
    samples = parse_json(previews.numpy().tobytes()) if previews is not None else []
    require(are_names(samples) and len(samples) == len(evaluations), "a preview for each evaluation")
    measured = [Evaluation(**record, sample=sample) for record, sample in zip(evaluations, samples, strict=True)]
    losses = stored.tolist()
    return History(measured, losses[:whole], steps_per_loss=each, pending=losses[whole:])


def pack_best(best: Mapping[str, Tensor], weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return the best weights, but for those that are the present ones anyway."""
    copies = {name: tensor.cpu().clone().contiguous() for name, tensor in best.items()}
    return {f"{TRAINING}best/{name}": copy for name, copy in copies.items() if not torch.equal(copy, weights[name])}


def unpack_best(tensors: Mapping[str, Tensor], weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return what :func:`pack_best` was given.

    Raises:
        ValueError: If they are not weights of the same model.
    """
    best = dict(weights)
    for key, tensor in tensors.items():
        if key.startswith(f"{TRAINING}best/"):
            name = key.removeprefix(f"{TRAINING}best/")
            like = weights.get(name)
            is_alike = like is not None and tensor.shape == like.shape and tensor.dtype == like.dtype
            require(is_alike, f"best weights like the present ones, got {short(name)}")
            best[name] = tensor
    return {name: tensor.clone() for name, tensor in best.items()}


def unpack_scaler(record: dict[str, Any]) -> dict[str, Any]:
    """Return the state of a gradient scaler, which is empty where none was used.

    Raises:
        ValueError: If it is not such a state.
    """
    known = torch.amp.GradScaler("cpu").state_dict()
    is_valid = not record or (
        record.keys() == known.keys() and all(is_alike(record[name], known[name]) for name in known)
    )
    require(is_valid and all(value >= 0 for value in record.values()), "the state of a gradient scaler")
    return record


def changed_settings(then: Mapping[str, Any], now: Mapping[str, Any]) -> tuple[dict[str, str], dict[str, str]]:
    """Return the settings that are no longer the same, each in words: those that may change, those that may not."""
    changes = differences(then, now)
    allowed = {name: text for name, text in changes.items() if name in MAY_CHANGE or name.startswith(OF_GROUPS)}
    return allowed, {name: text for name, text in changes.items() if name not in allowed}


def check_same_symbols(path: Path, then: Sequence[str | None] | None, now: Sequence[str | None] | None) -> None:
    """Raise unless the ids of a run go on to stand for the symbols that they stood for at its beginning.

    Raises:
        CheckpointMismatchError: With both sizes and the first id that stands for another symbol.
    """
    if then == now:
        return
    id, theirs, ours = first_difference(then or (), now or ())
    raise CheckpointMismatchError(
        f"the tokenizer must be that of the run in {show(path)}, got {len(now or ())} symbols where it has "
        f"{len(then or ())}; the first difference is id {id}: {ours} where it has {theirs}"
    )


def group_settings(optimizer: torch.optim.Optimizer) -> dict[str, Any]:
    """Return the plain settings of an optimizer's groups, each by a name of its own; to be called before any step."""
    return {
        f"{OF_GROUPS}[{index}].{name}": value
        for index, group in enumerate(optimizer.param_groups)
        for name, value in group.items()
        if name != "params" and is_plain(value)
    }


def run_settings(
    config: TrainerConfig,
    block_size: int,
    device: torch.device,
    dtype: torch.dtype,
    optimizer: torch.optim.Optimizer,
    groups: Mapping[str, Any],
) -> dict[str, Any]:
    """Return all that decides the result of a run, as a file stores it."""
    settings = asdict(config) | {
        "block_size": block_size,
        "learning_rate": config.peak,  # worked out, so that another default of another version shows
        "final_learning_rate": config.end,
        "warmup_iters": config.warmup,
        "betas": config.decay_rates,
        "device": str(device),
        "precision": next(name for name, known in DTYPES.items() if known == dtype),
        "optimizer": type(optimizer).__name__,
        "tinygpt": tinygpt.__version__,
        "torch": torch.__version__,
        "hardware": name_hardware(device),
        "threads": torch.get_num_threads(),
        **groups,
    }
    read_back: dict[str, Any] = parse_json(to_json(settings))
    return read_back


def check_same_run(
    path: Path,
    payload: Mapping[str, Any],
    model: LanguageModel,
    described: Mapping[str, Any],
    data: TokenDataset,
    corpus: str,
    settings: Mapping[str, Any],
) -> dict[str, str]:
    """Return the settings that have changed but may, unless the run of a checkpoint is another than this trainer's.

    Args:
        path: The checkpoint.
        payload: What it contains beside tensors.
        model: The model of this trainer.
        described: Its ``config`` and ``parts``, as the payload has them.
        data: The corpus of this trainer.
        corpus: The digest of that.
        settings: What :func:`run_settings` returns.

    Raises:
        CheckpointMismatchError: If the model, one of its parts, the corpus or the tokenizer is another.
        ConfigError: If a setting is another that must not be.
    """
    name, training = type(model).__name__, payload["training"]
    if payload["model"] != name:
        raise CheckpointMismatchError(f"{show(path)} contains the run of a {short(payload['model'])}, got a {name}")
    for entry in ("config", "parts"):
        if changes := "; ".join(differences(payload[entry] or {}, described[entry] or {}).values()):
            raise CheckpointMismatchError(f"the model must be that of the run in {show(path)}, got {cut(changes)}")
    if training["corpus"] != corpus:
        raise CheckpointMismatchError(
            f"the corpus must be that of the run in {show(path)}, got other ids or another split; use the same text "
            "and val_fraction"
        )
    if data.tokenizer is not None or unpack_tokenizer(path, payload, model) is not None:  # bare ids may stay bare
        symbols = None if data.tokenizer is None else symbols_of(data.tokenizer)
        check_same_symbols(path, unpack_symbols(path, payload, model), symbols)
    allowed, refused = changed_settings(training["settings"], settings)
    if refused:
        raise ConfigError(
            f"to resume the run in {show(path)} its settings must be the same, got {cut('; '.join(refused.values()))}"
        )
    return allowed


def check_weights(path: Path, model: LanguageModel, weights: Mapping[str, Tensor]) -> None:
    """Raise unless a checkpoint of the run of this model has the weights that the model needs.

    Raises:
        CheckpointMismatchError: If the model was converted to another dtype since.
        CheckpointCorruptError: If the weights are not those of the model that the file describes.
    """
    try:
        check_fit(path, model, weights)
    except CheckpointMismatchError as error:
        found, wanted = ({tensor.dtype for tensor in some.values()} for some in (weights, distinct(model)))
        if len(found) == len(wanted) == 1 and found != wanted:
            raise
        raise CheckpointCorruptError(str(error)) from error


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
        "optimizer": dict,
        "scaler": dict,
        "seconds": float,
    }
    for name, kind in kinds.items():
        if name not in training or not fits(training[name], kind):
            found = short(training.get(name))
            raise CheckpointCorruptError(f"{show(path)} contains an invalid state of a run: {name} is {found}")
    if training.keys() != kinds.keys():
        raise CheckpointCorruptError(
            f"{show(path)} contains an invalid state of a run: unknown {listed(training.keys() - kinds.keys())}"
        )
