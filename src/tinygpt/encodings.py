"""Guess the encoding or the kind of a file, for the advice in an error.

Nothing is ever read with a guessed encoding.
"""

import codecs
import re
import unicodedata
from collections import Counter

__all__ = ["JAPANESE_ESCAPES", "advice", "kind_of_file", "marked_encoding"]

JAPANESE_ESCAPES = (b"\x1b$B", b"\x1b$@")  # of ISO-2022-JP
_SAMPLED = 1 << 16  # bytes
_MARKS = {  # UTF-32 first, since its mark begins with that of UTF-16
    codecs.BOM_UTF32_LE: "utf-32",
    codecs.BOM_UTF32_BE: "utf-32",
    codecs.BOM_UTF16_LE: "utf-16",
    codecs.BOM_UTF16_BE: "utf-16",
}
_UNPACK = "unpack it first"
_EXPORT = "export it as plain text first"
_TEXT_ONLY = "use a text file"
_KINDS = {  # pattern of the first bytes, kind of file, and what to do
    rb"\x1f\x8b": ("a gzip file", "gunzip it first, e.g. with gzip.open(path, 'rt', encoding='utf-8', newline='')"),
    rb"BZh[1-9]1AY&SY": ("a bzip2 file", _UNPACK),
    rb"\xfd7zXZ\x00": ("an xz file", _UNPACK),
    rb"\x28\xb5\x2f\xfd": ("a zstd file", _UNPACK),
    rb"7z\xbc\xaf\x27\x1c": ("a 7-Zip file", _UNPACK),
    rb"Rar!\x1a\x07": ("a RAR file", _UNPACK),
    rb"PK\x03\x04.{26}(?:\[Content_Types\]|_rels/|docProps/|word/|xl/|ppt/)": ("an Office document", _EXPORT),
    rb"PK\x03\x04.{26}mimetypeapplication/epub": ("an EPUB book", _EXPORT),
    rb"PK\x03\x04.{26}mimetypeapplication/vnd": ("an OpenDocument file", _EXPORT),
    rb"PK\x03\x04.{26}[^/]{1,100}/data\.pkl": ("a file of PyTorch", _TEXT_ONLY),
    rb"PK(?:\x03\x04|\x05\x06)": ("a zip file", _UNPACK),
    rb".{257}ustar(?:\x00|  \x00)": ("a tar file", _UNPACK),
    rb"%PDF-\d": ("a PDF document", _EXPORT + ", e.g. with pdftotext"),
    rb"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1": ("an old Office document", _EXPORT),
    rb"\{\\rtf\d": ("an RTF document", _EXPORT),
    rb".{60}BOOKMOBI": ("a Mobipocket book", _EXPORT),
    rb"\x89PNG\r\n\x1a\n": ("a PNG image", _TEXT_ONLY),
    rb"\xff\xd8\xff": ("a JPEG image", _TEXT_ONLY),
    rb"GIF8[79]a": ("a GIF image", _TEXT_ONLY),
    rb"RIFF.{4}(?:WAVE|AVI |WEBP)": ("a sound, image or film", _TEXT_ONLY),
    rb"(?:ID3[\x02-\x04]|fLaC|OggS\x00)": ("a sound", _TEXT_ONLY),
    rb"\x00\x00\x00.ftyp": ("a film or a sound", _TEXT_ONLY),
    rb"\x7fELF|MZ.{60}\x00\x00": ("a program", _TEXT_ONLY),
    rb".{6}\x00\x00\{\"": ("a safetensors file", "use tinygpt.load(path) for a model of tinygpt"),
    rb"SQLite format 3\x00": ("a SQLite database", "read its texts with sqlite3"),
    rb"PAR1[\x00-\x1f]": ("a Parquet file", "read its texts with pyarrow or pandas"),
    rb"\x93NUMPY": ("an array of NumPy", "give it to TokenDataset as ids, e.g. TokenDataset(numpy.load(path))"),
    rb"\x89HDF\r\n": ("an HDF5 file", "read its texts with h5py"),
    rb"\x80[\x02-\x05][\x8a\x95}\]c(]": ("a pickle", "use a text file: opening it can run code"),
}
_KANA = frozenset(map(chr, range(0x3041, 0x30FF)))
_HANGUL = frozenset(map(chr, range(0xAC00, 0xD7A4)))
_HAN = frozenset(
    "的一是不了在人有我他这這个們们中来來上大為为和国國地到以說说時时要就出會会可也你對对生能而子那得于於着下自之年，。、「」“”"
)
_LETTERS = {  # encoding, characters that are frequent in its texts, and their least share of all beyond ASCII
    "shift_jis": (_KANA, 0.15),
    "cp932": (_KANA, 0.15),
    "euc_jp": (_KANA, 0.15),
    "euc_kr": (_HANGUL, 0.8),
    "cp949": (_HANGUL, 0.8),
    "gbk": (_HAN, 0.1),
    "big5": (_HAN, 0.1),
    "gb18030": (_HAN, 0.1),
    "cp1251": (frozenset("оеаинт"), 0.3),
    "koi8_r": (frozenset("оеаинт"), 0.3),
    "cp866": (frozenset("оеаинт"), 0.3),
    "iso8859_5": (frozenset("оеаинт"), 0.3),
    "cp1253": (frozenset("αοιετσ"), 0.3),
    "cp1255": (frozenset("יוהלאר"), 0.3),
    "cp1256": (frozenset("اليمنو"), 0.3),
}


