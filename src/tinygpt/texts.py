"""Read many texts: from files, a table, or lines of JSON."""

import csv
import glob
import gzip
import io
import json
import os
import re
import sys
import zlib
from collections.abc import Iterable, Iterator
from pathlib import Path

from tinygpt.corpora import decode_file, oddities
from tinygpt.errors import ConfigError, DataError, DataNotFoundError, InputTypeError, cut, short, show, warn
from tinygpt.files import check_path, no_file, read_whole

__all__ = ["paths_of", "read_texts"]

_LINES, _TABLES = (".jsonl", ".ndjson"), (".csv", ".tsv")
_CONTROLS = bytes([*range(9), *range(14, 32), 127])
_BINARY = re.compile(rb"%PDF-|\{\\rtf|ID3|MZ|BZh")  # kinds of files that may have no control characters


def read_texts(
    source: str | os.PathLike[str] | Iterable[str | os.PathLike[str]],
    *,
    column: str | None = None,
    encoding: str = "utf-8",
) -> list[str]:
    r"""Read the texts in files, one for each file or row.

    Args:
        source: A file, a folder, a pattern such as ``"texts/**/*.txt"``, or several paths. A folder is read with its
            subfolders, without hidden files. The files of a folder and of a pattern are read in the order of their
            paths. A file that ends in ``.gz`` is unpacked.
        column: Name of the column of a ``.csv`` or ``.tsv`` table, or of the field of a ``.jsonl`` file, whose rows are
            the texts. Without it, each file is a text, and the lines of a ``.jsonl`` file are strings.
        encoding: Name of the encoding of all files.

    Returns:
        The texts, to join with :meth:`TokenDataset.from_documents`.

    Warns:
        UserWarning: If files have one of the features that :func:`~tinygpt.read_text` warns of. There is one warning
            for each feature, with the first file and the number of files.

    Raises:
        DataNotFoundError: If there is no such file; the message has the nearest name that exists.
        ConfigError: If ``column`` is given for a file without columns, or missing or unknown for a table.
        DataError: If there are no files, a file is not text, or a row has no text; its number is in the message.
        InputTypeError: If ``source`` is neither a path nor several.

    Example:
        >>> folder = getfixture("tmp_path")
        >>> _ = (folder / "a.txt").write_text("to be")
        >>> _ = (folder / "b.csv").write_text("line,speaker\nor not,HAMLET\nto die,HAMLET\n")
        >>> read_texts(folder / "*.txt"), read_texts(folder / "b.csv", column="line")
        (['to be'], ['or not', 'to die'])
    """
    found: dict[str, list[Path]] = {}  # files by feature
    sentences: dict[str, str] = {}  # about the first of them
    texts: list[str] = []
    for path in paths_of(source):
        raw, suffix = _unpacked(path)
        text = _plain(raw, encoding) or decode_file(path, raw, encoding)
        if not text.isascii() or "\r" in text or text.startswith("<"):
            for feature, sentence in oddities(text, encoding, suffix).items():
                if suffix not in _TABLES or feature != "lines":  # the lines of a table may end so
                    sentences.setdefault(feature, sentence)
                    found.setdefault(feature, []).append(path)
        texts += _texts_in(path, text, suffix, column)
    for feature, paths in found.items():
        others = f" (the first of {len(paths):,} such files)" if len(paths) > 1 else ""
        warn(f"{show(paths[0])}{others} {sentences[feature]}")
    return texts


def paths_of(source: str | os.PathLike[str] | Iterable[str | os.PathLike[str]]) -> list[Path]:
    """Return the files that a source names.

    Raises:
        DataError: If there is no file.
        InputTypeError: If it is neither a path nor several.
    """
    if isinstance(source, str | os.PathLike):
        path = check_path("source", source)
        if path.is_dir():
            paths = list(map(Path, sorted(_files_below(path))))
        elif path.exists() or not glob.has_magic(str(path)):
            paths = [_existing(path)]
        else:
            names = sorted(glob.glob(str(path), recursive=True))  # noqa: PTH207 # Path.glob takes no absolute pattern
            paths = [each for each in map(Path, names) if not each.is_dir()]
        if not paths:
            raise DataError(f"source must have a file, got {show(path)} without one; check the path")
        return paths
    if not isinstance(source, Iterable):
        raise InputTypeError(f"source must be a path or several, got {short(source)}")
    paths = [_existing(check_path("source", each)) for each in source]
    if not paths:
        raise DataError("source must have a file, got 0 paths")
    return paths


