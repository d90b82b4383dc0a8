"""Several processes that train together: forked from the one that runs the tests, with a time limit on each."""

import json
import os
import signal
import tempfile
import time
import traceback
from collections.abc import Callable, Sequence
from datetime import timedelta
from pathlib import Path
from typing import Any, NamedTuple

import torch
from killable import exit_code, in_child

from tinygpt.errors import TinyGPTError

LIMIT = 60.0  # seconds


class Outcome(NamedTuple):
    """What became of a rank: its exit code, and what its work returned or raised."""

    code: int
    result: Any
    error: str  # the name of its class, a colon, and the message

    def __repr__(self) -> str:
        return f"exit code {self.code}, error {self.error!r}"


class Rank:
    """Some work in a process of its own, which is one rank of several."""

    def __init__(
        self, here: int, world: int, room: Path, work: Callable[[int], Any], *, connected: bool = True
    ) -> None:
        self._told = room / f"rank-{here}.json"

        def run() -> None:
            report: dict[str, Any] = {"result": None, "error": ""}
            try:
                if connected:
                    connect(here, world, room)
                report["result"] = work(here)
            except BaseException as error:
                report["error"] = f"{type(error).__name__}: {error}"
                if not isinstance(error, TinyGPTError | SystemExit | KeyboardInterrupt):
                    traceback.print_exc()
                raise SystemExit(getattr(error, "code", 1)) from error
            finally:
                self._told.write_text(json.dumps(report))

        self.process = in_child(run)

    def outcome(self, until: float) -> Outcome:
        """Return what became of it; past the time limit the process is killed."""
        while os.waitid(os.P_PID, self.process, os.WEXITED | os.WNOHANG | os.WNOWAIT) is None:
            if time.monotonic() > until:
                os.kill(self.process, signal.SIGKILL)
            time.sleep(0.005)
        code = exit_code(self.process)
        report: dict[str, Any] = {"result": None, "error": ""}
        if self._told.exists():
            report = json.loads(self._told.read_text())
        return Outcome(code, report["result"], report["error"])


def connect(here: int, world: int, room: Path) -> None:
    """Connect this process with the others through a file, which needs no free port."""
    torch.distributed.init_process_group(
        "gloo", init_method=f"file://{room}/meeting", rank=here, world_size=world, timeout=timedelta(seconds=LIMIT)
    )


def start(
    world: int, work: Callable[[int], Any], *, connected: bool = True
) -> tuple[list[Rank], Callable[[], list[Outcome]]]:
    """Start ranks that do the same work, and return them with a function that waits for all."""
    room = Path(tempfile.mkdtemp())
    ranks = [Rank(here, world, room, work, connected=connected) for here in range(world)]
    until = time.monotonic() + LIMIT
    return ranks, lambda: [rank.outcome(until) for rank in ranks]


def on_ranks(world: int, work: Callable[[int], Any], *, connected: bool = True) -> list[Outcome]:
    """Return what becomes of ranks that do the same work."""
    return start(world, work, connected=connected)[1]()


def results(outcomes: Sequence[Outcome]) -> list[Any]:
    """Return what the work of each rank returned."""
    assert [outcome.code for outcome in outcomes] == [0] * len(outcomes), outcomes
    return [outcome.result for outcome in outcomes]
