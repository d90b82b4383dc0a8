"""Training and evaluation mode of a model that several threads may use at once."""

import threading
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from weakref import WeakKeyDictionary

import torch
from torch import nn


class _Use:
    """The threads that use a model: any number of readers, or one that takes a training step."""

    def __init__(self) -> None:
        self.changed = threading.Condition()
        self.readers: Counter[int] = Counter()  # entries of each thread, which may nest
        self.trainer: int | None = None
        self.waiting = 0  # training steps that new readers let pass first
        self.switched: list[nn.Module] = []  # modules that were in training mode before the first reader


_USES: WeakKeyDictionary[nn.Module, _Use] = WeakKeyDictionary()
_USES_LOCK = threading.Lock()


def _use_of(model: nn.Module) -> _Use:
    with _USES_LOCK:
        return _USES.setdefault(model, _Use())


@contextmanager
def evaluating(model: nn.Module) -> Iterator[None]:
    """Disable dropout and gradients inside the block, then restore each module's mode.

    Several threads may be inside at once; the last one to leave restores the modes. A training step of another thread
    waits until all have left, and a later reader waits until the step is over.
    """
    use, thread = _use_of(model), threading.get_ident()

    def may_read() -> bool:
        return thread in use.readers or use.trainer == thread or (use.trainer is None and not use.waiting)

    is_counted = False
    try:
        with use.changed:
            use.changed.wait_for(may_read)
            use.readers[thread] += 1
            is_counted = True
            _switch(use, model)
        with torch.no_grad():
            yield
    finally:
        with use.changed:
            use.readers[thread] -= is_counted
            use.readers += Counter()  # drops threads that have left
            if not use.readers:
                for module in use.switched:
                    module.training = True
                use.switched = []
                use.changed.notify_all()


def _switch(use: _Use, model: nn.Module) -> None:
    """Set all modules to evaluation mode, and remember those that were in training mode."""
    for module in model.modules():
        if module.training:
            use.switched.append(module)
            module.training = False


@contextmanager
def training(model: nn.Module) -> Iterator[None]:
    """Set training mode for a step, while no other thread uses the model."""
    use, thread = _use_of(model), threading.get_ident()
    with use.changed:
        use.waiting += 1
        try:
            use.changed.wait_for(lambda: use.trainer is None and use.readers.keys() <= {thread})
            use.trainer = thread
        finally:
            use.waiting -= 1
            use.changed.notify_all()  # readers wait for this step, and an interrupt may have ended it
    try:
        model.train()
        yield
    finally:
        with use.changed:
            use.trainer = None
            use.changed.notify_all()
