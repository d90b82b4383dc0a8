"""The contents of a run's checkpoint, and how a run is restored from one.

:class:`RunState` and :class:`RunRecord` name the fields of a checkpoint, and no other code does. Everything in a file
is compared with the run before anything is loaded. Batches, dropout and previews are functions of the seed and the
step, so no state of a generator is stored.
"""

import math
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, get_type_hints

import torch
from torch import Tensor

import tinygpt
from tinygpt.checkpoint import (
    TRAINING,
    check_fit,
    differences,
    distinct,
    pack,
    unpack_symbols,
    unpack_tokenizer,
)
from tinygpt.data import TokenDataset
from tinygpt.errors import (
    CheckpointCorruptError,
    CheckpointMismatchError,
    ConfigError,
    TinyGPTError,
    cut,
    short,
    show,
    warn,
)
from tinygpt.files import parse_json, to_json
from tinygpt.models import LanguageModel
from tinygpt.models.inspection import config_of, parts_of
from tinygpt.runtime import DTYPES, drawing_from, name_hardware
from tinygpt.sharded_tensors import is_sharded, local
from tinygpt.tokenizer import first_difference, symbols_of
from tinygpt.training.batches import digest_of
from tinygpt.training.config import MAY_CHANGE, OF_GROUPS, TrainerConfig
from tinygpt.training.history import Evaluation, History, steps_per_loss
from tinygpt.training.optimizer_state import (
    check_same_parameters,
    fitted,
    group_values,
    pack_optimizer,
    state_of,
    unpack_optimizer,
)
from tinygpt.training.preparation import is_exact
from tinygpt.training.run_directory import savable
from tinygpt.training.values import are_names, fits, is_alike, is_plain, require
from tinygpt.windows import Batch

_PREVIEWS = f"{TRAINING}previews"  # bytes of JSON
_LOSSES = f"{TRAINING}losses"
_BEST = f"{TRAINING}best/"
_PROBED = (0, 1, 10, 100, 1_000, 10_000)  # steps at which a schedule of the user's is compared


@dataclass
class RunState:
    """Everything of a run that changes from step to step, beside weights, optimizer and gradient scaler.

    A field added here is stored, checked and restored with the others, if its type is one of plain values.

    Attributes:
        step: Steps taken.
        seconds: Time spent in them.
        planned: Number of steps that fit into ``max_seconds``; None before it is known, and without a limit.
        history: The record of the run.
        best: The weights with the lowest validation loss, each once.
    """

    step: int = 0
    seconds: float = 0.0
    planned: int | None = None
    history: History = field(default_factory=History)
    best: dict[str, Tensor] = field(default_factory=dict)


_PLAIN = {name: kind for name, kind in get_type_hints(RunState).items() if name not in ("history", "best")}
_KINDS = _PLAIN | {"settings": dict, "corpus": str, "evaluations": list, "optimizer": dict, "scaler": dict}


