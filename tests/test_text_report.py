"""What a report on a text counts, and what it says to do."""

import pytest

from tinygpt import CharTokenizer


@pytest.mark.parametrize(
    ("text", "count", "feature", "mend"),
    [
        ("a\r\nb\r\n", 2, r"line ends '\r\n'", r"newline='\n'"),
        ("a\rb\r\n", 1, r"line ends '\r'", r"newline='\n'"),
        ("\ufeffa\ufeff", 2, "byte-order marks", r"replace('\ufeff', '')"),
        ("a\x0bb\x0b", 2, r"control characters '\x0b'", "translate"),
        ("it\x92s", 1, r"control characters '\x92'", "cp1252"),
        ("e\u0301e\u0301 \u00e9", 4, "not in the form NFC", "normalize='NFC'"),
        ("aaaaabbbbbcd", 2, "less than 5 times 'cd'", "min_count=5"),
    ],
)
def test_a_feature_is_counted_with_its_mend(text: str, count: int, feature: str, mend: str) -> None:
    found = CharTokenizer.from_text(text).report(text).findings
    assert any(each.count == count and feature in each.feature and mend in each.mend for each in found)


def test_unknown_and_new_symbols_are_counted() -> None:
    tokenizer = CharTokenizer("ab", end="b")
    report = tokenizer.report("aaaaaxyx" * 5, val="az")
    assert (report.characters, report.symbols) == (40, 3)
    assert [(each.count, each.feature) for each in report.findings] == [
        (15, "characters unknown to the tokenizer 'xy'"),
        (1, "characters that only validation has 'z'"),
    ]


def test_a_clean_text_has_nothing_to_mend() -> None:
    text = "to be\n" * 9
    assert str(CharTokenizer.from_text(text).report(text, val=text)) == "54 characters, 6 symbols\nnothing to mend"
