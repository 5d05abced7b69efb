"""How a badly quantized model fails, told from the text alone.

Each detector is a pure function. It takes an answer and the prompt, whose layout is made single
spaces, and returns what is left of the answer once the failing part is taken out, or None where
the answer does not fail this way. What is left is what the model said before it fell apart; the
judge looks for the expected answer there, so that "1 2 3 4 5 6" is no four.

There is no detector for text that is merely incoherent: telling it from wrong prose needs a
language model, and a rule that caught only some of it would make counts mean less, not more. Such
an answer is a `wrong answer`, which the judge says and no detector does.
"""

import operator
import re
import unicodedata
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from enum import StrEnum
from itertools import groupby

_WORD = re.compile(r"\w+")
_NUMBER = re.compile(r"\d+")
_WHITESPACE = re.compile(r"\s+")
_OUTER_SPACE = re.compile(r"^ (?! )|(?<! ) \Z")

# More whitespace than this in one place is no layout, but a token of whitespace over and over.
_LAYOUT_MAX = 20


class FailureMode(StrEnum):
    """What is the matter with an answer that is not plainly correct."""

    EMPTY = "empty"
    PROMPT_ECHO = "prompt echo"
    NUMBER_SEQUENCE = "number sequence"
    REPETITION_LOOP = "repetition loop"
    WRONG_ANSWER = "wrong answer"


@dataclass(frozen=True)
class Examination:
    """What the detectors made of an answer: the first mode that fits, and the sound text."""

    mode: FailureMode | None
    sound_text: str


def detect_failure_mode(answer: str, prompt: str = "") -> FailureMode | None:
    """Names the way in which a generated text has failed, whatever it was to say.

    Args:
        answer: The generated text.
        prompt: What the model was asked, without which `prompt echo` cannot be told.

    Returns:
        The first of `empty`, `prompt echo`, `number sequence` and `repetition loop` that fits, or
        None. Never `wrong answer`, which takes knowing the right one.

    Example:
        >>> detect_failure_mode("0000000")
        <FailureMode.REPETITION_LOOP: 'repetition loop'>
    """
    return examine(answer, prompt).mode


def examine(answer: str, prompt: str) -> Examination:
    """Runs every detector; each sees what those before it left."""
    mode = None
    text = _collapse(answer)
    prompt = _collapse(prompt)
    for candidate, detect in DETECTORS:
        left = detect(text, prompt)
        if left is not None:
            mode = mode or candidate
            text = left
    return Examination(mode, " ".join(text.split()))


def find_empty(answer: str, prompt: str) -> str | None:
    """Nothing to see: only whitespace, control and format characters, or nothing at all."""
    visible = any(unicodedata.category(c) not in _INVISIBLE_CATEGORIES for c in answer)
    return None if visible else ""


_INVISIBLE_CATEGORIES = frozenset({"Cc", "Cf", "Zs", "Zl", "Zp"})


def find_prompt_echo(answer: str, prompt: str) -> str | None:
    """The prompt again instead of an answer.

    The rule counts words, without regard to case and punctuation: the answer holds the whole
    prompt, and copies of the prompt (the last may be cut short by the end of the answer) are at
    least 2/3 of its words. Using the prompt's words in a sentence of its own is no echo, nor is
    repeating the prompt and then answering at some length. Prompts under 3 words are not judged.
    """
    prompt_words = [match.group().casefold() for match in _WORD.finditer(prompt)]
    matches = list(_WORD.finditer(answer))
    words = [match.group().casefold() for match in matches]
    if len(prompt_words) < _ECHO_PROMPT_WORDS_MIN:
        return None
    copies = list(_copies(words, prompt_words))
    echoed = sum(stop - start for start, stop in copies)
    if not copies or echoed < _ECHO_SHARE_MIN * len(words):
        return None
    return _without(answer, [(matches[i].start(), matches[j - 1].end()) for i, j in copies])


_ECHO_PROMPT_WORDS_MIN = 3
_ECHO_SHARE_MIN = 2 / 3


def find_number_sequence(answer: str, prompt: str) -> str | None:
    """Counting, or numbers one after another, with nothing said about them.

    A run is numbers with only spaces, brackets, hyphens and the marks , ; . : | between them, so
    arithmetic is none; at least 3 of its numbers are different, or it would be a loop. It is a
    failure with at least 6 numbers that are 3/4 of the answer's words, or with 20 numbers anywhere;
    a single number of 20 digits or more counts as a run of its digits. A numbered list has words
    between its numbers, and years in a sentence leave more than a quarter to the other words.

    The first of several numbers counts as said: "4. 1 2 3 4 5 6" is a four, and then counting.
    """
    words = len(_WORD.findall(answer))
    runs = [
        match.span("rest") if match["rest"] else match.span()
        for match in _NUMBER_RUN.finditer(answer)
        if _is_number_sequence(match.group(), words)
    ]
    return _without(answer, runs) if runs else None


_NUMBER_RUN = re.compile(r"\d+(?P<rest>(?:[ ,;.:|()\[\]-]{1,3}\d+)*)")
_RUN_DIFFERENT_MIN = 3
_RUN_NUMBERS_MIN = 6
_RUN_SHARE_MIN = 3 / 4
_RUN_NUMBERS_ANYWHERE = 20