class RunRecord:
    """Packs a run for a checkpoint, and restores it from one that belongs to the same run.

    It is made when the run begins: the model before a user's loop changes it, the optimizer before its first step.
    """

    def __init__(
        self,
        model: LanguageModel,
        optimizer: torch.optim.Optimizer,
        scaler: torch.amp.GradScaler,
        data: TokenDataset,
        config: TrainerConfig,
        *,
        block_size: int,
        accumulation: int,
        world: int,
        device: torch.device,
        dtype: torch.dtype,
        lr_schedule: Callable[[int], float] | None,
        batch: Batch | None,
        is_foreign: bool,
    ) -> None:
        self._config, self._world = config, world
        self._model, self._optimizer, self._scaler, self._data = model, optimizer, scaler, data
        self._device, self._is_foreign = device, is_foreign
        described = config_of(model)
        self._description = {"config": described, "parts": parts_of(model) if described is None else None}
        self._made = group_values(optimizer)
        self._fixed = asdict(config) | {
            "block_size": block_size,
            "accumulation": accumulation,
            "world": world,
            "learning_rate": config.peak,  # worked out, so that another default of another version shows
            "final_learning_rate": config.end,
            "warmup_iters": config.warmup,
            "betas": config.decay_rates,
            "device": device.type,
            "precision": next(name for name, known in DTYPES.items() if known == dtype),
            "optimizer": type(optimizer).__name__,
            "lr_schedule": None if lr_schedule is None else [lr_schedule(step) for step in _PROBED],
            "batches": None if batch is None else digest_of(batch),  # the first of a user's function
            **(_group_settings(optimizer) if is_foreign else {}),
        }

    @property
    def accumulation(self) -> int:
        """Number of micro-batches in a step: that of the run, if the config leaves it open."""
        return int(self._fixed["accumulation"])

    @cached_property
    def corpus(self) -> str:
        """The digest of the corpus."""
        return self._data.digest()

    @property
    def settings(self) -> dict[str, Any]:
        """Everything that decides the result of a run, as a file stores it."""
        versions = {
            "tinygpt": tinygpt.__version__,
            "torch": torch.__version__,
            "hardware": name_hardware(self._device),
            "threads": torch.get_num_threads(),
        }
        read_back: dict[str, Any] = parse_json(to_json(self._fixed | versions))
        return read_back

    def pack(self, state: RunState, weights: Mapping[str, Tensor]) -> tuple[dict[str, Tensor], dict[str, Any]]:
        """Return the tensors and the payload of a checkpoint; ``weights`` replace those that the model has now."""
        current = distinct(self._model)
        held = {name: local(tensor) for name, tensor in current.items()}
        tensors, payload = pack(self._model, savable(self._data.tokenizer), held)
        others = {name: tensor for name, tensor in current.items() if is_sharded(tensor)} | dict(weights)
        tensors |= {name: tensor.cpu() for name, tensor in others.items()}
        moments, optimizer = pack_optimizer(state_of(self._model, self._optimizer, self._made))
        losses, evaluations = pack_history(state.history)
        best = {name: tensor.cpu().clone().contiguous() for name, tensor in state.best.items()}
        best = {
            f"{_BEST}{name}": copy
            for name, copy in best.items()
            if is_sharded(copy) or not torch.equal(copy, tensors[name])  # the rows of other processes may differ
        }
        training = {name: getattr(state, name) for name in _PLAIN} | {
            "settings": self.settings,
            "corpus": self.corpus,
            "evaluations": evaluations,
            "optimizer": optimizer,
            "scaler": self._scaler.state_dict(),
        }
        return tensors | moments | losses | best, payload | self._description | {"training": training}

    def unpack(self, path: Path, payload: dict[str, Any], tensors: dict[str, Tensor]) -> Callable[[], RunState]:
        """Return a function that restores the run of a checkpoint, after everything in it was compared."""
        training = payload["training"]
        _check_kinds(path, training)
        changed = self._check_same_run(path, payload)
        weights = {name: tensor for name, tensor in tensors.items() if not name.startswith(TRAINING)}
        self._check_weights(path, weights)
        symbols = unpack_symbols(path, payload, self._model)
        state = RunState(**{name: training[name] for name in _PLAIN})
        if changed.keys() & {"max_iters", "max_seconds"}:
            state.planned = None
        try:
            state.history = unpack_history(tensors, training["evaluations"], state.step)
            state.history.even_guess = math.log(self._data.vocab_size)
            if state.history.evaluations:
                state.best = _unpack_best(tensors, weights)
            scaler = _unpack_scaler(training["scaler"])
            optimizer = unpack_optimizer(tensors, training["optimizer"])
            check_same_parameters(optimizer, state_of(self._model, self._optimizer, self._made))
            with drawing_from(0, self._device):
                put_optimizer = fitted(
                    self._model,
                    self._optimizer,
                    optimizer,
                    steps=state.step,
                    is_foreign=self._is_foreign,
                    kept=changed,
                )
        except TinyGPTError:
            raise
        except ValueError as error:
            raise CheckpointCorruptError(
                f"{show(path)} contains an invalid state of this run: {error}; use another copy, or an older checkpoint"
            ) from error

        accumulation = self._accumulation_of(training["settings"])

        def restore() -> RunState:
            self._fixed["accumulation"] = accumulation
            if changed:
                warn(
                    "resuming with changed settings, so results will differ from an uninterrupted run: "
                    f"{'; '.join(changed.values())}"
                )
            put_optimizer()
            if scaler:  # empty in a run of another precision, and the scaler of this one starts new
                self._scaler.load_state_dict(scaler)
            self._model.load_state_dict(weights, strict=False)  # names were checked; of tied weights the file has one
            self._model.trained_symbols = symbols
            return state

        return restore

    def _check_same_run(self, path: Path, payload: Mapping[str, Any]) -> dict[str, str]:
        """Raise if the checkpoint is of another run; return the settings that have changed but may, in words."""
        name, training, tokenizer = type(self._model).__name__, payload["training"], self._data.tokenizer
        if payload["model"] != name:
            raise CheckpointMismatchError(f"{show(path)} contains the run of a {short(payload['model'])}, got a {name}")
        for entry, described in self._description.items():
            if other := "; ".join(differences(payload[entry] or {}, described or {}).values()):
                raise CheckpointMismatchError(f"the model must be that of the run in {show(path)}, got {cut(other)}")
        if training["corpus"] != self.corpus:
            raise CheckpointMismatchError(
                f"the corpus must be that of the run in {show(path)}, got other ids or another split; use the same "
                "text and val_fraction"
            )
        # A corpus of ids alone may stay without a tokenizer.
        if tokenizer is not None or unpack_tokenizer(path, payload) is not None:
            then = unpack_symbols(path, payload, self._model)
            now = None if tokenizer is None else symbols_of(tokenizer)
            if then != now:
                id, theirs, ours = first_difference(then or (), now or ())
                raise CheckpointMismatchError(
                    f"the tokenizer must be that of the run in {show(path)}, got {len(now or ())} symbols where it has "
                    f"{len(then or ())}; the first difference is id {id}: {ours} where it has {theirs}"
                )
        changes = self._changes(path, training["settings"])
        allowed = {name: text for name, text in changes.items() if name in MAY_CHANGE or name.startswith(OF_GROUPS)}
        if refused := [text for name, text in changes.items() if name not in allowed]:
            raise ConfigError(
                f"to resume the run in {show(path)} its settings must be the same, got {cut('; '.join(refused))}"
            )
        return allowed

    def _accumulation_of(self, stored: Mapping[str, Any]) -> int:
        """Return the micro-batches of a run to resume: those that it began with, if the config leaves them open."""
        began = stored.get("accumulation")
        is_open = self._config.accumulation is None and type(began) is int and 0 < began <= self._config.batch_size
        return int(began) if is_open and began is not None else self.accumulation

    def _changes(self, path: Path, stored: Mapping[str, Any]) -> dict[str, str]:
        """Return the settings that differ from those of a checkpoint, in words."""
        accumulation, world = self._accumulation_of(stored), self._world
        if accumulation % world:
            raise ConfigError(
                f"accumulation must be a multiple of the {world} processes, got accumulation={accumulation} in the run "
                f"in {show(path)}; resume it on 1 process or on a divisor of {accumulation}"
            )
        changes = differences({"world": 1, "shard": False, **stored}, self.settings | {"accumulation": accumulation})
        began = stored.get("world", 1)
        if type(began) is int and began > 0 and is_exact(accumulation, began) and is_exact(accumulation, world):
            changes.pop("world", None)
        if began != world and self._config.shard:
            changes["world"] = f"world={world} (checkpoint has {short(began)}), equal up to rounding"
        if "world" not in stored and accumulation > 3:
            changes["world"] = "gradients of micro-batches are added in another order, equal up to rounding"
        return changes

    def _check_weights(self, path: Path, weights: Mapping[str, Tensor]) -> None:
        """Raise unless the checkpoint has the weights that the model needs."""
        try:
            check_fit(path, self._model, weights)
        except CheckpointMismatchError as error:
            found, wanted = ({tensor.dtype for tensor in some.values()} for some in (weights, distinct(self._model)))
            if len(found) == len(wanted) == 1 and found != wanted:
                raise  # the model was converted to another dtype
            raise CheckpointCorruptError(str(error)) from error


