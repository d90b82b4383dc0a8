"""What is asked of the process, so that small steps on a CPU are quick."""

import sys
from collections.abc import Iterator
from contextlib import contextmanager

import torch


def keep_freed_memory() -> None:
    """Have the memory of a step stay with the process for the next one.

    glibc gives the free end of its heap back to the system once that is larger than twice the largest block that was
    mapped by itself and freed. A step of a small model frees more, and the next would take its memory anew, page by
    page. Freeing a block of 31 MiB, which is never touched, raises the limit to 62 MiB. Other allocators take no
    notice, and limits that the environment sets stay.

    Source:
        The manual page mallopt(3), M_MMAP_THRESHOLD: how the limits adapt, up to blocks of 32 MiB.
    """
    torch.UntypedStorage(31 << 20)  # not a tensor: those are filled where all is to be deterministic


@contextmanager
def flushing_denormals() -> Iterator[None]:
    """Take for zero what is nearer to it than any normal number, which some processors compute many times more slowly.

    It is a setting of the calling thread, which computes alone whatever has fewer than 32,768 elements, and shares the
    rest. It is put back, and where the processor has none, nothing is changed.
    """
    torch.ones(1 << 16, device="cpu")  # starts all threads: one that starts within would keep the setting for ever
    were_flushed = sys.float_info.min / 2 == 0.0
    torch.set_flush_denormal(True)
    try:
        yield
    finally:
        torch.set_flush_denormal(were_flushed)
