"""Many texts: from a folder, a pattern, a list, a table, lines of JSON, and packed."""

import gzip
import json
import warnings
from pathlib import Path
from typing import Any

import pytest

from tinygpt import read_texts
from tinygpt.errors import ConfigError, DataError, InputTypeError


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "b").mkdir()
    (tmp_path / "b" / "c.txt").write_bytes("caf\u00e9\n".encode())
    (tmp_path / "a.txt").write_bytes(b"first\n")
    (tmp_path / "z.txt.gz").write_bytes(gzip.compress(b"packed"))
    (tmp_path / ".hidden").write_bytes(b"\x00")
    return tmp_path


def test_a_folder_a_pattern_and_a_list_are_read(folder: Path) -> None:
    """In the order of the paths, or of the list."""
    assert read_texts(folder) == read_texts(str(folder)) == ["first\n", "caf\u00e9\n", "packed"]
    assert read_texts(folder / "**" / "*.txt") == ["first\n", "caf\u00e9\n"]
    assert read_texts([folder / "z.txt.gz", str(folder / "a.txt")]) == ["packed", "first\n"]
    assert read_texts(folder / "a.txt") == ["first\n"]


def test_a_name_with_the_signs_of_a_pattern_is_a_file(tmp_path: Path) -> None:
    (tmp_path / "[1].txt").write_text("one")
    assert read_texts(tmp_path / "[1].txt") == ["one"]


@pytest.mark.parametrize("mark", ["", "\ufeff"])
def test_the_rows_of_a_table_are_texts(tmp_path: Path, mark: str) -> None:
    long = "x" * 200_000  # beyond the limit of the csv module, which is as before afterwards
    rows = f'{mark}text,n\r\n"a, ""b""\nc",1\r\n{long},2\r\n,3\r\n'.encode()
    (tmp_path / "t.csv").write_bytes(rows)
    encoding = "utf-8-sig" if mark else "utf-8"
    assert read_texts(tmp_path / "t.csv", column="text", encoding=encoding) == ['a, "b"\nc', long, ""]
    (tmp_path / "t.tsv.gz").write_bytes(gzip.compress(b"n\ttext\n1\ta,b\n"))
    assert read_texts(tmp_path / "t.tsv.gz", column="text") == ["a,b"]


def test_the_lines_of_a_file_are_texts(tmp_path: Path) -> None:
    texts = ["a\u2028b", "\U0001f600", "c\n"]
    (tmp_path / "t.jsonl").write_text("\n".join(json.dumps({"text": text}) for text in texts) + "\n")
    assert read_texts(tmp_path / "t.jsonl", column="text") == texts
    (tmp_path / "t.jsonl").write_bytes("\n".join(json.dumps(text, ensure_ascii=False) for text in texts).encode())
    assert read_texts(tmp_path / "t.jsonl") == texts


def test_a_feature_of_many_files_is_one_warning(tmp_path: Path) -> None:
    for number in range(20):
        (tmp_path / f"{number:02d}.txt").write_bytes(b"a\r\n" if number > 4 else b"a\n")
    (tmp_path / "page.txt").write_bytes(b"<html>")
    with pytest.warns(UserWarning, match="such files|HTML page") as caught:
        read_texts(tmp_path)
    messages = [str(each.message) for each in caught.list]
    assert len(messages) == 2
    assert "05.txt' (the first of 15 such files) has 1 '\\r\\n' at ends of lines" in messages[0]
    assert "page.txt' is an HTML page" in messages[1]


@pytest.mark.usefixtures("unchecked_types")
@pytest.mark.parametrize(
    ("files", "source", "column", "kind", "message"),
    [
        ({}, "absent.txt", None, FileNotFoundError, "absent"),
        ({}, "*.txt", None, DataError, "must have a file, got .* without one"),
        ({}, "", None, DataError, "must have a file, got .* without one"),
        ({"a.txt": b"ab", "b.txt": b"a\0b"}, "", None, DataError, "b.txt' looks binary: control character U\\+0000"),
        ({"a.txt": b"%PDF-1.4 ab"}, "", None, DataError, "a.txt', which is a PDF document"),
        ({"a.txt": b""}, "", None, DataError, "a.txt' has 0 bytes"),
        ({"a.txt.gz": b"\x1f\x8bab"}, "", None, DataError, "a.txt.gz' is not a whole gzip file"),
        (
            {"a.txt": b"it\x92s a dog's life"},
            "",
            None,
            DataError,
            "0x92 at offset 2 does not fit; pass its encoding, perhaps encoding='cp1252'",
        ),
        ({"a.txt": b"a"}, "", "text", ConfigError, "tables|only, got column='text' for .*a.txt"),
        ({"a.csv": b"x,y\n1,2"}, "", None, ConfigError, r"column of .*, got None, not among \['x', 'y'\]"),
        ({"a.csv": b"x,y\n1,2\n3\n"}, "", "y", DataError, "row 2 of .*a.csv' has no column 'y'"),
        ({"a.jsonl": b'{"x": "a"}\n{"x": 7}'}, "", "x", DataError, "line 2 of .* must have a text, got 7"),
        ({"a.jsonl": b'{"x": "a"}\n{"y": "b"}'}, "", "x", ConfigError, r"'x', not among \['y'\] in line 2"),
        ({"a.jsonl": b'"a"\n{'}, "", "x", DataError, "line 2 of .* is not JSON"),
    ],
)
def test_a_bad_file_or_row_is_named(
    files: dict[str, bytes], source: str, column: Any, kind: type[Exception], message: str, tmp_path: Path
) -> None:
    for name, raw in files.items():
        (tmp_path / name).write_bytes(raw)
    with pytest.raises(kind, match=message) as caught:
        read_texts(tmp_path / source, column=column)
    assert len(str(caught.value)) <= 400


@pytest.mark.usefixtures("unchecked_types")
@pytest.mark.parametrize(("source", "kind"), [(7, InputTypeError), ([7], InputTypeError), ([], DataError)])
def test_another_source_is_named(source: Any, kind: type[Exception]) -> None:
    with pytest.raises(kind, match="source must"):
        read_texts(source)


def test_reading_leaves_no_setting_behind(folder: Path) -> None:
    import csv

    before = csv.field_size_limit()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        read_texts(folder)
    assert csv.field_size_limit() == before