def _check_kinds(path: Path, training: Mapping[str, Any]) -> None:
    """Raise unless the names and types of a checkpoint's fields are those that a trainer writes."""
    wrong = [f"{name} is {short(training.get(name))}" for name, kind in _KINDS.items() if name not in training]
    wrong += [f"{name} is {short(value)}" for name, value in training.items() if not fits(value, _KINDS.get(name, ()))]
    if wrong:
        raise CheckpointCorruptError(f"{show(path)} contains an invalid state of a run: {wrong[0]}")


def _group_settings(optimizer: torch.optim.Optimizer) -> dict[str, Any]:
    """Return the plain settings of an optimizer's groups by name."""
    return {
        f"{OF_GROUPS}[{index}].{name}": value
        for index, group in enumerate(optimizer.param_groups)
        for name, value in group.items()
        if name != "params" and is_plain(value)
    }


def pack_history(history: History) -> tuple[dict[str, Tensor], list[dict[str, Any]]]:
    """Return losses and previews, of which there may be many, as tensors, and the evaluations as plain values."""
    losses = torch.tensor(history.losses + history.pending, dtype=torch.float64)
    evaluations = [asdict(evaluation) for evaluation in history.evaluations]
    previews = bytearray(to_json([evaluation.pop("sample") for evaluation in evaluations]).encode())
    return {_LOSSES: losses, _PREVIEWS: torch.frombuffer(previews, dtype=torch.uint8)}, evaluations


