"""The colours of surprise, and what is shown of a text."""

from unicodedata import category

Colour = tuple[int, int, int]

MOST_BITS = 8  # of surprise: more has the same colour
PAPER, RED, INK = (255, 255, 255), (232, 88, 72), (17, 17, 17)


def red(bits: float) -> Colour:
    """Return the colour of a surprise, from white to red; :data:`INK` is readable on each.

    Example:
        >>> red(0.0), red(4.0), red(float("inf"))
        ((255, 255, 255), (244, 172, 164), (232, 88, 72))
    """
    share = min(max(bits, 0.0) / MOST_BITS, 1.0)
    first, second, third = (round(paper + (end - paper) * share) for paper, end in zip(PAPER, RED, strict=True))
    return first, second, third


def shown(text: str) -> str:
    r"""Return a text with a sign for each line break, and other characters that cannot be seen as escapes.

    So an escape sequence cannot reach a terminal, and a mark of direction cannot turn a line around.

    Example:
        >>> shown("to be\n\x1b[2J")
        'to be↵\\x1b[2J'
    """
    return "".join(
        "↵" if character == "\n" else character if _is_visible(character) else repr(character)[1:-1]
        for character in text
    )


def _is_visible(character: str) -> bool:
    return character.isprintable() or category(character) == "Zs"


def percent(probability: float) -> str:
    """Return a probability in percent, with two digits below 10 %.

    Example:
        >>> percent(0.414), percent(0.0123), percent(0.000012)
        ('41%', '1.2%', '<0.1%')
    """
    share = 100 * probability
    return "<0.1%" if share < 0.1 else f"{share:.1f}%" if share < 9.95 else f"{share:.0f}%"


def summary(bits: float, tokens: int, per_character: float) -> str:
    """Return the surprise of a whole text in words.

    Example:
        >>> summary(12.0, 4, 3.0)
        '4 tokens, 3.00 bits per token, 3.00 bits per character'
    """
    return f"{tokens:,} tokens, {bits / tokens:.2f} bits per token, {per_character:.2f} bits per character"
