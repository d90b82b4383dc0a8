"""A reading as HTML: a fragment for a notebook, and a page to explore.

Neither loads anything from a network. Equal readings give equal bytes. Text is escaped, and the page forbids everything
but its own script and style. A fragment has no script and no id, so several fit in one document.
"""

import base64
import json
import math
import os
import re
from html import escape
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from tinygpt.errors import short
from tinygpt.files import check_path, write_whole
from tinygpt.views.colours import INK, MOST_BITS, Colour, percent, red, shown, summary

if TYPE_CHECKING:
    from tinygpt.views.reading import Reading

MOST_IN_FRAGMENT = 2000  # tokens
MOST_IN_FRAME = 128  # tokens, since a notebook stores the page with each output
MOST_WEIGHTS = 1 << 24  # bytes of attention in a page
_TEMPLATE = Path(__file__).with_name("page.html")
_BOX = "padding:8px;border-radius:4px;font:14px/1.7 monospace;white-space:pre-wrap;overflow-wrap:anywhere"


class Html(str):
    """A page of HTML, which a notebook shows in a frame.

    Attributes:
        framed: The page in the frame, which may show less.

    Example:
        >>> from tinygpt.views import Html
        >>> Html("<p>to be</p>")._repr_html_()[:37]
        '<iframe sandbox="allow-scripts" style'
    """

    framed: str

    def __new__(cls, page: str, framed: str | None = None) -> "Html":
        """Make the page from its text."""
        html = super().__new__(cls, page)
        html.framed = page if framed is None else framed
        return html

    def __repr__(self) -> str:
        return f"Html({len(self):,} characters)"

    def _repr_html_(self) -> str:
        """Return a frame, apart from the document around it."""
        style = "width:100%;height:720px;border:0"
        return f'<iframe sandbox="allow-scripts" style="{style}" srcdoc="{escape(self.framed)}"></iframe>'


def fragment(reading: "Reading") -> str:
    """Return the text shaded by surprise, with the guesses as tooltips."""
    spans = [
        f'<span style="background:{_hex(red(bits))}" title="{escape(_tip(bits, guesses))}">{_in_lines(piece)}</span>'
        for piece, bits, guesses in list(zip(reading.pieces, reading.bits, reading.top, strict=True))[:MOST_IN_FRAGMENT]
    ]
    rest = len(reading.pieces) - len(spans)
    more = f"<div>and {rest:,} more tokens</div>" if rest else ""
    scale = "".join(f'<span style="background:{_hex(red(n))}"> {n} </span>' for n in range(0, MOST_BITS + 1, 2))
    facts = summary(float(reading.bits.sum()), len(reading.pieces), reading.bits_per_character)
    ink = f"color:{_hex(INK)};background:#fff"
    return f'<div style="{ink};{_BOX}">{"".join(spans)}{more}<div>{scale} bits; {escape(facts)}</div></div>'


def page(reading: "Reading", path: str | os.PathLike[str] | None) -> Html:
    """Return the page of a reading, and write it to a file if a path is given."""
    target = None if path is None else check_path("path", path)
    heads = sum(map(len, reading.attention.values()))
    most = math.isqrt(2 * MOST_WEIGHTS // max(1, heads))
    fits = min(most, len(reading.pieces)) <= MOST_IN_FRAME
    html = Html(_filled(reading, most), None if fits else _filled(reading, MOST_IN_FRAME))
    if target is not None:
        write_whole(target, html.encode())
    return html


def _filled(reading: "Reading", most: int) -> str:
    """Return the page with the last ``most`` tokens."""
    data = json.dumps(_data(reading, most), separators=(",", ":")).replace("<", "\\u003c")
    title = escape(shown(short(reading.text)))
    before, between, after = re.split(r"\{\{\w+\}\}", _TEMPLATE.read_text("utf-8"))  # the title may contain braces too
    return f"{before}{title}{between}{data}{after}"


def _data(reading: "Reading", most: int) -> dict[str, Any]:
    """Return what the script of the page draws."""
    count = len(reading.pieces)
    cut = max(0, count - most)
    weights = [head[cut:, cut:] for heads in reading.attention.values() for head in heads]
    looks_ahead = any(np.triu(head, 1).any() for head in weights)
    below = np.ones((count - cut, count - cut), dtype=bool) if looks_ahead else np.tri(count - cut, dtype=bool)
    shares = (np.nan_to_num(head[below]).clip(0, 1) for head in weights)  # a user's attention may have others
    raw = b"".join(np.rint(255 * share).astype(np.uint8).tobytes() for share in shares)
    facts = summary(float(reading.bits.sum()), count, reading.bits_per_character)
    return {
        "facts": facts + (f"; here are the last {count - cut:,} tokens" if cut else ""),
        "first": cut,
        "pieces": [shown(piece) for piece in reading.pieces[cut:]],
        "breaks": ["\n" in piece for piece in reading.pieces[cut:]],
        "bits": [round(float(bits), 2) for bits in reading.bits[cut:]],
        "top": [[[shown(piece), round(p, 4)] for _, piece, p in guesses] for guesses in reading.top[cut:]],
        "lens": None if reading.lens is None else [[round(float(p), 4) for p in row[cut:]] for row in reading.lens],
        "heads": [f"{name}, head {i}" for name, heads in reading.attention.items() for i in range(len(heads))],
        "square": looks_ahead,
        "weights": base64.b64encode(raw).decode(),
    }


def _in_lines(piece: str) -> str:
    return escape(shown(piece)).replace("↵", "↵\n") if "\n" in piece else escape(shown(piece))


def _tip(bits: float, guesses: list[tuple[int, str, float]]) -> str:
    return f"{bits:.2f} bits; " + ", ".join(f"{shown(piece)} {percent(p)}" for _, piece, p in guesses)


def _hex(colour: Colour) -> str:
    return "#" + "".join(f"{channel:02x}" for channel in colour)
