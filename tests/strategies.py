"""What the property tests draw: small sizes, no two alike by design, and tensors from a drawn seed."""

from dataclasses import dataclass
from typing import Any

import torch
from hypothesis import strategies as st
from torch import Tensor

TOLERANCE: Any = {"rtol": 0.0, "atol": 1e-10}


@dataclass(frozen=True)
class Dims:
    """The sizes of a case, named as in the library: ``n_embd`` is derived, so that ``n_head`` always divides it."""

    batch: int
    time: int
    n_head: int
    head_size: int
    vocab_size: int
    seed: int

    @property
    def n_embd(self) -> int:
        return self.n_head * self.head_size

    def generator(self) -> torch.Generator:
        return torch.Generator().manual_seed(self.seed)

    def stream(self) -> Tensor:
        """Return a ``B T C`` stream of unit-variance numbers."""
        return torch.randn(self.batch, self.time, self.n_embd, generator=self.generator())

    def ids(self, time: int | None = None) -> Tensor:
        """Return ``B T`` ids."""
        return torch.randint(self.vocab_size, (self.batch, time or self.time), generator=self.generator())


@st.composite
def dims(draw: st.DrawFn, min_time: int = 1, max_time: int = 7) -> Dims:
    """Draw sizes and a seed. ``head_size`` is even, so that rotary positions take it."""
    return Dims(
        batch=draw(st.integers(1, 3), label="batch"),
        time=draw(st.integers(min_time, max_time), label="time"),
        n_head=draw(st.sampled_from([1, 2, 3, 4]), label="n_head"),
        head_size=draw(st.sampled_from([2, 4]), label="head_size"),
        vocab_size=draw(st.sampled_from([5, 11, 13]), label="vocab_size"),
        seed=draw(st.integers(0, 2**31 - 1), label="seed"),
    )


def randomised(module: torch.nn.Module, seed: int = 0, std: float = 0.5) -> torch.nn.Module:
    """Give every parameter a value that matters: nothing starts at zero, no weight is too small to be seen."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.normal_(0.0, std, generator=generator)
    return module
