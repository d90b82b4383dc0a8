"""The files around the library agree: the noxfile, the workflows, the metadata and what they say about each other."""

import importlib.util
import re
import sys
import tomllib
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest
from check_release import unfinished

ROOT = Path(__file__).parent.parent
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
PAGES = [*ROOT.glob("*.md"), *(ROOT / "docs").glob("*.md"), *(ROOT / ".github").rglob("*.*")]
SESSIONS = ["docs", "floors", "interop", "lint", "newest", "release", "sdist", "slow", "tests", "types", "wheel"]


def read(name: str) -> str:
    """Return the text of a file of the repository."""
    return (ROOT / name).read_text(encoding="utf-8")


class Recorder:
    """A session of nox that only notes what it is asked to run."""

    def __init__(self, posargs: tuple[str, ...] = ()) -> None:
        self.posargs, self.ran = [*posargs], list[list[str]]()

    def run(self, *words: str, env: dict[str, str]) -> None:
        self.ran.append([*(f"{name}={value}" for name, value in env.items()), *words])

    def install(self, *requirements: str) -> None:
        """Install nothing."""

    def commands(self) -> list[list[str]]:
        """Return what would run after the installations."""
        return [words for words in self.ran if words[:3] != ["python", "-m", "pip"]]


@pytest.fixture
def noxfile(monkeypatch: pytest.MonkeyPatch) -> Any:
    """Import noxfile.py, with a stand-in for nox, which the tests do not install."""
    nox = ModuleType("nox")
    nox.__dict__.update(session=lambda function: function, options=SimpleNamespace(), Session=Recorder)
    monkeypatch.setitem(sys.modules, "nox", nox)
    monkeypatch.chdir(ROOT)
    spec = importlib.util.spec_from_file_location("noxfile", "noxfile.py")
    assert spec
    assert spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize("name", SESSIONS)
def test_each_session_runs_lines_of_the_makefile(noxfile: Any, name: str) -> None:
    session = Recorder()
    getattr(noxfile, name)(session)
    assert session.commands()
    assert not [words for words in session.ran if "$" in str(words)]


def test_nox_alone_runs_the_gate(noxfile: Any) -> None:
    """The commands of the targets that `make test` names, and no others."""
    session = Recorder()
    for name in noxfile.nox.options.sessions:
        getattr(noxfile, name)(session)
    gate = re.findall(r"^test: (.+?)  ##", read("Makefile"), re.MULTILINE)[0].split()
    whole = Recorder()
    noxfile.run(whole, *gate)
    assert len(whole.ran) >= 9
    assert sorted(session.commands()) == sorted(whole.ran)


def test_arguments_reach_the_command(noxfile: Any) -> None:
    session = Recorder(("-k", "a or b"))
    noxfile.floors(session)
    assert session.commands()[0][-3:] == ["2", "-k", "a or b"]


def test_sessions_and_targets_that_are_named_exist() -> None:
    text = "\n".join(path.read_text(encoding="utf-8") for path in PAGES)
    named = " ".join(re.findall(r"(?:nox -s|session:) ([a-z\[][a-z, ]+)", text))
    assert {*re.findall(r"[a-z]+", named)} == {*SESSIONS} - {"wheel"}  # which no page and no workflow runs alone
    targets = set(re.findall(r"`make ([a-z-]+)|^make ([a-z-]+)", text, re.MULTILINE))
    assert {"test", "release"} <= {a or b for a, b in targets} <= {*re.findall(r"^([a-z-]+):", read("Makefile"), re.M)}


def test_the_hooks_run_the_pinned_ruff() -> None:
    pinned = re.findall(r"^ruff==.+$", read("constraints.txt"), re.MULTILINE)
    assert re.findall(r"\[(ruff==.+?)\]", read(".pre-commit-config.yaml")) == pinned * 2


def test_a_python_is_claimed_only_if_it_was_run() -> None:
    claimed = [each.removeprefix("Programming Language :: Python :: ") for each in PROJECT["classifiers"]]
    row = r"^\| (3\.\d+) \| pinned \| Linux \| \d{4}-\d\d-\d\d \| `nox -s tests"
    runs = re.findall(row, read("docs/compatibility.md"), re.MULTILINE)
    assert [each for each in claimed if re.fullmatch(r"3\.\d+", each)] == runs
    assert runs[0] == PROJECT["requires-python"].removeprefix(">=")


def test_the_citation_describes_this_project() -> None:
    citation = read("CITATION.cff")
    for name, value in [("title", "name"), ("abstract", "description"), ("license", "license")]:
        assert re.findall(rf'^{name}: "?(.+?)"?$', citation, re.MULTILINE) == [PROJECT[value]]
    assert re.findall(r"^  - name: (.+)$", citation, re.MULTILINE) == [each["name"] for each in PROJECT["authors"]]
    assert re.findall(r"^  - (?!name: )(.+)$", citation, re.MULTILINE) == PROJECT["keywords"]


def test_a_release_names_what_it_needs(tmp_path: Path) -> None:
    """Each sentence of the list goes away when its advice is followed."""
    files = {
        "pyproject.toml": "[project]\n",
        "src/tinygpt/__init__.py": '__version__ = "1.2.3"\n',
        "README.md": "[a](docs/a.md) [b](https://b.example) [c](#c)\n",
        "CHANGELOG.md": "## [Unreleased]\n\n## [1.2.2] - 2026-12-31\n",
    }
    repaired = {
        "pyproject.toml": '[project.urls]\nSource = "s"\nIssues = "i"\nChangelog = "c"\nDocumentation = "d"\n',
        "README.md": "[a](https://a.example/docs/a.md)\n",
        "CHANGELOG.md": "## [Unreleased]\n\n## [1.2.3] - 2027-01-31\n",
        "tests/golden/1.2.3/bigram.safetensors": "",
    }
    (tmp_path / "tests" / "golden").mkdir(parents=True)
    (tmp_path / "src" / "tinygpt").mkdir(parents=True)
    for name, text in files.items():
        (tmp_path / name).write_text(text, encoding="utf-8")
    left = unfinished(tmp_path, "v1.2.2")
    hints = ["Source, Issues", "got docs/a.md", "## [1.2.3]", "golden", "v1.2.3"]
    assert all(hint in sentence for hint, sentence in zip(hints, left, strict=True))
    for count, (name, text) in enumerate(repaired.items(), start=1):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(text, encoding="utf-8")
        assert unfinished(tmp_path, "v1.2.2") == left[count:]
    assert unfinished(tmp_path, "v1.2.3") == unfinished(tmp_path) == []
