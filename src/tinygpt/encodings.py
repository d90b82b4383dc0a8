"""What a file is that is not text in the encoding asked for: a kind of binary file, or another encoding.

Nothing is read by these guesses. They make the advice of an error.
"""

import codecs
import re
import unicodedata
from collections import Counter

_SAMPLED = 1 << 16  # bytes that are enough to tell an encoding by

JAPANESE_ESCAPES = (b"\x1b$B", b"\x1b$@")  # of ISO-2022-JP

_MARKS = {  # longer marks first: that of UTF-32 begins like that of UTF-16
    codecs.BOM_UTF32_LE: "utf-32",
    codecs.BOM_UTF32_BE: "utf-32",
    codecs.BOM_UTF16_LE: "utf-16",
    codecs.BOM_UTF16_BE: "utf-16",
}

_UNPACK = "unpack it first"
_EXPORT = "export it as plain text first"
_NO_TEXT = "use a text file"
_KINDS = {  # how a file begins, what it is, and what to do
    rb"\x1f\x8b": ("a gzip file", "gunzip it first, e.g. with gzip.open(path, 'rt', encoding='utf-8', newline='')"),
    rb"BZh[1-9]1AY&SY": ("a bzip2 file", _UNPACK),
    rb"\xfd7zXZ\x00": ("an xz file", _UNPACK),
    rb"\x28\xb5\x2f\xfd": ("a zstd file", _UNPACK),
    rb"\x04\x22\x4d\x18": ("an lz4 file", _UNPACK),
    rb"7z\xbc\xaf\x27\x1c": ("a 7-Zip file", _UNPACK),
    rb"Rar!\x1a\x07": ("a RAR file", _UNPACK),
    rb"PK\x03\x04.{26}(?:\[Content_Types\]|_rels/|docProps/|word/|xl/|ppt/)": ("an Office document", _EXPORT),
    rb"PK\x03\x04.{26}mimetypeapplication/epub": ("an EPUB book", _EXPORT),
    rb"PK\x03\x04.{26}mimetypeapplication/vnd": ("an OpenDocument file", _EXPORT),
    rb"PK\x03\x04.{26}[^/]{1,100}/data\.pkl": ("a file of PyTorch", _NO_TEXT),
    rb"PK(?:\x03\x04|\x05\x06)": ("a zip file", _UNPACK),
    rb".{257}ustar(?:\x00|  \x00)": ("a tar file", _UNPACK),
    rb"%PDF-\d": ("a PDF document", _EXPORT + ", e.g. with pdftotext"),
    rb"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1": ("an old Office document", _EXPORT),
    rb"\{\\rtf\d": ("an RTF document", _EXPORT),
    rb".{60}BOOKMOBI": ("a Mobipocket book", _EXPORT),
    rb"\x89PNG\r\n\x1a\n": ("a PNG image", _NO_TEXT),
    rb"\xff\xd8\xff": ("a JPEG image", _NO_TEXT),
    rb"GIF8[79]a": ("a GIF image", _NO_TEXT),
    rb"(?:II\*\x00|MM\x00\*)": ("a TIFF image", _NO_TEXT),
    rb"RIFF.{4}(?:WAVE|AVI |WEBP)": ("a sound, image or film", _NO_TEXT),
    rb"(?:ID3[\x02-\x04]|fLaC|OggS\x00)": ("a sound", _NO_TEXT),
    rb"\x00\x00\x00.ftyp": ("a film or a sound", _NO_TEXT),
    rb"\x7fELF": ("a program", _NO_TEXT),
    rb"MZ.{58}.{2}\x00\x00": ("a program", _NO_TEXT),
    rb".{6}\x00\x00\{\"": ("a safetensors file", "use tinygpt.load(path) for a model of tinygpt"),
    rb"SQLite format 3\x00": ("a SQLite database", "read its texts with sqlite3"),
    rb"PAR1[\x00-\x1f]": ("a Parquet file", "read its texts with pyarrow or pandas"),
    rb"\x93NUMPY": ("an array of NumPy", "give it to TokenDataset as ids, e.g. TokenDataset(numpy.load(path))"),
    rb"\x89HDF\r\n": ("an HDF5 file", "read its texts with h5py"),
    rb"\x80[\x02-\x05][\x8a\x95}\]c(]": ("a pickle", "use a text file: opening it can run code"),
}


def kind_of_file(raw: bytes) -> str:
    """Return what a file is that cannot be a plain text, and what to do with it; nothing for any other file."""
    start = raw[:512]
    for pattern, (kind, way) in _KINDS.items():
        if re.match(pattern, start, re.DOTALL):
            return f"{kind}; {way}"
    return ""


def marked_encoding(raw: bytes) -> str:
    """Return the encoding of a byte-order mark of two or four bytes, or nothing."""
    return next((name for mark, name in _MARKS.items() if raw.startswith(mark)), "")


def advice(raw: bytes, encoding: str) -> str:
    """Return what to do with bytes that are not text in an encoding: which one to pass instead, or how to mend them."""
    if damage := _damaged_utf8(raw):
        return damage
    name = likely_encoding(raw)
    if name and codecs.lookup(name) != codecs.lookup(encoding):
        return f"pass encoding={name!r}, which it looks like"
    return "no encoding known here fits, so it may be a binary file; pass a text file, or its encoding=..."


