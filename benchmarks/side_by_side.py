"""Print results of one benchmark from several machines side by side.

Run:   python benchmarks/side_by_side.py FILE FILE

The files are those that a benchmark writes to `benchmarks/results`, each copied from its machine.
"""

import json
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any


def numbers(results: Any, name: str = "") -> Iterator[tuple[str, float]]:
    """Yield each number of nested results, with the path of names and list positions that leads to it."""
    if isinstance(results, dict | list):
        for key, part in results.items() if isinstance(results, dict) else enumerate(results):
            yield from numbers(part, f"{name}, {key}" if name else str(key))
    elif isinstance(results, int | float):
        yield name, results


def table(paths: Sequence[Path]) -> str:
    """Return a column for each file, under its processor and date, with a row for each number in any file."""
    reports = [json.loads(path.read_text(encoding="utf-8")) for path in paths]
    columns = [dict(numbers(report["results"])) for report in reports]
    names = list(dict.fromkeys(name for column in columns for name in column))
    width = max(map(len, names), default=0)
    headings = [
        [report["machine"]["processor"], report["machine"].get("instructions", ""), report["date"]]
        for report in reports
    ]
    lines = [" " * width + "".join(f"  {cell[:24]:>24}" for cell in row) for row in zip(*headings, strict=True)]
    for name in names:
        cells = (f"{column[name]:.4g}" if name in column else "" for column in columns)
        lines.append(f"{name:<{width}}" + "".join(f"  {cell:>24}" for cell in cells))
    return "\n".join(lines)


if __name__ == "__main__":
    print(table([Path(name) for name in sys.argv[1:]]))
