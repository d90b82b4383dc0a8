"""The time of a training step on this machine, from a few steps that are taken to measure it."""

import math
import time
from dataclasses import replace
from statistics import median

from tinygpt.data import TokenDataset
from tinygpt.models import GPTConfig, LanguageModel
from tinygpt.ranks import join
from tinygpt.runtime import choose_device, choose_precision, keep_freed_memory
from tinygpt.training.batches import windows_of
from tinygpt.training.config import TrainerConfig
from tinygpt.training.preparation import optimizer_for
from tinygpt.training.step import Objective, Stepper

_WHILE = 0.7  # seconds of steps
_LONG = 2.0  # seconds; a longer step is not timed as a whole


def seconds_per_step(model: GPTConfig, config: TrainerConfig, data: TokenDataset) -> float:
    """Return the time of a training step, which rank 0 measures alone for all processes."""
    return join().from_first(lambda: measured_step(model.build(seed=0), config, data, model.block_size))


def measured_step(model: LanguageModel, config: TrainerConfig, data: TokenDataset, block_size: int) -> float:
    """Return the time of a training step, by the median of a few. The steps change the model.

    The time of a step of several seconds is estimated from shorter steps: with one row, and with a few rows of a
    micro-batch.
    """
    keep_freed_memory()
    model = model.to(choose_device(config.device))
    rows, parts = config.batch_size, config.accumulation or 1
    few = replace(config, batch_size=1, accumulation=1)
    if not config.compile:  # which it would be for each number of rows
        one = _measured(model, few, data, block_size, least=0.2)
        micro = math.ceil(rows / parts)
        some = min(micro, max(2 if one > _LONG else 4, int(_LONG / one)))
        if one * rows > _LONG:
            several = one if some == 1 else _measured(model, replace(few, batch_size=some), data, block_size)
            estimate = parts * (one + max(0.0, several - one) / max(1, some - 1) * (micro - 1))
            if estimate > _LONG:
                return estimate
    return _measured(model, config, data, block_size)


def _measured(
    model: LanguageModel, config: TrainerConfig, data: TokenDataset, block_size: int, *, least: float = _WHILE
) -> float:
    """Return the median time of steps that take a number of seconds together, at least."""
    device = model.device
    dtype = choose_precision(config.precision, device, model)
    stepper = Stepper(
        Objective(model, device, dtype, compile=config.compile),
        optimizer_for(model, config, dtype, None),
        windows_of(data, config, block_size),
        config,
        schedule=lambda step: 1.0,
        peak=config.peak,
        accumulation=config.accumulation or 1,
    )
    stepper.take(0)  # the first step compiles and takes memory from the system
    times: list[float] = []
    started = time.perf_counter()
    while not times or time.perf_counter() - started < least:
        times.append(stepper.take(len(times) + 1).seconds)
    return median(times)
