"""One process stands for the first of many, with PyTorch's fake group: it holds and sends what a plan says."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from ranked import on_ranks, results
from torch import Tensor, nn
from torch.testing._internal.distributed.fake_pg import FakeStore
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from tinygpt import GPTConfig, TrainerConfig
from tinygpt.ranks import Ranks
from tinygpt.sharded_tensors import local
from tinygpt.training.planning import plan
from tinygpt.training.preparation import optimizer_for
from tinygpt.training.sharding import shard

CONFIG = GPTConfig.gpt2(vocab_size=64, block_size=64, n_layer=2, n_head=2, n_embd=64, dropout=0.0)


@pytest.fixture(autouse=True)
def _float32() -> None:
    torch.set_default_dtype(torch.float32)  # as users have it; the fixture around it restores


def as_first_of(world: int, work: Callable[[Ranks], Any]) -> Any:
    """Return the result of work in the first of many processes, in which the others only seem to answer."""

    def pretend(here: int) -> Any:
        torch.distributed.init_process_group("fake", rank=0, world_size=world, store=FakeStore())
        return work(Ranks(here, world))

    return results(on_ranks(1, pretend, connected=False))[0]


class Sent(TorchDispatchMode):
    """Notes the bytes of each message that PyTorch sends, and of each tensor that it gathers or adds up."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.sizes: list[int] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func.namespace == "c10d" and func._opname in ("send", "_allgather_base_", "_reduce_scatter_base_"):
            self.sizes.append(max(each.nbytes for each in tree_leaves(args) if isinstance(each, Tensor)))
        return func(*args, **(kwargs or {}))


def held_after_a_step(model: nn.Module, config: TrainerConfig) -> dict[str, int]:
    """Take a step, and return the bytes in this process by the names of a plan."""
    optimizer = optimizer_for(model, config, torch.float32, None)  # type: ignore[arg-type]
    idx = torch.zeros(1, 64, dtype=torch.int64)
    model(idx, idx).loss.backward()
    optimizer.step()
    parameters: list[Tensor] = [*model.parameters()]
    states = [each for state in optimizer.state.values() for each in state.values() if each.ndim]  # not its steps
    gradients = [parameter.grad for parameter in parameters if parameter.grad is not None]
    held = {
        "weights": parameters,
        "gradients": gradients,
        f"state of {config.optimizer}": states,
    }
    return {name: sum(local(tensor).nbytes for tensor in tensors) for name, tensors in held.items()}


def test_the_first_of_1024_processes_costs_what_is_planned() -> None:
    """In 20 exchanges for the gradients of all parameters."""
    training = TrainerConfig(batch_size=1024, precision="fp32")
    costs = plan(CONFIG, training, devices=1024, flops=1e12)

    def work(ranks: Ranks) -> list[Any]:
        model = CONFIG.build(seed=0)
        held = held_after_a_step(model, training)
        with Sent() as sent:
            ranks.sum_([parameter.grad for parameter in model.parameters() if parameter.grad is not None])
        return [held, sent.sizes]

    held, sizes = as_first_of(1024, work)
    assert held == {name: costs.memory[name] for name in held}
    assert len(sizes) == 20
    assert sum(sizes) == pytest.approx(costs.sent, abs=100)
    assert 2 * sizes[0] == costs.memory["sums of gradients"]  # a half of what is sent at once


@pytest.mark.parametrize("optimizer", ["adamw", "muon"])
def test_the_first_of_64_processes_costs_what_is_planned(optimizer: Any) -> None:
    """Of weights that the processes share."""
    training = TrainerConfig(batch_size=64, precision="fp32", optimizer=optimizer, shard=True)
    costs = plan(CONFIG, training, devices=64, flops=1e12)

    def work(ranks: Ranks) -> list[Any]:
        model = CONFIG.build(seed=0)
        shard(model, ranks, torch.device("cpu"), torch.float32)
        with Sent() as sent:
            held = held_after_a_step(model, training)
        return [held, sum(sent.sizes)]

    held, exchanged = as_first_of(64, work)
    assert held == {name: costs.memory[name] for name in held}
    assert 63 / 64 * exchanged == costs.sent
