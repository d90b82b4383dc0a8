"""The state of an optimizer by the names of the parameters, compared before it is loaded.

A state is never matched by position or by size. If a parameter was frozen or moved to another group, the others still
get their own state. A state that belongs to no parameter is an error that names it.
"""

import copy
from collections.abc import Callable, Container, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from tinygpt.checkpoint import TRAINING
from tinygpt.errors import CheckpointMismatchError, ConfigError, InputTypeError, listed, short
from tinygpt.training.config import OF_GROUPS
from tinygpt.training.values import MOST, are_names, is_alike, is_plain, is_same, require

OPTIMIZER = f"{TRAINING}optimizer/"
Values = dict[str, Any]  # plain values or tensors by name


@dataclass(frozen=True)
class OptimizerState:
    """The state and the groups of an optimizer, by the names of the model's parameters.

    Attributes:
        states: The state of each parameter that has moved.
        groups: The parameters of each group, and the values of the group that have changed since the optimizer was
            made, such as a counter. The learning rate is left out, because the schedule sets it.
        frozen: Parameters of the model that are not trained.
    """

    states: dict[str, Values]
    groups: list[tuple[list[str], Values]]
    frozen: list[str]

    @property
    def held(self) -> set[str]:
        """The parameters that some group holds."""
        return {name for names, _ in self.groups for name in names}

    @property
    def trained(self) -> set[str]:
        """The parameters that some group holds and that are not frozen."""
        return self.held - set(self.frozen)


def group_values(optimizer: torch.optim.Optimizer) -> list[Values]:
    """Return the values of each group, except its parameters and its learning rate."""
    return [
        {name: _copied(value) for name, value in group.items() if name not in ("params", "lr", "initial_lr")}
        for group in optimizer.param_groups
    ]


def state_of(model: nn.Module, optimizer: torch.optim.Optimizer, made: list[Values]) -> OptimizerState:
    """Return the state of an optimizer by the names of the parameters.

    Args:
        model: The model.
        optimizer: Its optimizer.
        made: The result of :func:`group_values` for the new optimizer.

    Raises:
        InputTypeError: If a value in the state is neither a tensor nor a plain value.
    """
    held = _held(model, optimizer)
    groups = []
    for number, (names, values) in enumerate(zip(held, group_values(optimizer), strict=True)):
        before = made[number] if number < len(made) else {}
        changed = {name: value for name, value in values.items() if not is_same(value, before.get(name))}
        groups.append((names, _savable(optimizer, changed)))
    frozen = [name for name, parameter in model.named_parameters() if not parameter.requires_grad]
    return OptimizerState(_states(optimizer, held), groups, frozen)


def _held(model: nn.Module, optimizer: torch.optim.Optimizer) -> list[list[str]]:
    """Return the names of the parameters in each group of an optimizer, all of which the model must have."""
    names = {id(parameter): name for name, parameter in model.named_parameters()}
    for number, group in enumerate(optimizer.param_groups):
        for index, parameter in enumerate(group["params"]):
            if id(parameter) not in names:
                raise ConfigError(
                    f"the optimizer must hold parameters of the model, got one of the shape {tuple(parameter.shape)} "
                    f"that the model no longer has, as number {index} of group {number}; make a new Trainer after "
                    "changing a model"
                )
    return [[names[id(parameter)] for parameter in group["params"]] for group in optimizer.param_groups]


def _states(optimizer: torch.optim.Optimizer, held: list[list[str]]) -> dict[str, Values]:
    """Return the state of each parameter, by its name."""
    order = [name for names in held for name in names]  # as a state_dict numbers the parameters
    states = {}
    for index, state in optimizer.state_dict()["state"].items():
        if not isinstance(index, int) or not isinstance(state, Mapping):
            kind = type(optimizer).__name__
            raise InputTypeError(f"an optimizer must keep its state by parameter to be saved, got {index!r} in {kind}")
        states[order[index]] = _savable(optimizer, state)
    return states


def _savable(optimizer: torch.optim.Optimizer, values: Mapping[str, Any]) -> Values:
    """Return values of an optimizer if a file can store them."""
    for name, value in values.items():
        if "/" in name or not (isinstance(value, Tensor) or is_plain(value)):
            raise InputTypeError(
                f"an optimizer must keep tensors and plain numbers to be saved, got {short(value)} as {name} in "
                f"{type(optimizer).__name__}"
            )
    return dict(values)