def unpack_history(tensors: Mapping[str, Tensor], evaluations: Any, steps: int) -> History:
    """Return the history that :func:`pack_history` packed after ``steps`` steps.

    Raises:
        ValueError: If a part is missing or invalid.
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
    stored = tensors.get(_LOSSES)
    if stored is None or stored.dtype != torch.float64 or stored.shape != (whole + pending,):
        raise ValueError(f"expected {whole + pending} losses after {steps} steps")
    previews = tensors.get(_PREVIEWS)
    require(previews is not None and previews.dtype == torch.uint8 and previews.ndim == 1, "the previews")
    samples = parse_json(previews.numpy().tobytes()) if previews is not None else []
    require(are_names(samples) and len(samples) == len(evaluations), "a preview for each evaluation")
    measured = [Evaluation(**record, sample=sample) for record, sample in zip(evaluations, samples, strict=True)]
    losses = stored.tolist()
    return History(measured, losses[:whole], steps_per_loss=each, pending=losses[whole:])


def _unpack_best(tensors: Mapping[str, Tensor], weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return the best weights; those that a file leaves out are the present ones."""
    best = dict(weights)
    for key, tensor in tensors.items():
        if key.startswith(_BEST):
            name = key.removeprefix(_BEST)
            like = weights.get(name)
            alike = like is not None and tensor.shape == like.shape and tensor.dtype == like.dtype
            require(alike, f"best weights like the present ones, got {short(name)}")
            best[name] = tensor
    return {name: tensor.clone() for name, tensor in best.items()}


def _unpack_scaler(record: dict[str, Any]) -> dict[str, Any]:
    """Return the state of a gradient scaler, which is empty where none was used."""
    known = torch.amp.GradScaler("cpu").state_dict()
    is_valid = not record or (
        record.keys() == known.keys() and all(is_alike(record[name], known[name]) for name in known)
    )
    require(is_valid and all(value >= 0 for value in record.values()), "the state of a gradient scaler")
    return record
