"""Render the tables of README.md and docs/benchmarks.md from results/*.json.

Run:   python benchmarks/render.py [--check]
With --check nothing is written, and a table that differs from the results is an error.

A table is between ``<!-- figures: NAME -->`` and ``<!-- end of figures -->``. NAME is a function in this file.
"""

import json
import re
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]
RESULTS = Path(__file__).parent / "results"
CORPUS = "tiny Shakespeare"  # the text of all tables
PAGES = (ROOT / "README.md", ROOT / "docs" / "benchmarks.md")
BLOCK = re.compile(r"(<!-- figures: (\w+) -->\n).*?(<!-- end of figures -->)", re.DOTALL)


def load(name: str) -> dict[str, Any]:
    """Return the recorded results of a benchmark; results of another text are refused."""
    report: dict[str, Any] = json.loads((RESULTS / f"{name}.json").read_text(encoding="utf-8"))
    if report.get("corpus", CORPUS) != CORPUS:
        raise SystemExit(f"{name} must be measured on {CORPUS}, got {report['corpus']}; set TINYGPT_TINYSHAKESPEARE")
    return report


def table(header: list[str], rows: list[list[str]]) -> str:
    """Return a table in Markdown."""
    return "".join("| " + " | ".join(row) + " |\n" for row in [header, ["---"] * len(header), *rows])


def source(*names: str) -> str:
    """Return a line with the date, the machine and the command of a measurement."""
    reports = [load(name) for name in names]
    machine, versions = reports[0]["machine"], reports[0]["versions"]
    commands = ", ".join(f"`{report['command']}`" for report in reports)
    units = f" ({machine['instructions']})" if "instructions" in machine else ""  # older results lack it
    where = f"{machine['processor']}{units}, {machine['cores']} cores, PyTorch {versions['torch']}"
    return f"\nRead on {reports[0]['date']} on {where}: {commands}.\n"


def quality() -> str:
    """Return the table of GPTs: the time to a loss, and the loss after a time."""
    results = load("time_to_quality")["results"]
    tenth = results["a tenth"]
    rows = [
        [*_run("nanoGPT, its quick start for a CPU", tenth["nanogpt"]), "1"],
        [*_run("tinygpt, until it is as good", results["quick"]), f"{results['quick']['times as fast']:.1f}"],
        [*_run("tinygpt, in the same time", tenth["long"]), f"{tenth['long']['times as fast']:.1f}"],
    ]
    return table(["", "seconds", "loss, nats", "parameters", "times as fast"], rows) + source("time_to_quality")


def _run(name: str, run: dict[str, Any]) -> list[str]:
    return [name, f"{run['seconds']:.1f}", f"{run['loss']:.3f}", f"{int(run['parameters']):,}"]


def best() -> str:
    """Return the table of the best models of any kind, on two texts."""
    parts = [load("time_to_quality")["results"][name] for name in ("a tenth", "whole plays")]
    losses = {
        "nanoGPT": [part["nanogpt"]["loss"] for part in parts],
        "tinygpt's GPT": [part["long"]["loss"] for part in parts],
        "table of 7-grams": [part["table"]["loss"] for part in parts],
        "mixture of GPT and table": [part["long"]["mixture"] for part in parts],
    }
    rows = [[name, *(f"{loss:.3f}" for loss in both)] for name, both in losses.items()]
    return table(["loss, nats", "last tenth of tiny Shakespeare", "two whole plays of ten"], rows)


def steps() -> str:
    """Return the table of training steps."""
    results = load("training_speed")["results"]
    rows = [
        [name, f"{each['milliseconds']:.1f}", f"{each['of nanoGPT']:.2f}"] for name, each in results["step"].items()
    ]
    arithmetic, memory = results["milliseconds of arithmetic"], results["peak memory, MB"]
    text = table(["a step", "milliseconds", "of nanoGPT's time"], rows)
    text += (
        f"\nIts {results['GFLOP of a step']:.2f} GFLOP alone take {arithmetic['fp32']:.1f} ms in float32 and "
        f"{arithmetic['bf16']:.1f} ms in bf16. Training at the notebook's size with a batch of 64 raises the peak of "
        f"memory by {memory['nanogpt']:,.0f} MB in nanoGPT, {memory['fp32']:,.0f} MB in tinygpt in float32, and "
        f"{memory['auto']:,.0f} MB with its own choice of precision.\n"
    )
    return text + source("training_speed")


