"""Measure corpora on the disk: time and private memory to open 8 GB and to prepare texts, and a batch beside an array.

Run:   python benchmarks/corpora.py
Needs: an idle machine with Linux, and 400 MB of disk for the texts. The 8 GB are sparse files of zeros.
"""

import re
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
from harness import corpus, in_turns, record

from tinygpt import TokenDataset, prepare
from tinygpt.manifests import Manifest, shard_path

SHARDS, IDS = 30, 1 << 27


def private_megabytes() -> float:
    """Return the private memory of this process, without the pages of mapped files."""
    size = re.search(
        r"^Anonymous:\s+(\d+) kB", Path("/proc/self/smaps_rollup").read_text(encoding="ascii"), re.MULTILINE
    )
    assert size is not None
    return int(size[1]) * 1024 / 1e6


def cost(call: Callable[[], object]) -> dict[str, float]:
    """Return the milliseconds of a call, those of the processor, and the private memory in MB that it added."""
    before, started, computed = private_megabytes(), time.perf_counter(), time.process_time()
    kept = call()
    elapsed, busy = time.perf_counter() - started, time.process_time() - computed
    megabytes = private_megabytes() - before
    del kept
    return {"milliseconds": elapsed * 1e3, "of them computing": busy * 1e3, "private MB": megabytes}


def write_sparse(directory: Path) -> None:
    """Write a prepared corpus of zeros that takes no disk."""
    directory.mkdir()
    for number in range(SHARDS):
        with shard_path(directory, number).open("wb") as file:
            file.truncate(2 * IDS)
    entry = {"ids": IDS, "sha256": "0" * 64, "lowest": 0, "highest": 0, "characters": None}
    manifest = Manifest("<u2", 50257, None, [entry] * SHARDS, train=SHARDS * IDS * 9 // 10)
    (directory / "manifest.json").write_bytes(manifest.to_bytes())


def opening(directory: Path) -> dict[str, dict[str, float]]:
    """Return the costs of a corpus of 8 GB."""
    sizes = {"batch_size": 64, "block_size": 256}
    TokenDataset([0, 1] * 300).batch("train", step=0, batch_size=2, block_size=8)  # imports, and first calls
    data = TokenDataset.open(directory)
    return {
        "open": cost(lambda: TokenDataset.open(directory)),
        "digest": cost(data.digest),
        "first batch of epoch(stride=1)": cost(lambda: next(data.epoch("train", stride=1, **sizes))),
        "first batch of windows(limit=100)": cost(lambda: next(data.windows("val", limit=100, **sizes))),
    }


def preparing(directory: Path) -> dict[str, dict[str, float]]:
    """Return the costs of preparing 10 and 100 MB of text, and the characters per second."""
    text, found = corpus()[0], {}
    for megabytes in (10, 100):
        path = directory / f"{megabytes}.txt"
        path.write_text((text * (1 + megabytes * 10**6 // len(text)))[: megabytes * 10**6], encoding="utf-8")
        measured = cost(lambda path=path: prepare(path, path.with_suffix("")))
        found[f"{megabytes} MB"] = measured | {
            "characters per second of computing": path.stat().st_size / measured["of them computing"] * 1e3
        }
    return found


def batches(directory: Path) -> dict[str, float]:
    """Return the milliseconds of a batch of 64 x 256 of the same ids, in memory and on the disk, in turns."""
    data = TokenDataset.open(directory / "100")
    array = TokenDataset(np.asarray(data.train), data.tokenizer, val=np.asarray(data.val))
    steps = iter(range(10**6))
    seconds = in_turns(
        {
            name: lambda each=each: each.batch("train", step=next(steps), batch_size=64, block_size=256)
            for name, each in (("array", array), ("shards", data))
        },
        rounds=200,
        calls=5,
    )
    return {name: statistics.median(each) * 1e3 for name, each in seconds.items()}


def main() -> None:
    """Measure, and record."""
    with tempfile.TemporaryDirectory() as folder:
        write_sparse(Path(folder) / "sparse")
        record(
            "corpora",
            {
                "8 GB of sparse files": opening(Path(folder) / "sparse"),
                "prepare": preparing(Path(folder)),
                "milliseconds of a batch of 64 x 256": batches(Path(folder)),
            },
        )


if __name__ == "__main__":
    main()
