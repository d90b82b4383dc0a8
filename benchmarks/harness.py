"""Take turns, describe the machine, and record results as JSON, for all benchmarks."""

import json
import os
import platform
import re
import statistics
import sys
import time
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import torch

from tinygpt import CharTokenizer, TokenDataset, read_text, shakespeare

RESULTS = Path(__file__).parent / "results"
TEXT = "TINYGPT_TINYSHAKESPEARE"
PACKAGES = ("tinygpt", "torch", "numpy", "transformers", "llama-cpp-python", "jax", "optax")


def corpus() -> tuple[str, TokenDataset]:
    """Return the text of all measurements: the file that TINYGPT_TINYSHAKESPEARE names, or the plays."""
    path = os.environ.get(TEXT)
    text = read_text(path) if path else shakespeare()
    return text, TokenDataset(text, CharTokenizer.from_text(text))


def in_turns(contestants: Mapping[str, Callable[[], object]], rounds: int, calls: int = 1) -> dict[str, list[float]]:
    """Return the seconds of each call in each round, after one unmeasured call; all calls take turns."""
    for call in contestants.values():
        call()
    seconds: dict[str, list[float]] = {name: [] for name in contestants}
    for _ in range(rounds):
        for name, call in contestants.items():
            started = time.perf_counter()
            for _ in range(calls):
                call()
            seconds[name].append((time.perf_counter() - started) / calls)
    return seconds


def ratio(ours: list[float], theirs: list[float]) -> float:
    """Return the ratio of two times, the median over rounds, since a shared machine drifts."""
    return statistics.median(their / our for our, their in zip(ours, theirs, strict=True))


def peak_megabytes() -> float:
    """Return the peak of this process's memory in MB, on Linux.

    `ru_maxrss` starts at the peak of the parent process, so it cannot be used.
    """
    status = Path("/proc/self/status").read_text(encoding="ascii")
    peak = re.search(r"VmHWM:\s+(\d+) kB", status)
    assert peak is not None
    return int(peak[1]) * 1024 / 1e6


def record(name: str, results: Any) -> None:
    """Print the results and write them, with date, machine, versions and command, to ``results/NAME.json``."""
    report = {
        "date": datetime.now(UTC).strftime("%Y-%m-%d"),
        "command": " ".join(["python", f"benchmarks/{Path(sys.argv[0]).name}", *sys.argv[1:]]),
        "corpus": "tiny Shakespeare" if os.environ.get(TEXT) else "38 plays of Shakespeare",  # if one is read
        "machine": {
            "processor": _processor(),
            "instructions": _instructions(),
            "cores": os.cpu_count(),
            "threads": torch.get_num_threads(),
            "system": f"{platform.system()} {platform.machine()}",
            "gpu": torch.cuda.get_device_name() if torch.cuda.is_available() else None,
        },
        "versions": {"python": platform.python_version()} | {each: _version(each) for each in PACKAGES},
        "results": results,
    }
    path = RESULTS / f"{name}.json"
    path.write_text(json.dumps(report, indent=2) + "\n", encoding="utf-8")
    print(json.dumps(results, indent=2))


def _processor() -> str:
    cpuinfo = Path("/proc/cpuinfo")
    lines = cpuinfo.read_text(encoding="utf-8").splitlines() if cpuinfo.exists() else []
    names = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor()


def _instructions() -> str:
    """Return the widest vectors that PyTorch uses, and whether the processor multiplies bf16 itself."""
    checks = {unit: getattr(torch.cpu, f"_is_{unit}_supported", lambda: False) for unit in ("avx512_bf16", "amx_tile")}
    return ", ".join([torch.backends.cpu.get_cpu_capability(), *(unit for unit, check in checks.items() if check())])


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None
