"""The verb that describes the machine: doctor."""

import os
import platform
import tempfile
import warnings
from importlib import metadata
from pathlib import Path
from statistics import median
from typing import Any

from tinygpt.cli.inspection import show_facts
from tinygpt.cli.messages import in_flags
from tinygpt.cli.reading import show_json

_PACKAGES = ("tinygpt", "torch", "numpy", "safetensors", "jaxtyping", "tqdm", "filelock", "tyro", "matplotlib")
_MOST_SECONDS = 3.0  # of training steps, after the first
_VARIABLES = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "CUDA_VISIBLE_DEVICES", "XDG_CACHE_HOME", "TORCHINDUCTOR_CACHE_DIR")


def doctor(*, compile: bool = False, json: bool = False) -> int:
    """Describe this machine, for the report of a bug.

    The description has versions, devices, what "auto" chooses, threads, cache folders, and the time of a training step
    of a small model.

    Args:
        compile: Also compile the model, which takes up to a minute.
        json: Print the facts as JSON.
    """
    facts = _versions() | _machine() | {"training_step_ms": _time_of_step(compile=False)}
    if compile:
        facts["compiled_step_ms"] = _time_of_step(compile=True)
    show_json(facts) if json else show_facts(facts)
    return 0


def _versions() -> dict[str, Any]:
    """Return the versions of Python and of the packages; None for one that is not installed."""
    found: dict[str, Any] = {"python": platform.python_version()}
    for name in _PACKAGES:
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            found[name] = None
    return found


def _machine() -> dict[str, Any]:
    import torch
    from torch import nn

    from tinygpt.corpora import cached_at
    from tinygpt.runtime import available_devices, choose_device, choose_precision, name_hardware

    device = choose_device()
    dtype = choose_precision("auto", device, nn.Linear(1, 1, dtype=torch.float32))
    texts = cached_at(None)
    compiled = os.environ.get("TORCHINDUCTOR_CACHE_DIR") or Path(tempfile.gettempdir()) / "torchinductor_*"
    return {
        "torch": torch.__version__,  # with the build, which the metadata may lack
        "platform": platform.platform(),
        "devices": ", ".join(available_devices()),
        "auto": f"{device} ({name_hardware(device)}), {str(dtype).removeprefix('torch.')}",
        "threads": f"{torch.get_num_threads()} of {os.cpu_count()} CPUs",
        "variables": ", ".join(f"{name}={os.environ[name]}" for name in _VARIABLES if name in os.environ) or None,
        "cached_texts": None if texts is None else str(texts.parent),
        "compiled_code": str(compiled),
    }


def _time_of_step(*, compile: bool) -> float | str:
    """Return the median time of a training step, or the reason why none could be taken."""
    from tinygpt import GPTConfig, TokenDataset, Trainer, TrainerConfig

    data = TokenDataset(list(range(65)) * 100)
    model = GPTConfig.modern(vocab_size=65, block_size=64, n_layer=4, n_head=4, n_embd=128).build(seed=0)
    config = TrainerConfig(max_iters=12, batch_size=16, compile=compile)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always", UserWarning)
        try:
            seconds = []
            for step in Trainer(model, data, config):
                seconds.append(step.seconds)
                if sum(seconds[1:]) > _MOST_SECONDS:
                    break
        except Exception as error:  # of a broken driver, which is what the reader of the report looks for
            return f"{type(error).__name__}: {in_flags(str(error))}"
    if compile and caught:
        return in_flags(str(caught[-1].message))
    return round(1000 * median(seconds[1:]), 1)