def pack_optimizer(state: OptimizerState) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Return the tensors of a state by name, and its other values as JSON stores them."""
    tensors: dict[str, Tensor] = {}

    def split(where: str, values: Values) -> Values:
        for name, value in values.items():
            if isinstance(value, Tensor):
                tensors[f"{OPTIMIZER}{name}/{where}"] = value.detach().cpu().clone().contiguous()
        return {name: value for name, value in values.items() if not isinstance(value, Tensor)}

    return tensors, {
        "states": {name: split(name, values) for name, values in state.states.items()},
        "groups": [
            {"parameters": names, "values": split(f"group {number}", values)}
            for number, (names, values) in enumerate(state.groups)
        ],
        "frozen": state.frozen,
    }


def unpack_optimizer(tensors: Mapping[str, Tensor], record: Any) -> OptimizerState:
    """Return the state that :func:`pack_optimizer` packed.

    Raises:
        ValueError: If a part is missing or invalid.
    """
    require(isinstance(record, dict) and record.keys() == {"states", "groups", "frozen"}, "the optimizer's state")
    require(isinstance(record["groups"], list) and isinstance(record["states"], dict), "the optimizer's state")
    require(are_names(record["frozen"]), "the names of frozen parameters")
    states: dict[str, Values] = {}
    for name, values in record["states"].items():
        require(isinstance(values, dict) and all(map(is_plain, values.values())), f"numbers of {short(name)}")
        states[name] = dict(values)
    groups: list[tuple[list[str], Values]] = []
    for group in record["groups"]:
        require(isinstance(group, dict) and group.keys() == {"parameters", "values"}, "a group of the optimizer")
        require(are_names(group["parameters"]) and isinstance(group["values"], dict), "a group of the optimizer")
        groups.append((group["parameters"], dict(group["values"])))
    holders = states | {f"group {number}": values for number, (_, values) in enumerate(groups)}
    for key, tensor in tensors.items():
        if key.startswith(OPTIMIZER):
            name, _, where = key.removeprefix(OPTIMIZER).partition("/")
            require(where in holders and name not in holders[where], f"a parameter for {short(key)}")
            holders[where][name] = tensor
    return OptimizerState(states, groups, record["frozen"])


def check_same_parameters(then: OptimizerState, now: OptimizerState) -> None:
    """Raise unless an optimizer moves the parameters that it moved in the run.

    Raises:
        CheckpointMismatchError: Naming the parameters and how each differs.
    """
    moved, moves = then.trained, now.trained
    differences = {
        "trainable in the run but frozen now": (moved - moves) & set(now.frozen),
        "moved by the optimizer in the run but in no group of it now": moved - moves - set(now.frozen),
        "frozen in the run but trainable now": (moves - moved) & set(then.frozen),
        "in no group of the run's optimizer but moved by this one": moves - moved - set(then.frozen),
    }
    found = [f"{text}: {listed(names)}" for text, names in differences.items() if names]
    if found:
        raise CheckpointMismatchError(
            f"the optimizer must move the parameters that it moved in the run, got {'; '.join(found)}; freeze "
            "and group them as in the run before resuming it"
        )


def fitted(
    model: nn.Module,
    optimizer: torch.optim.Optimizer,
    then: OptimizerState,
    *,
    steps: int,
    is_foreign: bool,
    kept: Container[str] = (),
) -> Callable[[], None]:
    """Return a function that puts a state into an optimizer, after a comparison with a state of its own.

    The optimizer takes a trial step with zero gradients, which is undone. The result shows which tensors and values it
    keeps for each parameter.

    Args:
        model: The model.
        optimizer: Its optimizer, over the parameters that it moved in the run.
        then: The state to put in.
        steps: Steps that the run had taken.
        is_foreign: Whether the optimizer is the user's, which may count in its own way and keep more later.
        kept: Names of group values that the user has changed, which stay.

    Raises:
        CheckpointMismatchError: If the optimizer lacks a group of the run.
        ValueError: If a tensor or a value is missing, left over, or has another shape, dtype or type. The optimizer is
            unchanged.
    """
    parameters, held = dict(model.named_parameters()), _held(model, optimizer)
    changes = _group_changes(then, held, group_values(optimizer), kept)
    with _taken_back(optimizer):
        for number, name, value in changes:
            optimizer.param_groups[number][name] = _copied(value)
        for name in then.held:
            parameters[name].grad = torch.zeros_like(parameters[name])
        try:
            optimizer.step()
        except Exception as error:
            raise ValueError(f"a state with which {type(optimizer).__name__} can step ({error})") from error
        expected = _states(optimizer, held)
    most = MOST if is_foreign else steps
    require(bool(then.states or not steps or not any(expected.values())), "a state of the optimizer")
    _check_states(then, expected, most, is_foreign=is_foreign)
    order = {name: index for index, name in enumerate(name for names in held for name in names)}
    loaded = {order[name]: values for name, values in then.states.items()}

    def put() -> None:
        optimizer.load_state_dict({"state": loaded, "param_groups": optimizer.state_dict()["param_groups"]})
        for name, values in then.states.items():  # loading casts to the dtype of the parameter
            for key, value in values.items():
                if isinstance(value, Tensor):
                    like = expected.get(name, {}).get(key, parameters[name])
                    optimizer.state[parameters[name]][key] = value.to(like.device, copy=True)
        for number, name, value in changes:
            optimizer.param_groups[number][name] = value

    return put


def _check_states(then: OptimizerState, expected: Mapping[str, Values], most: int, *, is_foreign: bool) -> None:
    """Raise unless the states of a file match those of the optimizer after a step."""
    strange = then.states.keys() - then.held
    require(not strange, f"states of parameters in its groups only, got one of {listed(strange)}")
    for name, values in then.states.items():
        wanted = expected.get(name, {})
        missing = wanted.keys() - values.keys()
        require(not missing, f"{listed(missing)} of {name}")
        for key, value in values.items():
            like, where = wanted.get(key, value), f"{key} of {name}"
            require(key in wanted or is_foreign, f"nothing like {where}")  # a user's optimizer may add values later
            if isinstance(value, Tensor) and isinstance(like, Tensor):
                require(value.shape == like.shape, f"{where} of the shape {tuple(like.shape)}, got {list(value.shape)}")
                require(value.dtype == like.dtype, f"{where} in {like.dtype}, got {value.dtype}")
            else:
                require(is_alike(value, like), f"{where} such as {short(like)}, got {short(value)}")
            if key == "step" and (not isinstance(value, Tensor) or value.numel() == 1):
                count = -1 if value is None or isinstance(value, str) else float(value)
                require(0 <= count <= most and count == int(count), f"{where} from 0 to {most}, got {count:g}")


def _group_changes(
    then: OptimizerState, held: list[list[str]], values: list[Values], kept: Container[str]
) -> list[tuple[int, str, Any]]:
    """Return the values to set in each group; groups are matched by their parameters, not by their order."""
    changes = []
    for names, changed in then.groups:
        if not changed:
            continue
        same = [number for number, others in enumerate(held) if set(others) == set(names)]
        if len(same) != 1:
            raise CheckpointMismatchError(
                f"the optimizer must have a group of these parameters as in the run, where it keeps {listed(changed)} "
                f"for them: {listed(names)}; group them as in the run before resuming it"
            )
        number = same[0]
        for name, value in changed.items():
            now = values[number].get(name, value)  # an optimizer may add some at its first step
            require(is_alike(value, now), f"{name} of a group such as {short(now)}, got {short(value)}")
            if f"{OF_GROUPS}[{number}].{name}" not in kept:
                changes.append((number, name, tuple(value) if isinstance(now, tuple) else value))
    return changes


@contextmanager
def _taken_back(optimizer: torch.optim.Optimizer) -> Iterator[None]:
    """Undo every change that the block makes to an optimizer and its parameters."""
    held = [parameter for group in optimizer.param_groups for parameter in group["params"]]
    weights = [(parameter.detach().clone(), parameter.grad) for parameter in held]
    state = {key: {name: _copied(value) for name, value in values.items()} for key, values in optimizer.state.items()}
    groups = [
        {name: value if name == "params" else _copied(value) for name, value in group.items()}
        for group in optimizer.param_groups
    ]
    try:
        yield
    finally:
        with torch.no_grad():
            for parameter, (weight, gradient) in zip(held, weights, strict=True):
                parameter.copy_(weight)
                parameter.grad = gradient
        optimizer.state.clear()
        optimizer.state.update(state)
        for group, values in zip(optimizer.param_groups, groups, strict=True):
            group.clear()
            group.update(values)


def _copied(value: Any) -> Any:
    if isinstance(value, Tensor):
        return value.detach().clone()
    return copy.deepcopy(value) if isinstance(value, list | dict) else value