def kind_of_file(raw: bytes) -> str:
    """Return the kind of a binary file and what to do with it, or nothing."""
    for pattern, (kind, way) in _KINDS.items():
        if re.match(pattern, raw[:512], re.DOTALL):
            return f"{kind}; {way}"
    return ""


def marked_encoding(raw: bytes) -> str:
    """Return the encoding of a UTF-16 or UTF-32 byte-order mark, or nothing."""
    return next((name for mark, name in _MARKS.items() if raw.startswith(mark)), "")


def advice(raw: bytes, encoding: str) -> str:
    """Return what to do with bytes that are not text in an encoding.

    Either the bytes are damaged, or another encoding is to be passed.
    """
    if damage := _damaged_utf8(raw):
        return damage
    name = _likely_encoding(raw)
    if name and codecs.lookup(name) != codecs.lookup(encoding):
        return f"pass its encoding, perhaps encoding={name!r}"
    return "no encoding known here fits, so it may be a binary file; pass a text file, or its encoding=..."


def _likely_encoding(raw: bytes) -> str:
    """Return the encoding that bytes are probably in, or nothing."""
    sample = raw[:_SAMPLED]
    if name := marked_encoding(raw):
        return name
    if any(escape in sample for escape in JAPANESE_ESCAPES):
        return "iso2022_jp"
    if b"\0" in sample:
        return _wide(sample)
    if _decode(raw, "utf-8", final=True) is not None:
        return "" if _has_controls(sample.decode("utf-8", "replace")) else "utf-8"
    if _has_controls(sample.decode("latin-1")):
        return ""
    if name := _by_letters(sample):
        return name
    foreign = [byte for byte in sample if byte > 0x7F]
    if len(foreign) > max(3, len(re.findall(rb"[A-Za-z]", sample))):  # not a language written in Latin letters
        return ""
    if all(byte >= 0xA0 for byte in foreign):
        return "latin-1"
    return "cp1252" if _decode(sample, "cp1252") is not None else ""


def _damaged_utf8(raw: bytes) -> str:
    """Return how to mend UTF-8 with a few wrong bytes, or nothing."""
    try:
        raw.decode("utf-8")
    except UnicodeDecodeError as error:
        start, cut = error.start, error.reason == "unexpected end of data"
    else:
        return ""
    if b"\0" in raw[:_SAMPLED]:
        return ""
    right = sum(1 for _ in re.finditer(rb"[\xc3-\xf4][\x80-\xbf]+", raw))
    lost = len(raw) - start
    if cut and (right or lost > 1):
        return (
            f"it is UTF-8 that ends within a character, so the file was cut; get it whole, or drop its end: "
            f"Path(path).read_bytes()[:-{lost}].decode()"
        )
    wrong = raw.decode("utf-8", "replace").count("\ufffd") - raw.count(b"\xef\xbf\xbd")
    if right >= 4 * wrong or (right >= wrong and len(raw) < 100):
        return (
            f"it is UTF-8 with {wrong:,} damaged characters; get another copy, or replace them by U+FFFD: "
            "Path(path).read_bytes().decode('utf-8', 'replace')"
        )
    return ""


def _decode(raw: bytes, encoding: str, *, final: bool = False) -> str | None:
    """Return the text of a sample, or None if the encoding does not fit.

    A sample may end within a character.
    """
    try:
        return codecs.getincrementaldecoder(encoding)("strict").decode(raw, final)
    except UnicodeError:
        return None


def _has_controls(text: str) -> bool:
    """Return whether over 1 % of a text are control or unassigned characters."""
    allowed = "\t\n\v\f\r" + "".join(map(chr, range(0x80, 0xA0)))  # the latter from decoding other encodings as Latin-1
    counts = Counter(text)
    wrong = [c for c in counts if c not in allowed and unicodedata.category(c) in ("Cc", "Cn", "Co", "Cs")]
    return sum(map(counts.__getitem__, wrong)) > 0.01 * len(text)


def _wide(sample: bytes) -> str:
    """Return the likeliest of UTF-16 and UTF-32 for bytes without a mark."""
    scores = {"": 0.05}
    for name in ("utf-32-le", "utf-32-be", "utf-16-le", "utf-16-be"):
        text = _decode(sample, name)
        if text and "\0" not in text and not _has_controls(text):
            frequent = sum(c <= "\xff" or c in _HAN or c in _KANA or c in _HANGUL for c in text)
            scores[name] = frequent / len(text)
    return max(scores, key=scores.__getitem__)


def _by_letters(sample: bytes) -> str:
    """Return the encoding that gives the largest share of frequent letters.

    Letters are frequent in one language; only characters beyond ASCII count.
    """
    shares = {"": 0.0}
    for name, (letters, least) in _LETTERS.items():
        text = _decode(sample, name) or ""
        foreign = [c for c in text if c > "\x7f"]
        few = 0.2 * len(text) if len(text) < len(sample) else max(3, sum(c.isalpha() for c in text) / 2)
        share = sum(c in letters for c in foreign) / max(len(foreign), 1)
        if share >= least and len(foreign) > few and not _has_controls(text):
            shares[name] = share
    japanese = [name for name in shares if name and _LETTERS[name][0] is _KANA]
    return japanese[0] if japanese else max(shares, key=shares.__getitem__)