def _existing(path: Path) -> Path:
    if not path.exists():
        raise DataNotFoundError(no_file(path))
    return path


def _files_below(folder: Path) -> Iterator[str]:
    for inside, folders, names in os.walk(folder):
        folders[:] = [name for name in folders if not name.startswith(".")]
        yield from (f"{inside}{os.sep}{name}" for name in names if not name.startswith("."))


def _unpacked(path: Path) -> tuple[bytes, str]:
    """Return the bytes of a file, and the end of its name without ``.gz``."""
    try:
        raw = read_whole(path, sys.maxsize)
    except OSError as error:
        if error.errno is not None:
            raise
        raise DataError(f"a text must be a regular file, got {show(path)}, which is a directory or a pipe") from error
    if path.suffix.lower() != ".gz":
        return raw, path.suffix.lower()
    try:
        return gzip.decompress(raw), Path(path.stem).suffix.lower()
    except (OSError, EOFError, zlib.error) as error:
        raise DataError(f"{show(path)} is not a whole gzip file: {cut(str(error))}; get another copy") from error


def _plain(raw: bytes, encoding: str) -> str:
    """Return the text of UTF-8 without control characters, or nothing where a slower look is needed."""
    if encoding != "utf-8" or len(raw.translate(None, _CONTROLS)) < len(raw) or _BINARY.match(raw):
        return ""
    try:
        return raw.decode()
    except UnicodeDecodeError:
        return ""


def _texts_in(path: Path, text: str, suffix: str, column: str | None) -> Iterable[str]:
    """Return the texts of a file."""
    if suffix in _TABLES:
        return _column_of(path, text, "\t" if suffix == ".tsv" else ",", column)
    if suffix in _LINES:
        return _field_of(path, text, column)
    if column is not None:
        raise ConfigError(
            f"column must be given for .csv, .tsv and .jsonl files only, got column={short(column)} for {show(path)}"
        )
    return [text]


def _column_of(path: Path, text: str, delimiter: str, column: str | None) -> list[str]:
    longest = csv.field_size_limit(sys.maxsize)  # a long text is no mistake
    try:
        reader = csv.DictReader(io.StringIO(text.removeprefix("\ufeff"), newline=""), delimiter=delimiter)
        names = list(reader.fieldnames or [])
        if column not in names:
            raise ConfigError(
                f"column must name a column of {show(path)}, got {short(column)}, not among {short(names)}"
            )
        cells = [row[column] for row in reader]
    except csv.Error as error:
        raise DataError(f"{show(path)} is not a table: {error} in line {reader.line_num}") from error
    finally:
        csv.field_size_limit(longest)
    for number, cell in enumerate(cells, 1):
        if cell is None:
            raise DataError(f"row {number} of {show(path)} has no column {short(column)}; the header is row 0")
    return cells


def _field_of(path: Path, text: str, column: str | None) -> Iterator[str]:
    for number, line in enumerate(text.removeprefix("\ufeff").split("\n"), 1):
        if not line.strip():
            continue
        try:
            value = json.loads(line)
        except (ValueError, RecursionError) as error:
            raise DataError(f"line {number} of {show(path)} is not JSON: {cut(str(error))}") from error
        if isinstance(value, dict) and column not in value:
            raise ConfigError(
                f"column must name a field of each line of {show(path)}, got {short(column)}, not among "
                f"{short(list(value))} in line {number}"
            )
        cell = value[column] if isinstance(value, dict) else value
        if not isinstance(cell, str):
            raise DataError(f"line {number} of {show(path)} must have a text, got {short(cell)}")
        yield cell
