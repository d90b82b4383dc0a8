"""Plan a training beforehand: its memory, arithmetic, traffic and time, without training a step."""

import copy
import math
import warnings
from collections.abc import Mapping
from dataclasses import dataclass, replace
from types import MappingProxyType

import numpy as np
import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.func import functional_call
from torch.utils.flop_counter import FlopCounterMode

from tinygpt.data import TokenDataset
from tinygpt.envelope import MOST_BYTES
from tinygpt.errors import ConfigError, check_integer, check_number, checked_names
from tinygpt.files import memory_bytes
from tinygpt.models import GPTConfig, LanguageModel, MixtureLanguageModel, NGramLanguageModel
from tinygpt.models.base import WINDOW
from tinygpt.models.inspection import check_floating, check_model
from tinygpt.models.modes import training
from tinygpt.ranks import BUCKET
from tinygpt.runtime import DTYPES, choose_device, choose_precision
from tinygpt.training.config import TrainerConfig, check_config
from tinygpt.training.preparation import micro_batches, optimizer_for
from tinygpt.training.sharding import separate_blocks
from tinygpt.training.timing import measured_step

_OVERHEAD = 1.4  # memory in use beside what the graph keeps, as a factor: temporary results, and pieces that are free
_TOKENS_PER_PARAMETER = 20
_BEARABLE = 0.1  # of the time of computing, for sending


@dataclass(frozen=True)
class Plan:
    """The costs of a training, known before its first step.

    Printed, it is a table and a verdict. Bytes and seconds are estimates; numbers of operations are counted.

    Attributes:
        parameters: Number of parameters ``N``.
        devices: Number of devices, one process each.
        steps: Number of steps, as many as ``max_iters`` and ``max_seconds`` allow, evaluations not counted.
        tokens_per_step: Tokens in each step, over all devices.
        flops_per_token: Floating-point operations of the forward pass per token; a step takes three times as many.
        memory: Bytes on each device, by what they hold.
        checkpoint: Bytes of a checkpoint, in all its files, without the record of the losses, which has 8 for
            each step.
        sent: Bytes that each device sends in a step.
        computing: Seconds of arithmetic in a step.
        sending: Seconds of sending in a step, if nothing of it overlaps with arithmetic; 0 if the bandwidth is unknown.
        optimal_tokens: Tokens at which a model of this size uses its operations best, 20 for each parameter.
        verdicts: What fits and what does not, a sentence each.

    Source:
        For ``optimal_tokens``: Hoffmann et al., *Training Compute-Optimal Large Language Models*, 2022.
        https://arxiv.org/abs/2203.15556
    """

    parameters: int
    devices: int
    steps: int
    tokens_per_step: int
    flops_per_token: float
    memory: Mapping[str, float]
    checkpoint: float
    sent: float
    computing: float
    sending: float
    optimal_tokens: int
    verdicts: tuple[str, ...]

    @property
    def flops(self) -> float:
        """Floating-point operations of the whole training."""
        return 3.0 * self.flops_per_token * self.tokens_per_step * self.steps

    @property
    def seconds(self) -> float:
        """Seconds of the whole training, without evaluations and files."""
        return (self.computing + self.sending) * self.steps

    def __str__(self) -> str:
        tokens = self.tokens_per_step * self.steps
        sending = f", {_time(self.sending)} of sending" if self.sending else ""
        rows = [(f"  {name}", _bytes(count)) for name, count in self.memory.items()]
        rows = [
            ("parameters", f"{self.parameters:,}"),
            ("devices", f"{self.devices:,}"),
            ("tokens", f"{tokens:,}: {self.steps:,} steps of {self.tokens_per_step:,}"),
            ("compute-optimal", f"{self.optimal_tokens:,} tokens"),
            ("arithmetic", f"{self.flops_per_token:.3g} FLOP per token forward, {self.flops:.3g} in all"),
            ("memory per device", _bytes(sum(self.memory.values()))),
            *rows,
            ("checkpoint", _bytes(self.checkpoint)),
            ("sent per step", _bytes(self.sent)),
            ("a step", f"{_time(self.computing)} of computing{sending}"),
            ("the training", _time(self.seconds)),
        ]
        width = 2 + max(len(name) for name, _ in rows)
        return "\n".join([*(f"{name:<{width}}{value}" for name, value in rows), *self.verdicts])


