"""Count what makes a text harder to learn than it should be."""

import re
import unicodedata
from collections import Counter
from dataclasses import dataclass

from tinygpt.errors import short

__all__ = ["Finding", "TextReport", "report_on"]

_RARE = 5  # a symbol that occurs less often is hardly learnt


@dataclass(frozen=True)
class Finding:
    """One feature of a text.

    Attributes:
        count: How often it occurs.
        feature: Its name.
        mend: The call that changes it.
    """

    count: int
    feature: str
    mend: str


@dataclass(frozen=True)
class TextReport:
    """The size of a text, and the features that a corpus should rarely have.

    Attributes:
        characters: Number of characters.
        symbols: Number of distinct characters.
        findings: The features, each with its count and what to do.
    """

    characters: int
    symbols: int
    findings: tuple[Finding, ...]

    def __str__(self) -> str:
        lines = [f"{self.characters:,} characters, {self.symbols:,} symbols"]
        width = max((len(finding.feature) for finding in self.findings), default=0)
        lines += [f"{each.count:>9,}  {each.feature:{width}}  {each.mend}" for each in self.findings]
        return "\n".join(lines if self.findings else [*lines, "nothing to mend"])


def report_on(text: str, known: frozenset[str], val: str | None) -> TextReport:
    """Return the report of :meth:`tinygpt.CharTokenizer.report`."""
    counts = Counter(text)
    pairs, returns = text.count("\r\n"), counts["\r"]
    controls = [symbol for symbol in counts if unicodedata.category(symbol) == "Cc" and symbol not in "\t\n\r"]
    has_c1 = any("\x80" <= symbol <= "\x9f" for symbol in controls)
    rare = [symbol for symbol, count in counts.items() if count < _RARE]
    unknown = [symbol for symbol in counts if symbol not in known]
    shown = {name: short("".join(sorted(some))) for name, some in [("c", controls), ("r", rare), ("u", unknown)]}
    newline = r"read_text(path, newline='\n')"
    found = [
        Finding(pairs, r"line ends '\r\n'", newline),
        Finding(returns - pairs, r"line ends '\r'", newline),
        Finding(counts["\ufeff"], "byte-order marks", r"text.replace('\ufeff', '')"),
        Finding(
            sum(map(counts.__getitem__, controls)),
            f"control characters {shown['c']}",
            "read_text(path, encoding='cp1252')" if has_c1 else "remove them with text.translate",
        ),
        Finding(_marks_apart(text), "characters not in the form NFC", "read_text(path, normalize='NFC')"),
        Finding(
            len(rare),
            f"symbols that occur less than {_RARE} times {shown['r']}",
            rf"CharTokenizer.from_text(text, min_count={_RARE}, on_unknown='\ufffd')",
        ),
        Finding(
            sum(map(counts.__getitem__, unknown)),
            f"characters unknown to the tokenizer {shown['u']}",
            "tokenizer.extended(text)",
        ),
    ]
    if val is not None:
        new = Counter(symbol for symbol in val if symbol not in counts)
        feature = f"characters that only validation has {short(''.join(sorted(new)))}"
        found.append(Finding(new.total(), feature, "shuffle documents before they are split"))
    return TextReport(len(text), len(counts), tuple(finding for finding in found if finding.count))


def _marks_apart(text: str) -> int:
    """Return the number of characters that the form NFC replaces."""
    if unicodedata.is_normalized("NFC", text):
        return 0
    pieces = re.findall(r"[^\u0300-\U0010ffff]?[\u0300-\U0010ffff]+", text)
    return sum(len(piece) for piece in pieces if not unicodedata.is_normalized("NFC", piece))
