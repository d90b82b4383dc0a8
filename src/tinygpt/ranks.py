"""Let the processes of one run agree: each of them is a rank, counted from 0.

:func:`join` finds the other processes, which ``torchrun`` starts. Alone, a process is rank 0 of 1, and each method
returns at once. Messages are JSON and tensors, never pickles.
"""

import atexit
import hashlib
import json
import os
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager
from datetime import timedelta
from functools import wraps
from typing import Any, Concatenate, ParamSpec, TypeVar

import torch
from torch import Tensor

from tinygpt import errors
from tinygpt.errors import ConfigError, RankLostError, TinyGPTError, cut, mute_warnings, short

__all__ = ["Ranks", "from_first", "join"]

Result = TypeVar("Result")
Owner = TypeVar("Owner")
Options = ParamSpec("Options")

_VARIABLES = ("RANK", "WORLD_SIZE", "LOCAL_RANK", "MASTER_ADDR", "MASTER_PORT")
_TIMEOUT = timedelta(seconds=600)
_OF_CONNECTION = r"by peer|[Bb]roken pipe|[Tt]imed? ?out|NCCL|gloo"  # in the messages of gloo and NCCL
BUCKET = 25 << 20  # bytes of gradients that are sent at once


class Ranks:
    """The processes that train one model together, as one of them sees them.

    Every method but :meth:`share` is called by all ranks, in the same order.

    Args:
        here: Number of this process.
        world: Number of all processes.
        local: Number of this process among those of its machine.
    """

    def __init__(self, here: int = 0, world: int = 1, local: int = 0) -> None:
        self.here, self.world, self.local = here, world, local
        self._is_apart = False  # whether rank 0 runs a function of from_first

    @property
    def is_first(self) -> bool:
        """Whether this is rank 0, which alone writes files and messages."""
        return self.here == 0

    def share(self, count: int) -> range:
        """Return the numbers of the micro-batches of this rank, which follow each other."""
        each = count // self.world
        return range(self.here * each, (self.here + 1) * each)

    def sum_(self, tensors: Sequence[Tensor]) -> None:
        """Add tensors over all ranks, in place, along the binary tree of the ranks.

        The sum of ranks 0 and 1 is added to that of 2 and 3, and so on. Each rank ends with the same bits. If their
        number is not a power of two, PyTorch chooses the order.
        """
        if self.world == 1:
            return
        for bucket in _buckets(tensors):
            flat = torch.cat([tensor.detach().reshape(-1) for tensor in bucket])
            if self.world & (self.world - 1):
                with self._waiting():
                    torch.distributed.all_reduce(flat)
            else:
                self._add_halves(flat)
            sizes = [tensor.numel() for tensor in bucket]
            for tensor, piece in zip(bucket, flat.split(sizes), strict=True):
                tensor.detach().copy_(piece.view_as(tensor))

    def _add_halves(self, flat: Tensor) -> None:
        """Add up a half of what is left with each partner, then exchange the finished pieces in reverse order."""
        low, high, distance = 0, len(flat), 1
        given_away = []
        while distance < self.world:
            middle = (low + high) // 2
            kept, given = ((middle, high), (low, middle)) if self.here & distance else ((low, middle), (middle, high))
            received = torch.empty_like(flat[slice(*kept)])
            self._exchange(self.here ^ distance, flat[slice(*given)], received)
            flat[slice(*kept)] += received  # a + b = b + a bit for bit, so both partners may add their own first
            given_away.append((self.here ^ distance, *given))
            (low, high), distance = kept, 2 * distance
        for partner, start, end in reversed(given_away):
            self._exchange(partner, flat[low:high], flat[start:end])
            low, high = min(low, start), max(high, end)

    def _exchange(self, partner: int, sent: Tensor, received: Tensor) -> None:
        """Send a tensor to a rank, and receive one from it."""
        from torch.distributed import P2POp, batch_isend_irecv, irecv, isend

        pairs = ((isend, sent), (irecv, received))
        if operations := [P2POp(kind, tensor, partner) for kind, tensor in pairs if tensor.numel()]:
            with self._waiting(partner):
                for work in batch_isend_irecv(operations):
                    work.wait()

    def gather(self, value: object) -> list[Any]:
        """Return the values of all ranks; each is plain JSON."""
        if self.world == 1:
            return [value]
        raw = _encoded(value)
        sizes = [torch.zeros(1, dtype=torch.int64) for _ in range(self.world)]
        with self._waiting():
            torch.distributed.all_gather(sizes, torch.tensor([len(raw)]))
            room = [torch.zeros(int(max(sizes)), dtype=torch.uint8) for _ in sizes]
            torch.distributed.all_gather(room, torch.cat([raw, room[0][len(raw) :]]))
        return [_decoded(each[: int(size)]) for each, size in zip(room, sizes, strict=True)]

    def broadcast_(self, tensors: Iterable[Tensor]) -> None:
        """Overwrite tensors with those of rank 0."""
        if self.world == 1:
            return
        for tensor in tensors:
            sent = tensor.detach().contiguous()
            with self._waiting(0):
                torch.distributed.broadcast(sent.reshape(-1).view(torch.uint8), 0)
            tensor.detach().copy_(sent)

    def from_first(self, make: Callable[[], Result]) -> Result:
        """Call a function on rank 0 alone; its result, which is plain JSON, or its error reaches every rank.

        Inside the function, further calls of this method stay on rank 0.
        """
        if self.world == 1 or self._is_apart:
            return make()
        result: Any = None
        error: Exception | None = None
        if self.is_first:
            self._is_apart = True
            try:
                result = make()
            except Exception as caught:
                error = caught
            finally:
                self._is_apart = False
        result, failure = self._tell([result, _described(error)])
        if failure:
            raise error or _rebuilt(*failure)
        return result

    def _tell(self, value: object) -> Any:
        """Return the value of rank 0."""
        raw = _encoded(value) if self.is_first else torch.empty(0, dtype=torch.uint8)
        size = torch.tensor([len(raw)])
        self.broadcast_([size])
        raw = raw if self.is_first else torch.empty(int(size), dtype=torch.uint8)
        self.broadcast_([raw])
        return _decoded(raw)

    @contextmanager
    def together(self) -> Iterator[None]:
        """Run the block on every rank; if it fails on one, all raise that error, which names the rank.

        The block itself must not wait for other ranks. Within :meth:`from_first` it stays on rank 0.
        """
        if self.world == 1 or self._is_apart:
            yield
            return
        error: Exception | None = None
        try:
            yield
        except Exception as caught:
            error = caught
        for rank, failure in enumerate(self.gather(_described(error))):
            if failure:
                raise _rebuilt(*failure, suffix=f" (on rank {rank})") from error

    @contextmanager
    def within_first(self, make: Callable[[], AbstractContextManager[object]]) -> Iterator[None]:
        """Enter a context on rank 0 alone; an error on entering it reaches every rank."""
        with ExitStack() as stack:
            self.from_first(lambda: bool(stack.enter_context(make())))
            yield

    def compare(self, describe: Callable[[], Mapping[str, Any]]) -> None:
        """Raise unless all ranks describe the same; the description is a flat object of plain JSON.

        Raises:
            ConfigError: Naming the first difference and its ranks.
        """
        if self.world == 1:
            return
        described: Any = _decoded(_encoded(describe()))
        digest = hashlib.sha256(json.dumps(described, sort_keys=True).encode()).hexdigest()
        if len(set(self.gather(digest))) == 1:
            return
        first, *others = self.gather(described)
        for rank, other in enumerate(others, start=1):
            names = sorted(name for name in first.keys() | other.keys() if first.get(name) != other.get(name))
            if names:
                theirs, ours = (
                    ", ".join(f"{name}={short(each.get(name))}" for name in names[:3]) for each in (other, first)
                )
                raise ConfigError(f"all processes must train alike, got {theirs} on rank {rank} and {ours} on rank 0")

    @contextmanager
    def naming_lost(self) -> Iterator[None]:
        """Name a lost connection in an error of PyTorch inside the block, which exchanges sharded weights."""
        try:
            yield
        except RuntimeError as error:
            is_lost = self.world > 1 and re.search(_OF_CONNECTION, str(error))
            if isinstance(error, TinyGPTError) or not is_lost:
                raise
            with self._waiting():
                raise

    @contextmanager
    def _waiting(self, partner: int | None = None) -> Iterator[None]:
        """Name the rank that is waited for in an error of the connection inside the block."""
        try:
            yield
        except RuntimeError as error:  # all that gloo and NCCL raise
            whom = "the other ranks" if partner is None or partner == self.here else f"rank {partner}"
            reason = re.sub(r"^(\[[^]]*\] *)+", "", str(error)).split(". ")[0]
            raise RankLostError(f"rank {self.here} waited for {whom}: {cut(reason, 100)}") from error