@checked_names
def plan(
    model: LanguageModel | GPTConfig,
    config: TrainerConfig | None = None,
    *,
    devices: int = 1,
    memory: float | None = None,
    flops: float | None = None,
    bandwidth: float | None = None,
    utilisation: float = 0.4,
) -> Plan:
    """Plan a training: what it costs on some devices, and whether it fits.

    The model runs once without memory or arithmetic. A config costs nothing more, however large its model is.

    Args:
        model: A model, or the config of one.
        config: How to train.
        devices: Number of devices, one process each.
        memory: Bytes of each device. By default the memory of this machine, if ``flops`` is not given either.
        flops: Peak floating-point operations per second of each device. By default this machine is timed,
            which takes seconds, and up to a minute for a large model.
        bandwidth: Bytes per second that a device can send; None counts no time for sending.
        utilisation: Share of ``flops`` that a training reaches.

    Raises:
        ConfigError: If a number is out of range, the micro-batches cannot be shared out among the devices, or the model
            is too large to be timed here.
        InputTypeError: If ``model`` is neither a language model nor a config, or is quantised.

    Example:
        >>> config = TrainerConfig(batch_size=512, accumulation=64)
        >>> costs = plan(GPTConfig.gpt2(), config, devices=8, memory=80e9, flops=989e12, bandwidth=350e9)
        >>> f"{costs.parameters:,}", f"{costs.flops_per_token:.4g}"
        ('124,439,808', '2.848e+08')
        >>> print(costs.verdicts[0])
        fits: 4.3 GB of state, 27.9 GB of activations in 80.0 GB
    """
    config = check_config(config)
    check_integer("devices", devices, minimum=1)
    for name, number in (("memory", memory), ("flops", flops), ("bandwidth", bandwidth)):
        if number is not None:
            check_number(name, number, "above 0", lambda value: value > 0)
    check_number("utilisation", utilisation, "above 0, at most 1", lambda value: 0 < value <= 1)
    built = _without_memory(model) if isinstance(model, GPTConfig) else model
    check_model("model", built)
    check_floating("model", built, "trained")
    if memory is None and flops is None:
        memory = memory_bytes() or None  # not every system tells it

    accumulation = micro_batches(config.accumulation, config.batch_size, devices)
    rows, each = math.ceil(config.batch_size / accumulation), accumulation // devices  # of a device
    block_size = config.block_size or built.block_size or WINDOW
    tokens = config.batch_size * block_size
    forward = sum(_operations(part, block_size) for part in _computing(built)) / block_size
    parts = _state(built, config, devices, each, foreign=flops is not None)
    state = sum(parts.values())
    kept = sum(_activations(part, config, rows, block_size, foreign=flops is not None) for part in _computing(built))
    parts[f"activations of {rows} x {block_size}"] = kept
    checkpoint = _checkpoint(built, config)
    sent = (devices - 1) / devices * _exchanged(built, config, devices, each, foreign=flops is not None)
    if flops is not None:
        computing = 3 * forward * tokens / devices / (utilisation * flops)
    else:
        computing = each * _timed(model, config, rows, block_size, state + kept, memory or math.inf)
    sending = sent / bandwidth if bandwidth else 0.0
    steps = config.max_iters
    if config.max_seconds is not None and (each_step := computing + sending):
        steps = min(steps, max(1, int(config.max_seconds / each_step)))
    verdicts = [_fit(state, kept, memory, config.batch_size, accumulation)]
    if (
        memory is not None
        and state + kept > memory
        and (several := _devices_to_share(built, config, kept, memory, foreign=flops is not None))
    ):
        verdicts[0] += f", or shard=True on {several} devices"
    if sending > _BEARABLE * computing:
        enough = tokens / devices * sending / computing / _BEARABLE
        verdicts.append(
            f"sending takes {sending / computing:.0%} of the time of computing: {enough:,.0f} tokens per device make "
            f"it {_BEARABLE:.0%}, got {tokens / devices:,.0f}"
        )
    if checkpoint / (devices if config.shard else 1) > MOST_BYTES:
        more = "more devices" if config.shard else "run_dir=None, or shard=True on several devices"
        verdicts.append(f"a checkpoint of {_bytes(checkpoint)} is more than one file holds: use {more}")
    return Plan(
        parameters=built.num_parameters(),
        devices=devices,
        steps=steps,
        tokens_per_step=tokens,
        flops_per_token=forward,
        memory=MappingProxyType(parts),
        checkpoint=checkpoint,
        sent=sent,
        computing=computing,
        sending=sending,
        optimal_tokens=_TOKENS_PER_PARAMETER * built.num_parameters(),
        verdicts=tuple(verdicts),
    )


