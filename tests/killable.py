"""A small training run that can be killed, and what a run has come to, for comparing one run with another."""

import hashlib
import json
import os
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from tinygpt import CharTokenizer, GPTConfig, GPTLanguageModel, TokenDataset, Trainer, TrainerConfig
from tinygpt.checkpoint import read

TEXT = "the quick brown fox jumps over the lazy dog. " * 12
DATA = TokenDataset(TEXT, CharTokenizer.from_text(TEXT), val_fraction=0.2)
SETTINGS: dict[str, Any] = {
    "max_iters": 12,
    "batch_size": 4,
    "accumulation": 2,
    "optimizer": "adamw",
    "learning_rate": 0.01,
    "eval_interval": 5,
    "save_interval": 3,
    "sample_length": 5,
}


def make_trainer(directory: Path | None, **changes: Any) -> Trainer:
    """Return a trainer with everything on that draws at random."""
    torch.manual_seed(1)
    config = GPTConfig(vocab_size=DATA.vocab_size, block_size=8, n_layer=2, n_head=2, n_embd=8, dropout=0.2)
    return Trainer(GPTLanguageModel.from_config(config), DATA, TrainerConfig(**(SETTINGS | changes)), run_dir=directory)


def outcome(directory: Path) -> dict[str, str]:
    """Return digests of all that a run has come to, without the times that it took."""
    newest = max(directory.glob("step-*.safetensors"))
    payload, tensors = read(newest)
    records = [json.loads(line) for line in (directory / "metrics.jsonl").read_text().splitlines()]
    evaluations = payload["training"]["evaluations"]
    for record in (*records, *evaluations):
        for name in ("seconds", "tokens_per_second"):
            record.pop(name, None)
    found = {name: tensor.numpy().tobytes() for name, tensor in tensors.items()}
    found |= {
        f"best {name}": tensor.numpy().tobytes() for name, tensor in read(directory / "best.safetensors")[1].items()
    }
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
