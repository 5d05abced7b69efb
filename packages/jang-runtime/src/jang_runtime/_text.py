"""From tokens to text, one token at a time: whole characters, and stop strings cut off."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Final

_REPLACEMENT: Final = "\ufffd"
# A character has at most four bytes, so at most four byte tokens; more are not valid text.
_LONGEST_CHARACTER: Final = 4

Decode = Callable[[list[int]], str]


@dataclass
class Detokenizer:
    """Turns a growing list of tokens into text without splitting characters.

    What a token adds depends on those before it, so the text of the last few tokens is decoded
    with and without the new one and the difference is what is new.
    """

    decode: Decode
    _tokens: list[int] = field(default_factory=list[int])
    _context_start: int = 0
    _emitted_end: int = 0

    def add(self, token: int) -> str:
        """The text that is complete with this token; may be empty."""
        self._tokens.append(token)
        pending = len(self._tokens) - self._emitted_end
        new_text = self._new_text()
        if new_text.endswith(_REPLACEMENT) and pending < _LONGEST_CHARACTER:
            return ""
        self._context_start = self._emitted_end
        self._emitted_end = len(self._tokens)
        return new_text

    def finish(self) -> str:
        """The text of tokens held back for a character that never got complete."""
        new_text = self._new_text()
        self._emitted_end = len(self._tokens)
        return new_text

    def _new_text(self) -> str:
        before = self.decode(self._tokens[self._context_start : self._emitted_end])
        after = self.decode(self._tokens[self._context_start :])
        return after[len(before) :]


@dataclass
class StopStrings:
    """Watches a text that comes in pieces for stop strings, which may span pieces."""

    strings: Sequence[str]
    _held: str = ""
    _followed: list["_Followed"] = field(init=False)

    def __post_init__(self) -> None:
        self._followed = [_Followed(stop) for stop in self.strings]

    def add(self, text: str) -> tuple[str, str | None]:
        """The text that can be shown now, and the stop string that matched, if one did.

        Of several that match, the one that begins first counts. Text that could be the beginning
        of a stop string is held back.
        """
        self._held += text
        found = [(self._held.find(stop), stop) for stop in self.strings if stop in self._held]
        if found:
            position, stop = min(found)
            return self._held[:position], stop
        keep = max((followed.add(text) for followed in self._followed), default=0)
        shown = self._held[: len(self._held) - keep]
        self._held = self._held[len(shown) :]
        return shown, None

    def finish(self) -> str:
        """The text still held back."""
        held, self._held = self._held, ""
        return held


class _Followed:
    """How much of one stop string the text so far ends with, by Knuth, Morris and Pratt.

    Each character is looked at about twice, however long the string and what is held back are.
    """

    def __init__(self, stop: str) -> None:
        self._stop = stop
        # Of the first n + 1 characters: how many of their beginning are their end too.
        self._shorter = [0]
        for char in stop[1:]:
            self._shorter.append(self._longer(self._shorter[-1], char))
        self._length = 0

    def add(self, text: str) -> int:
        """Length of the longest end of all text, which has no whole one, that could begin it."""
        for char in text:
            self._length = self._longer(self._length, char)
        return self._length

    def _longer(self, length: int, char: str) -> int:
        while length and self._stop[length] != char:
            length = self._shorter[length - 1]
        return length + (self._stop[length] == char)