def likely_encoding(raw: bytes) -> str:
    """Return the encoding that bytes are probably in, or nothing where none gives a text."""
    sample = raw[:_SAMPLED]
    if name := marked_encoding(raw):
        return name
    if any(escape in sample for escape in JAPANESE_ESCAPES):
        return "iso2022_jp"
    if b"\0" in sample:
        return _wide(sample)
    if _decode(raw, "utf-8", final=True) is not None:
        return "" if _has_controls(sample.decode("utf-8", "replace")) else "utf-8"
    return "" if _has_controls(sample.decode("latin-1")) else _east_asian(sample) or _of_single_bytes(sample)


def _damaged_utf8(raw: bytes) -> str:
    """Return how to mend UTF-8 of which a few bytes were lost or changed, or nothing for any other bytes."""
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
            f"it is UTF-8 with {wrong:,} damaged places; get another copy, or put U+FFFD there: "
            "Path(path).read_bytes().decode('utf-8', 'replace')"
        )
    return ""


def _decode(raw: bytes, encoding: str, *, final: bool = False) -> str | None:
    """Return the text of a sample, which may end within a character, or None if it is not in the encoding."""
    try:
        return codecs.getincrementaldecoder(encoding)("strict").decode(raw, final)
    except UnicodeError:
        return None


def _has_controls(text: str) -> bool:
    """Return whether over 1 % of a text are control characters, or code points that no character is assigned to."""
    allowed = "\t\n\v\f\r" + "".join(map(chr, range(0x80, 0xA0)))  # the latter in a wrong reading of single bytes
    counts = Counter(text)
    wrong = [c for c in counts if c not in allowed and unicodedata.category(c) in ("Cc", "Cn", "Co", "Cs")]
    return sum(map(counts.__getitem__, wrong)) > 0.01 * len(text)


def _wide(sample: bytes) -> str:
    """Return which of UTF-16 and UTF-32, without a mark, makes the likeliest text of bytes with zeros among them."""
    scores = {}
    for name in ("utf-32-le", "utf-32-be", "utf-16-le", "utf-16-be"):
        text = _decode(sample, name)
        if text and "\0" not in text and not _has_controls(text):
            narrow = sum(c <= "\xff" for c in text)
            scores[name] = (narrow + sum(map(_is_frequent, text))) / len(text)
    best = max(scores, key=scores.__getitem__, default="")
    return best if scores.get(best, 0) > 0.05 else ""


_FREQUENT = set(
    "的一是不了在人有我他这這个們们中来來上大為为和国國地到以說说時时要就出會会可也你對对生能而子那得于於着下自之年，。、「」“”"
)


def _is_kana(character: str) -> bool:
    return "\u3041" <= character <= "\u30fe"


def _is_hangul(character: str) -> bool:
    return "\uac00" <= character <= "\ud7a3"


def _is_frequent(character: str) -> bool:
    """Return whether a character is frequent in Chinese, Japanese or Korean."""
    return character in _FREQUENT or _is_kana(character) or _is_hangul(character)


_EAST_ASIAN = {  # encodings, the kind of character that tells them, and its least share; Japanese has kanji as well
    "shift_jis": (_is_kana, 0.15),
    "cp932": (_is_kana, 0.15),
    "euc_jp": (_is_kana, 0.15),
    "euc_kr": (_is_hangul, 0.8),
    "cp949": (_is_hangul, 0.8),
    "gbk": (_FREQUENT.__contains__, 0.1),
    "big5": (_FREQUENT.__contains__, 0.1),
    "gb18030": (_FREQUENT.__contains__, 0.1),
}


def _east_asian(sample: bytes) -> str:
    """Return the encoding of Japanese, Korean or Chinese, told by its most frequent characters, or nothing."""
    shares = {}
    for name, (tells, least) in _EAST_ASIAN.items():
        text = _decode(sample, name)
        foreign = [c for c in text or "" if c > "\x7f"]
        if text is None or len(foreign) < 0.2 * len(text) or _has_controls(text):
            continue
        share = sum(map(tells, foreign)) / len(foreign)
        if share >= least:
            shares[name] = share
    japanese = [name for name in shares if _EAST_ASIAN[name][0] is _is_kana]
    return next(iter(japanese), "") or max(shares, key=shares.__getitem__, default="")


_ALPHABETS = {  # six letters that are near half of a text in it
    "cp1251": "оеаинт",
    "koi8_r": "оеаинт",
    "cp866": "оеаинт",
    "iso8859_5": "оеаинт",
    "cp1253": "αοιετσ",
    "cp1255": "יוהלאר",
    "cp1256": "اليمنو",
}


def _of_single_bytes(sample: bytes) -> str:
    """Return the encoding of an alphabet with a byte for each character, or nothing for one that is not known here."""
    foreign = bytes(byte for byte in sample if byte > 0x7F)
    latin = len(re.findall(rb"[A-Za-z]", sample))
    if len(foreign) > max(3, latin):
        shares = {
            name: sum(c in letters for c in foreign.decode(name, "replace").lower()) / len(foreign)
            for name, letters in _ALPHABETS.items()
        }
        capitals = {name: sum(map(str.isupper, foreign.decode(name, "replace"))) / len(foreign) for name in shares}
        best = max(shares, key=lambda name: shares[name] * (1 - capitals[name]))
        return best if shares[best] > 0.3 else ""
    if all(byte >= 0xA0 for byte in foreign):
        return "latin-1"
    return "cp1252" if _decode(sample, "cp1252") is not None else ""
