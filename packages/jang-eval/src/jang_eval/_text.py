"""What models and files say, as terminals and documents may show it."""

import re
from typing import Final

_CHARACTERS: Final = 160
_VALUE_CHARACTERS: Final = 40


def shorten(text: str) -> str:
    """One line of printable characters, cut where it gets long."""
    line = " ".join(text.split())
    # A model can say anything, an escape sequence that clears the screen too.
    printable = "".join(c if c.isprintable() else "\N{REPLACEMENT CHARACTER}" for c in line)
    if len(printable) <= _CHARACTERS:
        return printable
    return printable[: _CHARACTERS - 1] + "\N{HORIZONTAL ELLIPSIS}"


def shown_value(value: object) -> str:
    """A value as errors show it, in ASCII and cut where it gets long."""
    shown = ascii(value)
    if len(shown) <= _VALUE_CHARACTERS:
        return shown
    return shown[: _VALUE_CHARACTERS - 3] + "..."


def escaped(text: str) -> str:
    """Keeps names and questions from being read as Markdown."""
    return re.sub(r"([\\`*|<>\[\]#])", r"\\\1", shorten(text))


def fenced(text: str) -> str:
    """Shows a text as it is, fenced by more backticks than it holds in a row."""
    if not text:
        return "(empty)"
    fence = "`" * (1 + max((len(run) for run in re.findall("`+", text)), default=0))
    # Markdown takes one space off each side, which keeps outer backticks apart from the fence.
    return f"{fence} {text} {fence}" if "`" in text else f"{fence}{text}{fence}"