def find_repetition_loop(answer: str, prompt: str) -> str | None:
    """The same text over and over: a character, a token, a phrase of many words.

    A loop is a unit of 1 to 400 characters that stands at least 3 times back to back, the last
    copy perhaps cut short by the end of the answer. It is a failure when the copies after the first
    are at least 20 characters (a letter of a wide script such as Chinese counts as 3) and either
    the loop is half of the answer, or it has 5 copies and the answer ends in it: what a model means
    to repeat, such as a ruler in a table, it also ends. An answer that is one character, 5 times
    or more, is a loop too, and more than 20 spaces or line ends in one place are text like any
    other. "Ha ha ha", a refrain and 1,000,000,000 stay below.

    The first two copies count as said; with one, the unit could begin in the middle of a word.
    """
    if len(answer) >= _LOOP_OF_ONE_CHARACTER_MIN and len(set(answer)) == 1:
        return answer[:2]
    # The space completes the last copy of a unit that ends in one: "ha ha ha" is three times "ha ".
    text = answer + " "
    loops = [loop for loop in _loops(text) if _is_failure(loop, text)]
    if not loops:
        return None
    # Every multiple of a unit is a unit too, with fewer copies: the first longest is the smallest.
    worst = max(loops, key=lambda loop: loop.repeated)
    return _without(text, [(worst.start + 2 * worst.period, worst.stop)]).rstrip()


_LOOP_OF_ONE_CHARACTER_MIN = 5
_LOOP_PERIOD_MAX = 400
_LOOP_COPIES_MIN = 3
_LOOP_REPEATED_MIN = 20
_LOOP_WIDE_LETTER = 3
_LOOP_SHARE_MIN = 1 / 2
_LOOP_COPIES_AT_END_MIN = 5

Detector = Callable[[str, str], str | None]

# The first that fits gives the name, so what is more particular stands before what is less: an
# endless echo, or an endless 1 2 3 1 2 3, is also a loop.
DETECTORS: tuple[tuple[FailureMode, Detector], ...] = (
    (FailureMode.EMPTY, find_empty),
    (FailureMode.PROMPT_ECHO, find_prompt_echo),
    (FailureMode.NUMBER_SEQUENCE, find_number_sequence),
    (FailureMode.REPETITION_LOOP, find_repetition_loop),
)


@dataclass(frozen=True)
class _Loop:
    """From `start`, `repeated` characters equal those `period` characters later."""

    start: int
    period: int
    repeated: int

    @property
    def stop(self) -> int:
        return self.start + self.repeated + self.period

    @property
    def copies(self) -> float:
        return 1 + self.repeated / self.period


def _collapse(text: str) -> str:
    """Makes layout one space, and none at the ends; longer whitespace keeps its length."""
    text = _WHITESPACE.sub(
        lambda run: " " if len(run[0]) <= _LAYOUT_MAX else " " * len(run[0]), text
    )
    return _OUTER_SPACE.sub("", text)


def _without(text: str, spans: list[tuple[int, int]]) -> str:
    """Takes out spans that are in order and do not overlap."""
    ends = [0, *(stop for _, stop in spans)]
    starts = [*(start for start, _ in spans), len(text)]
    return "".join(text[end:start] for end, start in zip(ends, starts, strict=True))


def _copies(words: list[str], prompt_words: list[str]) -> Iterator[tuple[int, int]]:
    """Finds the prompt in the answer: whole copies, and one more cut short by the answer's end."""
    position = 0
    whole = False
    while position < len(words):
        found = words[position : position + len(prompt_words)]
        is_copy = found == prompt_words
        is_cut_short = (
            whole
            and position + len(found) == len(words)
            and " ".join(prompt_words).startswith(" ".join(found))
        )
        if is_copy or is_cut_short:
            yield position, position + len(found)
        whole = whole or is_copy
        position += len(found) if is_copy or is_cut_short else 1


def _is_number_sequence(run: str, words: int) -> bool:
    numbers = _NUMBER.findall(run)
    items = numbers if len(numbers) > 1 else list(run)
    if len(set(items)) < _RUN_DIFFERENT_MIN:
        return False
    fills = len(numbers) >= _RUN_NUMBERS_MIN and len(numbers) >= _RUN_SHARE_MIN * words
    return fills or len(items) >= _RUN_NUMBERS_ANYWHERE


def _loops(text: str) -> Iterator[_Loop]:
    """Finds every stretch that repeats itself, one period after the other."""
    for period in range(1, min(_LOOP_PERIOD_MAX, len(text) // _LOOP_COPIES_MIN) + 1):
        start = 0
        for equal, stretch in groupby(map(operator.eq, text, text[period:])):
            length = len(list(stretch))
            loop = _Loop(start, period, length)
            if equal and loop.copies >= _LOOP_COPIES_MIN:
                yield loop
            start += length


def _is_failure(loop: _Loop, text: str) -> bool:
    if _extent(text[loop.stop - loop.repeated : loop.stop]) < _LOOP_REPEATED_MIN:
        return False
    fills = loop.stop - loop.start >= _LOOP_SHARE_MIN * len(text)
    # Not len(text): the added space may or may not belong to the loop.
    ends = loop.stop >= len(text) - 1 and loop.copies >= _LOOP_COPIES_AT_END_MIN
    return fills or ends


def _extent(text: str) -> int:
    """Counts characters, wide letters threefold; exact only where it matters, below the least."""
    if len(text) >= _LOOP_REPEATED_MIN:
        return len(text)
    return sum(_LOOP_WIDE_LETTER if _is_wide_letter(c) else 1 for c in text)


def _is_wide_letter(character: str) -> bool:
    return character.isalpha() and unicodedata.east_asian_width(character) in "WF"