def from_first(
    method: Callable[Concatenate[Owner, Options], Result],
) -> Callable[Concatenate[Owner, Options], Result]:
    """Let rank 0 alone run a method of an object that has ``ranks``; its result or its error reaches every rank."""

    @wraps(method)
    def call(self: Owner, /, *arguments: Options.args, **options: Options.kwargs) -> Result:
        ranks: Ranks = self.ranks  # type: ignore[attr-defined] # the owner has them
        return ranks.from_first(lambda: method(self, *arguments, **options))

    return call


def join() -> Ranks:
    """Return the processes of this run, which are connected at the first call.

    A process group that exists already is used as it is. Otherwise ``torchrun``, or another launcher, names the
    processes in the environment. Without any, the process is alone.

    Raises:
        ConfigError: If the environment names several processes incompletely, or the group cannot send tensors of the
            CPU.
        RankLostError: If the processes cannot be connected.
    """
    distributed = torch.distributed
    if not distributed.is_available():
        return Ranks()
    if not distributed.is_initialized():
        if not _is_one_of_several():
            return Ranks()
        _connect()
    elif "gloo" not in str(distributed.get_backend_config()):
        raise ConfigError(
            f"the process group must have gloo for tensors of the CPU, got {distributed.get_backend_config()}; use "
            "torch.distributed.init_process_group('cpu:gloo,cuda:nccl')"
        )
    here = distributed.get_rank()
    if here:
        mute_warnings()
    local = os.environ.get("LOCAL_RANK", "")
    return Ranks(here, distributed.get_world_size(), int(local) if local.isdecimal() else here)


