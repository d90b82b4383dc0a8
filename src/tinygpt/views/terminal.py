"""A text shaded by surprise, for terminals."""

import os
import sys
from collections.abc import Iterable
from typing import Any

from tinygpt.errors import ConfigError, short
from tinygpt.views.colours import INK, MOST_BITS, Colour, red, shown

NONE, CUBE, ALL = 0, 256, 1 << 24
SHADES = (231, 224, 217, 210, 203)  # white to red in the colour cube of a terminal
_BLACK = 16


def terminal_colours(stream: Any = None) -> int:
    """Return how many colours to write to a stream: 0, 256 or 16,777,216.

    The environment decides: ``NO_COLOR`` means none, then ``FORCE_COLOR`` means some, then ``TERM=dumb`` or a stream
    that is not a terminal means none. ``COLORTERM=truecolor`` means all, otherwise there are 256.

    Args:
        stream: A text stream; by default standard output.

    Source:
        https://no-color.org and https://force-color.org; the order is that of Python's own output.
    """
    if os.environ.get("NO_COLOR"):
        return NONE
    if not os.environ.get("FORCE_COLOR"):
        stream = sys.stdout if stream is None else stream
        if os.environ.get("TERM") == "dumb" or stream is None or not stream.isatty():
            return NONE
    return ALL if os.environ.get("COLORTERM") in ("truecolor", "24bit") else CUBE


def in_colours(tokens: Iterable[tuple[str, float]], colours: int | None = None) -> str:
    """Return tokens with the bits of each, shaded by surprise, and a legend if there are colours."""
    colours = terminal_colours() if colours is None else colours
    if colours not in (NONE, CUBE, ALL):
        raise ConfigError(f"colours must be {NONE}, {CUBE} or {ALL}, got colours={short(colours)}")
    text = "".join(_shaded(piece, bits, colours) for piece, bits in tokens)
    if colours == NONE:
        return text
    legend = "".join(_painted(f" {bits} ", bits, colours) for bits in range(0, MOST_BITS + 1, 2))
    return f"{text}\n{legend} bits"


def _shaded(piece: str, bits: float, colours: int) -> str:
    """Return a token in its colour; a line break is a coloured space at the end of its line."""
    spaced = piece.replace("\n", " \n") if colours else piece
    return "\n".join(_painted(shown(line), bits, colours) for line in spaced.split("\n"))


def _painted(text: str, bits: float, colours: int) -> str:
    if colours == NONE or not text:
        return text
    if colours == ALL:
        return f"\x1b[38;2;{_code(INK)};48;2;{_code(red(bits))}m{text}\x1b[0m"
    shade = SHADES[round(min(max(bits / MOST_BITS, 0.0), 1.0) * (len(SHADES) - 1))]
    return f"\x1b[38;5;{_BLACK};48;5;{shade}m{text}\x1b[0m"


def _code(colour: Colour) -> str:
    return ";".join(map(str, colour))
