"""The words that prose and names of tests are written in."""

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
ROOMS = (ROOT.glob("[A-Z]*.md"), *(ROOT.glob(f"{room}/**/*") for room in ("src", "docs", "examples")))
PAGES = sorted(
    path
    for room in ROOMS
    for path in room
    if path.suffix in {".md", ".rst", ".py"} and "_build" not in path.parts and path.name != "words.md"
)
GAP = r"[\s#>]+"  # between two words, also over the end of a line of a comment
OTHER_PLACES = (
    r"in-place|in (?:(?:its|their|the right) )?place|tak\w+ (?:the|its|their) place|changed places|one place that knows"
)
REFUSED = (
    r"(?i:anew|afresh|for ever|at hand|all else|whoever|of one's own|so many|but for|by itself|places?)|(?:is|are) none"
)


def refused(text: str) -> list[str]:
    """Return the refused words of a text, each with its line."""
    allowed = re.compile(rf"\b(?i:{OTHER_PLACES})\b".replace(" ", GAP))
    rest = allowed.sub(lambda found: "\n" * found[0].count("\n"), text)
    found = re.finditer(rf"\b(?:{REFUSED})\b".replace(" ", GAP), rest)
    return [f"line {rest.count(chr(10), 0, each.start()) + 1}: {' '.join(each[0].split())}" for each in found]


@pytest.mark.parametrize("path", PAGES, ids=lambda path: str(path.relative_to(ROOT)))
def test_prose_is_plain(path: Path) -> None:
    """Without the words for which docs/words.md, which has to name them, gives better ones."""
    assert refused(path.read_text(encoding="utf-8")) == []


@pytest.mark.parametrize("word", ["Each place\n", "at\n    # hand", "there is none", "Whoever reads"])
def test_a_refused_word_is_noticed(word: str) -> None:
    assert len(refused(f"a\n{word}.")) == 1


@pytest.mark.parametrize("words", ["in place of it", "In\nplace of it", "x is None", "taking the place of", "in-place"])
def test_other_meanings_are_allowed(words: str) -> None:
    assert refused(words) == []


def test_names_of_tests_are_short() -> None:
    """A name is a claim of at most 55 characters; the nuance goes into a docstring of one line."""
    tests = "\n".join(path.read_text(encoding="utf-8") for path in Path(__file__).parent.glob("test_*.py"))
    assert re.findall(r"def test_(\w{56,})", tests) == []
