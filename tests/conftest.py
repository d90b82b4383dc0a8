"""How the tests run: tiny sizes in float64, one thread, and randomness that Hypothesis controls."""

import random
import signal
import sys
from collections.abc import Iterator

import hypothesis
import pytest
import torch

import tinygpt  # noqa: F401 - imported here, so that its first import is not timed by a test


class _TorchRandom:
    """PyTorch's generator with the three methods that Hypothesis manages a source of randomness by."""

    def seed(self, seed: int) -> None:
        torch.manual_seed(seed)

    def getstate(self) -> torch.Tensor:
        return torch.get_rng_state()

    def setstate(self, state: torch.Tensor) -> None:
        torch.set_rng_state(state)


TORCH_RANDOM = _TorchRandom()  # Hypothesis keeps only a weak reference
hypothesis.register_random(TORCH_RANDOM)
hypothesis.settings.register_profile("default", deadline=None, derandomize=True, max_examples=50)
hypothesis.settings.register_profile("explore", deadline=None, max_examples=300, print_blob=True)
hypothesis.settings.load_profile("default")


@pytest.fixture(autouse=True, scope="session")
def _one_thread() -> None:
    torch.set_num_threads(1)


@pytest.fixture(autouse=True, scope="session")
def _hears_ctrl_c() -> None:
    """Let tests of Ctrl-C run where a shell has started them in the background, with the signal ignored."""
    signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture(autouse=True)
def _float64() -> Iterator[None]:
    """Compute in float64, where two ways to the same result agree to 1e-10, from the same seed for each test."""
    torch.set_default_dtype(torch.float64)
    torch.manual_seed(0)
    random.seed(0)
    yield
    torch.set_default_dtype(torch.float32)


@pytest.fixture(autouse=True)
def _leaves_global_state_alone(_float64: None) -> Iterator[None]:
    """Fail a test after which a global setting of PyTorch is another than before."""

    def state() -> tuple[object, ...]:
        flushed = sys.float_info.min / 2 == 0.0
        return torch.is_grad_enabled(), torch.get_num_threads(), torch.are_deterministic_algorithms_enabled(), flushed

    before = state()
    yield
    assert state() == before


@pytest.fixture
def unchecked_types() -> Iterator[None]:
    """Switch the shape hook off, so that wrong types reach the library's own errors, as they do for users."""
    from jaxtyping import config

    config.update("jaxtyping_disable", True)
    yield
    config.update("jaxtyping_disable", False)
