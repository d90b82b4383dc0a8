"""Every example runs, on a small budget, as it stands."""

import io
import runpy
from pathlib import Path

import pytest
import torch
from quick import cap_budget

EXAMPLES = sorted((Path(__file__).parent.parent / "examples").glob("[0-9]*.py"))


def test_there_are_examples() -> None:
    assert len(EXAMPLES) == 19


@pytest.mark.parametrize("path", EXAMPLES, ids=lambda path: path.stem)
def test_example_runs_and_prints_something(
    path: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    torch.set_default_dtype(torch.float32)
    (tmp_path / "work").mkdir()
    monkeypatch.chdir(tmp_path / "work")
    cap_budget(monkeypatch, tmp_path / "cache")
    short = {"range": lambda *bounds: range(*bounds)[:5]}  # for a training loop that an example writes out
    monkeypatch.setattr("sys.stdin", io.StringIO())  # at its end, as in a pipe
    monkeypatch.setattr("webbrowser.open", lambda url: True)
    runpy.run_path(str(path), short, run_name="__main__")
    assert len(capsys.readouterr().out.strip()) > 20


@pytest.mark.parametrize("path", EXAMPLES, ids=lambda path: path.stem)
def test_example_states_its_title_command_and_run_time(path: Path) -> None:
    title, _, rest = path.read_text(encoding="utf-8").removeprefix('"""').partition("\n")
    assert title.endswith(".")
    assert f"Run:   python examples/{path.name}" in rest
    assert "Takes: " in rest
    index = (path.parent / "README.md").read_text(encoding="utf-8")
    assert f"[{path.name}]({path.name})" in index
