"""How the tests run: tiny sizes in float64, one thread, and randomness that Hypothesis controls."""

import random
import secrets
import signal
import sys
from collections.abc import Iterator
from typing import Any

import hypothesis
import pytest
import torch
from faults import Twin

from tinygpt.errors import TinyGPTError


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
def _float64(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Compute in float64, where two ways to the same result agree to 1e-10, from the same seed for each test."""
    torch.set_default_dtype(torch.float64)
    torch.manual_seed(0)
    random.seed(0)
    monkeypatch.setattr(secrets, "randbits", random.getrandbits)  # the seeds of texts that name none
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


# --- the must-fail twins of tests, from faults.py ---------------------------------------------------------------------


@pytest.fixture(autouse=True)
def _twin(request: pytest.FixtureRequest, _leaves_global_state_alone: None) -> Iterator[None]:
    """Put the fault of a twin into the library, and leave wrong types to the test."""
    twin: Twin | None = getattr(request, "param", None)
    if twin is None:
        yield
        return
    with pytest.MonkeyPatch.context() as patch:
        request.getfixturevalue("unchecked_types")
        twin.fault(patch)
        settings = getattr(request.function, SETTINGS, None)
        if settings is not None:  # the first failure will do, however large
            quick = hypothesis.settings(settings, phases=FIND, report_multiple_bugs=False)
            patch.setattr(request.function, SETTINGS, quick)
        yield


SETTINGS = "_hypothesis_internal_use_settings"
FIND = (hypothesis.Phase.explicit, hypothesis.Phase.generate)


def pytest_configure(config: pytest.Config) -> None:
    """Declare the mark that ``broken_by`` puts on a test."""
    config.addinivalue_line("markers", "broken_by(*twins): collect the test once more for each fault, to fail")


@pytest.hookimpl(trylast=True)
def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """Give a test with faults its twins."""
    twins = [twin for mark in metafunc.definition.iter_markers("broken_by") for twin in mark.args]
    if twins:
        ids = ["sound", *(twin.fault.__name__ for twin in twins)]
        metafunc.parametrize("_twin", [None, *twins], ids=ids, indirect=True)


def twin_of(item: pytest.Item) -> Twin | None:
    """Return the fault that an item must notice, or None for an ordinary test."""
    callspec = getattr(item, "callspec", None)
    return callspec.params.get("_twin") if callspec else None


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Leave out the twins for parameters that their fault does not concern."""
    items[:] = [
        item
        for item in items
        if (twin := twin_of(item)) is None or {*twin.only} <= {*item.name.partition("[")[2].split("-")}
    ]


@pytest.hookimpl(wrapper=True)
def pytest_pyfunc_call(pyfuncitem: pytest.Function) -> Any:
    """Expect a twin to fail."""
    if twin_of(pyfuncitem) is None:
        return (yield)
    with pytest.raises((AssertionError, pytest.fail.Exception, TinyGPTError)):
        yield
    return True