def _is_one_of_several() -> bool:
    """Return whether the environment names several processes, completely."""
    known = {name: value for name in _VARIABLES if (value := os.environ.get(name))}
    world = known.get("WORLD_SIZE")
    if world == "1" or not known.keys() & {"RANK", "WORLD_SIZE", "LOCAL_RANK"}:
        return False
    missing = [name for name in _VARIABLES if name not in known]
    wrong = [f"{name}={short(known[name])}" for name in known if name != "MASTER_ADDR" and not known[name].isdecimal()]
    if not missing and not wrong and int(known["RANK"]) >= int(known["WORLD_SIZE"]):
        wrong = [f"RANK={known['RANK']} of WORLD_SIZE={world}"]
    if missing or wrong:
        found = wrong[0] if wrong else f"no {missing[0]}"
        raise ConfigError(
            f"several processes need {', '.join(_VARIABLES)} in the environment, got {found}; start with torchrun"
        )
    return True


def _connect() -> None:
    """Connect the processes that the environment names, until this process ends."""
    distributed = torch.distributed
    backend = "cpu:gloo,cuda:nccl" if torch.cuda.is_available() and distributed.is_nccl_available() else "gloo"
    try:  # once: a second try would wait for processes whose first one succeeded
        distributed.init_process_group(backend, timeout=_TIMEOUT)
    except RuntimeError as error:
        raise RankLostError(
            f"rank {os.environ['RANK']} could not connect to the others at {os.environ['MASTER_ADDR']}: "
            f"{cut(str(error), 100)}; start all again, e.g. by torchrun --max-restarts 3"
        ) from error
    atexit.register(_disconnect)


def _disconnect() -> None:
    if torch.distributed.is_initialized():
        torch.distributed.destroy_process_group()


def _buckets(tensors: Sequence[Tensor]) -> Iterator[list[Tensor]]:
    """Group tensors of one device and dtype, in their order, up to ``BUCKET`` bytes."""
    alike: dict[tuple[torch.device, torch.dtype], list[Tensor]] = {}
    for tensor in tensors:
        bucket = alike.setdefault((tensor.device, tensor.dtype), [])
        if bucket and sum(each.nbytes for each in bucket) + tensor.nbytes > BUCKET:
            yield bucket.copy()
            bucket.clear()
        bucket.append(tensor)
    yield from alike.values()


def _encoded(value: object) -> Tensor:
    """Return a value as the bytes of its JSON; NaN stays NaN."""
    return torch.frombuffer(bytearray(json.dumps(value).encode()), dtype=torch.uint8)


def _decoded(raw: Tensor) -> Any:
    return json.loads(raw.numpy().tobytes())


def _described(error: Exception | None) -> list[Any] | None:
    """Return an error as plain JSON: the name of its class and its arguments."""
    if error is None:
        return None
    kind, arguments = type(error).__name__, list(error.args)
    if isinstance(error, TinyGPTError) and arguments and all(isinstance(each, str | int | None) for each in arguments):
        return [kind, arguments]
    return ["RuntimeError", [f"{kind}: {error}"]]


def _rebuilt(kind: str, arguments: list[Any], *, suffix: str = "") -> Exception:
    """Return the error of another rank; an error that tinygpt does not know is a RuntimeError."""
    *others, message = arguments
    known = vars(errors).get(kind, RuntimeError)
    error: Exception = known(*others, f"{message}{suffix}")
    return error