def _without_memory(config: GPTConfig) -> LanguageModel:
    """Return the model of a config with weights that have a shape and no memory."""
    with torch.device("meta"):
        return config.build()


def _computing(model: LanguageModel) -> list[LanguageModel]:
    """Return the models that multiply: the parts of a mixture, and no table, whose lookups need the ids themselves."""
    if isinstance(model, MixtureLanguageModel):
        return [each for part in model.models for each in _computing(part)]
    return [] if isinstance(model, NGramLanguageModel) else [model]


def _operations(model: LanguageModel, block_size: int) -> int:
    """Return the floating-point operations of the forward pass on one window."""
    state = {name: torch.empty_like(tensor, device="meta") for name, tensor in _tensors(model)}
    idx = torch.empty(1, block_size, dtype=torch.int64, device="meta")
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        functional_call(model, state, (idx,))
    return int(counter.get_total_flops())


def _activations(model: LanguageModel, config: TrainerConfig, rows: int, block_size: int, *, foreign: bool) -> float:
    """Return the bytes that the forward pass of a micro-batch keeps for the backward pass."""
    kept: dict[int, Tensor] = {}  # with the tensors, or a storage could take the number of one that is gone
    dtype = _dtype(model, config, foreign)

    def keep(tensor: Tensor) -> Tensor:
        kept.setdefault(tensor.untyped_storage()._cdata, tensor)
        return tensor

    with FakeTensorMode(allow_non_fake_inputs=True), training(model):
        state = {
            name: torch.empty(tensor.shape, dtype=tensor.dtype, requires_grad=tensor.requires_grad)
            for name, tensor in _tensors(model)
        }
        weights = {tensor.untyped_storage()._cdata for tensor in state.values()}
        idx = torch.empty(rows, block_size, dtype=torch.int64)
        with (
            torch.enable_grad(),
            torch.autocast("cpu", dtype, enabled=dtype != torch.float32, cache_enabled=False),
            torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor),
        ):
            functional_call(model, state, (idx, idx))
    return _OVERHEAD * sum(t.untyped_storage().nbytes() for number, t in kept.items() if number not in weights)


def _dtype(model: LanguageModel, config: TrainerConfig, foreign: bool) -> torch.dtype:
    """Return the dtype of the products, on another machine one of 16 bits unless the config says otherwise."""
    if config.precision != "auto":
        dtype = DTYPES[config.precision]
    elif foreign and all(parameter.dtype == torch.float32 for parameter in model.parameters()):
        dtype = torch.bfloat16
    else:
        dtype = choose_precision("auto", choose_device(config.device), model)
    return torch.bfloat16 if dtype == torch.float16 else dtype  # as large, and every CPU has it


def _tensors(model: LanguageModel) -> list[tuple[str, Tensor]]:
    return [*model.named_parameters(), *model.named_buffers()]


def _state(model: LanguageModel, config: TrainerConfig, devices: int, each: int, *, foreign: bool) -> dict[str, float]:
    """Return the bytes on each device, with ``each`` micro-batches, that do not depend on the number of rows."""
    weights = float(sum(map(_size, model.parameters())))
    trained = float(sum(_size(parameter) for parameter in model.parameters() if parameter.requires_grad))
    parts = {
        "weights": weights,
        "gradients": trained,
        f"state of {config.optimizer}": _optimizer_state(model, config),
        "best and last weights": 2 * weights,
    }
    if sums := trained * math.log2(each):
        parts["sums of gradients"] = sums
    if devices == 1:
        return parts
    if config.shard:
        rest, blocks = _gathered(model, config, foreign=foreign)
        shares = {name: count / devices for name, count in parts.items()}
        return shares | {"gathered weights and their gradients": 2 * (rest + max(blocks, default=0))}
    largest = max((_size(parameter) for parameter in model.parameters() if parameter.requires_grad), default=0)
    parts["sums of gradients"] = sums + min(trained, max(BUCKET, largest))  # sent in pieces
    return parts


def _gathered(model: LanguageModel, config: TrainerConfig, *, foreign: bool) -> tuple[float, list[float]]:
    """Return the bytes of the whole weights outside the blocks and in each block, as a sharded training gathers them.

    Blocks are gathered in the dtype of the products, the rest in its own.
    """
    dtype = _dtype(model, config, foreign)
    blocks = [[*block.parameters()] for block in separate_blocks(model)]
    rest = sum(map(_size, model.parameters())) - sum(_size(each) for block in blocks for each in block)
    small = dtype != torch.float32
    return rest, [sum(dtype.itemsize * p.numel() if small else _size(p) for p in block) for block in blocks]


