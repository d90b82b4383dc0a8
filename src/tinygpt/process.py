"""What the process is asked for, so that small steps on a CPU are quick."""

import sys
from collections.abc import Iterator
from contextlib import contextmanager

import torch


def prepare_process() -> None:
    """Have the memory of a step stay with the process for the next one, and start PyTorch's threads.

    glibc gives freed memory back to the system once more than twice the largest block freed so far lies idle. That may
    be less than a step uses, so that every step would take its memory anew, page by page: for a small model's training
    a sixth of its time. Freeing one large block, which is never touched, raises that limit to 62 MiB. Other allocators
    take no notice, and limits that the environment sets stay.

    Source:
        The manual page mallopt(3), M_MMAP_THRESHOLD: how the limits adapt, up to blocks of 32 MiB.
    """
    torch.empty(31 << 20, dtype=torch.uint8)
    torch.ones(1 << 16)  # enough for all threads; one that started within `flushing_denormals` would flush for ever


@contextmanager
def flushing_denormals() -> Iterator[None]:
    """Take for zero what is nearer to it than any normal number, which some processors compute many times more slowly.

    It is a setting of the calling thread, which does all that is small: a table's moments, say, where they fade away
    for the ids that do not occur. It is put back, and where the processor has none, nothing is changed.
    """
    were_flushed = sys.float_info.min / 2 == 0.0
    torch.set_flush_denormal(True)
    try:
        yield
    finally:
        torch.set_flush_denormal(were_flushed)
