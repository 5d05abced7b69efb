"""Whether one model is better than another where both answered the same questions."""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations

from jang_eval._evaluation import EvaluationResult, Outcome
from jang_eval._statistics import holm, sign_test


@dataclass(frozen=True)
class PairedTest:
    """Two models that answered the same questions.

    Attributes:
        first: Label of a model.
        second: Label of another.
        only_first: Questions that the first did better.
        only_second: Questions that the second did better.
        questions: All questions.
        p: Of McNemar's exact test.
        p_adjusted: `p` for as many tests as this task has (Holm 1979, jstor:4615733).
    """

    first: str
    second: str
    only_first: int
    only_second: int
    questions: int
    p: float
    p_adjusted: float


def rightness(outcome: Outcome) -> float | None:
    """1 for what was answered rightly, 0 for what was not; None for what is neither."""
    return outcome.numbers.get("correct", outcome.numbers.get("passed"))


def _rights(result: EvaluationResult) -> dict[str, float]:
    """How right each question was answered; of several answers to one problem, how often."""
    rights: dict[str, float] = {}
    for outcome in result.outcomes:
        right = rightness(outcome)
        if right is not None:
            question = outcome.id if "correct" in outcome.numbers else outcome.group
            rights[question] = rights.get(question, 0.0) + right
    return rights


def paired_tests(results: Sequence[tuple[str, EvaluationResult]]) -> tuple[PairedTest, ...]:
    """Tests each two models that answered the same questions.

    Args:
        results: Of one task, each with its model's label.
    """
    rights = [(label, _rights(result)) for label, result in results]
    found: list[tuple[str, str, int, int, int, float]] = []
    for (first, mine), (second, theirs) in combinations(rights, 2):
        both = [name for name in mine if name in theirs]
        if both:
            only_first = sum(mine[name] > theirs[name] for name in both)
            only_second = sum(mine[name] < theirs[name] for name in both)
            p = sign_test(only_first, only_second)
            found.append((first, second, only_first, only_second, len(both), p))
    adjusted = holm([each[-1] for each in found])
    return tuple(PairedTest(*each, p) for each, p in zip(found, adjusted, strict=True))