def _exchanged(model: LanguageModel, config: TrainerConfig, devices: int, each: int, *, foreign: bool) -> float:
    """Return the bytes of the tensors that the devices gather or add up in a step."""
    weights = sum(map(_size, model.parameters()))
    if not config.shard or devices == 1:
        return 2.0 * weights
    rest, blocks = _gathered(model, config, foreign=foreign)
    trained = sum(_size(parameter) for parameter in model.parameters() if parameter.requires_grad)
    return each * (rest + 2.0 * sum(blocks) + trained)  # a block is gathered again for its backward pass


def _devices_to_share(
    model: LanguageModel, config: TrainerConfig, kept: float, memory: float, *, foreign: bool
) -> int | None:
    """Return the smallest power of two of devices that could train a model sharded, with the same activations."""
    precision = "bf16" if config.precision == "fp16" else config.precision  # as large, and not refused
    shared = replace(config, shard=True, compile=False, precision=precision)
    for devices in (2**power for power in range(1, 11)):
        if devices > config.batch_size or (config.accumulation or devices) % devices:
            continue
        each = (config.accumulation or devices) // devices
        if sum(_state(model, shared, devices, each, foreign=foreign).values()) + kept <= memory:
            return devices
    return None


def _optimizer_state(model: LanguageModel, config: TrainerConfig) -> float:
    """Return the bytes of the optimizer: two means for each number, or one in the matrices of Muon."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the trainer gives them
        optimizer = optimizer_for(model, config, torch.float32, None)
    return float(
        sum(
            (1 if group.get("is_muon") else 2) * _size(parameter)
            for group in optimizer.param_groups
            for parameter in group["params"]
        )
    )


def _checkpoint(model: LanguageModel, config: TrainerConfig) -> float:
    """Return the bytes of a checkpoint: the weights, the best ones, and the state of the optimizer."""
    saved = {id(tensor): _size(tensor) for tensor in model.state_dict(keep_vars=True).values()}  # tied ones once
    return 2.0 * sum(saved.values()) + _optimizer_state(model, config)


def _timed(
    model: LanguageModel | GPTConfig, config: TrainerConfig, rows: int, block_size: int, needed: float, memory: float
) -> float:
    """Return the seconds of a micro-batch on this machine."""
    if needed > (limit := min(memory, memory_bytes() or math.inf)):
        raise ConfigError(
            f"a model that does not fit cannot be timed here, got {_bytes(needed)} of state and activations for "
            f"{_bytes(limit)} of memory; name flops= of the device"
        )
    built = model.build(seed=0) if isinstance(model, GPTConfig) else copy.deepcopy(model)
    data = TokenDataset(np.arange(rows * block_size + 1) % built.vocab_size, val_fraction=0.0)
    micro = replace(config, batch_size=rows, accumulation=1, block_size=block_size, max_iters=max(config.max_iters, 4))
    return measured_step(built, micro, data, block_size)


def _fit(state: float, kept: float, memory: float | None, batch_size: int, now: int) -> str:
    """Return whether state and activations fit a device, and what to do if they do not."""
    parts = f"{_bytes(state)} of state, {_bytes(kept)} of activations"
    if memory is None:
        return f"needs {_bytes(state + kept)} on each device: {parts}"
    if state + kept <= memory:
        return f"fits: {parts} in {_bytes(memory)}"
    # the activations shrink with the rows of a micro-batch
    over = f"does not fit one device by {_bytes(state + kept - memory)}"
    finer = (now * 2**power for power in range(1, 30) if now * 2**power <= batch_size)
    enough = next((count for count in finer if state + kept * now / count <= memory), None)
    way = f"accumulation={enough}" if enough else "a smaller model or shorter windows"
    return f"{over}: use {way}"


def _size(tensor: Tensor) -> int:
    return tensor.numel() * tensor.element_size()


def _bytes(count: float) -> str:
    return f"{count / 1e9:,.1f} GB" if count >= 1e9 else f"{count / 1e6:,.1f} MB"


def _time(seconds: float) -> str:
    """Return a time in the unit that suits it."""
    for unit, size in (("days", 86400), ("h", 3600), ("min", 60), ("s", 1)):
        if seconds >= 2 * size:
            return f"{seconds / size:,.1f} {unit}"
    return f"{1000 * seconds:,.1f} ms"
