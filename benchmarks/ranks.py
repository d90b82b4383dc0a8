"""Measure two processes: a training step beside that of one process, and the sum of gradients beside PyTorch's.

Run:   TINYGPT_TINYSHAKESPEARE=FILE python benchmarks/ranks.py [SRC]
Needs: an idle machine with two cores; two minutes. SRC is the folder `src` of another version of tinygpt, whose step in
       one process is measured too. The text is that of the first program in README.md; FILE is not read.
"""

import json
import os
import socket
import statistics
import subprocess
import sys
import time
from collections import defaultdict
from collections.abc import Callable
from pydoc_data.topics import topics
from typing import Any

import torch
from harness import in_turns, ratio, record

from tinygpt import GPTConfig, TokenDataset, Trainer, TrainerConfig

Worker = list[subprocess.Popen[str]]

ROUNDS, STEPS = 25, 10
ONE = "1 process, 2 threads"
SIZES: dict[str, Callable[[], GPTConfig]] = {
    "0.8 million": lambda: GPTConfig.modern(vocab_size=65, block_size=64, n_layer=4, n_head=4, n_embd=128),
    "10.7 million": lambda: GPTConfig(vocab_size=65),
}


def start(task: str, *, processes: int, threads: int, src: str | None = None) -> Worker:
    """Start processes of this program that do a task together."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    shared = {"OMP_NUM_THREADS": str(threads)} | ({} if src is None else {"PYTHONPATH": src})
    if processes > 1:
        shared |= {"WORLD_SIZE": str(processes), "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    return [
        subprocess.Popen(
            [sys.executable, __file__, task],
            env=os.environ | shared | ({"RANK": str(rank), "LOCAL_RANK": str(rank)} if processes > 1 else {}),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        for rank in range(processes)
    ]


def turn(worker: Worker) -> Any:
    """Let all processes of a worker go on, and return the answer of the first."""
    for process in worker:
        assert process.stdin is not None
        process.stdin.write("\n")
        process.stdin.flush()
    answers = [process.stdout.readline() for process in worker if process.stdout is not None]
    return json.loads(answers[0])


def end(worker: Worker) -> None:
    """Close the input of the processes, which ends them."""
    for process in worker:
        process.communicate()


def timed(owner: Any, name: str, spent: dict[str, float]) -> None:
    """Add up the seconds of a method."""
    real = getattr(owner, name)

    def call(*arguments: Any, **options: Any) -> Any:
        started = time.perf_counter()
        result = real(*arguments, **options)
        spent[name] += time.perf_counter() - started
        return result

    setattr(owner, name, call)


def take_steps() -> None:
    """Take steps of the first program in README.md at each line of the input, and print their seconds."""
    spent: dict[str, float] = defaultdict(float)
    if "RANK" in os.environ:  # another version may have no such module
        from tinygpt.ranks import Ranks

        timed(Ranks, "sum_", spent)
    data = TokenDataset.from_documents(topics.values())
    config = GPTConfig.modern(vocab_size=data.vocab_size, block_size=64, n_layer=4, n_head=4, n_embd=128)
    settings = TrainerConfig(max_iters=10**6, batch_size=16, eval_interval=10**6, eval_iters=1, preview_tokens=0)
    trainer = Trainer(config.build(seed=0), data, settings)
    timed(trainer.optimizer, "step", spent)
    steps = iter(trainer)
    for _ in sys.stdin:
        spent.clear()
        started = time.perf_counter()
        for _ in range(STEPS):
            next(steps)
        spent["all"] = time.perf_counter() - started
        print(json.dumps({name: seconds / STEPS for name, seconds in spent.items()}), flush=True)


def add_gradients() -> None:
    """Add up the gradients of two models in both ways, in turns, and print the seconds of each call."""
    from tinygpt.ranks import join

    ranks, found = join(), {}
    for name, config in SIZES.items():
        gradients = [torch.zeros(parameter.shape) for parameter in config().build().parameters()]
        flat = torch.cat([gradient.flatten() for gradient in gradients])
        ways: dict[str, Callable[[], object]] = {
            "tree": lambda gradients=gradients: ranks.sum_(gradients),  # type: ignore[misc]
            "all_reduce": lambda flat=flat: torch.distributed.all_reduce(flat),  # type: ignore[misc]
        }
        found[name] = in_turns(ways, ROUNDS)
    sys.stdin.readline()
    print(json.dumps(found), flush=True)


def sums() -> dict[str, dict[str, float]]:
    """Return the milliseconds of a sum over two processes."""
    worker = start("add_gradients", processes=2, threads=1)
    found = turn(worker)
    end(worker)
    return {
        name: {way: statistics.median(seconds) * 1e3 for way, seconds in ways.items()}
        | {"of all_reduce": ratio(ways["all_reduce"], ways["tree"])}
        for name, ways in found.items()
    }


def steps(src: str | None) -> dict[str, dict[str, float]]:
    """Return the milliseconds of a step, and of its parts, in one process and in two."""
    workers = {
        ONE: start("take_steps", processes=1, threads=2),
        "2 processes, 1 thread each": start("take_steps", processes=2, threads=1),
    }
    if src is not None:
        workers[f"{ONE}, the other version"] = start("take_steps", processes=1, threads=2, src=src)
    rounds = [{name: turn(worker) for name, worker in workers.items()} for _ in range(ROUNDS + 1)][1:]
    for worker in workers.values():
        end(worker)
    seconds = {name: [each[name]["all"] for each in rounds] for name in workers}
    parts = {"milliseconds": "all", "the optimizer": "step", "the sum of gradients": "sum_"}
    return {
        name: {
            part: statistics.median(each[name].get(key, 0.0) for each in rounds) * 1e3 for part, key in parts.items()
        }
        | {"of one process": ratio(seconds[ONE], seconds[name])}
        for name in workers
    }


def main() -> None:
    """Measure, and record."""
    src = sys.argv[1] if len(sys.argv) > 1 else None
    record("ranks", {"step": steps(src), "sum": sums()})


if __name__ == "__main__":
    tasks = {task.__name__: task for task in (take_steps, add_gradients)}
    tasks.get(sys.argv[-1], main)()
