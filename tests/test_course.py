"""The course: both languages are one course, its code runs, and each exercise has a solution."""

import re
from pathlib import Path

import matplotlib
import pytest
import torch
from matplotlib import pyplot as plt
from quick import cap_budget
from test_docs import CELL, DOCS, run_snippets

ENGLISH = sorted((DOCS / "course").glob("[0-9]*.md"))
SPANISH = sorted((DOCS / "curso").glob("[0-9]*.md"))
MARKS = re.compile(r"^(#+) |^(```\{code-cell\})|^(<details>)|^(</details>)|^(\$\$)|^(- )|^(\*\*\d\.\*\*)", re.MULTILINE)


def read(page: Path) -> str:
    return page.read_text(encoding="utf-8")


def outline(text: str) -> list[str]:
    """Return the headings, cells, formulas, lists, exercises and solutions of a page, in their order."""
    prose = CELL.sub("```{code-cell}", text)  # a comment in code is not a heading
    return [next(filter(None, each.groups())) for each in MARKS.finditer(prose)]


def cells(text: str) -> list[str]:
    return [cell[1] for cell in CELL.finditer(text)]


def test_there_are_eight_chapters_in_each_language() -> None:
    assert [page.name[:2] for page in ENGLISH] == [f"{number}_" for number in range(1, 9)]
    assert [page.name[:2] for page in SPANISH] == [f"{number}_" for number in range(1, 9)]


@pytest.mark.parametrize(("english", "spanish"), [*zip(ENGLISH, SPANISH, strict=True)], ids=lambda page: page.stem)
def test_no_language_lags_behind(english: Path, spanish: Path) -> None:
    """The same code byte for byte, so that the build runs it once, and the same outline."""
    assert cells(read(english)) == cells(read(spanish))
    assert outline(read(english)) == outline(read(spanish))


@pytest.mark.parametrize(("changed", "by"), [("## Result\n", ""), ("import torch\n", "import  torch\n"), ("$$", "")])
def test_a_language_that_lags_is_noticed(changed: str, by: str) -> None:
    text = read(DOCS / "course" / "3_attention.md")
    other = text.replace(changed, by, 1)
    assert other != text
    assert (cells(text), outline(text)) != (cells(other), outline(other))


@pytest.mark.parametrize("page", ENGLISH, ids=lambda page: page.stem)
def test_code_of_a_chapter_runs(page: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """With its solutions, as a reader runs it from the first cell to the last."""
    torch.set_default_dtype(torch.float32)
    matplotlib.use("agg")
    monkeypatch.chdir(tmp_path)
    cap_budget(monkeypatch, tmp_path)
    run_snippets(read(page).replace("steps=300", "steps=30"), page.name)  # of a loop that is not a trainer
    assert plt.get_fignums()
    plt.close("all")


@pytest.mark.parametrize("page", [*ENGLISH, *SPANISH], ids=lambda page: page.stem)
def test_chapter_has_three_exercises_with_solutions(page: Path) -> None:
    exercises = read(page).rpartition("\n## ")[2]
    assert outline(exercises) == [
        mark for number in "123" for mark in (f"**{number}.**", "<details>", "```{code-cell}", "</details>")
    ]


@pytest.mark.parametrize("page", [*ENGLISH, *SPANISH], ids=lambda page: page.stem)
def test_chapter_is_laid_out_as_the_others(page: Path) -> None:
    """A question, four sections, the code of the solutions folded away, and lines that fit the page."""
    text = read(page)
    assert text.startswith("---\nfile_format: mystnb\nkernelspec:\n  name: python3\n---\n")
    assert re.search(rf"^# {page.name[0]}\. .*\?$", text, re.MULTILINE)
    assert re.findall(r"^#+(?= )", CELL.sub("", text), re.MULTILINE) == ["#", "##", "##", "##", "##"]
    assert text.count(":jupyter: {source_hidden: true, outputs_hidden: true}\n") == 3
    assert max(len(line) for cell in cells(text) for line in cell.splitlines()) <= 85


@pytest.mark.parametrize("folder", ["course", "curso"])
def test_index_lists_chapters_notebooks_and_questions(folder: str) -> None:
    index = read(DOCS / folder / "index.md")
    for page in sorted((DOCS / folder).glob("[0-9]*.md")):
        title = re.search(r"^# (.+)$", read(page), re.MULTILINE)
        assert title
        assert f"[{title[1]}]({page.name}) " in index
        assert f"{{nb-download}}`{page.stem}.ipynb`" in index
        assert f"\n{page.stem}\n" in index
    rows = "".join(re.findall(r"^\| \[.*$", index, re.MULTILINE))
    assert set(re.findall(r"\(([a-j])\)", rows)) == set("abcdefghij")