def sampling() -> str:
    """Return the tables of sampling speeds on two machines."""
    return "\n".join(_sampling(name) for name in ("sampling_speed", "avx512/sampling_speed"))


def _sampling(name: str) -> str:
    results = load(name)["results"]
    writers = list(dict.fromkeys(writer for scene in results.values() for writer in scene))
    rows = [[writer, *(_speed(scene.get(writer)) for scene in results.values())] for writer in writers]
    return table(["ids per second", *results], rows) + source(name)


def _speed(each: dict[str, float] | None) -> str:
    return "" if each is None else f"{each['ids per second']:,.0f}"


def ablation() -> str:
    """Return the table of the cost and the gain of each part of the recipe."""
    results = load("ablation")["results"]
    whole = results["the whole recipe"]
    rows = [
        [
            name,
            f"{each['loss']:.4f}",
            f"{each['loss'] - whole['loss']:+.4f}",
            f"{each['spread']:.4f}",
            f"{each['of whole']:.2f}",
        ]
        for name, each in results.items()
    ]
    titles = ["variant", "loss", "against the whole", "between seeds", "time, of the whole"]
    return table(titles, rows) + source("ablation")


def sizes() -> str:
    """Return the table of losses at each size, with the default learning rate and others."""
    results = load("sizes")["results"]
    titles = {"0.33": "a third of it", "1": "the default rate", "3": "three times it"}
    rows = [
        [f"{each['parameters']:,}", str(each["steps"]), *(f"{each['losses'][name]:.3f}" for name in titles)]
        for each in results
    ]
    return table(["parameters", "steps", *titles.values()], rows) + source("sizes")


def small() -> str:
    """Return the table of small costs."""
    results = load("small_costs")["results"]
    rows = [[name, f"{milliseconds:,.2f}"] for name, milliseconds in results.items()]
    return table(["", "milliseconds"], rows) + source("small_costs")


def processes() -> str:
    """Return the tables of a step and of a sum of gradients in two processes."""
    results = load("ranks")["results"]
    parts = ("milliseconds", "the optimizer", "the sum of gradients")
    rows = [
        [name, *(f"{each[part]:.1f}" for part in parts), f"{each['of one process']:.2f}"]
        for name, each in results["step"].items()
    ]
    text = table(["a step", *parts, "of one process"], rows)
    rows = [
        [name, f"{each['tree']:.2f}", f"{each['all_reduce']:.2f}", f"{each['of all_reduce']:.1f}"]
        for name, each in results["sum"].items()
    ]
    titles = ["milliseconds for the gradients of", "along the tree", "`all_reduce`", "of `all_reduce`"]
    return text + "\n" + table(titles, rows) + source("ranks")


TABLES: dict[str, Callable[[], str]] = {
    each.__name__: each for each in (quality, best, steps, sampling, ablation, sizes, small, processes)
}  # fmt: skip


def main() -> None:
    """Write the tables, or check them."""
    stale = []
    for page in PAGES:
        text = page.read_text(encoding="utf-8")
        fresh = BLOCK.sub(lambda match: f"{match[1]}{TABLES[match[2]]()}{match[3]}", text)
        if fresh != text:
            stale.append(page.name)
            if "--check" not in sys.argv:
                page.write_text(fresh, encoding="utf-8")
    print("changed:" if "--check" not in sys.argv else "stale:", ", ".join(stale) or "none")
    if stale and "--check" in sys.argv:
        raise SystemExit(1)


if __name__ == "__main__":
    main()
