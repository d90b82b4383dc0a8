"""The documentation: its snippets run, the values that they show are true, and nothing public is left out."""

import ast
import hashlib
import re
import runpy
import socket
from importlib import metadata
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from matplotlib.figure import Figure
from quick import cap_budget, cut_help, cut_samples, cut_steps

import tinygpt
from tinygpt import interop, layers, models, sampling, testing, training, views

ROOT = Path(__file__).parent.parent
DOCS = ROOT / "docs"
BLOCK = re.compile(r"^```(?:python|\{code-cell\} python)\n(?::.*\n)*(.*?)^```$", re.MULTILINE | re.DOTALL)
CELL = re.compile(r"^```\{code-cell\} python\n(.*?)^```$", re.MULTILINE | re.DOTALL)
SHOWN = re.compile(r"# -> (.+)$", re.MULTILINE)
PAGES = [
    path for path in (*sorted(DOCS.glob("*.md")), *sorted(ROOT.glob("*.md"))) if BLOCK.search(path.read_text("utf-8"))
]
PAGES_OF_CELLS = [page for page in PAGES if CELL.search(page.read_text("utf-8"))]
OTHER_NAMES_FOR_TESTS = ["CheckError", "Sizes", "sizes", "randomise"]
EXPERIMENTS = sorted((DOCS / "experiments").glob("*.py"))


def run_snippets(text: str, name: str) -> int:
    """Run the Python blocks of a page in one namespace, compare each ``value  # -> shown``, and count those."""
    namespace: dict[str, Any] = {"__name__": "__main__"}
    compared = 0
    lines = text.splitlines()
    for block in BLOCK.finditer(text):
        source = "\n" * text.count("\n", 0, block.start(1)) + block[1]  # so that tracebacks give the line of the page
        for statement in ast.parse(source, name).body:
            if not isinstance(statement, ast.Expr):
                exec(compile(ast.Module([statement], []), name, "exec"), namespace)
                continue
            value = eval(compile(ast.Expression(statement.value), name, "eval"), namespace)
            if shown := SHOWN.search(lines[(statement.end_lineno or 0) - 1]):
                assert repr(value) == shown[1], f"{name}, line {statement.lineno}"
                compared += 1
    return compared


