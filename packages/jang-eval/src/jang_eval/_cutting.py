"""Prompts that are longer than a model's context, cut from the left as lm-evaluation-harness does.

Its own models take `(context + continuation)[-(max_length + 1):][:-1]` of a text that is scored,
and the last `max_length - max_gen_toks` tokens of one that is gone on with.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TypeAlias

from jang_eval._errors import OptionError, TargetError
from jang_eval._server_answers import Score
from jang_eval._target import Context, Target

Ids: TypeAlias = tuple[int, ...]


@dataclass(frozen=True)
class CutScores:
    """How likely continuations are, and how many tokens of their context were cut off at most."""

    scores: tuple[Score, ...]
    cut: int


def score(
    target: Target, context: str, continuations: Sequence[str], *, add_special_tokens: bool = True
) -> CutScores:
    """Ask how likely texts are after a text of any length.

    Raises:
        TargetError: A continuation alone is longer than the context, or see `Target.score`.
    """
    room = target.room
    longest = max(len(each.encode()) for each in continuations)
    tokens = target.tokenize(context, add_special_tokens=add_special_tokens)
    # A text has no more tokens than bytes, so this fits for certain.
    if len(tokens) <= room.prompt and len(tokens) + longest <= room.context + 1:
        scores = target.score(context, continuations, add_special_tokens=add_special_tokens)
        return CutScores(scores, 0)
    # Spaces between them are the continuations'.
    before = target.tokenize(context.rstrip(), add_special_tokens=add_special_tokens)
    afters = [
        target.tokenize(context + each, add_special_tokens=add_special_tokens)[len(before) :]
        for each in continuations
    ]
    return _score_tokens(target, before, afters)


def _score_tokens(target: Target, before: Ids, afters: Sequence[Ids]) -> CutScores:
    # Those for which as much of the context is left are asked together.
    groups: dict[int, list[int]] = {}
    for place, after in enumerate(afters):
        groups.setdefault(_kept(target, before, after), []).append(place)
    found: dict[int, Score] = {}
    for kept, places in groups.items():
        scores = target.score(before[-kept:], [afters[place] for place in places])
        found.update(zip(places, scores, strict=True))
    return CutScores(tuple(found[place] for place in range(len(afters))), len(before) - min(groups))


def _kept(target: Target, before: Ids, after: Ids) -> int:
    """How many tokens of a context are left; the last token of what follows it is not read."""
    room = target.room
    kept = min(len(before), room.prompt, room.context + 1 - len(after))
    if kept < 1:
        raise TargetError(
            f"server {target.address}: found a continuation of {len(after)} tokens, "
            f"expected at most {room.context}, the model's context"
        )
    return kept


def prompt(
    target: Target, text: str, max_tokens: int, *, add_special_tokens: bool = True
) -> tuple[Context, int]:
    """What is left of a text of any length so that an answer has room after it.

    Returns:
        The text where all of it fits, otherwise its last tokens; and how many were cut off.

    Raises:
        OptionError: No answer of so many tokens has room.
        TargetError: See `Target.tokenize`.
    """
    room = target.room
    kept = min(room.prompt, room.context - max_tokens)
    if kept < 1:
        raise OptionError(
            f"max_tokens: found {max_tokens}, expected fewer than {room.context}, "
            f"the context of server {target.address}"
        )
    tokens = target.tokenize(text, add_special_tokens=add_special_tokens)
    if len(tokens) <= kept:
        return text, 0
    return tokens[-kept:], len(tokens) - kept
