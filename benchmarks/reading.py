"""Count what a reader of the library must open, and how much of it is code and guards.

    python benchmarks/reading.py            # a table
    python benchmarks/reading.py --files    # the files and functions behind each action as well

The actions are one training step, one sampled token and one saved model, traced on a small GPT of the modern layout.
Work that is done once, such as opening a run, comes before the count. A guard is a function named ``check...``, a call
of one, or a statement that only raises.
"""

import ast
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from types import FrameType
from typing import Any

import tinygpt
from tinygpt import GPTConfig, Sampler, TokenDataset, Trainer, TrainerConfig, save

ROOT = Path(tinygpt.__file__).parent


def traced(action: Callable[[], object]) -> set[tuple[str, str]]:
    """Return the file and name of each function of the library that runs during an action."""
    seen: set[tuple[str, str]] = set()

    def note(frame: FrameType, event: str, argument: Any) -> None:
        path = Path(frame.f_code.co_filename)
        if event == "call" and path.is_relative_to(ROOT):
            seen.add((path.relative_to(ROOT).as_posix(), frame.f_code.co_qualname.split(".<locals>")[0]))

    sys.setprofile(note)
    try:
        action()
    finally:
        sys.setprofile(None)
    return seen


def actions(folder: Path) -> Iterator[tuple[str, set[tuple[str, str]]]]:
    """Trace each action, after its first repetitions."""
    data = TokenDataset("To be, or not to be, that is the question. " * 40)
    config = GPTConfig.modern(vocab_size=data.vocab_size, block_size=16, n_layer=2, n_head=2, n_embd=16)
    trainer = Trainer(config.build(), data, TrainerConfig(max_iters=8, batch_size=4, eval_interval=8))
    steps = iter(trainer)
    next(steps), next(steps)
    yield "one training step", traced(lambda: next(steps))
    assert data.tokenizer is not None
    pieces = Sampler(trainer.model, data.tokenizer).stream("To be", max_new_tokens=8)
    next(pieces), next(pieces)
    yield "one sampled token", traced(lambda: next(pieces))
    yield "save", traced(lambda: save(folder / "model.safetensors", trainer.model, data.tokenizer))


def is_guard(node: ast.AST) -> bool:
    """Return whether a node is a function named ``check...``, a call of one, or a condition that only raises."""
    if isinstance(node, ast.FunctionDef):
        return node.name.lstrip("_").startswith("check")
    if isinstance(node, ast.If):
        return all(isinstance(each, ast.Raise) for each in node.body) and not node.orelse
    if isinstance(node, ast.Expr) and isinstance(node.value, ast.Call):
        called = node.value.func
        name = called.id if isinstance(called, ast.Name) else called.attr if isinstance(called, ast.Attribute) else ""
        return name.lstrip("_").startswith("check")
    return isinstance(node, ast.Raise)


def counted(path: Path) -> tuple[int, int]:
    """Return the lines of code of a file, without docstrings, comments and blanks, and those of them in guards."""
    text = path.read_text(encoding="utf-8")
    tree = ast.parse(text)
    docs: set[int] = set()
    guards: set[int] = set()
    for node in ast.walk(tree):
        span = set(range(getattr(node, "lineno", 0), (getattr(node, "end_lineno", 0) or 0) + 1))
        if isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant) and isinstance(node.value.value, str):
            docs |= span
        if is_guard(node):
            guards |= span
    lines = enumerate(text.splitlines(), start=1)
    code = {number for number, line in lines if line.strip() and not line.strip().startswith("#")} - docs
    return len(code), len(code & guards)


def main() -> None:
    """Print the table."""
    with tempfile.TemporaryDirectory() as folder:
        for name, seen in actions(Path(folder)):
            files = sorted({file for file, _ in seen})
            print(f"{name:<20}{len(seen):>4} functions in {len(files):>2} files")
            for file, function in sorted(seen) if "--files" in sys.argv else ():
                print(f"    {file}: {function}")
    counts = [counted(path) for path in sorted(ROOT.rglob("*.py"))]
    code, guards = sum(count for count, _ in counts), sum(count for _, count in counts)
    print(f"{'source':<20}{code:>4,} lines of code in {len(counts)} files, {guards / code:.0%} of them guards")


if __name__ == "__main__":
    main()