def test_pages_with_snippets_are_found() -> None:
    names = {page.name for page in PAGES}
    assert names >= {"README.md", "index.md", "quickstart.md", "notebook.md", "compose.md", "sampling.md", "files.md"}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_snippets_run_and_show_true_values(page: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """In an empty directory; of all that they read only the download is not the real one."""
    torch.set_default_dtype(torch.float32)
    (tmp_path / "work").mkdir()
    monkeypatch.chdir(tmp_path / "work")
    cap_budget(monkeypatch, tmp_path / "cache")
    compared = run_snippets(page.read_text(encoding="utf-8"), page.name)
    assert compared == len(SHOWN.findall(page.read_text(encoding="utf-8")))


def test_the_first_program_needs_no_file_no_network_and_no_help(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """As a newcomer pastes it, in an empty directory and with what `pip install tinygpt` brings."""

    def refuse(*arguments: Any, **options: Any) -> Any:
        raise AssertionError(f"the first program asks for {arguments}")

    torch.set_default_dtype(torch.float32)
    monkeypatch.chdir(tmp_path)
    for name in ("connect", "connect_ex"):
        monkeypatch.setattr(socket.socket, name, refuse)
    monkeypatch.setattr(metadata, "files", refuse)  # nor for another package
    cut_steps(monkeypatch)
    cut_help(monkeypatch)
    cut_samples(monkeypatch)
    page = (ROOT / "README.md").read_text(encoding="utf-8")
    first = BLOCK.search(page)
    assert first
    run_snippets(page[: first.end()], "README.md")
    assert "The " in capsys.readouterr().out
    assert list(tmp_path.iterdir()) == []


def test_a_file_that_is_not_there_is_noticed(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)
    cap_budget(monkeypatch, tmp_path / "cache")
    with pytest.raises(FileNotFoundError, match=r"input\.txt"):
        run_snippets("```python\nimport tinygpt\n\ntext = tinygpt.read_text('input.txt')\n```\n", "page")


@pytest.mark.parametrize(
    "page", [page for page in PAGES if CELL.search(page.read_text("utf-8"))], ids=lambda page: page.name
)
def test_page_of_cells_shows_no_typed_output(page: Path) -> None:
    """The build runs each snippet of the page, and shows each value once."""
    text = page.read_text(encoding="utf-8")
    assert text.startswith("---\nfile_format: mystnb\nkernelspec:\n  name: python3\n---\n")
    assert "\n```python\n" not in text, "the build does not run it, so write a cell"
    assert not re.search(r"^```\n\n```text$", text, re.MULTILINE), "the build shows the output of a cell"
    for cell in CELL.finditer(text):
        assert not (SHOWN.search(cell[1]) and "print(" in cell[1]), "the build hides the output of a cell with values"


def from_conf(*names: str, **namespace: Any) -> list[Any]:
    """Return functions and constants of the build's settings, which need Sphinx as a whole."""
    for each in ast.parse((DOCS / "conf.py").read_text("utf-8")).body:
        targets = each.targets if isinstance(each, ast.Assign) else [each]
        if {getattr(target, "id", getattr(target, "name", None)) for target in targets} & {*names}:
            exec(compile(ast.Module([each], []), "conf.py", "exec"), namespace)
    return [namespace[name] for name in names]


def test_outputs_of_the_build_belong_to_one_state_of_the_library(tmp_path: Path) -> None:
    """The build keeps outputs in a directory that is named by a digest of the library and of PyTorch."""
    (tmp_path / "layers").mkdir()
    library = SimpleNamespace(__file__=str(tmp_path / "__init__.py"))
    (digest_of_sources,) = from_conf("digest_of_sources", tinygpt=library, torch=torch, Path=Path, hashlib=hashlib)
    digests = set()
    for text in ("x = 1", "x = 2"):
        (tmp_path / "layers" / "block.py").write_text(text, encoding="utf-8")
        digests.add(digest_of_sources())
        assert digest_of_sources() in digests
    assert len(digests) == 2


def test_each_page_of_a_course_is_linked_to_its_twin() -> None:
    """Each has its own language. A page outside the courses has none."""
    _, name_language = from_conf("COURSES", "name_language")
    pages = {path.relative_to(DOCS).with_suffix("").as_posix() for path in DOCS.rglob("*.md")}
    app = SimpleNamespace(env=SimpleNamespace(found_docs=pages))
    twins = {}
    for page in pages:
        context: dict[str, Any] = {"pathto": lambda page: page}
        name_language(app, page, "page.html", context, None)
        if "twin" in context:
            twins[page] = context["twin"]["link"]
            assert context["language"] == ("es" if page.startswith("curso/") else "en")
            assert context["twin"]["language"] == ("en" if page.startswith("curso/") else "es")
    assert len(twins) == 18
    assert all(twins[twin] == page for page, twin in twins.items())
    assert twins["curso/8_escritura"] == "course/8_writing"


def test_pieces_of_a_stream_are_shown_as_they_were_printed() -> None:
    (join_streams,) = from_conf("join_streams")
    picture = {"output_type": "display_data"}
    pieces = [{"output_type": "stream", "name": "stdout", "text": text} for text in ("to", " ", "be", "\n")]
    assert join_streams([pieces[0], picture, *pieces[1:]]) == [{**pieces[0], "text": "to be\n"}, picture]


@pytest.mark.parametrize(
    ("output", "table"),
    [
        ("               nats  bits/char  perplexity\neven guess   4.1271  5.954  62.00", True),
        ("step      0: train 4.1646, val 4.1688\n:R.gZ snZL!TrHuD", False),
        ("ROMEO:\nI thithe, and for the night;", False),
    ],
)
def test_outputs_with_columns_are_told_from_text(output: str, table: bool) -> None:
    (columns,) = from_conf("COLUMNS", re=re)
    assert bool(columns.search(output)) == table


def test_a_false_value_is_noticed() -> None:
    page = "Words.\n\n```python\nn = 1\nn + 1  # -> {}\n```\n"
    assert run_snippets(page.format(2), "page") == 1
    with pytest.raises(AssertionError, match="page, line 5"):
        run_snippets(page.format(3), "page")


@pytest.mark.parametrize(
    ("room", "names"),
    [
        ("interop", interop.__all__),
        ("layers", layers.__all__),
        ("models", models.__all__),
        ("sampling", sampling.__all__),
        ("serve", ["Playground"]),
        ("training", training.__all__),
        ("views", views.__all__),
        ("randomness", ["check_seed", "derive_seed", "permutation", "shuffled", "uniforms"]),
        ("corpora", ["TextFile", "read_text", "shakespeare", "shakespeare_plays", "tinyshakespeare"]),
        ("data", ["TokenDataset"]),
        ("ids", ["Ids", "Joined"]),
        ("preparing", ["prepare"]),
        ("symbols", ["ByteTokenizer", "SymbolTokenizer"]),
        ("texts", ["read_texts"]),
        ("windows", ["Batch", "Split"]),
        ("tokenizer", ["CharTokenizer", "Tokenizer"]),
        ("checkpoint", ["load", "save"]),
        ("testing", [name for name in vars(testing) if name.startswith("check_")] + OTHER_NAMES_FOR_TESTS),
    ],
)
def test_every_name_of_a_room_is_on_its_page(room: str, names: list[str]) -> None:
    page = (DOCS / "api" / f"{room}.rst").read_text(encoding="utf-8")
    listed = re.findall(r"^\.\. auto(?:class|function):: (?:tinygpt\.)?(\w+)", page, re.MULTILINE)
    assert sorted(listed) == sorted(names)


def test_every_public_name_is_on_some_page_as_it_is_imported() -> None:
    pages = "\n".join(path.read_text(encoding="utf-8") for path in (DOCS / "api").glob("*.rst"))
    listed = set(re.findall(r"^\.\. auto(?:class|function):: tinygpt\.(\w+)", pages, re.MULTILINE))
    whole = set(re.findall(r"^\.\. automodule:: ([\w.]+)\n(?!   :no-members:)", pages + "\n", re.MULTILINE))
    assert listed == set(tinygpt.__all__)
    assert whole == {"tinygpt.errors", "tinygpt.optim"}  # these pages list all that is in them


def test_the_promises_count_the_deliberate_faults() -> None:
    marks = [
        call
        for path in Path(__file__).parent.glob("test_*.py")
        for call in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if isinstance(call, ast.Call) and isinstance(call.func, ast.Name) and call.func.id == "broken_by"
    ]
    count = sum(len(call.args) for call in marks)
    assert f"{count} of them | {count} of {count} " in (DOCS / "promises.md").read_text(encoding="utf-8")


def all_pages() -> str:
    return "\n".join(path.read_text(encoding="utf-8") for path in DOCS.glob("*.md"))


@pytest.mark.parametrize("path", EXPERIMENTS, ids=lambda path: path.stem)
def test_experiment_says_how_to_run_it_and_is_quoted(path: Path) -> None:
    command = f"python docs/experiments/{path.name}"
    assert command in path.read_text(encoding="utf-8")
    assert command in all_pages()


def test_gallery_has_the_words_and_the_code_of_its_script() -> None:
    script = runpy.run_path(str(DOCS / "gallery.py"))
    page = (DOCS / "gallery.md").read_text(encoding="utf-8")
    assert page.startswith(script["head"]())
    assert page.endswith(script["TAIL"])
    for work in script["WORKS"]:
        assert f"## {work.title}\n\n{work.about}\n\n```py\ndata = {work.code}\n```\n" in page


def test_images_are_small_and_all_are_shown() -> None:
    shown = set(re.findall(r"\]\(images/([\w.]+)\)", all_pages()))
    images = {path.name: path.stat().st_size for path in (DOCS / "images").iterdir()}
    assert shown == images.keys()
    assert max(images.values()) < 80_000


@pytest.mark.slow
@pytest.mark.parametrize("path", EXPERIMENTS, ids=lambda path: path.stem)
def test_experiment_prints_the_table_that_is_quoted(
    path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Up to the digits, which are another machine's, and without touching the images."""
    torch.set_default_dtype(torch.float32)
    drawn = []
    monkeypatch.setattr(Figure, "savefig", lambda self, path, **options: drawn.append(Path(path).name))
    runpy.run_path(str(path), run_name="__main__")
    printed = [re.sub(r" *-?\d[\d,.]*", " #", line) for line in capsys.readouterr().out.splitlines()]
    page = [re.sub(r" *-?\d[\d,.]*", " #", line) for line in all_pages().splitlines()]
    assert printed
    for line in printed:
        assert line in page
    assert all((DOCS / "images" / name).exists() for name in drawn)
