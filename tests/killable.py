"""A small training run that can be killed, and what a run has come to, for comparing one run with another."""

import hashlib
import json
import os
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from builders import DATA, make_gpt

from tinygpt import Trainer, TrainerConfig
from tinygpt.checkpoint import read
from tinygpt.models.config import Layout

SETTINGS: dict[str, Any] = {
    "max_iters": 12,
    "batch_size": 4,
    "accumulation": 2,
    "optimizer": "adamw",
    "learning_rate": 0.01,
    "eval_interval": 5,
    "save_interval": 3,
    "preview_tokens": 5,
}


def make_trainer(directory: Path | None, *, layout: Layout = "notebook", make: Any = None, **changes: Any) -> Trainer:
    """Return a trainer with everything on that draws at random.

    Args:
        directory: Where the run is kept.
        layout: The layout of the GPT.
        make: Makes an optimizer from the model; None takes that of the settings.
        changes: Settings other than those of this module.
    """
    model = make_gpt(layout, dropout=0.2)
    model = model if changes.get("precision", "auto") == "auto" else model.float()
    return Trainer(model, DATA, TrainerConfig(**(SETTINGS | changes)), run_dir=directory, make_optimizer=make)


class ScheduleFree(torch.optim.Optimizer):
    """An optimizer that counts in its groups, as schedule-free methods do, and averages by that count."""

    def __init__(self, parameters: Any, lr: float) -> None:
        super().__init__(parameters, {"lr": lr, "k": 0, "weight_sum": 0.0, "peak": torch.zeros(())})

    @torch.no_grad()
    def step(self, closure: Any = None) -> Any:
        for group in self.param_groups:
            group["k"] += 1
            group["weight_sum"] += group["lr"] ** 2
            group["peak"] = group["peak"] + group["lr"]
            for parameter in group["params"]:
                if parameter.grad is not None:
                    state = self.state[parameter]
                    z = state.setdefault("z", parameter.clone())
                    z.sub_(parameter.grad, alpha=group["lr"])
                    parameter.lerp_(z, group["lr"] ** 2 / group["weight_sum"] + 1 / (group["k"] + group["peak"]))


def momentum(model: torch.nn.Module) -> torch.optim.Optimizer:
    """Return an optimizer that a user might bring."""
    return torch.optim.SGD(model.parameters(), lr=0.05, momentum=0.9)


def schedule_free(model: torch.nn.Module) -> torch.optim.Optimizer:
    """Return one that keeps a state in its groups too."""
    return ScheduleFree(model.parameters(), lr=0.1)


def outcome(directory: Path) -> dict[str, str]:
    """Return digests of all that a run has come to, without the times that it took."""
    newest = max(directory.glob("step-*.safetensors"))
    payload, tensors = read(newest)
    records = [json.loads(line) for line in (directory / "metrics.jsonl").read_text().splitlines()]
    evaluations = payload["training"]["evaluations"]
    for record in (*records, *evaluations):
        for name in ("seconds", "tokens_per_second"):
            record.pop(name, None)
    best = read(directory / "best.safetensors")[1]
    tensors |= {f"best {name}": tensor for name, tensor in best.items()}
    found = {name: tensor.reshape(-1).view(torch.uint8).numpy().tobytes() for name, tensor in tensors.items()}
    found |= {"log": json.dumps(records).encode(), "evaluations": json.dumps(evaluations).encode()}
    found["step"] = newest.name.encode()
    return {name: hashlib.sha256(raw).hexdigest() for name, raw in found.items()}


def in_child(work: Callable[[], object]) -> int:
    """Do something in a process of its own, a copy of this one, and return its number. It never comes back here."""
    child = os.fork()
    if child:
        return child
    code = 1
    try:
        work()
        code = 0
    except SystemExit as error:
        code = int(error.code or 0)
    except KeyboardInterrupt:
        code = 130
    except BaseException:
        traceback.print_exc()
    os._exit(code)


def exit_code(child: int) -> int:
    """Wait for a process and return its exit code, negative for the signal that ended it."""
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
